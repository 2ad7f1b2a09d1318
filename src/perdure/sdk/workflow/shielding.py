"""`workflow.shielded`: what must come to its end whatever becomes of who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar, cast

from perdure.sdk.workflow.loop import DeterministicLoop, PatientFuture

T = TypeVar("T")


async def shielded(awaitable: Awaitable[T]) -> T:
    """Wait for something in a task of its own. Whoever is cancelled meanwhile hears of it when that has ended."""
    # In another task, since what is cancelled inside, by asyncio.timeout or a TaskGroup, must be: only the wait isn't.
    inner = asyncio.ensure_future(awaitable)
    ended: PatientFuture[None] = PatientFuture(cast(DeterministicLoop, asyncio.get_running_loop()))

    def end(_: object) -> None:
        ended.set_result(None)

    inner.add_done_callback(end)
    await ended
    return inner.result()
