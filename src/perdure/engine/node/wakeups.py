"""Executions whose time has come: a timer, a retry, a timeout, an outbox entry, the end of retention.

One scan of the store's `wake_at` index serves them all; nothing that waits is in memory. An execution whose
wake-up raises is left alone for a while, and never stops the scan.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from perdure.clock import HOUR, Clock
from perdure.engine.storage.api import Due, Store
from perdure.errors import PerdureError
from perdure.limits import (
    DUE_SCAN_LIMIT,
    MAX_WAKING,
    SECOND,
    STORE_RETRY_MAXIMUM,
    WAKE_BACKOFF_INITIAL,
    WAKE_BACKOFF_MAXIMUM,
)

logger = logging.getLogger("perdure.engine")

NEVER = 1 << 62


class Wakeups:
    """Scans for what is due, and hands it to `wake`, which must call `done` for it some time."""

    def __init__(self, store: Store, clock: Clock, wake: Callable[[Due], None]) -> None:
        self._store, self._clock, self._wake = store, clock, wake
        self._next = 0
        self._waking: set[tuple[str, str, int]] = set()
        self._failing: dict[tuple[str, str, int], tuple[int, int]] = {}  # → (failures, not before)
        self._sooner = asyncio.Event()
        self._served = asyncio.Event()

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
                logger.warning("can't read what is due (%s); trying again", error)
                self._next = self._clock.now() + STORE_RETRY_MAXIMUM

    async def _until_next(self) -> None:
        while (delay := self._next - self._clock.now()) > 0:
            self._sooner.clear()
            alarm = asyncio.get_running_loop().call_later(min(delay, HOUR) / SECOND, self._sooner.set)
            await self._sooner.wait()
            alarm.cancel()

    async def _scan(self) -> None:
        while True:
            now = self._clock.now()
            rows = await self._store.due(now, DUE_SCAN_LIMIT + len(self._waking) + len(self._failing))
            fresh = [
                row for row in rows if row.key not in self._waking and self._failing.get(row.key, (0, 0))[1] <= now
            ]
            if not fresh:
                break
            for row in fresh[:MAX_WAKING]:
                self._waking.add(row.key)
                self._wake(row)
            while self._waking:
                self._served.clear()
                await self._served.wait()
        self._next = NEVER
        upcoming = await self._store.next_due()
        held_back = min((at for _, at in self._failing.values()), default=NEVER)
        # What is due and held back comes up again when its backoff is over, not at once.
        if upcoming > self._clock.now():
            self._next = min(self._next, upcoming)
        elif upcoming and not self._failing:
            self._next = upcoming
        self._next = min(self._next, held_back)
