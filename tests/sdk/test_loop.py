"""Ordinary asyncio inside workflows: each primitive, replayed at every prefix of its history."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

import pytest

from perdure import workflow
from perdure.clock import SECOND
from perdure.model.commands import Command, ScheduleActivity, StartTimer
from tests.sdk.harness import Scenario, check_replay, fetch, kinds, result, value
from tests.sdk.harness import fresh_registry as fresh_registry


def inputs(scenario: Scenario, task: int = -1) -> list[object]:
    """What the activities that a task asked for are called with."""
    return inputs_of(scenario.tasks[task][1].commands)


def inputs_of(commands: Sequence[Command]) -> list[object]:
    return [value(command.input[0]) for command in commands if isinstance(command, ScheduleActivity)]


def test_sleep_is_a_timer() -> None:
    @workflow
    async def naps() -> float:
        before = asyncio.get_running_loop().time()
        await asyncio.sleep(1.5)
        await asyncio.sleep(0)
        return asyncio.get_running_loop().time() - before

    scenario = Scenario(naps)
    assert scenario.do() == [StartTimer("1", 1_500_000)]
    scenario.fire()
    scenario.do()
    assert result(scenario) == pytest.approx(1.5, abs=1e-4)
    check_replay(scenario)


def test_a_sleep_that_is_cancelled_cancels_its_timer() -> None:
    @workflow
    async def naps() -> str:
        nap = asyncio.create_task(asyncio.sleep(60))
        await fetch("a")
        nap.cancel()
        await fetch("b")
        return "awake"

    scenario = Scenario(naps)
    # The main task runs up to its first await before the task that it created begins.
    assert kinds(scenario.do()) == ["ScheduleActivity", "StartTimer"]
    scenario.complete("a")
    assert kinds(scenario.do()) == ["ScheduleActivity", "CancelTimer"]
    scenario.complete("b")
    assert kinds(scenario.do()) == ["CompleteWorkflow"]
    check_replay(scenario)


def test_what_is_cancelled_before_it_left_is_never_asked_for() -> None:
    @workflow
    async def fickle() -> None:
        nap = asyncio.create_task(asyncio.sleep(60))
        call = fetch.start("dropped")
        await asyncio.sleep(0)
        nap.cancel()
        call.cancel()
        await fetch("a")

    scenario = Scenario(fickle)
    scenario.do()
    assert inputs(scenario) == ["a"]
    scenario.complete()
    assert kinds(scenario.do()) == ["CompleteWorkflow"]
    check_replay(scenario)


def test_a_timer_that_fires_in_the_same_task_is_not_cancelled() -> None:
    @workflow
    async def patient() -> str:
        return await asyncio.wait_for(fetch("a"), 10)

    scenario = Scenario(patient)
    scenario.do()
    scenario.complete("in time")
    scenario.fire()
    assert kinds(scenario.do()) == ["CompleteWorkflow"]
    check_replay(scenario)


def test_gather() -> None:
    @workflow
    async def both() -> list[str]:
        return list(await asyncio.gather(fetch("a"), fetch("b")))

    scenario = Scenario(both)
    scenario.do()
    scenario.complete("B", which=1)
    assert scenario.do() == []
    scenario.complete("A")
    scenario.do()
    assert result(scenario) == ["A", "B"]
    check_replay(scenario)


def test_gather_with_exceptions() -> None:
    @workflow
    async def both() -> list[str]:
        results = await asyncio.gather(fetch("a"), fetch("b"), return_exceptions=True)
        return [repr(result) for result in results]

    scenario = Scenario(both)
    scenario.do()
    scenario.fail(ValueError("no"), which=1)
    scenario.complete("A")
    scenario.do()
    assert result(scenario) == ["'A'", "ValueError('no')"]
    check_replay(scenario)


def test_timeout() -> None:
    @workflow
    async def limited() -> str:
        try:
            async with asyncio.timeout(5) as limit:
                await fetch("a")
                limit.reschedule(asyncio.get_running_loop().time() + 60)
                await fetch("b")
        except TimeoutError:
            return "late"
        return "in time"

    scenario = Scenario(limited)
    assert kinds(scenario.do()) == ["StartTimer", "ScheduleActivity"]
    scenario.complete("a")
    commands = scenario.do()
    assert kinds(commands) == ["CancelTimer", "StartTimer", "ScheduleActivity"]
    assert commands[1] == StartTimer("2", 60 * SECOND)
    scenario.fire()
    assert kinds(scenario.do()) == ["RequestCancelActivity", "CompleteWorkflow"]
    assert result(scenario) == "late"
    check_replay(scenario)


def test_task_group() -> None:
    @workflow
    async def together() -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(fetch(name)) for name in "abc"]
        return [task.result() for task in tasks]

    scenario = Scenario(together)
    scenario.do()
    for name in "cba":
        scenario.complete(name.upper(), which=-1)
    scenario.do()
    assert result(scenario) == ["A", "B", "C"]
    check_replay(scenario)


def test_a_task_group_cancels_in_the_order_of_creation() -> None:
    @workflow
    async def together() -> list[str]:
        cancelled: list[str] = []

        async def member(name: str) -> None:
            try:
                await fetch(name)
            except asyncio.CancelledError:
                cancelled.append(name)
                raise

        try:
            async with asyncio.TaskGroup() as group:
                for n in range(40):
                    group.create_task(member(f"{n}"))
        except* ValueError:
            pass
        return cancelled

    scenario = Scenario(together)
    scenario.do()
    scenario.fail(ValueError("no"), which=17)
    commands = scenario.do()
    assert kinds(commands) == ["RequestCancelActivity"] * 39 + ["CompleteWorkflow"]
    assert result(scenario) == [f"{n}" for n in range(40) if n != 17]
    check_replay(scenario)


def test_shield() -> None:
    @workflow
    async def guarded() -> str:
        call = fetch.start("a")
        try:
            await asyncio.wait_for(asyncio.shield(call), 5)
        except TimeoutError:
            return await call
        return ""

    scenario = Scenario(guarded)
    scenario.do()
    scenario.fire()
    assert scenario.do() == []
    scenario.complete("finished")
    scenario.do()
    assert result(scenario) == "finished"
    check_replay(scenario)


def test_events_locks_and_queues() -> None:
    @workflow
    async def busy() -> list[str]:
        told: list[str] = []
        queue: asyncio.Queue[str] = asyncio.Queue(maxsize=1)
        lock, ready, room = asyncio.Lock(), asyncio.Event(), asyncio.Semaphore(2)
        changed = asyncio.Condition()

        async def produce() -> None:
            for name in "abc":
                async with room:
                    await queue.put(await fetch(name))
            ready.set()

        async def consume() -> None:
            for _ in "abc":
                told.append(await queue.get())
                async with changed:
                    changed.notify_all()

        async def watch() -> None:
            async with changed:
                await changed.wait_for(lambda: len(told) == 2)
            async with lock:
                told.append("two")

        async with lock, asyncio.TaskGroup() as group:
            group.create_task(produce())
            group.create_task(consume())
            watcher = asyncio.create_task(watch())
            await ready.wait()
        await watcher
        return told

    scenario = Scenario(busy)
    scenario.do()
    for name in "abc":
        scenario.complete(name)
        scenario.do()
    assert result(scenario) == ["a", "b", "c", "two"]
    check_replay(scenario)


def test_cancellation_by_the_user() -> None:
    @workflow
    async def stops() -> list[str]:
        told: list[str] = []

        async def member() -> None:
            try:
                await fetch("never")
            except asyncio.CancelledError:
                told.append(await fetch("clean up"))
                raise

        task = asyncio.create_task(member())
        await fetch("a")
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            told.append("cancelled")
        return told

    scenario = Scenario(stops)
    scenario.do()
    scenario.complete("a")
    assert kinds(scenario.do()) == ["RequestCancelActivity", "ScheduleActivity"]
    scenario.complete("clean", which=-1)
    scenario.do()
    assert result(scenario) == ["clean", "cancelled"]
    check_replay(scenario)


def test_sets_of_tasks_and_futures_iterate_alike_in_every_copy() -> None:
    @workflow
    async def shuffled() -> list[str]:
        calls = {fetch.start(f"{n}") for n in range(50)}
        tasks = {asyncio.create_task(asyncio.sleep(n + 1), name=f"{n}") for n in range(50)}
        for call in calls:
            call.cancel()
        names = [task.get_name() for task in tasks]
        for task in tasks:
            task.cancel()
        return names

    scenario = Scenario(shuffled)
    scenario.do()
    assert sorted(map(int, cast_list(result(scenario)))) == list(range(50))
    check_replay(scenario)


def cast_list(values: object) -> list[str]:
    assert isinstance(values, list)
    return [str(value) for value in values]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def test_loop_time_stands_still_within_a_task() -> None:
    @workflow
    async def clocked() -> list[float]:
        loop = asyncio.get_running_loop()
        times = [loop.time(), loop.time()]
        await asyncio.sleep(3)
        return [*times, loop.time()]

    scenario = Scenario(clocked)
    scenario.now += 3600 * SECOND  # it began only when there was a worker
    scenario.do()
    scenario.fire()
    scenario.do()
    first, second, third = cast_list(result(scenario))
    assert first == second
    assert float(first) == pytest.approx(3600, abs=1e-4)
    assert float(third) - float(first) == pytest.approx(3, abs=1e-4)
    check_replay(scenario)


def test_call_later_and_call_soon() -> None:
    @workflow
    async def called() -> list[str]:
        told: list[str] = []
        loop = asyncio.get_running_loop()
        loop.call_soon(told.append, "soon")
        loop.call_soon(told.append, "never").cancel()
        loop.call_later(-1, told.append, "at once")
        later = loop.call_later(5, told.append, "later")
        assert later.when() == loop.time() + 5
        never = loop.call_at(loop.time() + 3, told.append, "never")
        await fetch("a")
        never.cancel()
        assert never.cancelled()
        await asyncio.sleep(9)
        return told

    scenario = Scenario(called)
    scenario.do()
    scenario.complete()
    scenario.do()
    scenario.fire()
    assert scenario.do() == []
    scenario.fire()
    scenario.do()
    assert result(scenario) == ["soon", "at once", "later"]
    check_replay(scenario)


@pytest.mark.parametrize("forever", [float("inf"), 1e12])
def test_a_time_that_never_comes_needs_no_timer(forever: float) -> None:
    @workflow
    async def waits() -> str:
        async with asyncio.timeout(forever):
            await asyncio.wait(
                [asyncio.ensure_future(fetch("a")), asyncio.ensure_future(asyncio.sleep(forever))],
                return_when=asyncio.FIRST_COMPLETED,
            )
        asyncio.get_running_loop().call_later(forever, print).cancel()
        return "done"

    scenario = Scenario(waits)
    assert kinds(scenario.do()) == ["ScheduleActivity"]
    scenario.complete()
    assert kinds(scenario.do()) == ["CompleteWorkflow"]
    check_replay(scenario)


UNSUPPORTED: list[tuple[Callable[[asyncio.AbstractEventLoop], object], str]] = [
    (lambda loop: loop.run_forever(), "await"),
    (lambda loop: loop.set_debug(True), "can't be configured"),
]


@pytest.mark.parametrize(("call", "says"), UNSUPPORTED)
def test_what_a_workflow_cannot_do_says_what_to_do_instead(
    call: Callable[[asyncio.AbstractEventLoop], object], says: str
) -> None:
    @workflow
    async def wrong() -> str:
        try:
            call(asyncio.get_running_loop())
        except (RuntimeError, ValueError) as error:
            return str(error)
        return ""

    scenario = Scenario(wrong)
    scenario.do()
    assert says in str(result(scenario))


def test_every_method_of_a_loop_is_there_or_refused() -> None:
    from perdure.sdk.workflow.loop import DeterministicLoop

    inherited = {
        name
        for name, method in vars(asyncio.AbstractEventLoop).items()
        if not name.startswith("_") and getattr(DeterministicLoop, name) is method
    }
    assert inherited == set()


def test_an_exception_in_a_callback_fails_the_task() -> None:
    def explode() -> None:
        raise KeyError("in a callback")

    @workflow
    async def wrong() -> None:
        asyncio.get_running_loop().call_soon(explode)
        await fetch("a")

    failure = Scenario(wrong).broken()
    assert failure.types[0] == "builtins.KeyError"
    assert "explode" in failure.traceback


def test_an_asynchronous_generator_that_is_left_is_closed() -> None:
    @workflow
    async def leaves() -> list[str]:
        told: list[str] = []

        async def numbers() -> AsyncGenerator[int]:
            try:
                while True:
                    yield len(await fetch("n"))
            finally:
                told.append("closed")

        async for _ in numbers():
            break
        await fetch("after")
        return told

    scenario = Scenario(leaves)
    scenario.do()
    scenario.complete("x")
    assert inputs_of(scenario.do()) == ["after"]
    scenario.complete("y")
    scenario.do()
    assert result(scenario) == ["closed"]
    check_replay(scenario)
