"""When this node itself could not work: what others had no chance to tell us then is not held against them."""

from __future__ import annotations

import logging
from collections import deque

from perdure.clock import Clock
from perdure.limits import SECOND, STALLS_KEPT

logger = logging.getLogger("perdure.engine")


class Stalls:
    """Intervals in which the node could not commit, could not read, or did not run at all."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._past: deque[tuple[int, int]] = deque(maxlen=STALLS_KEPT)
        self._since = 0  # when the store stopped taking commits; 0: it takes them
        self._why = ""

    def add(self, begin: int, end: int) -> None:
        """An interval that is over."""
        self._past.append((begin, end))

    def known(self) -> tuple[tuple[int, int], ...]:
        """The latest intervals, and the one that isn't over yet."""
        if self._since:
            return (*self._past, (self._since, self._clock.now()))
        return tuple(self._past)

    def store_failed(self, error: Exception) -> None:
        """A commit could not be written."""
        self._since = self._since or self._clock.now()
        why = f"{type(error).__name__}: {error}"
        if why != self._why:
            self._why = why
            logger.warning("the store does not take commits (%s); trying again", why)

    def store_works(self) -> None:
        """A commit was written."""
        if self._since:
            now = self._clock.now()
            self.add(self._since, now)
            logger.warning("the store takes commits again, after %.1f s", (now - self._since) / SECOND)
            self._since, self._why = 0, ""
