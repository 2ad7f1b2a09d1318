"""What asyncio does otherwise from one Python to the next: inside workflows, every Python does as 3.13."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

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


# --- Groups and requests of cancellation ----------------------------------------------------------------
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


# --- Turns of the loop ----------------------------------------------------------------------------------
def test_a_notice_that_meets_a_cancellation_is_handed_on() -> None:
    @workflow
    async def flow() -> list[str]:
        told: list[str] = []
        changed = asyncio.Condition()

        async def watch(name: str) -> None:
            async with changed:
                await changed.wait()
                told.append(name)

        first, second, third = (asyncio.create_task(watch(name)) for name in "abc")
        await asyncio.sleep(0)
        async with changed:
            changed.notify()
            first.cancel()
        await asyncio.wait([first, second])
        told.append(f"{first.cancelled()}")
        async with changed:
            changed.notify_all()
        await third
        try:
            await changed.wait()
        except RuntimeError as error:
            told.append(str(error))
        return told

    scenario = Scenario(flow)
    scenario.do()
    assert result(scenario) == ["b", "True", "c", "cannot wait on un-acquired lock"]
    check_replay(scenario)


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_semaphore_lets_through_as_many_as_it_has_room_for(cancelled: bool) -> None:
    @workflow
    async def flow() -> list[str]:
        told: list[str] = []
        slots = asyncio.Semaphore(0)

        async def enter(name: str) -> None:
            try:
                await slots.acquire()
            finally:
                asyncio.get_running_loop().call_soon(told.append, f"after {name}")
            told.append(name)

        first = asyncio.create_task(enter("a"))
        await asyncio.sleep(0)
        tasks = [first, *(asyncio.create_task(enter(name)) for name in "bcde")]
        for _ in range(3):
            slots.release()
        if cancelled:
            first.cancel()
        await asyncio.wait(tasks, timeout=1)
        assert slots.locked()
        return told

    scenario = Scenario(flow)
    scenario.do()
    scenario.fire()
    scenario.do()
    told = ["b", "c", "d", "after a"] if cancelled else ["a", "b", "c", "after a"]
    assert cast("list[str]", result(scenario))[:4] == told
    check_replay(scenario)


def test_what_waits_for_a_condition_can_be_taken_out_of_memory() -> None:
    left: list[str] = []

    @workflow
    async def flow() -> None:
        changed = asyncio.Condition()
        try:
            async with changed:
                await changed.wait()
        finally:
            left.append(f"locked: {changed.locked()}")

    scenario = Scenario(flow)
    scenario.do()
    scenario.run.evict()
    assert left == ["locked: False"]


def test_gather_does_not_wait_for_what_has_been_done() -> None:
    @workflow
    async def flow() -> list[object]:
        told: list[object] = []

        async def tell(what: str) -> str:
            told.append(what)
            return what.upper()

        first, broken = asyncio.ensure_future(tell("a")), asyncio.get_running_loop().create_future()
        broken.set_exception(ValueError("no"))
        await first
        second = asyncio.ensure_future(tell("late"))
        told.append(await asyncio.gather(first, first))
        nothing: list[str] = await asyncio.gather()
        told.append(nothing)
        told += map(str, await asyncio.gather(broken, first, return_exceptions=True))
        try:
            await asyncio.gather(broken, first)
        except ValueError as error:
            told.append(f"{error}, in time")
        told.append(await asyncio.gather(tell("x"), second, tell("y")))
        return told

    scenario = Scenario(flow)
    scenario.do()
    told = ["a", ["A", "A"], [], "no", "A", "no, in time", "late", "x", "y", ["X", "LATE", "Y"]]
    assert result(scenario) == told
    check_replay(scenario)


def test_gather_is_cancelled_with_what_it_waits_for() -> None:
    @workflow
    async def flow() -> list[str]:
        told: list[str] = []

        async def member(what: str) -> None:
            try:
                await fetch(what)
            except asyncio.CancelledError:
                told.append(what)
                raise

        async def gathers(exceptions: bool) -> None:
            await asyncio.gather(member("a"), member("b"), return_exceptions=exceptions)

        for exceptions in (False, True):
            task = asyncio.create_task(gathers(exceptions))
            await asyncio.sleep(1)
            task.cancel()
            await asyncio.wait([task])
            told.append(f"{task.cancelled()}")
        task = asyncio.create_task(member("c"))
        outer = asyncio.gather(task, fetch("d"), return_exceptions=True)
        await asyncio.sleep(1)
        task.cancel()
        told += [type(each).__name__ for each in await outer]
        return told

    scenario = Scenario(flow)
    scenario.do()
    for _ in range(3):
        scenario.fire()
        scenario.do()
    scenario.complete("done", which=-1)
    scenario.do()
    assert result(scenario) == ["a", "b", "True", "a", "b", "True", "c", "CancelledError", "str"]
    check_replay(scenario)


def test_what_tasks_are_called_does_not_depend_on_how_many_futures_asyncio_makes() -> None:
    """Python 3.13 makes one more where the parent of a group is cancelled while that waits for its last task."""

    @workflow
    async def flow() -> list[list[str]]:
        told: list[list[str]] = []
        for futures in (0, 3, 6):
            for _ in range(futures):
                asyncio.get_running_loop().create_future()
            tasks = [asyncio.create_task(asyncio.sleep(0)) for _ in range(3)]
            handles = [fetch.start(f"{n}") for n in range(3)]
            told += [[task.get_name() for task in tasks], [f"{hash(each) % 256}" for each in handles]]
            await asyncio.wait(tasks)
        return told

    scenario = Scenario(flow)
    scenario.do()
    assert result(scenario) == [
        ["Task-2", "Task-3", "Task-4"], ["1", "2", "3"],
        ["Task-5", "Task-6", "Task-7"], ["4", "5", "6"],
        ["Task-8", "Task-9", "Task-10"], ["7", "8", "9"],
    ]  # fmt: skip
    check_replay(scenario)
