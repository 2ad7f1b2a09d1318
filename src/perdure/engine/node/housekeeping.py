"""What is tidied up now and then: request ids that have expired, and blobs that no run names any more."""

from __future__ import annotations

import asyncio
import logging

from perdure.clock import Clock
from perdure.engine.storage.api import Store
from perdure.errors import PerdureError
from perdure.limits import BLOB_GRACE, FORGET_AT_ONCE, FORGET_BLOBS_AT_ONCE, FORGET_INTERVAL, SECOND

logger = logging.getLogger("perdure.engine")


async def tidy_up(store: Store, clock: Clock) -> None:
    """Delete what is not needed any more, a few at a time, now and every hour. Runs until it is cancelled."""
    while True:
        try:
            more = await _forget(store, clock.now())
        except PerdureError as error:
            logger.warning("can't delete what has expired (%s); trying again later", error)
            more = False
        # While there are more, only let others come between.
        await asyncio.sleep(0 if more else FORGET_INTERVAL / SECOND)


async def _forget(store: Store, now: int) -> bool:
    """Whether there is more to be deleted."""
    forgotten = await store.forget(now, FORGET_AT_ONCE)
    blobs = await store.forget_blobs(now, now + BLOB_GRACE, FORGET_BLOBS_AT_ONCE)
    return forgotten == FORGET_AT_ONCE or blobs == FORGET_BLOBS_AT_ONCE
