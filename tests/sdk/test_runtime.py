"""One run: how it ends, by itself, by being cancelled, or with its children."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass

import pytest

from perdure import ActivityTimedOut, ApplicationError, activity, workflow
from perdure.model import events as e
from perdure.model.commands import (
    CancelWorkflow,
    ContinueAsNew,
    RequestCancelExternalWorkflow,
    StartChildWorkflow,
)
from perdure.model.failures import Failure
from tests.sdk.harness import (
    Scenario,
    check_replay,
    definition_of,
    failure,
    fetch,
    first_line,
    kinds,
    payloads,
    result,
)
from tests.sdk.harness import (
    fresh_registry as fresh_registry,
)


@activity(name="sdk_count")
async def count(name: str) -> int:
    return len(name)


class QuotaExceeded(Exception):
    pass


# --- Ends -----------------------------------------------------------------------------------------------
def test_a_function_returns() -> None:
    @dataclass
    class Account:
        name: str

    @workflow
    async def open_account(name: str, seats: int = 3) -> dict[str, object]:
        return {"name": await fetch(name), "seats": seats}

    scenario = Scenario(open_account, "ann")
    scenario.do()
    scenario.complete("Ann")
    scenario.do()
    assert result(scenario) == {"name": "Ann", "seats": 3}
    check_replay(scenario)
    assert Account("x")


def test_a_plain_function_returns() -> None:
    @workflow
    def plain(name: str) -> str:
        return f"{name} {workflow.now().year}"

    scenario = Scenario(plain, "ann")
    scenario.do()
    assert result(scenario) == "ann 2023"
    check_replay(scenario)


def test_a_class_returns() -> None:
    @workflow
    class Greet:
        def __init__(self, name: str) -> None:
            self.name = name

        async def run(self) -> str:
            return await fetch(self.name)

    scenario = Scenario(Greet, "ann")
    scenario.do()
    scenario.complete("hello")
    scenario.do()
    assert result(scenario) == "hello"
    check_replay(scenario)


def test_an_application_error_fails_the_workflow() -> None:
    @workflow
    async def fails() -> None:
        await fetch("a")
        raise ApplicationError("no money", {"short": 3}, type="Broke")

    scenario = Scenario(fails)
    scenario.do()
    scenario.complete()
    scenario.do()
    assert failure(scenario).message == "no money"
    assert failure(scenario).type == "Broke"
    assert scenario.run.closed
    check_replay(scenario)


def test_a_listed_exception_fails_the_workflow() -> None:
    @workflow(failure_exceptions=(LookupError,))
    async def fails() -> None:
        raise KeyError("gone")

    scenario = Scenario(fails)
    scenario.do()
    assert failure(scenario).types[:2] == ("builtins.KeyError", "builtins.LookupError")


def test_the_failure_of_an_activity_fails_the_workflow_that_lets_it_pass() -> None:
    @workflow
    async def careless() -> str:
        return await fetch("a")

    scenario = Scenario(careless)
    scenario.do()
    original = Failure("used up", ("app.QuotaExceeded", "builtins.Exception"), traceback="  in the activity\n")
    scenario.fail(original)
    scenario.do()
    assert failure(scenario).types == original.types
    assert "in the activity" in failure(scenario).traceback
    assert 'fetch("a")' in failure(scenario).traceback
    check_replay(scenario)


def test_an_exception_crosses_as_itself() -> None:
    @workflow
    async def careful() -> str:
        try:
            return await fetch("a")
        except QuotaExceeded as error:
            return f"{type(error).__name__} {error.args}"

    scenario = Scenario(careful)
    scenario.do()
    scenario.fail(QuotaExceeded("disk", 3))
    scenario.do()
    assert result(scenario) == "QuotaExceeded ('disk', 3)"
    check_replay(scenario)


def test_a_timeout_of_an_activity() -> None:
    @workflow
    async def careful() -> str:
        try:
            return await fetch("a")
        except ActivityTimedOut as error:
            return error.timeout

    scenario = Scenario(careful)
    scenario.do()
    late = Failure("too late", ("start_to_close",), kind="timeout")
    id = scenario.open(e.ActivityTaskScheduled)[0]
    scenario.add(e.ActivityTaskTimedOut(scenario.next_id, scenario.now, id, 0, late))
    scenario.do()
    assert result(scenario) == "start_to_close"
    check_replay(scenario)


def test_a_group_of_failures_fails_the_workflow() -> None:
    @workflow
    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fetch("a"))
            tasks.create_task(fetch("b"))

    scenario = Scenario(group)
    scenario.do()
    scenario.fail(QuotaExceeded("disk"))
    assert kinds(scenario.do()) == ["RequestCancelActivity", "FailWorkflow"]
    assert failure(scenario).types[0] == "builtins.ExceptionGroup"
    check_replay(scenario)


def test_a_group_with_a_bug_is_a_bug() -> None:
    @workflow
    async def group() -> None:
        raise ExceptionGroup("both", [ApplicationError("fine"), KeyError("a bug")])

    assert Scenario(group).broken().types[0] == "builtins.ExceptionGroup"


def test_a_bug_names_its_line() -> None:
    @workflow
    async def buggy(n: int) -> float:
        await fetch("a")
        return n / 0

    scenario = Scenario(buggy, 1)
    scenario.do()
    scenario.complete()
    failure = scenario.broken()
    line = first_line(buggy) + 3
    assert failure.types[0] == "builtins.ZeroDivisionError"
    assert f'File "{__file__}", line {line}, in ' in failure.traceback
    assert failure.traceback.count("File ") == 1
    assert scenario.run.broken
    with pytest.raises(RuntimeError, match="broken"):
        scenario.run.activate(scenario.tasks[-1][0])


@pytest.mark.parametrize("error", [TimeoutError, ValueError, asyncio.InvalidStateError, GeneratorExit])
def test_any_other_exception_is_a_bug(error: type[BaseException]) -> None:
    @workflow
    async def buggy() -> None:
        raise error

    assert error.__name__ in Scenario(buggy).broken().types[0]


def test_arguments_that_do_not_fit_are_a_bug() -> None:
    @workflow(name="flow")
    async def before(n: object) -> None: ...

    @workflow(name="flow")
    async def after(n: int) -> None: ...

    scenario = Scenario(before, "three", live=False)
    scenario.definitions = {"flow": definition_of(after)}
    assert "argument 'n' of workflow flow" in scenario.broken().message


def test_a_result_that_does_not_fit_is_a_bug() -> None:
    @workflow
    async def wrong() -> int:
        return "three"  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

    assert "the result of workflow wrong" in Scenario(wrong).broken().message


def test_the_result_of_an_activity_that_does_not_fit_is_raised_where_it_is_awaited() -> None:
    @workflow
    async def careful() -> str:
        try:
            await count("a")
        except Exception as error:
            return str(error)
        return ""

    scenario = Scenario(careful)
    scenario.do()
    scenario.complete("many")
    scenario.do()
    assert "the result of activity sdk_count doesn't fit `int`" in str(result(scenario))
    check_replay(scenario)


def test_an_exception_in_a_constructor() -> None:
    @workflow
    class Picky:
        def __init__(self, n: int) -> None:
            if n == 0:
                raise ApplicationError("not zero")
            self.m = 1 / (n - 1)

        async def run(self) -> None: ...

    scenario = Scenario(Picky, 0)
    assert kinds(scenario.do()) == ["FailWorkflow"]
    check_replay(scenario)
    assert Scenario(Picky, 1).broken().types[0] == "builtins.ZeroDivisionError"


def test_an_interrupt_passes_through_and_is_no_outcome() -> None:
    raising = True

    @workflow
    async def interrupted() -> None:
        await fetch("a")
        if raising:
            raise KeyboardInterrupt

    scenario = Scenario(interrupted)
    scenario.do()
    scenario.complete()
    with pytest.raises(KeyboardInterrupt):
        scenario.step()
    assert scenario.run.broken
    assert gc.isenabled()
    raising = False
    assert kinds(scenario.do()) == ["CompleteWorkflow"]


def test_continue_as_new() -> None:
    @workflow
    async def counter(n: int) -> None:
        await asyncio.sleep(1)
        workflow.continue_as_new(counter(n + 1))

    scenario = Scenario(counter, 1)
    scenario.do()
    scenario.fire()
    (command,) = scenario.do()
    assert command == ContinueAsNew("counter", "", payloads(2))
    check_replay(scenario)


def test_continue_as_new_passes_a_handler_of_exceptions() -> None:
    @workflow
    async def counter(n: int) -> None:
        try:
            workflow.continue_as_new(counter(n + 1))
        except Exception:
            raise AssertionError from None

    assert kinds(Scenario(counter, 1).do()) == ["ContinueAsNew"]


@pytest.mark.parametrize("deep", [False, True])
def test_continue_as_new_ends_a_task_group_and_the_run(deep: bool) -> None:
    @workflow
    async def counter(n: int) -> None:
        async def go_on() -> None:
            workflow.continue_as_new(counter(n + 1))

        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(60))
            await asyncio.sleep(1)
            if not deep:
                await go_on()
            async with asyncio.TaskGroup() as inner:
                inner.create_task(go_on())

    scenario = Scenario(counter, 1)
    scenario.do()
    scenario.fire()
    assert kinds(scenario.do()) == ["CancelTimer", "ContinueAsNew"]
    check_replay(scenario)


def test_a_group_that_also_holds_something_else_is_what_it_is() -> None:
    @workflow
    async def counter(n: int) -> None:
        async def go_on() -> None:
            workflow.continue_as_new(counter(n + 1))

        async def fail() -> None:
            raise ZeroDivisionError

        async with asyncio.TaskGroup() as group:
            group.create_task(go_on())
            group.create_task(fail())

    assert "BaseExceptionGroup" in Scenario(counter, 1).broken().type


def test_the_result_of_what_is_not_done_yet() -> None:
    @workflow
    async def hasty() -> object:
        return fetch.start("work").result()

    assert Scenario(hasty).broken().message.endswith("`await` what is not done yet, rather than ask it for its result")


# --- Cancellation ---------------------------------------------------------------------------------------
def test_a_cancelled_workflow() -> None:
    @workflow
    async def tidy() -> None:
        try:
            await fetch("work")
        finally:
            await fetch("clean up")

    scenario = Scenario(tidy)
    scenario.do()
    scenario.cancel()
    assert kinds(scenario.do()) == ["RequestCancelActivity", "ScheduleActivity"]
    scenario.cancel_activity()
    scenario.complete()
    assert scenario.do() == [CancelWorkflow()]
    check_replay(scenario)


def test_a_workflow_may_refuse_to_be_cancelled() -> None:
    @workflow
    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "done anyway"
        return ""

    scenario = Scenario(stubborn)
    scenario.do()
    scenario.cancel()
    assert kinds(scenario.do()) == ["CancelTimer", "CompleteWorkflow"]
    check_replay(scenario)


def test_a_workflow_that_is_cancelled_before_it_began() -> None:
    @workflow
    async def late() -> None:
        await fetch("a")

    scenario = Scenario(late)
    scenario.cancel()
    # Its code runs up to its first await, which is then cancelled: nobody hears of the activity.
    assert scenario.do() == [CancelWorkflow()]
    check_replay(scenario)


def test_a_workflow_that_cancels_itself_is_a_bug() -> None:
    @workflow
    async def confused() -> None:
        raise asyncio.CancelledError

    assert "cancelled its own main task" in Scenario(confused).broken().message


def test_an_activity_that_is_cancelled_from_outside() -> None:
    @workflow
    async def waits() -> str:
        try:
            return await fetch("a")
        except Exception as error:
            return type(error).__name__

    scenario = Scenario(waits)
    scenario.do()
    scenario.cancel_activity()
    scenario.do()
    assert result(scenario) == "ActivityCancelled"
    check_replay(scenario)


# --- Children -------------------------------------------------------------------------------------------
@workflow(name="sdk_build")
async def build(name: str) -> str:
    return name


def test_a_child() -> None:
    @workflow
    async def parent() -> list[str]:
        handle = build.options(id="named")("a")
        return [await build("b"), await handle]

    scenario = Scenario(parent)
    (first,) = scenario.do()
    assert first == StartChildWorkflow("flow/012345-1", "sdk_build", "", payloads("b"))
    scenario.child_started()
    assert scenario.do() == []
    scenario.child_completed("B")
    (second,) = scenario.do()
    assert second == StartChildWorkflow("named", "sdk_build", "", payloads("a"))
    scenario.child_completed("A")
    scenario.do()
    assert result(scenario) == ["B", "A"]
    check_replay(scenario)


def test_the_failure_of_a_child() -> None:
    @workflow
    async def parent() -> list[str]:
        told: list[str] = []
        for name in "abc":
            try:
                await build(name)
            except Exception as error:
                told.append(f"{type(error).__name__}: {error}")
        return told

    scenario = Scenario(parent)
    scenario.do()
    scenario.child_failed(Failure("boom", ("app.Boom", "builtins.Exception")))
    scenario.do()
    scenario.child_failed(Failure("ended by ann", kind="terminated"))
    scenario.do()
    id = scenario.open(e.StartChildWorkflowExecutionInitiated)[0]
    taken = Failure("the id is taken", ("perdure.errors.WorkflowAlreadyStarted", "builtins.Exception"))
    scenario.add(e.StartChildWorkflowExecutionFailed(scenario.next_id, scenario.now, id, "flow/012345-3", taken))
    scenario.do()
    assert result(scenario) == [
        "ApplicationError: app.Boom: boom",
        "WorkflowTerminated: ended by ann",
        "WorkflowAlreadyStarted: the id is taken",
    ]
    check_replay(scenario)


def test_a_child_is_cancelled() -> None:
    @workflow
    async def parent() -> str:
        child = build.options(cancellation_type="try").start("a")
        await asyncio.sleep(1)
        child.cancel()
        try:
            await child
        except asyncio.CancelledError:
            return "cancelled"
        return ""

    scenario = Scenario(parent)
    scenario.do()
    scenario.child_started()
    scenario.fire()
    commands = scenario.do()
    assert commands[0] == RequestCancelExternalWorkflow("flow/012345-1", "child-run", 5)
    assert result(scenario) == "cancelled"
    check_replay(scenario)
