"""Sagas, by themselves: what is undone when, and what is none of a saga's business."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import ApplicationError, activity, workflow
from perdure.model import events as e
from perdure.model.commands import CancelWorkflow, FailWorkflow, ScheduleActivity
from perdure.model.retry import RetryPolicy
from tests.sdk.harness import Scenario, check_replay, fetch, fresh_registry, kinds, result, store, value

__all__ = ["fresh_registry"]


@activity(name="sdk_saga_make", schedule_to_close_timeout="1h", schedule_to_start_timeout="1h")
async def make(name: str) -> str:
    return name


@activity(name="sdk_saga_undo", schedule_to_close_timeout="1h", schedule_to_start_timeout="1h")
async def undo(name: str, force: bool = False) -> None: ...


@activity(name="sdk_saga_plain_undo")
def plain_undo(name: str) -> None: ...


@workflow(name="sdk.saga.child")
async def child(name: str) -> str:
    return name


@workflow(name="sdk.saga.remove")
class Remove:
    def __init__(self, name: str) -> None:
        self.name = name

    async def run(self) -> None: ...


def scheduled(scenario: Scenario) -> list[tuple[str, list[object]]]:
    """The activities that the last task has asked for: their types and arguments."""
    commands = scenario.tasks[-1][1].commands
    return [(x.activity_type, [value(p) for p in x.input]) for x in commands if isinstance(x, ScheduleActivity)]


@workflow(name="sdk.saga.two")
async def two() -> str:
    async with workflow.saga() as saga:
        first = await saga.do(make("a"), undo=undo)
        second = await saga.do(make.start("b"), undo=lambda made: undo(made, force=True))
        await fetch("c")
    return first + second


def at_the_third() -> Scenario:
    scenario = Scenario(two)
    scenario.do()
    for name in ("A", "B"):
        scenario.complete(name)
        scenario.do()
    assert scheduled(scenario) == [("sdk_fetch", ["c"])]
    return scenario


def undo_both(scenario: Scenario) -> None:
    assert scheduled(scenario) == [("sdk_saga_undo", ["B", True])]
    scenario.complete(None, "sdk_saga_undo")
    scenario.do()
    assert scheduled(scenario) == [("sdk_saga_undo", ["A"])]
    scenario.complete(None, "sdk_saga_undo")
    scenario.do()


def test_what_goes_well_is_not_undone() -> None:
    scenario = at_the_third()
    scenario.complete("C")
    assert kinds(scenario.do()) == ["CompleteWorkflow"]
    assert result(scenario) == "AB"
    check_replay(scenario)


def test_a_failure_is_undone_in_reverse_and_raised_again() -> None:
    scenario = at_the_third()
    scenario.fail(ApplicationError("no luck"))
    scenario.do()
    undo_both(scenario)
    (failed,) = scenario.tasks[-1][1].commands
    assert isinstance(failed, FailWorkflow)
    assert failed.failure.message == "no luck"
    check_replay(scenario)


def test_a_cancellation_is_undone() -> None:
    scenario = at_the_third()
    scenario.cancel()
    scenario.do()
    undo_both(scenario)
    assert scenario.tasks[-1][1].commands == (CancelWorkflow(),)
    check_replay(scenario)


def test_undos_hold_rather_than_give_up() -> None:
    scenario = at_the_third()
    made = next(event for event in scenario.tasks[0][1].commands if isinstance(event, ScheduleActivity))
    assert (made.retry_policy.on_exhausted, made.schedule_to_close_timeout > 0) == ("fail", True)
    scenario.fail(ApplicationError("no luck"))
    (command,) = scenario.do()
    assert isinstance(command, ScheduleActivity)
    assert command.retry_policy == RetryPolicy(on_exhausted="hold", hold_non_retryable=True)
    assert (command.schedule_to_close_timeout, command.schedule_to_start_timeout) == (0, 0)


def test_what_is_called_after_a_saga_is_called_as_ever() -> None:
    @workflow
    async def flow() -> None:
        async with workflow.saga() as saga:
            await saga.do(make("a"), undo=undo)
            await make("b")
        await make("c")

    scenario = Scenario(flow)
    scenario.do()
    for _ in range(2):
        scenario.complete("x")
        (command,) = scenario.do()
        assert isinstance(command, ScheduleActivity)
        assert command.retry_policy.on_exhausted == "fail"


def test_nothing_interrupts_the_undos() -> None:
    @workflow
    async def flow() -> str:
        saga = asyncio.create_task(two_in_a_task())
        await workflow.receive("cancel", object)
        saga.cancel()
        await workflow.receive("cancel", object)
        saga.cancel()
        await asyncio.wait([saga])
        return "cancelled" if saga.cancelled() else ""

    async def two_in_a_task() -> None:
        async with workflow.saga() as saga:
            await saga.do(make("a"), undo=undo)
            await asyncio.sleep(60)

    scenario = Scenario(flow)
    scenario.do()
    scenario.complete("A")
    scenario.do()
    scenario.signal("cancel", None)
    scenario.do()
    scenario.signal("cancel", None)
    assert scenario.do() == []
    scenario.complete(None)
    scenario.do()
    assert result(scenario) == "cancelled"
    check_replay(scenario)


def test_a_step_that_is_cancelled_is_waited_for_and_undone_if_it_was_done() -> None:
    @workflow
    async def flow() -> None:
        async with workflow.saga() as saga:
            await saga.do(make("a"), undo=undo)
            await asyncio.sleep(60)

    scenario = Scenario(flow)
    scenario.do()
    scenario.cancel()
    assert kinds(scenario.do()) == ["RequestCancelActivity"]
    scenario.complete("A")
    scenario.do()
    assert scheduled(scenario) == [("sdk_saga_undo", ["A"])]
    scenario.complete(None)
    assert scenario.do() == [CancelWorkflow()]
    check_replay(scenario)


def test_a_cancellation_is_raised_once_also_around_a_saga_whose_step_was_done() -> None:
    @workflow
    async def flow() -> str:
        try:
            async with workflow.saga() as saga:
                await saga.do(make("a"), undo=undo)
        except asyncio.CancelledError:
            return await fetch("cleaned up")
        return "not cancelled"

    scenario = Scenario(flow)
    scenario.do()
    scenario.cancel()
    scenario.do()
    scenario.complete("A")
    scenario.do()
    assert scheduled(scenario) == [("sdk_saga_undo", ["A"])]
    scenario.complete(None)
    assert kinds(scenario.do()) == ["ScheduleActivity"]
    scenario.complete("clean")
    scenario.do()
    assert result(scenario) == "clean"
    check_replay(scenario)


def test_a_map_is_a_step_that_is_waited_for() -> None:
    @workflow
    async def flow() -> None:
        async def both() -> list[str]:
            return await make.map(["b", "c"])

        async with workflow.saga() as saga:
            await saga.do(make("a"), undo=undo)
            await saga.do(both(), undo=lambda made: undo(made[0]))

    scenario = Scenario(flow)
    scenario.do()
    scenario.complete("A")
    scenario.do()
    scenario.cancel()
    assert kinds(scenario.do()) == ["RequestCancelActivity"] * 2
    scenario.complete("B")
    assert scenario.do() == []
    scenario.complete("C")
    scenario.do()
    assert scheduled(scenario) == [("sdk_saga_undo", ["A"])]
    check_replay(scenario)


def test_a_step_that_stops_is_not_undone() -> None:
    @workflow
    async def flow() -> None:
        async with workflow.saga() as saga:
            handle = make.start("a")
            await saga.do(handle, undo=undo)

    scenario = Scenario(flow)
    scenario.do()
    scenario.cancel()
    assert kinds(scenario.do()) == ["RequestCancelActivity"]
    scenario.cancel_activity()
    assert scenario.do() == [CancelWorkflow()]
    check_replay(scenario)


def test_steps_that_run_beside_the_one_that_fails_are_undone_too() -> None:
    @workflow
    async def flow() -> None:
        async with workflow.saga() as saga:
            await asyncio.gather(saga.do(make("a"), undo=undo), saga.do(make("b"), undo=undo), fetch("c"))

    scenario = Scenario(flow)
    scenario.do()
    scenario.complete("A")
    scenario.do()
    scenario.fail(ApplicationError("no luck"), "sdk_fetch")
    assert kinds(scenario.do()) == ["RequestCancelActivity"]
    scenario.complete("B", "sdk_saga_make")
    scenario.do()
    assert scheduled(scenario) == [("sdk_saga_undo", ["B"])]
    scenario.complete(None)
    scenario.do()
    assert scheduled(scenario) == [("sdk_saga_undo", ["A"])]
    scenario.complete(None)
    assert kinds(scenario.do()) == ["FailWorkflow"]
    check_replay(scenario)


def test_an_undo_that_fails_all_the_same_is_told_and_the_others_go_on() -> None:
    scenario = at_the_third()
    scenario.fail(ApplicationError("no luck"))
    scenario.do()
    scenario.fail(ApplicationError("left to a person"))
    scenario.do()
    assert scheduled(scenario) == [("sdk_saga_undo", ["A"])]
    said = [record.getMessage() for record in scenario.run.take_log_records()]
    assert any("failed: ApplicationError: left to a person" in text for text in said)
    scenario.complete(None)
    (failed,) = scenario.do()
    assert isinstance(failed, FailWorkflow)
    assert failed.failure.message == "no luck"
    check_replay(scenario)


def test_plain_functions_children_and_coroutines_undo() -> None:
    @workflow
    async def flow() -> None:
        async def both(name: str) -> None:
            await asyncio.gather(undo(name), undo(name + "!"))

        async with workflow.saga() as saga:
            await saga.do(make("a"), undo=plain_undo)
            await saga.do(make("b"), undo=child)
            await saga.do(make("c"), undo=both)
            raise ApplicationError("no luck")

    scenario = Scenario(flow)
    scenario.do()
    for name in ("A", "B", "C"):
        scenario.complete(name)
        scenario.do()
    assert scheduled(scenario) == [("sdk_saga_undo", ["C"]), ("sdk_saga_undo", ["C!"])]
    scenario.complete(None)
    scenario.complete(None)
    assert kinds(scenario.do()) == ["StartChildWorkflow"]
    scenario.child_started()
    scenario.child_completed("undone")
    scenario.do()
    assert scheduled(scenario) == [("sdk_saga_plain_undo", ["A"])]
    scenario.complete(None)
    assert kinds(scenario.do()) == ["FailWorkflow"]
    check_replay(scenario)


@pytest.mark.parametrize("error", ["timeout", "listed"])
def test_other_failures_of_the_block(error: str) -> None:
    @workflow
    async def flow(error: str) -> str:
        try:
            async with workflow.saga(undo_on=[LookupError]) as saga:
                await saga.do(make("a"), undo=undo)
                if error == "timeout":
                    await workflow.wait_until(lambda: False, timeout=5)
                raise KeyError("region")
        except (TimeoutError, KeyError) as caught:
            return type(caught).__name__

    scenario = Scenario(flow, error)
    scenario.do()
    scenario.complete("A")
    scenario.do()
    if error == "timeout":
        scenario.fire()
        scenario.do()
    assert scheduled(scenario) == [("sdk_saga_undo", ["A"])]
    scenario.complete(None)
    scenario.do()
    assert result(scenario) == {"timeout": "TimeoutError", "listed": "KeyError"}[error]
    check_replay(scenario)


def test_a_bug_is_not_undone_but_mended() -> None:
    bugs = ["a typo"]

    @workflow
    async def flow() -> str:
        try:
            async with workflow.saga() as saga:
                made = await saga.do(make("a"), undo=undo)
                if bugs:
                    raise KeyError(bugs[0])
        except KeyError:
            return "caught, but too late"
        return made

    scenario = Scenario(flow)
    scenario.do()
    scenario.complete("A")
    failure = scenario.broken()
    assert failure.types[0] == "builtins.KeyError"
    assert not [event for event in scenario.history if isinstance(event, e.WorkflowExecutionCompleted)]
    bugs.clear()
    assert kinds(scenario.do()) == ["CompleteWorkflow"]
    assert result(scenario) == "A"


def test_a_bug_of_an_undo_is_not_skipped() -> None:
    broken = [True]

    @workflow
    async def flow() -> None:
        def take_back(made: str) -> Any:
            return None if broken else undo(made)

        async with workflow.saga() as saga:
            await saga.do(make("a"), undo=take_back)
            raise ApplicationError("no luck")

    scenario = Scenario(flow)
    scenario.do()
    scenario.complete("A")
    assert "take_back gave None, which can't be awaited" in scenario.broken().message
    broken.clear()
    scenario.do()
    assert scheduled(scenario) == [("sdk_saga_undo", ["A"])]


def test_continue_as_new_leaves_the_block_without_undoing() -> None:
    @workflow(name="sdk.saga.rolls")
    async def rolls() -> None:
        async with workflow.saga() as saga:
            await saga.do(make("a"), undo=undo)
            workflow.continue_as_new(rolls())

    scenario = Scenario(rolls)
    scenario.do()
    scenario.complete("A")
    assert kinds(scenario.do()) == ["ContinueAsNew"]


def test_an_evicted_saga_undoes_nothing() -> None:
    scenario = at_the_third()
    scenario.run.evict()
    assert scenario.do() == []
    scenario.complete("C")
    assert kinds(scenario.do()) == ["CompleteWorkflow"]


def test_a_class_workflow_undoes() -> None:
    @workflow
    async def flow() -> None:
        async with workflow.saga() as saga:
            await saga.do(make("a"), undo=Remove)
            raise ApplicationError("no luck")

    scenario = Scenario(flow)
    scenario.do()
    scenario.complete("made")
    assert kinds(scenario.do()) == ["StartChildWorkflow"]
    scenario.child_completed(None)
    assert kinds(scenario.do()) == ["FailWorkflow"]
    check_replay(scenario)


def test_a_plain_workflow_has_sagas_too() -> None:
    @workflow
    def flow() -> None:
        with workflow.saga() as saga:
            first = workflow.block(saga.do(make.start("a"), undo=undo))
            workflow.block(saga.do(make.start("b"), undo=lambda name: plain_undo.start(f"{first} and {name}")))
            raise ApplicationError("no luck")

    scenario = Scenario(flow)
    for made in ("A", "B"):
        scenario.do()
        scenario.complete(made)
    for name, expected in (("sdk_saga_plain_undo", "A and B"), ("sdk_saga_undo", "A")):
        scenario.do()
        assert scheduled(scenario) == [(name, [expected])]
        (command,) = [x for x in scenario.tasks[-1][1].commands if isinstance(x, ScheduleActivity)]
        assert command.retry_policy.on_exhausted == "hold"
        scenario.complete(None, name)
    assert kinds(scenario.do()) == ["FailWorkflow"]
    check_replay(scenario)


def test_a_local_activity_in_an_undo_is_none_since_it_may_have_to_hold() -> None:
    @workflow
    async def flow() -> None:
        async with workflow.saga() as saga:
            await saga.do(make("a"), undo=undo.local)
            raise ApplicationError("no luck")

    scenario = Scenario(flow)
    scenario.do()
    scenario.complete("made")
    (command,) = scenario.do()
    assert isinstance(command, ScheduleActivity)
    assert command.retry_policy == RetryPolicy(on_exhausted="hold", hold_non_retryable=True)


def test_wrong_use_is_refused() -> None:
    said: list[str] = []

    @workflow
    async def flow() -> None:
        saga = workflow.saga()
        for step in (make("a"), store("b")):
            with pytest.raises(RuntimeError, match="belongs into the block"):
                await saga.do(step, undo=undo)
        async with saga:
            do: Any = saga.do
            with pytest.raises(TypeError, match="undo must be an activity or a function") as caught:
                await do(make("a"), undo="undo")
            said.append(str(caught.value))
            with pytest.raises(TypeError, match="give undo itself, or a lambda; not its call"):
                await do(make("a"), undo=undo("a"))
            with pytest.raises(TypeError, match=r"a step of a saga is a call of an activity .* not 'made'"):
                await do("made", undo=undo)
            with pytest.raises(TypeError, match=r"write saga\.do\(workflow\.run\(…\), undo=…\)"):
                await do(Remove("a"), undo=undo)
        with pytest.raises(RuntimeError, match="write `async with workflow"), workflow.saga():
            pass
        with pytest.raises(RuntimeError, match="a saga is for one block"):
            async with saga:
                pass
        with pytest.raises(TypeError, match="undo_on must hold exception classes"):
            workflow.saga(undo_on=("KeyError",))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    assert kinds(Scenario(flow).do()) == ["CompleteWorkflow"]
    assert said
    with pytest.raises(RuntimeError, match=r"workflow\.saga\(\) can only be used inside a workflow"):
        workflow.saga()


def test_steps_that_outlive_the_block_are_a_bug() -> None:
    @workflow
    async def flow() -> None:
        async with workflow.saga() as saga:
            step = asyncio.create_task(saga.do(make("a"), undo=undo))
            await asyncio.sleep(0)
        await step

    assert "steps of it still run" in Scenario(flow).broken().message


@pytest.mark.parametrize("error", [KeyError("listed"), TimeoutError("late")])
def test_a_group_of_failures_is_a_failure(error: Exception) -> None:
    @workflow
    async def flow() -> None:
        async with workflow.saga(undo_on=(KeyError,)) as saga:
            await saga.do(make("a"), undo=undo)
            raise ExceptionGroup("of a task group", [error])

    scenario = Scenario(flow)
    scenario.do()
    scenario.complete("made")
    assert kinds(scenario.do()) == ["ScheduleActivity"]
