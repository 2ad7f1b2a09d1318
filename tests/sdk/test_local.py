"""Local activities as a run and its worker see them; their outcomes are what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import pytest

from perdure import activity, workflow
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model.failures import Failure
from perdure.model.tasks import (
    FromWorker,
    InputStored,
    InputWanted,
    RunRef,
    WorkflowTaskCompletion,
    WorkflowTaskFailure,
)
from perdure.sdk.activity.api import definition_of as activity_definition
from perdure.sdk.converter import encode
from perdure.sdk.worker.local import LocalActivities
from perdure.sdk.worker.workflows import WorkflowTasks
from perdure.sdk.workflow import asking
from perdure.sdk.workflow.ledger import Ledger
from perdure.sdk.workflow.local import LocalCall, LocalFuture, LocalOutcome, Locals
from tests.sdk.harness import REF, Scenario, definition_of, fresh_registry, value

__all__ = ["fresh_registry"]

if TYPE_CHECKING:
    from _collections_abc import dict_values

CANCELLED = LocalOutcome()


def of(result: object) -> LocalOutcome:
    """It has returned."""
    return LocalOutcome(encode(result, "a result"))


@activity(name="sdk_draw")
async def draw() -> int:
    return 0


@activity(name="sdk_slow", cancellation_type="wait")
async def slow() -> str:
    return ""


@activity(name="sdk_brief")
async def brief() -> str:
    return ""


class Task:
    """A workflow task of a scenario that its local activities hold open.

    begun: what the worker has begun, by number: whether it is cancelled already.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.task = scenario.next_task()
        self.begun: dict[int, bool] = {}
        assert scenario.run.activate(self.task) is None
        self.take()

    def take(self) -> None:
        """The worker begins what it has not begun."""
        self.begun.update({call.seq: call.cancelled for call in self.scenario.run.locals.take()})

    def end(self, *outcomes: tuple[int, LocalOutcome]) -> WorkflowTaskCompletion:
        """Local activities have outcomes, in this order; the last one completes the task."""
        answer = None
        for number, outcome in outcomes:
            assert answer is None
            answer = self.scenario.run.resume(number, outcome, 0)
            if answer is None:
                self.take()
        assert isinstance(answer, WorkflowTaskCompletion), answer
        self.scenario.record(self.task, answer)
        return answer


@workflow(name="sdk_local_draws")
async def draws(count: int) -> list[int]:
    drawn = list(await asyncio.gather(*[draw.local() for _ in range(count)]))
    await workflow.receive("go", int)
    return drawn


@workflow(name="sdk_local_stops")
async def stops() -> str:
    handle = slow.local()
    await brief.local()
    handle.cancel()
    try:
        result = await handle
    except asyncio.CancelledError:
        result = "cancelled"
    await workflow.receive("go", int)
    return result


@pytest.mark.parametrize(("outcome", "result"), [(CANCELLED, "cancelled"), (of("done"), "done")])
def test_one_that_was_cancelled_and_waited_for_is_waited_for_again_by_a_replay(
    outcome: LocalOutcome, result: str
) -> None:
    s = Scenario(stops, live=False)
    Task(s).end((2, of("")), (1, outcome))
    s.signal("go", 1)
    (end,) = s.do()
    assert isinstance(end, c.CompleteWorkflow) and value(end.result) == result


def test_one_that_is_cancelled_in_the_step_that_asks_for_it_is_never_made() -> None:
    @workflow(name="sdk_local_never")
    async def never() -> str:
        slow.local().cancel()
        return await brief.local()

    s = Scenario(never)
    task = Task(s)
    assert task.begun == {2: False}
    marker, end = task.end((2, of("quick"))).commands
    assert isinstance(marker, c.RecordMarker) and isinstance(end, c.CompleteWorkflow)


def test_one_whose_end_was_asked_for_before_a_restart_is_not_run_again() -> None:
    """Its end is waited for; what the next worker has of it is that it is not wanted."""
    s = Scenario(stops, live=False)
    task = Task(s)
    assert task.begun == {1: False, 2: False}
    assert s.run.resume(2, of(""), 0) is None and s.run.locals.unwanted == [1]
    reported = s.run.report()
    assert isinstance(reported, WorkflowTaskCompletion) and reported.more
    s.record(task.task, reported)
    again = Task(s)
    assert again.begun == {1: True} and s.run.locals.unwanted == []
    again.end((1, CANCELLED))
    s.signal("go", 1)
    (end,) = s.do()
    assert isinstance(end, c.CompleteWorkflow) and value(end.result) == "cancelled"


@pytest.mark.parametrize("live", [True, False])
def test_one_that_is_not_wanted_any_more_is_not_tried_again(live: bool) -> None:
    """Its attempt may have failed before it hears of that."""
    failure, s = Failure("no luck", ("builtins.LookupError",)), Scenario(fails_late, live=live)
    Task(s).end((2, of("")), (1, LocalOutcome(None, failure, 1, 3_600_000_000)))
    assert s.open(e.TimerStarted) == []
    s.signal("go", 1)
    (end,) = s.do()
    assert isinstance(end, c.CompleteWorkflow) and value(end.result) == "no luck"


@workflow(name="sdk_local_fails_late")
async def fails_late() -> str:
    handle, told = slow.local(), ""
    await brief.local()
    handle.cancel()
    try:
        await handle
    except LookupError as error:
        told = str(error)
    await workflow.receive("go", int)
    return told


