"""The thread is the workflow's for as long as its code runs, and then as it was."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from perdure import workflow
from tests.sdk.harness import Scenario, check_replay, fetch, kinds, result
from tests.sdk.harness import fresh_registry as fresh_registry


def test_the_program_around_a_workflow_is_untouched() -> None:
    async def program() -> None:
        seen: list[object] = []

        @workflow
        async def inner() -> None:
            seen.append(asyncio.get_running_loop())
            seen.append(asyncio.current_task())
            await fetch("a")

        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        scenario = Scenario(inner)
        scenario.do()
        assert asyncio.get_running_loop() is loop
        assert asyncio.current_task() is task
        assert gc.isenabled()
        assert seen[0] is not loop
        assert seen[1] is not task
        assert isinstance(seen[1], asyncio.Task)
        assert all(other.get_loop() is loop for other in asyncio.all_tasks())
        # And it still works.
        await asyncio.wait_for(asyncio.create_task(asyncio.sleep(0)), 5)
        scenario.complete()
        assert kinds(scenario.do()) == ["CompleteWorkflow"]

    before = sys.get_asyncgen_hooks()
    asyncio.run(program())
    assert sys.get_asyncgen_hooks() == before


def test_generators_are_closed_by_the_loop_that_they_were_begun_on() -> None:
    closed_on: list[object] = []

    async def numbers() -> AsyncGenerator[int]:
        try:
            while True:
                yield 1
        finally:
            closed_on.append(type(asyncio.get_running_loop()).__name__)

    @workflow
    async def leaves() -> None:
        async for _ in numbers():
            break
        await fetch("a")

    async def program() -> None:
        outside = numbers()
        await anext(outside)
        scenario = Scenario(leaves)
        scenario.do()
        assert closed_on == ["DeterministicLoop"]
        other = numbers()
        await anext(other)
        del outside, other
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert closed_on[1:] == [type(asyncio.get_running_loop()).__name__] * 2
        scenario.complete()
        scenario.do()

    asyncio.run(program())


def test_garbage_collection_rests_only_during_a_task() -> None:
    @workflow
    async def looks() -> bool:
        return gc.isenabled()

    scenario = Scenario(looks)
    gc.disable()
    try:
        scenario.do()
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert result(scenario) is False


def test_workflows_on_the_same_thread_do_not_mix() -> None:
    @workflow
    async def names() -> str:
        task = asyncio.current_task()
        assert task is not None
        name = task.get_name()
        await fetch("a")
        other: Coroutine[Any, Any, None] = asyncio.sleep(0)
        await asyncio.create_task(other, name=name)
        assert asyncio.current_task() is task
        return name

    scenarios = [Scenario(names) for _ in range(3)]
    for scenario in scenarios:
        scenario.do()
    for scenario in reversed(scenarios):
        scenario.complete()
        scenario.do()
        assert result(scenario) == "names"
        check_replay(scenario)
