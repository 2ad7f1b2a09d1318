"""Facts, time and chance inside workflows; outside they are Python's."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from perdure import workflow
from perdure.sdk.workflow import determinism
from tests.sdk.harness import (
    BEGIN,
    REF,
    Scenario,
    check_replay,
    result,
)
from tests.sdk.harness import (
    fresh_registry as fresh_registry,
)


# --- What a workflow is told ----------------------------------------------------------------------------
def test_info_and_now() -> None:
    @workflow
    async def facts() -> list[object]:
        info = workflow.info()
        return [
            info.namespace, info.workflow_id, info.run_id, info.workflow_type, info.task_queue,
            info.start_time.isoformat(), workflow.now().isoformat(), info.parent_workflow_id,
            info.continue_as_new_suggested,
        ]  # fmt: skip

    scenario = Scenario(facts)
    scenario.do()
    begin = datetime.fromtimestamp(BEGIN / 1e6, UTC)
    later = datetime.fromtimestamp(BEGIN / 1e6 + 1e-6, UTC)
    assert result(scenario) == [
        "default", "flow", REF.run_id, "facts", "default", begin.isoformat(), later.isoformat(), None, False,
    ]  # fmt: skip
    check_replay(scenario)


def test_time_and_chance_repeat() -> None:
    @workflow
    async def chancy() -> list[object]:
        numbers: list[object] = [
            random.random(), random.choice("abc"), random.sample(range(100), 3), workflow.random().gauss(0, 1),
            str(uuid.uuid4()), str(workflow.uuid4()), time.time(), time.time_ns(), time.monotonic(),
            time.monotonic_ns(),
        ]  # fmt: skip
        shuffled = list(range(10))
        random.shuffle(shuffled)
        await asyncio.sleep(5)
        return [*numbers, shuffled, random.random(), time.time()]

    scenario = Scenario(chancy)
    scenario.do()
    scenario.fire()
    scenario.do()
    check_replay(scenario)
    told = cast("list[Any]", result(scenario))
    assert told[6] == pytest.approx(BEGIN / 1e6)
    assert told[7] == (BEGIN + 1) * 1_000
    assert told[-1] - told[6] == pytest.approx(5, abs=1e-4)
    assert uuid.UUID(str(told[4])).version == 4
    assert told[4] != told[5]


def test_chance_differs_from_run_to_run() -> None:
    @workflow
    async def chancy() -> float:
        return random.random()

    @workflow(name="seeded")
    async def seeded() -> float:
        random.seed(3)
        return random.random()

    @workflow(name="unseeded")
    async def unseeded() -> None:
        random.seed()

    scenario = Scenario(chancy)
    scenario.do()
    assert result(scenario) == random.Random(REF.run_id).random()
    state = random.getstate()
    scenario = Scenario(seeded)
    scenario.do()
    assert result(scenario) == random.Random(3).random()
    assert random.getstate() == state
    assert "without a seed" in Scenario(unseeded).broken().message


def test_outside_workflows_time_and_chance_are_pythons() -> None:
    determinism.install()
    names = set(determinism.originals)
    determinism.install()
    assert set(determinism.originals) == names
    assert abs(time.time() - time.clock_gettime(time.CLOCK_REALTIME)) < 60
    assert uuid.uuid4() != uuid.uuid4()
    random.seed(3)
    assert random.random() == random.Random(3).random()
    assert time.time.__name__ == "time"


def test_context_variables_do_not_leak_in() -> None:
    color: ContextVar[str] = ContextVar("color", default="none")

    @workflow
    async def painted() -> list[str]:
        before = color.get()
        color.set("red")
        return [before, *await asyncio.gather(*(look() for _ in range(2)))]

    async def look() -> str:
        return color.get()

    color.set("blue")
    scenario = Scenario(painted)
    scenario.do()
    assert result(scenario) == ["none", "red", "red"]
    assert color.get() == "blue"


def test_all_tasks_come_in_the_order_of_their_creation() -> None:
    """By asyncio's own order they depend on how many tasks the process has."""

    @workflow
    async def flow() -> list[list[str]]:
        for _ in range(12):  # so that the numbers of the others don't come in order, modulo the size of a small set
            await asyncio.create_task(asyncio.sleep(0))
        tasks = [asyncio.create_task(asyncio.sleep(60), name=f"{n}") for n in range(3)]
        loop = asyncio.get_running_loop()
        told = [[task.get_name() for task in each] for each in (asyncio.all_tasks(), asyncio.all_tasks(loop))]
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.wait(tasks)
        return [*told, [task.get_name() for task in asyncio.all_tasks()]]

    scenario = Scenario(flow)
    scenario.do()
    names = ["flow", "0", "1", "2"]
    assert result(scenario) == [names, names, ["flow"]]
    check_replay(scenario)


async def test_outside_of_workflows_all_tasks_are_those_of_the_loop() -> None:
    determinism.install()
    assert asyncio.all_tasks() == {asyncio.current_task()}
