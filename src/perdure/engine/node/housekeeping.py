"""What is tidied up now and then: request ids that have expired."""

from __future__ import annotations

import asyncio
import logging

from perdure.clock import Clock
from perdure.engine.storage.api import Store
from perdure.errors import PerdureError
from perdure.limits import FORGET_AT_ONCE, FORGET_INTERVAL, SECOND

logger = logging.getLogger("perdure.engine")


async def forget_request_ids(store: Store, clock: Clock) -> None:
    """Delete expired request ids, a few at a time, now and every hour. Runs until it is cancelled."""
    while True:
        try:
            forgotten = await store.forget(clock.now(), FORGET_AT_ONCE)
        except PerdureError as error:
            logger.warning("can't delete expired request ids (%s); trying again later", error)
            forgotten = 0
        # While there are more, only let others come between.
        await asyncio.sleep(0 if forgotten == FORGET_AT_ONCE else FORGET_INTERVAL / SECOND)