def test_the_outcomes_of_calls_that_are_the_same_are_not_mixed_up_by_a_replay() -> None:
    s = Scenario(draws, 3, live=False)
    Task(s).end((3, of(30)), (1, of(10)), (2, of(20)))
    s.signal("go", 1)
    (end,) = s.do()
    assert isinstance(end, c.CompleteWorkflow) and value(end.result) == [10, 20, 30]


class Looked(dict[int, LocalFuture]):
    """Counts how often all that are in it are looked at."""

    times = 0

    def values(self) -> dict_values[int, LocalFuture]:
        Looked.times += 1
        return super().values()


def test_an_outcome_is_not_looked_for_among_all_that_are_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or many at once would cost the square of their number, live and in a replay."""

    class Watched(Locals):
        __slots__ = ()

        def __init__(self, ledger: Ledger, move_time: Callable[[int], None]) -> None:
            super().__init__(ledger, move_time)
            self.pending = Looked()

    monkeypatch.setattr(asking, "Locals", Watched)
    monkeypatch.setattr(Looked, "times", 0)
    s = Scenario(draws, 50, live=False)
    Task(s).end(*[(number, of(number)) for number in range(50, 0, -1)])
    s.signal("go", 1)
    s.do()
    assert Looked.times == 0


# --- The worker -----------------------------------------------------------------------------------------
class Begun(LocalActivities):
    """Keeps the inputs of what it has begun."""

    inputs: ClassVar[list[object]] = []

    def start(self, ref: RunRef, workflow_type: str, call: LocalCall) -> None:
        self.inputs.append(value(call.input[0]))
        super().start(ref, workflow_type, call)


class Worker:
    """The workflow side of a worker, with a node that keeps what it is sent and stores what it is asked to."""

    def __init__(self, target: object, **activities: object) -> None:
        self.scenario = Scenario(target)
        self.sent: list[FromWorker] = []
        definitions = {f"sdk_{name}": activity_definition(each) for name, each in activities.items()}
        self.tasks = WorkflowTasks(self.scenario.definitions, self._send, locals=partial(Begun, definitions, slots=10))
        self._answered = asyncio.Event()

    def _send(self, message: FromWorker) -> None:
        if isinstance(message, InputWanted):
            self.tasks.stored(InputStored(message.run, message.given))
        else:
            self.sent.append(message)
            self._answered.set()

    async def answer(self) -> FromWorker:
        """That of the next task."""
        Begun.inputs.clear()
        self.tasks.activate(self.scenario.next_task())
        await self._answered.wait()
        await self.tasks.stop_locals()
        (message,) = self.sent
        return message


async def test_one_that_is_asked_for_just_before_a_bug_is_not_begun() -> None:
    @activity(name="sdk_told")
    async def told(text: str) -> None: ...

    @workflow(name="sdk_local_bug")
    async def bug() -> None:
        await told.local("before")
        told.local("just before")
        raise LookupError("a bug")

    assert isinstance(await Worker(bug, told=told).answer(), WorkflowTaskFailure)
    assert Begun.inputs == ["before"]


async def test_nothing_is_begun_after_what_could_not_begin_and_so_ended_the_run() -> None:
    @activity(name="sdk_asked")
    async def asked(number: object) -> None: ...

    @activity(name="sdk_told")
    async def told(number: int) -> None: ...

    @workflow(name="sdk_local_unread")
    async def unread() -> None:
        await asyncio.gather(asked.local("no number"), told.local(2))

    message = await Worker(unread, asked=told, told=told).answer()  # it has another version of the one
    assert isinstance(message, WorkflowTaskCompletion) and isinstance(message.commands[-1], c.FailWorkflow)
    assert Begun.inputs == ["no number"]


async def test_one_that_is_not_wanted_before_it_is_begun_ends_at_once() -> None:
    ran: list[str] = []
    told: list[tuple[str, int, LocalOutcome]] = []
    ended = asyncio.Event()

    @activity(name="sdk_told")
    async def runs() -> None:
        ran.append("begun")

    def tell(run_id: str, seq: int, outcome: LocalOutcome) -> None:
        told.append((run_id, seq, outcome))
        ended.set()

    definition = activity_definition(runs)
    locals = LocalActivities({definition.name: definition}, tell, slots=1)
    locals.start(REF, "flow", LocalCall(1, definition.name, (), definition.options, None, cancelled=True))
    assert told == []
    await ended.wait()
    assert told == [(REF.run_id, 1, LocalOutcome())] and ran == []
    locals.start(REF, "flow", LocalCall(2, definition.name, (), definition.options, None, cancelled=True))
    locals.drop(REF.run_id)
    await locals.stop()
    assert len(told) == 1


@activity(name="sdk_local_check")
async def check(hosts: list[str]) -> int:
    return len(hosts)


def test_an_input_is_the_same_in_whatever_order_a_process_writes_a_set() -> None:
    """A list stands for a set, whose order nobody can choose."""

    def version(*hosts: list[str]) -> object:
        @workflow(name="sdk_local_checks")
        async def checks() -> list[int]:
            told = list(await asyncio.gather(*[check.local(some) for some in hosts]))
            await workflow.receive("go", int)
            return told

        return checks

    s = Scenario(version(["a", "b"], ["x", "y"]), live=False)
    Task(s).end((1, of(1)), (2, of(2)))
    other = version(["b", "a"], ["y", "x"])
    s.definitions = {definition_of(other).name: definition_of(other)}
    s.signal("go", 1)
    (end,) = s.do()
    assert isinstance(end, c.CompleteWorkflow) and value(end.result) == [1, 2]
    assert not s.run._ledger.displaced
