"""Executions whose time has come: a timer, a retry, a timeout, an outbox entry, the end of retention.

One scan of the store's `wake_at` index serves them all; nothing that waits is in memory. An execution whose
wake-up raises is left alone for a while, and never stops the scan.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from perdure.clock import Clock
from perdure.engine.node.peers import Peers
from perdure.engine.node.stalls import Stalls
from perdure.engine.storage.api import Due
from perdure.errors import PerdureError
from perdure.limits import (
    DUE_SCAN_LIMIT,
    LONGEST_NAP,
    SECOND,
    STORE_RETRY_MAXIMUM,
    WAKE_BACKOFF_INITIAL,
    WAKE_BACKOFF_MAXIMUM,
)

logger = logging.getLogger("perdure.engine")


class Wakeups:
    """Scans for what is due, and hands it to `wake`, which must call `done` for it some time."""

    def __init__(self, peers: Peers, clock: Clock, stalls: Stalls, wake: Callable[[Due], None]) -> None:
        self._peers, self._clock, self._stalls, self._wake = peers, clock, stalls, wake
        self._next = 0
        self._waking: set[tuple[str, str, int]] = set()
        self._failing: dict[tuple[str, str, int], tuple[int, int]] = {}  # → (failures, not before)
        self._sooner = asyncio.Event()
        self._served = asyncio.Event()
        self._unread_since = 0  # when the store stopped telling what is due; 0: it tells

    def at(self, wake_at: int) -> None:
        """A row with this wake-up time is on disk now."""
        if 0 < wake_at < self._next:
            self._next = wake_at
            self._sooner.set()

    def done(self, run: tuple[str, str, int], error: Exception | None = None) -> None:
        """A wake-up was served, or raised."""
        if run not in self._waking:
            return
        self._waking.discard(run)
        if error is None:
            self._failing.pop(run, None)
        else:
            failures = self._failing.get(run, (0, 0))[0] + 1
            delay = min(WAKE_BACKOFF_INITIAL * 2 ** min(failures - 1, 16), WAKE_BACKOFF_MAXIMUM)
            self._failing[run] = failures, self._clock.now() + delay
            logger.error("the wake-up of %s failed; trying again in %.0f s", run, delay / SECOND, exc_info=error)
        self._served.set()

    async def run(self) -> None:
        """Scan until cancelled."""
        while True:
            await self._until_next()
            # What has arrived goes before what is due: an outcome that is here already is no timeout.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            try:
                await self._scan()
            except PerdureError as error:
                now = self._clock.now()
                self._unread_since = self._unread_since or now
                logger.warning("can't read what is due (%s); trying again", error)
                self._next = now + STORE_RETRY_MAXIMUM

    async def _until_next(self) -> None:
        while (delay := self._next - self._clock.now()) > 0:
            self._sooner.clear()
            alarm = asyncio.get_running_loop().call_later(min(delay, LONGEST_NAP) / SECOND, self._sooner.set)
            try:
                await self._sooner.wait()
            finally:
                alarm.cancel()

    async def _scan(self) -> None:
        while True:
            now = self._clock.now()
            rows = await self._peers.due(now, DUE_SCAN_LIMIT + len(self._failing))
            if self._unread_since:
                self._stalls.add(self._unread_since, now)
                self._unread_since = 0
            fresh = [row for row in rows if self._failing.get(row.key, (0, 0))[1] <= now]
            if not fresh:
                break
            for row in fresh[:DUE_SCAN_LIMIT]:
                self._waking.add(row.key)
                self._wake(row)
            while self._waking:
                self._served.clear()
                await self._served.wait()
        # What is not due any more, for whatever reason, does not fail.
        self._failing = {run: failing for run, failing in self._failing.items() if failing[1] > now}
        self._next = now + self._peers.rescan
        self._next = min(await self._upcoming(self._next), self._next)

    async def _upcoming(self, until: int) -> int:
        """What comes first. What is due and held back comes up when its backoff is over, and hides nothing."""
        rows = await self._peers.due(until, len(self._failing) + 1)
        return min((self._failing.get(row.key, (0, row.wake_at))[1] for row in rows), default=until)
