"""When this node itself could not work: what others had no chance to tell us then is not held against them."""

from __future__ import annotations

import logging
from collections import deque

from perdure.clock import Clock
from perdure.limits import SECOND, SLOW_COMMIT, STALLS_KEPT

logger = logging.getLogger("perdure.engine")


class Stalls:
    """Intervals in which the node could not commit, could not read, or did not run at all."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._past: deque[tuple[int, int]] = deque(maxlen=STALLS_KEPT)
        self._since = 0  # when the commit that is on its way was sent first; 0: there is none
        self._why = ""

    def add(self, begin: int, end: int) -> None:
        """An interval that is over."""
        self._past.append((begin, end))

    def known(self) -> tuple[tuple[int, int], ...]:
        """The latest intervals, and the one that isn't over yet."""
        now = self._clock.now()
        if self._since and (self._why or now - self._since > SLOW_COMMIT):
            return (*self._past, (self._since, now))
        return tuple(self._past)

    def commit_sent(self) -> None:
        """A commit is on its way, for the first time or again. It may take long without failing, as while the
        database waits for its standby."""
        self._since = self._since or self._clock.now()

    def store_failed(self, error: Exception) -> None:
        """A commit could not be written."""
        why = f"{type(error).__name__}: {error}"
        if why != self._why:
            self._why = why
            logger.warning("the store does not take commits (%s); trying again", why)

    def store_works(self) -> None:
        """A commit was written."""
        now = self._clock.now()
        if self._why or now - self._since > SLOW_COMMIT:
            self.add(self._since, now)
            logger.warning("the store takes commits again, after %.1f s", (now - self._since) / SECOND)
        self._since, self._why = 0, ""
