"""What others send to a workflow, and conditions that wait for it."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import pytest

from perdure import ApplicationError, DecodeError, workflow
from perdure.clock import SECOND
from perdure.model.commands import (
    CompleteUpdate,
)
from tests.sdk.harness import (
    Scenario,
    check_replay,
    failure,
    fetch,
    kinds,
    result,
    value,
)
from tests.sdk.harness import (
    fresh_registry as fresh_registry,
)


class QuotaExceeded(Exception):
    pass


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
    scenario.signal("approve", "after the end")
    scenario.do()
    # The last one was taken in the same task, so it is heard, though `run` has returned.
    assert result(scenario) == ["before it began", "ann…", "bob", "Ann", "stop", "after the end"]
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
    assert "signal 'approve' of workflow 'flow' is dropped" in record.getMessage()
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
        except TimeoutError as error:
            heard.append(str(error))
        heard.append(await workflow.receive("text", str | None))
        for _ in range(3):
            try:
                heard.append(await workflow.receive("number", int))
            except DecodeError as error:
                heard.append(str(error))
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
    assert result(scenario) == [
        1,
        None,
        "receive: no signal 'text' came within 60 s",
        "hello",
        "signal 'number' doesn't fit `int`: expected `int`, got `str`",
        "signal 'number' has 2 arguments, but `receive` takes one",
        2,
    ]
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


def test_a_class_that_has_failed_to_make_its_object_says_so_to_who_asks_and_hears_nothing() -> None:
    @workflow(name="sdk_stillborn")
    class Stillborn:
        def __init__(self) -> None:
            self.approved = False
            raise ApplicationError("bad input")

        async def run(self) -> None: ...

        @workflow.signal
        def approve(self) -> None:
            self.approved = True

        @workflow.query
        def is_approved(self) -> bool:
            return self.approved

    scenario = Scenario(Stillborn)
    scenario.signal("approve")  # sent along with its start
    assert kinds(scenario.do()) == ["FailWorkflow"]
    why = "workflow sdk_stillborn failed in its __init__, so that there is no object of it"
    told = scenario.query("is_approved").failure
    assert told is not None and told.message == why
    (record,) = scenario.run.take_log_records()
    assert record.getMessage() == f"signal 'approve' of workflow 'flow' is dropped: {why}"


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
        self.task = asyncio.ensure_future(asyncio.sleep(1))

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


@workflow(name="sdk_deadline")
class Deadline:
    def __init__(self) -> None:
        self.by: str | None = None

    async def run(self) -> str:
        deadline = workflow.now() + timedelta(seconds=1)
        await workflow.wait_until(lambda: self.by is not None or workflow.now() >= deadline)
        return self.by or await fetch("a deputy")

    @workflow.signal
    def approve(self, by: str) -> None:
        self.by = by

    @workflow.update
    def reject(self) -> None: ...

    @reject.validator
    def _(self) -> None:
        raise ValueError("never")


@pytest.mark.parametrize("name", ["reject", "aprove"])
def test_a_rejected_update_changes_nothing(name: str) -> None:
    """Not even where the code could go on for other reasons: the history would not say why it did."""
    scenario = Scenario(Deadline)
    scenario.do()
    scenario.now += 2 * SECOND
    scenario.update("u", name)
    assert kinds(scenario.do()) == ["RejectUpdate"]
    scenario.signal("approve", "ann")
    scenario.do()
    assert result(scenario) == "ann"
    check_replay(scenario)


def test_updates_after_the_end_are_rejected() -> None:
    scenario = Scenario(Seats, 3)
    scenario.update("u1", "stop")
    scenario.update("u2", "add", 1)
    assert kinds(scenario.do()) == ["AcceptUpdate", "CompleteUpdate", "RejectUpdate", "CompleteWorkflow"]
    assert scenario.answers[0].failure.types[0] == "perdure.errors.NotTaken"
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
    failure = scenario.broken()
    assert "it must only read" in failure.message
    assert failure.location.startswith(__file__)


def test_handlers_that_still_run_at_the_end_are_logged() -> None:
    scenario = Scenario(Seats, 3)
    scenario.update("u1", "resize", 5)
    scenario.update("u2", "stop")
    scenario.do()
    unfinished, unawaited = [record.getMessage() for record in scenario.run.take_log_records()]
    assert "update resize (u1)" in unfinished
    assert "so they never run" in unawaited
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
