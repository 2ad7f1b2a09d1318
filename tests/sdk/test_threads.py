"""Threads for plain activities: one that hangs keeps nothing else from ending."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

from perdure.model.tasks import ActivityEvicted
from perdure.sdk.activity.executor import ActivityExecutor
from perdure.sdk.interceptors import ActivityCall
from tests.sdk.attempts import Bench


async def test_what_hangs_behind_an_interceptor_is_let_go_when_its_worker_ends() -> None:
    """As without one: then the loop, which cancels what is left, can end."""
    gate, begun, loop = threading.Event(), asyncio.Event(), asyncio.get_running_loop()
    tasks: list[asyncio.Task[object]] = []

    async def around(call: ActivityCall, next: Callable[[ActivityCall], Awaitable[object]]) -> object:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        return await next(call)

    def hangs() -> None:
        loop.call_soon_threadsafe(begun.set)
        gate.wait()

    bench = Bench()
    bench.executor = ActivityExecutor(bench.definitions, bench.node.send, slots=1, around=around)
    token = bench.start(hangs)
    await begun.wait()
    await bench.executor.stop(grace=0)
    (task,) = tasks
    try:
        assert bench.node.messages == [ActivityEvicted(token)] and not task.done()
        task.cancel()
        assert (await asyncio.wait([task], timeout=30))[0]
    finally:
        gate.set()
