"""Reading from a store that may be down for a while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from perdure.errors import PerdureError
from perdure.limits import SECOND, STORE_RETRY_INITIAL, STORE_RETRY_MAXIMUM

logger = logging.getLogger("perdure.engine")
T = TypeVar("T")


async def patiently(what: str, read: Callable[[], Awaitable[T]]) -> T:
    """Read until the store answers. Raises what trying again can't help."""
    delay = STORE_RETRY_INITIAL
    while True:
        try:
            return await read()
        except PerdureError as error:
            if not error.retryable:
                raise
            logger.warning("can't read %s (%s); trying again", what, error)
        await asyncio.sleep(delay / SECOND)
        delay = min(delay * 2, STORE_RETRY_MAXIMUM)
