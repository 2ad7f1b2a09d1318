"""One run: how it ends, what it is told, what goes wrong, and how it is taken out of memory."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import time
import uuid
import weakref
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from perdure import ActivityTimedOut, ApplicationError, activity, workflow
from perdure.errors import Evicted
from perdure.model import events as e
from perdure.model.commands import (
    CancelWorkflow,
    CompleteUpdate,
    CompleteWorkflow,
    ContinueAsNew,
    FailWorkflow,
    RequestCancelExternalWorkflow,
    StartChildWorkflow,
)
from perdure.model.failures import Failure
from perdure.model.payloads import Payload
from perdure.sdk.registry import REGISTRY
from perdure.sdk.workflow import determinism
from tests.sdk.harness import (
    BEGIN,
    REF,
    Scenario,
    check_replay,
    definition_of,
    fetch,
    kinds,
    payloads,
    value,
)
from tests.sdk.harness import (
    fresh_registry as fresh_registry,
)


@activity(name="sdk_count")
async def count(name: str) -> int:
    return len(name)


class QuotaExceeded(Exception):
    pass


def result(scenario: Scenario) -> object:
    command = scenario.tasks[-1][1].commands[-1]
    assert isinstance(command, CompleteWorkflow)
    return value(command.result)


def failure(scenario: Scenario) -> Failure:
    command = scenario.tasks[-1][1].commands[-1]
    assert isinstance(command, FailWorkflow)
    return command.failure


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
    line = definition_of(buggy).target.__code__.co_firstlineno + 3  # type: ignore[attr-defined]  # pyright: ignore
    assert failure.types[0] == "builtins.ZeroDivisionError"
    assert f'File "{__file__}", line {line}, in buggy' in failure.traceback
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


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_passes_through_and_is_no_outcome(interrupt: type[BaseException]) -> None:
    raising = True

    @workflow
    async def interrupted() -> None:
        await fetch("a")
        if raising:
            raise interrupt

    scenario = Scenario(interrupted)
    scenario.do()
    scenario.complete()
    with pytest.raises(interrupt):
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


# --- Signals --------------------------------------------------------------------------------------------
@workflow(name="sdk_approval")
class Approval:
    def __init__(self) -> None:
        self.told: list[str] = []

    async def run(self) -> list[str]:
        await workflow.wait_until(lambda: "stop" in self.told)
        return self.told

    @workflow.signal
    def approve(self, by: str) -> None:
        self.told.append(by)

    @workflow.signal
    async def slowly(self, by: str) -> None:
        self.told.append(f"{by}…")
        self.told.append(await fetch(by))

    @workflow.signal
    async def fail(self, kind: str) -> None:
        raise (ApplicationError("by a signal") if kind == "failure" else KeyError("a bug"))


def test_signals_are_handled_in_order_beside_run() -> None:
    scenario = Scenario(Approval)
    scenario.signal("approve", "before it began")
    scenario.signal("slowly", "ann")
    assert kinds(scenario.do()) == ["ScheduleActivity"]
    scenario.signal("approve", "bob")
    scenario.complete("Ann")
    scenario.signal("approve", "stop")
    scenario.signal("approve", "too late")
    scenario.do()
    assert result(scenario) == ["before it began", "ann…", "bob", "Ann", "stop"]
    check_replay(scenario)


@pytest.mark.parametrize("args", [[], [7], ["a", "b"]])
def test_a_signal_that_does_not_fit_is_dropped(args: list[object], caplog: pytest.LogCaptureFixture) -> None:
    scenario = Scenario(Approval)
    scenario.do()
    scenario.signal("approve", *args)
    scenario.signal("approve", "stop")
    scenario.do()
    assert result(scenario) == ["stop"]
    (record,) = scenario.run.take_log_records()
    assert "signal 'approve' is dropped" in record.getMessage()
    check_replay(scenario)


def test_a_signal_handler_may_fail_the_workflow_or_have_a_bug() -> None:
    scenario = Scenario(Approval)
    scenario.do()
    scenario.signal("fail", "failure")
    scenario.do()
    assert failure(scenario).message == "by a signal"
    check_replay(scenario)
    scenario = Scenario(Approval)
    scenario.signal("fail", "bug")
    assert scenario.broken().types[0] == "builtins.KeyError"


def test_receive() -> None:
    @workflow
    async def listens() -> list[object]:
        heard: list[object] = [await workflow.receive("number", int), await workflow.receive("nothing", type(None))]
        try:
            await workflow.receive("text", str, timeout="1m")
        except TimeoutError:
            heard.append("silence")
        heard.append(await workflow.receive("text", str | None))
        heard.append(await workflow.receive("number", int))
        return heard

    scenario = Scenario(listens)
    scenario.signal("number", 1)
    scenario.signal("number", "not one")
    scenario.signal("number", 2, 3)
    scenario.signal("number", 2)
    scenario.signal("nothing")
    assert kinds(scenario.do()) == ["StartTimer"]
    scenario.fire()
    assert scenario.do() == []
    scenario.signal("text", "hello")
    scenario.do()
    assert result(scenario) == [1, None, "silence", "hello", 2]
    assert len(scenario.run.take_log_records()) == 2
    check_replay(scenario)


def test_a_signal_is_not_lost_to_a_receiver_that_gives_up() -> None:
    @workflow
    async def listens() -> list[str]:
        first = asyncio.create_task(workflow.receive("text", str))
        second = asyncio.create_task(workflow.receive("text", str))
        await fetch("a")
        first.cancel()
        return [await second]

    scenario = Scenario(listens)
    scenario.do()
    scenario.complete()
    scenario.signal("text", "hello")
    scenario.do()
    assert result(scenario) == ["hello"]
    check_replay(scenario)


# --- Conditions -----------------------------------------------------------------------------------------
def test_conditions_are_met_one_at_a_time() -> None:
    @workflow
    class Mutex:
        def __init__(self) -> None:
            self.busy = True
            self.most = self.inside = 0

        async def run(self) -> int:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(self.enter())
            return self.most

        async def enter(self) -> None:
            await workflow.wait_until(lambda: not self.busy)
            self.busy = True
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(1)
            self.inside -= 1
            self.busy = False

        @workflow.signal
        def free(self) -> None:
            self.busy = False

    scenario = Scenario(Mutex)
    assert scenario.do() == []
    scenario.signal("free")
    for _ in range(3):
        scenario.do()
        scenario.fire()
    scenario.do()
    assert result(scenario) == 1
    check_replay(scenario)


def test_a_condition_may_time_out_be_met_at_once_or_raise() -> None:
    @workflow
    async def waits() -> list[str]:
        told: list[str] = []
        await workflow.wait_until(lambda: True, timeout=1)
        try:
            await workflow.wait_until(lambda: False, timeout="90s")
        except TimeoutError as error:
            told.append(str(error))
        ready = False

        def check() -> bool:
            if ready:
                raise LookupError("in the condition")
            return False

        waiter = asyncio.create_task(workflow.wait_until(check))
        await fetch("a")
        ready = True
        try:
            await waiter
        except LookupError as error:
            told.append(str(error))
        return told

    scenario = Scenario(waits)
    assert kinds(scenario.do()) == ["StartTimer"]
    scenario.fire()
    scenario.do()
    scenario.complete()
    scenario.do()
    assert result(scenario) == ["wait_until: the condition did not come true within 90 s", "in the condition"]
    check_replay(scenario)


# --- Updates --------------------------------------------------------------------------------------------
@workflow(name="sdk_seats")
class Seats:
    def __init__(self, seats: int) -> None:
        self.seats = seats
        self.stopped = False

    async def run(self) -> int:
        await workflow.wait_until(lambda: self.stopped)
        return self.seats

    @workflow.update
    async def resize(self, seats: int) -> int:
        self.seats = int(await fetch(f"{seats}"))
        return self.seats

    @resize.validator
    def _(self, seats: int) -> None:
        if seats < 0:
            raise ValueError(f"{seats} seats")
        if seats == 13:
            self.act()

    def act(self) -> None:
        fetch.start("forbidden")

    @workflow.update
    def add(self, more: int) -> int:
        if more == 0:
            raise ApplicationError("add something")
        self.seats += 10 // more
        return self.seats

    @workflow.update
    async def stop(self) -> None:
        self.stopped = True

    @workflow.update
    async def wake(self) -> None: ...

    @wake.validator
    def _(self) -> None:
        self.stopped = True
        asyncio.get_running_loop().call_soon(print)

    @workflow.query
    def now(self) -> int:
        return self.seats

    @workflow.query
    def greedy(self) -> int:
        fetch.start("forbidden")
        return 0

    @workflow.query
    def sleepy(self) -> None:
        asyncio.ensure_future(asyncio.sleep(1))

    @workflow.query
    def lucky(self) -> int:
        return random.randint(1, 6)

    @workflow.query
    def broken(self, n: int) -> float:
        return 1 / n


def test_an_update_is_accepted_and_completed() -> None:
    scenario = Scenario(Seats, 3)
    scenario.do()
    scenario.update("u1", "resize", 20)
    assert kinds(scenario.do()) == ["AcceptUpdate", "ScheduleActivity"]
    scenario.complete("20")
    (command,) = scenario.do()
    assert isinstance(command, CompleteUpdate)
    assert (command.update_id, value(command.result)) == ("u1", 20)
    assert scenario.ask("now") == 20
    check_replay(scenario)


def test_a_plain_update_is_completed_at_once() -> None:
    scenario = Scenario(Seats, 3)
    scenario.update("u1", "add", 2)
    scenario.update("u2", "stop")
    assert kinds(scenario.do()) == [
        "AcceptUpdate",
        "CompleteUpdate",
        "AcceptUpdate",
        "CompleteUpdate",
        "CompleteWorkflow",
    ]
    assert result(scenario) == 8
    check_replay(scenario)


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("resize", [-1], "-1 seats"),
        ("resize", ["many"], "argument 'seats' of update resize"),
        ("resize", [], "missing a required argument: 'seats'"),
        ("resize", [13], "an activity can't be started in the validator of update resize"),
        ("paint", ["red"], "has no update 'paint'; it has add, resize, stop, wake"),
    ],
)
def test_an_update_is_rejected(name: str, args: list[object], says: str) -> None:
    scenario = Scenario(Seats, 3)
    scenario.do()
    scenario.update("u1", name, *args)
    length = len(scenario.history)
    assert kinds(scenario.do()) == ["RejectUpdate"]
    assert says in scenario.answers[0].failure.message
    assert len(scenario.history) == length + 3  # the workflow task only
    scenario.update("u2", "add", 2)
    scenario.do()
    check_replay(scenario)


def test_updates_after_the_end_are_rejected() -> None:
    scenario = Scenario(Seats, 3)
    scenario.update("u1", "stop")
    scenario.update("u2", "add", 1)
    assert kinds(scenario.do()) == ["AcceptUpdate", "CompleteUpdate", "RejectUpdate", "CompleteWorkflow"]
    assert scenario.answers[0].failure.types[0] == "perdure.errors.NotRunning"
    check_replay(scenario)


def test_an_update_that_fails_fails_alone() -> None:
    scenario = Scenario(Seats, 3)
    scenario.do()
    scenario.update("u1", "add", 0)
    command = scenario.do()[1]
    assert isinstance(command, CompleteUpdate)
    assert command.failure is not None
    assert command.failure.message == "add something"
    scenario.update("u2", "resize", 5)
    scenario.do()
    scenario.fail(QuotaExceeded("no seats"))
    command = scenario.do()[0]
    assert isinstance(command, CompleteUpdate)
    assert command.failure is not None
    assert command.failure.type.endswith("QuotaExceeded")
    assert not scenario.run.closed
    check_replay(scenario)


def test_a_bug_in_an_update_is_a_bug() -> None:
    scenario = Scenario(Seats, 3)
    scenario.do()
    scenario.update("u1", "resize", 5)
    scenario.do()
    scenario.complete("not a number")
    assert scenario.broken().types[0] == "builtins.ValueError"


def test_a_validator_that_starts_something_is_a_bug() -> None:
    scenario = Scenario(Seats, 3)
    scenario.do()
    scenario.update("u1", "wake")
    assert "it must only read" in scenario.broken().message


def test_handlers_that_still_run_at_the_end_are_logged() -> None:
    scenario = Scenario(Seats, 3)
    scenario.update("u1", "resize", 5)
    scenario.update("u2", "stop")
    scenario.do()
    (record,) = scenario.run.take_log_records()
    assert "update resize (u1)" in record.getMessage()
    check_replay(scenario)


# --- Queries --------------------------------------------------------------------------------------------
def test_queries() -> None:
    scenario = Scenario(Seats, 3)
    scenario.do()
    assert scenario.ask("now") == 3
    for name, args, says in (
        ("nothing", [], "has no query 'nothing'; it has broken, greedy, lucky, now, sleepy"),
        ("broken", ["x"], "argument 'n' of query broken"),
        ("broken", [0], "division by zero"),
        ("greedy", [], "an activity can't be started in query greedy, which must only read"),
        ("lucky", [], "random numbers can't be used in query lucky"),
    ):
        answer = scenario.query(name, *args)
        assert answer.result is None
        assert answer.failure is not None
        assert says in answer.failure.message
    assert not scenario.run.broken
    assert scenario.ask("now") == 3
    scenario.update("u", "stop")
    scenario.do()
    assert scenario.ask("now") == 3
    check_replay(scenario)


def test_a_query_that_starts_a_task_spoils_the_copy() -> None:
    scenario = Scenario(Seats, 3)
    scenario.do()
    answer = scenario.query("sleepy")
    assert answer.failure is not None
    assert "woke or started a task" in answer.failure.message
    assert scenario.run.broken
    # The next task is done by another copy.
    scenario.update("u", "stop")
    assert "CompleteWorkflow" in kinds(scenario.do())


def test_the_stack_trace_of_a_workflow() -> None:
    @workflow
    class Deep:
        async def run(self) -> None:
            await asyncio.gather(self.first(), fetch("b"))

        async def first(self) -> None:
            await fetch("a")

    scenario = Scenario(Deep)
    scenario.do()
    text = scenario.ask("__stack_trace")
    assert isinstance(text, str)
    assert "in Deep.run" in text.replace("test_the_stack_trace_of_a_workflow.<locals>.", "")
    assert f'File "{__file__}"' in text
    assert "Deep.first" in text


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
    assert first == StartChildWorkflow("flow/1", "sdk_build", "", payloads("b"))
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
    scenario.add(e.StartChildWorkflowExecutionFailed(scenario.next_id, scenario.now, id, "flow/3", taken))
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
        child = build.start("a")
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
    assert commands[0] == RequestCancelExternalWorkflow("flow/1", "child-run")
    assert result(scenario) == "cancelled"
    check_replay(scenario)


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
            str(uuid.uuid4()), str(workflow.uuid4()), time.time(), time.time_ns(), time.monotonic(), time.monotonic_ns(),
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
    told = result(scenario)
    assert isinstance(told, list)
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
    from contextvars import ContextVar

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


# --- Logs -----------------------------------------------------------------------------------------------
def test_log_lines_wait_and_are_silent_in_a_replay(caplog: pytest.LogCaptureFixture) -> None:
    @workflow
    async def chatty(name: str) -> None:
        told = [name]
        workflow.logger.info("hello %s", told)
        told.append("later")
        await fetch("a")
        try:
            raise ValueError("odd")
        except ValueError:
            workflow.logger.exception("after %d", 1, extra={"color": "red"})
        workflow.logger.info("a bad %d line", "x")

    with caplog.at_level(logging.INFO):
        scenario = Scenario(chatty, "ann")
        scenario.do()
        assert scenario.tasks[-1][1].acknowledge
        (first,) = scenario.run.take_log_records()
        assert first.getMessage() == "hello ['ann']"
        assert first.funcName == "chatty"
        assert first.pathname == __file__
        facts = vars(first)
        assert (facts["workflow_id"], facts["run_id"], facts["workflow_type"]) == ("flow", REF.run_id, "chatty")
        scenario.complete()
        scenario.live = False
        scenario.do()
        second, third = scenario.run.take_log_records()
        assert second.getMessage() == "after 1"
        assert second.exc_info is not None
        assert vars(second)["color"] == "red"
        assert third.args == ("x",)
        assert scenario.run.take_log_records() == []
        assert caplog.records == []
    check_replay(scenario)


def test_a_task_without_log_lines_needs_no_acknowledgement() -> None:
    @workflow
    async def quiet() -> None:
        workflow.logger.debug("not enabled")

    scenario = Scenario(quiet)
    scenario.do()
    assert not scenario.tasks[-1][1].acknowledge


# --- Eviction -------------------------------------------------------------------------------------------
def test_eviction_runs_finally_blocks_that_can_ask_for_nothing(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    async def guarded(name: str) -> None:
        try:
            await fetch(name)
        except Exception:
            told.append("caught")
        finally:
            told.append(name)
            try:
                await fetch(f"clean {name}")
            finally:
                told.append(f"clean {name}")

    @workflow
    async def held() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(guarded("a"))
            group.create_task(guarded("b"))
            try:
                await asyncio.sleep(60)
            finally:
                told.append("main")
                with pytest.raises(Evicted):
                    asyncio.get_running_loop().call_later(1, print)
                with pytest.raises(Evicted):
                    workflow.random()
                workflow.logger.warning("not any more")

    scenario = Scenario(held)
    scenario.do()
    scenario.run.evict()
    assert told == ["b", "clean b", "a", "clean a", "main"]
    assert scenario.run.broken
    assert scenario.run.take_log_records() == []
    scenario.run.evict()
    gc.collect()
    assert caplog.records == []
    # Another copy goes on.
    scenario.complete()
    assert kinds(scenario.do()) == ["ScheduleActivity"]


def test_eviction_leaves_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    class Marker:
        pass

    marker = Marker()
    alive = weakref.ref(marker)

    @workflow
    async def held() -> None:
        mine = marker
        background = asyncio.create_task(fetch("a"))
        failed = fetch.start("b")
        never = asyncio.create_task(asyncio.Event().wait())
        await asyncio.sleep(60)
        del mine, background, failed, never

    scenario = Scenario(held)
    scenario.do()
    scenario.fail(QuotaExceeded("nobody asks"), which=1)
    scenario.do()
    scenario.run.evict()
    del scenario, held, marker
    REGISTRY.workflows.clear()
    gc.collect()
    assert alive() is None
    assert caplog.records == []


def test_a_task_that_will_not_end_does_not_hold_up_eviction(caplog: pytest.LogCaptureFixture) -> None:
    @workflow
    async def immortal() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except BaseException:
                continue

    scenario = Scenario(immortal)
    scenario.do()
    scenario.run.evict()
    assert "immortal doesn't end" in caplog.text


def test_locks_and_groups_are_left_when_evicted() -> None:
    lock_free: list[bool] = []

    @workflow
    async def held() -> None:
        lock = asyncio.Lock()
        try:
            async with lock, asyncio.timeout(10):
                await asyncio.shield(asyncio.gather(fetch("a"), fetch("b")))
        finally:
            lock_free.append(not lock.locked())

    scenario = Scenario(held)
    scenario.do()
    scenario.run.evict()
    assert lock_free == [True]


def test_a_workflow_that_swallows_what_it_should_not_still_replays() -> None:
    @workflow
    async def greedy() -> str:
        try:
            await asyncio.wait_for(fetch("a"), 1)
        except BaseException as error:
            return type(error).__name__
        return ""

    scenario = Scenario(greedy)
    scenario.do()
    scenario.cancel()
    scenario.do()
    assert result(scenario) == "CancelledError"
    check_replay(scenario)


def test_payloads_that_are_not_json_are_decode_errors() -> None:
    @workflow
    async def careful() -> str:
        try:
            return await fetch("a")
        except Exception as error:
            return type(error).__name__

    scenario = Scenario(careful)
    scenario.do()
    id = scenario.open(e.ActivityTaskScheduled)[0]
    scenario.add(e.ActivityTaskStarted(scenario.next_id, scenario.now, id, 1, "worker", scenario.now))
    broken = Payload(b"{not json")
    scenario.add(e.ActivityTaskCompleted(scenario.next_id, scenario.now, id, scenario.next_id - 1, broken))
    scenario.do()
    assert result(scenario) == "DecodeError"
    check_replay(scenario)
