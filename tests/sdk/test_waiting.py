"""Waiting for several things inside workflows: in an order that every replay has, too."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from perdure import workflow
from perdure.model.commands import ScheduleActivity
from tests.sdk.harness import Scenario, check_replay, fetch, kinds, result, value
from tests.sdk.harness import fresh_registry as fresh_registry


def test_wait_first_completed() -> None:
    @workflow
    async def race() -> list[str]:
        pending: set[asyncio.Task[str]] = {asyncio.create_task(fetch(name)) for name in "abcdefgh"}
        order: list[str] = []
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            order += [task.result() for task in done]
        return order

    scenario = Scenario(race)
    scenario.do()
    for name in "hag":
        scenario.complete(name, which=0 if name == "a" else -1)
        assert scenario.do() == []
    for name in "bcdef":
        scenario.complete(name)
    scenario.do()
    # The last five are done in one task; asyncio hears of each before the next.
    assert result(scenario) == ["h", "a", "g", "b", "c", "d", "e", "f"]
    check_replay(scenario)


def test_wait_keeps_the_order_in_which_it_was_given() -> None:
    @workflow
    async def ordered() -> list[list[str]]:
        tasks = [asyncio.create_task(fetch(f"{n}"), name=f"{n}") for n in range(20)]
        done, pending = await asyncio.wait(tasks[::-1], timeout=10)
        first = pending.pop()
        return [[task.get_name() for task in group] for group in ([first], pending, done)]

    scenario = Scenario(ordered)
    scenario.do()
    for _ in range(10):
        scenario.complete("")
    scenario.fire()
    scenario.do()
    late = [f"{n}" for n in range(19, 9, -1)]
    assert result(scenario) == [late[:1], late[1:], [f"{n}" for n in range(9, -1, -1)]]
    check_replay(scenario)


def test_wait_first_exception() -> None:
    @workflow
    async def careful() -> list[int]:
        tasks = [asyncio.create_task(fetch(name)) for name in "abc"]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in pending:
            task.cancel()
        return [len(done), len(pending), sum(task.exception() is not None for task in done)]

    scenario = Scenario(careful)
    scenario.do()
    scenario.complete("a")
    assert scenario.do() == []
    scenario.fail(ValueError("no"))
    scenario.do()
    assert result(scenario) == [2, 1, 1]
    check_replay(scenario)


@pytest.mark.parametrize("bad", [0, [], ()])
def test_wait_refuses_what_asyncio_refuses(bad: Any) -> None:
    @workflow
    async def wrong() -> str:
        try:
            await asyncio.wait(bad)
        except (TypeError, ValueError) as error:
            return type(error).__name__
        return ""

    scenario = Scenario(wrong)
    scenario.do()
    assert result(scenario) == ("TypeError" if bad == 0 else "ValueError")


def test_as_completed_calls_in_the_order_given_and_yields_in_the_order_of_completion() -> None:
    @workflow
    async def stream() -> list[str]:
        return [await future for future in asyncio.as_completed([fetch(f"{n}") for n in range(12)])]

    scenario = Scenario(stream)
    scenario.do()
    asked = [command for command in scenario.tasks[-1][1].commands if isinstance(command, ScheduleActivity)]
    assert [value(command.input[0]) for command in asked] == [f"{n}" for n in range(12)]
    order = [7, 3, 0, 8, 1, 1, 3, 0, 2, 0, 1, 0]
    left = [f"{n}" for n in range(12)]
    expected = [left.pop(which) for which in order]
    for which, name in zip(order, expected, strict=True):
        scenario.complete(name, which=which)
        scenario.do()
    assert result(scenario) == expected
    check_replay(scenario)


def test_as_completed_with_a_timeout() -> None:
    @workflow
    async def stream() -> list[str]:
        seen: list[str] = []
        try:
            for future in asyncio.as_completed([fetch("a"), fetch("b")], timeout=5):
                seen += [await future]
        except TimeoutError:
            seen.append("timeout")
        return seen

    scenario = Scenario(stream)
    scenario.do()
    scenario.complete("b", which=1)
    scenario.do()
    scenario.fire()
    scenario.do()
    assert result(scenario) == ["b", "timeout"]
    check_replay(scenario)


@pytest.mark.parametrize("timeout", [0, -1])
def test_as_completed_whose_time_is_over_at_once(timeout: float) -> None:
    @workflow
    async def late() -> list[str]:
        async def done() -> str:
            return "done"

        try:
            return [await future for future in asyncio.as_completed([done(), done()], timeout=timeout)]
        except TimeoutError:
            return ["timeout"]

    scenario = Scenario(late)
    scenario.do()
    assert result(scenario) == ["timeout"]
    check_replay(scenario)


def test_wait_for() -> None:
    @workflow
    async def hurry() -> str:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(fetch("slow"), 5)
        return await asyncio.wait_for(fetch("quick"), 5)

    scenario = Scenario(hurry)
    assert kinds(scenario.do()) in (["StartTimer", "ScheduleActivity"], ["ScheduleActivity", "StartTimer"])
    scenario.fire()
    assert "RequestCancelActivity" in kinds(scenario.do())
    scenario.cancel_activity()
    assert scenario.do() == []
    scenario.complete("done")
    assert kinds(scenario.do()) == ["CancelTimer", "CompleteWorkflow"]
    assert result(scenario) == "done"
    check_replay(scenario)


def test_wait_for_at_once() -> None:
    @workflow
    async def hurry() -> list[str]:
        told: list[str] = []
        done = asyncio.get_running_loop().create_future()
        done.set_result("done")
        told.append(await asyncio.wait_for(done, 0))
        told.append(await asyncio.wait_for(fetch("a"), None))
        try:
            await asyncio.wait_for(fetch("b"), 0)
        except TimeoutError:
            told.append("late")
        return told

    scenario = Scenario(hurry)
    assert kinds(scenario.do()) == ["ScheduleActivity"]
    scenario.complete("A")
    assert kinds(scenario.do()) == ["CompleteWorkflow"]
    assert result(scenario) == ["done", "A", "late"]
    check_replay(scenario)
