"""What asyncio does otherwise from one Python to the next: inside workflows, every Python does as 3.13."""

from __future__ import annotations

import asyncio

from perdure import workflow
from tests.sdk.harness import Scenario, check_replay, fetch, kinds, result
from tests.sdk.harness import fresh_registry as fresh_registry


async def stubborn() -> None:
    """Fails when it is cancelled."""
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        raise ValueError("stopped half-way") from None


async def group_of_stubborn(told: list[str]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(stubborn())
            group.create_task(stubborn())
    except* ValueError as errors:
        told.append(f"{len(errors.exceptions)} failed")


async def waits(told: list[str], what: str) -> None:
    try:
        await asyncio.sleep(0)
        told.append(f"{what} went on")
    except asyncio.CancelledError:
        told.append(f"{what} was cancelled")


def test_a_cancellation_in_which_a_task_of_a_group_fails_is_raised_at_the_next_wait() -> None:
    @workflow
    async def flow() -> list[str]:
        told: list[str] = []
        await group_of_stubborn(told)
        await waits(told, "the next wait")
        await waits(told, "the one after it")
        return told

    scenario = Scenario(flow)
    scenario.do()
    scenario.cancel()
    scenario.do()
    assert result(scenario) == ["2 failed", "the next wait was cancelled", "the one after it went on"]
    check_replay(scenario)


def test_who_does_not_wait_again_ends_as_it_does() -> None:
    @workflow
    async def flow() -> list[str]:
        told: list[str] = []
        await group_of_stubborn(told)
        return told

    scenario = Scenario(flow)
    scenario.do()
    scenario.cancel()
    assert kinds(scenario.do()) == ["CompleteWorkflow"]
    assert result(scenario) == ["2 failed"]
    check_replay(scenario)


def test_a_cancellation_while_a_group_waits_for_its_last_task_is_raised_at_the_next_wait() -> None:
    @workflow
    async def flow() -> list[str]:
        told: list[str] = []
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fetch("fails"))
                group.create_task(workflow.shielded(fetch("last")))
        except* ValueError:
            told.append("failed")
        await waits(told, "the next wait")
        return told

    scenario = Scenario(flow)
    scenario.do()
    scenario.fail(ValueError("no"))
    scenario.do()
    scenario.cancel()
    assert scenario.do() == []
    scenario.complete("done")
    scenario.do()
    assert result(scenario) == ["failed", "the next wait was cancelled"]
    check_replay(scenario)


def test_a_cancellation_that_was_caught_before_a_group_is_not_raised_again_by_it() -> None:
    @workflow
    async def flow() -> list[str]:
        told: list[str] = []
        try:
            await fetch("a")
        except asyncio.CancelledError:
            told.append("cancelled")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fetch("clean up"))
        except* ValueError:
            told.append("failed")
        await waits(told, "the next wait")
        return told

    scenario = Scenario(flow)
    scenario.do()
    scenario.cancel()
    scenario.do()
    scenario.fail(ValueError("no"), which=-1)
    scenario.do()
    assert result(scenario) == ["cancelled", "failed", "the next wait went on"]
    check_replay(scenario)


def test_what_a_timeout_has_requested_in_a_group_it_takes_back() -> None:
    @workflow
    async def flow() -> list[object]:
        told: list[str] = []
        try:
            async with asyncio.timeout(5):
                async with asyncio.TaskGroup() as group:
                    group.create_task(stubborn())
        except* ValueError:
            told.append("failed")
        await waits(told, "the next wait")
        task = asyncio.current_task()
        return [*told, task and task.cancelling()]

    scenario = Scenario(flow)
    scenario.do()
    scenario.fire()
    scenario.do()
    assert result(scenario) == ["failed", "the next wait went on", 0]
    check_replay(scenario)


def test_a_cancellation_outlives_the_timeout_that_coincides_with_it() -> None:
    @workflow
    async def flow() -> list[str]:
        told: list[str] = []
        try:
            async with asyncio.timeout(5):
                async with asyncio.TaskGroup() as group:
                    group.create_task(fetch("stopped"))
                    group.create_task(workflow.shielded(fetch("fails")))
        except* ValueError:
            told.append("failed")
        await waits(told, "the next wait")
        return told

    scenario = Scenario(flow)
    scenario.do()
    scenario.fire()
    assert kinds(scenario.do()) == ["RequestCancelActivity"]
    scenario.cancel()
    assert scenario.do() == []
    scenario.fail(ValueError("no"), which=-1)
    scenario.do()
    assert result(scenario) == ["failed", "the next wait was cancelled"]
    check_replay(scenario)


def test_a_group_in_a_group_that_ends_both_goes_on_after_the_outer_one() -> None:
    @workflow
    async def flow() -> list[str]:
        told: list[str] = []
        try:
            async with asyncio.TaskGroup() as outer:
                outer.create_task(fetch("fails"))
                await group_of_stubborn(told)
                await waits(told, "the block")
        except* ValueError:
            told.append("outer failed")
        await waits(told, "the rest")
        return told

    scenario = Scenario(flow)
    scenario.do()
    scenario.fail(ValueError("no"))
    scenario.do()
    assert result(scenario) == ["2 failed", "the block was cancelled", "outer failed", "the rest went on"]
    check_replay(scenario)


def test_who_requests_its_own_cancellation_can_take_it_back_until_it_waits() -> None:
    @workflow
    async def flow() -> list[object]:
        told: list[str] = []
        task = asyncio.current_task()
        assert task is not None
        counts = [task.cancel(), task.cancelling(), task.uncancel(), task.uncancel()]
        await waits(told, "after both")
        task.cancel()
        await waits(told, "after one")
        return [*counts, *told, task.cancelling()]

    scenario = Scenario(flow)
    scenario.do()
    assert result(scenario) == [True, 1, 0, 0, "after both went on", "after one was cancelled", 1]
    check_replay(scenario)
