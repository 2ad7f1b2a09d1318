"""An engine in miniature: it keeps one run's history as the engine would, and drives the live run with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import FunctionType

import msgspec
import pytest

from perdure import activity
from perdure.clock import SECOND
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model.failures import Failure
from perdure.model.journal import digest_after, encode_event
from perdure.model.payloads import Payload, Payloads
from perdure.model.tasks import (
    START,
    AdmittedUpdate,
    Position,
    QueryAnswer,
    QueryTask,
    RunRef,
    WorkflowTask,
    WorkflowTaskCompletion,
    WorkflowTaskFailure,
)
from perdure.sdk.converter import encode, encode_all
from perdure.sdk.failures import failure_of
from perdure.sdk.registry import REGISTRY
from perdure.sdk.workflow.calls import WorkflowFunction
from perdure.sdk.workflow.classes import class_definition
from perdure.sdk.workflow.definition import WorkflowDefinition
from perdure.sdk.workflow.runtime import WorkflowRun

BEGIN = 1_700_000_000 * SECOND
REF = RunRef("default", "flow", "0123456789abcdef")


# Names of their own, since a process has one registry for all test modules.
@activity(name="sdk_fetch")
async def fetch(name: str) -> str:
    return name


@activity(name="sdk_store")
async def store(name: str) -> str:
    return name


@pytest.fixture(autouse=True)
def fresh_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test defines is gone after it. For modules that import it."""
    monkeypatch.setattr(REGISTRY, "workflows", {})
    monkeypatch.setattr(REGISTRY, "activities", {})


Outcome = WorkflowTaskCompletion | WorkflowTaskFailure


def payloads(*values: object) -> Payloads:
    """Values as a client would encode them."""
    return encode_all(values, "a value")


def value(payload: Payload | None) -> object:
    """A payload's value."""
    assert payload is not None
    return msgspec.json.decode(payload.data)


def definition_of(target: object) -> WorkflowDefinition:
    """What `@workflow` made of a function or a class."""
    if isinstance(target, WorkflowFunction):
        return target.definition
    assert isinstance(target, type)
    definition = class_definition(target)
    assert definition is not None
    return definition


def first_line(target: object) -> int:
    """The line at which a workflow function, with its decorator, begins."""
    function = definition_of(target).target
    assert isinstance(function, FunctionType)
    return function.__code__.co_firstlineno


class Scenario:
    """One run: its history, the copy that is live, and what waits for the next workflow task.

    Args:
        target: a workflow, function or class.
        args: its input.
        live: whether the copy is kept between tasks; else every task is a replay of the whole history.
    """

    def __init__(
        self,
        target: object,
        *args: object,
        live: bool = True,
    ) -> None:
        definition = definition_of(target)
        self.definitions: Mapping[str, WorkflowDefinition] = {definition.name: definition}
        self.live = live
        self.now = BEGIN
        self.history: list[e.HistoryEvent] = []
        self.positions: list[Position] = [START]
        self.size = 0
        self.seen = START
        self.scheduled = 0
        self.attempt = 1
        self.updates: dict[str, AdmittedUpdate] = {}
        self.tasks: list[tuple[WorkflowTask, WorkflowTaskCompletion]] = []
        self.run = WorkflowRun(REF, self.definitions)
        self.answers: list[c.RejectUpdate] = []
        input = definition.signature.encode(args, {})
        self.add(e.WorkflowExecutionStarted(1, self.now, definition.name, "default", input, REF.run_id))

    def __del__(self) -> None:
        self.run.evict()

    # --- The history ------------------------------------------------------------------------------------
    @property
    def next_id(self) -> int:
        return len(self.history) + 1

    def add(self, event: e.HistoryEvent) -> None:
        assert event.id == self.next_id
        encoded = encode_event(event)
        self.size += len(encoded)
        self.history.append(event)
        self.positions.append(Position(event.id, digest_after(encoded, self.positions[-1].digest)))

    def schedule_task(self) -> None:
        if self.scheduled == 0:
            self.add(e.WorkflowTaskScheduled(self.next_id, self.now, "default"))
            self.scheduled = self.history[-1].id

    def open(self, kind: type[e.HistoryEvent], name: str = "") -> list[int]:
        """Ids of the activities, timers or children that have no end yet."""
        ended = {
            getattr(event, field, 0)
            for event in self.history
            if not isinstance(
                event, e.ActivityTaskStarted | e.ActivityTaskCancelRequested | e.ChildWorkflowExecutionStarted
            )
            for field in ("scheduled_event_id", "started_event_id", "initiated_event_id")
            if not (field == "started_event_id" and not isinstance(event, e.TimerFired | e.TimerCanceled))
        }
        names = ("activity_type", "workflow_type")
        return [
            event.id
            for event in self.history
            if isinstance(event, kind)
            and event.id not in ended
            and (not name or name in [getattr(event, field, "") for field in names])
        ]

    # --- What happens -----------------------------------------------------------------------------------
    def complete(self, result: object = "", name: str = "", which: int = 0) -> None:
        """An activity returns: by default the first that is open."""
        id = self.open(e.ActivityTaskScheduled, name)[which]
        self.add(e.ActivityTaskStarted(self.next_id, self.now, id, 1, "worker", self.now))
        self.add(e.ActivityTaskCompleted(self.next_id, self.now, id, self.next_id - 1, encode(result, "a result")))

    def fail(self, error: Exception | Failure, name: str = "", which: int = 0) -> None:
        """An activity fails for good."""
        id = self.open(e.ActivityTaskScheduled, name)[which]
        failure = error if isinstance(error, Failure) else failure_of(error)
        self.add(e.ActivityTaskStarted(self.next_id, self.now, id, 1, "worker", self.now))
        self.add(e.ActivityTaskFailed(self.next_id, self.now, id, self.next_id - 1, failure))

    def cancel_activity(self, which: int = 0) -> None:
        """An activity stops because it was asked to."""
        self.add(e.ActivityTaskCanceled(self.next_id, self.now, self.open(e.ActivityTaskScheduled)[which], 0))

    def fire(self, which: int = 0) -> None:
        """The timer that is due first fires, at its time."""
        timers = [event for event in self.history if event.id in self.open(e.TimerStarted)]
        assert all(isinstance(timer, e.TimerStarted) for timer in timers)
        timer = sorted(timers, key=lambda timer: getattr(timer, "fire_at", 0))[which]
        assert isinstance(timer, e.TimerStarted)
        self.now = max(self.now, timer.fire_at)
        self.add(e.TimerFired(self.next_id, self.now, timer.timer_id, timer.id))

    def signal(self, name: str, *args: object) -> None:
        self.add(e.WorkflowExecutionSignaled(self.next_id, self.now, name, payloads(*args)))

    def cancel(self) -> None:
        self.add(e.WorkflowExecutionCancelRequested(self.next_id, self.now))

    def update(self, id: str, name: str, *args: object) -> None:
        self.updates[id] = AdmittedUpdate(id, name, payloads(*args))

    def child_started(self, which: int = 0) -> None:
        child = self.history[self.open(e.StartChildWorkflowExecutionInitiated)[which] - 1]
        assert isinstance(child, e.StartChildWorkflowExecutionInitiated)
        self.add(e.ChildWorkflowExecutionStarted(self.next_id, self.now, child.id, child.workflow_id, "child-run"))

    def child_completed(self, result: object, which: int = 0) -> None:
        id = self.open(e.StartChildWorkflowExecutionInitiated)[which]
        self.add(e.ChildWorkflowExecutionCompleted(self.next_id, self.now, id, 0, encode(result, "a result")))

    def child_failed(self, failure: Failure, which: int = 0) -> None:
        id = self.open(e.StartChildWorkflowExecutionInitiated)[which]
        self.add(e.ChildWorkflowExecutionFailed(self.next_id, self.now, id, 0, failure))

    # --- The workflow task ------------------------------------------------------------------------------
    def next_task(self) -> WorkflowTask:
        """The open workflow task, for the live copy or for one that must be made."""
        if self.attempt == 1:
            self.schedule_task()
        self.now += 1
        keep = self.live and not self.run.broken and self.run.position == self.seen
        if not keep:
            self.run.evict()
            self.run = WorkflowRun(REF, self.definitions)
        previous = self.seen if keep else START
        return WorkflowTask(
            REF,
            self.attempt,
            self.now,
            previous,
            self.positions[-1],
            tuple(self.history[previous.event_id :]),
            tuple(self.updates.values()),
            self.size,
        )

    def step(self) -> Outcome:
        """Run the code on what is new, and record what it asks for."""
        task = self.next_task()
        outcome = self.run.activate(task)
        assert outcome is not None
        if isinstance(outcome, WorkflowTaskFailure):
            self.record_failure(task, outcome.failure)
        else:
            self.record(task, outcome)
            self.tasks.append((task, outcome))
        return outcome

    def do(self) -> list[c.Command]:
        """A step that must succeed: its commands."""
        outcome = self.step()
        assert isinstance(outcome, WorkflowTaskCompletion), outcome.failure.message + outcome.failure.traceback
        return list(outcome.commands)

    def broken(self) -> Failure:
        """A step that must fail: why."""
        outcome = self.step()
        assert isinstance(outcome, WorkflowTaskFailure), outcome
        return outcome.failure

    def record_failure(self, task: WorkflowTask, failure: Failure) -> None:
        if self.attempt == 1:
            self.add(e.WorkflowTaskStarted(self.next_id, task.time, self.scheduled, history_bytes=task.history_bytes))
            self.add(e.WorkflowTaskFailed(self.next_id, self.now, self.scheduled, self.next_id - 1, failure))
        self.scheduled = 0
        self.attempt += 1

    def record(self, task: WorkflowTask, completion: WorkflowTaskCompletion) -> None:
        if self.attempt > 1:
            self.add(e.WorkflowTaskScheduled(self.next_id, task.time, "default", self.attempt))
            self.scheduled = self.next_id - 1
        self.add(e.WorkflowTaskStarted(self.next_id, task.time, self.scheduled, history_bytes=task.history_bytes))
        self.add(
            e.WorkflowTaskCompleted(
                self.next_id,
                self.now,
                self.scheduled,
                self.next_id - 1,
                python=completion.python,
                flags=completion.flags,
                exceptions=completion.exceptions,
            )
        )
        self.seen, self.scheduled, self.attempt = task.position, 0, 1
        done = self.next_id - 1
        for command in completion.commands:
            if isinstance(command, c.RejectUpdate):
                del self.updates[command.update_id]
                self.answers.append(command)
            else:
                self.add(self.event_of(command, task.time, done))

    def event_of(self, command: c.Command, time: int, done: int) -> e.HistoryEvent:
        id, now, x = self.next_id, self.now, command
        match x:
            case c.ScheduleActivity():
                return e.ActivityTaskScheduled(id, now, x.activity_id, x.activity_type, "default", x.input, done)
            case c.RequestCancelActivity():
                return e.ActivityTaskCancelRequested(id, now, self.activity(x.activity_id), done)
            case c.StartTimer():
                return e.TimerStarted(id, now, x.timer_id, time + x.duration, done)
            case c.CancelTimer():
                return e.TimerCanceled(id, now, x.timer_id, self.timer(x.timer_id), done)
            case c.CompleteWorkflow():
                return e.WorkflowExecutionCompleted(id, now, x.result, done)
            case c.FailWorkflow():
                return e.WorkflowExecutionFailed(id, now, x.failure, done)
            case c.CancelWorkflow():
                return e.WorkflowExecutionCanceled(id, now, done)
            case c.ContinueAsNew():
                return e.WorkflowExecutionContinuedAsNew(id, now, "next", x.workflow_type, "default", x.input, done)
            case c.AcceptUpdate():
                update = self.updates.pop(x.update_id)
                return e.WorkflowExecutionUpdateAccepted(id, now, x.update_id, update.name, update.input, "", done)
            case c.CompleteUpdate():
                return e.WorkflowExecutionUpdateCompleted(id, now, x.update_id, 1, x.result, x.failure, done)
            case c.StartChildWorkflow():
                return e.StartChildWorkflowExecutionInitiated(
                    id, now, x.workflow_id, x.workflow_type, "default", x.input, done
                )
            case c.RecordMarker():
                return e.MarkerRecorded(id, now, x.marker_name, x.details, done)
            case c.RequestCancelExternalWorkflow():
                return e.RequestCancelExternalWorkflowExecutionInitiated(
                    id, now, x.workflow_id, x.run_id, done, x.child_initiated_event_id
                )
            case c.SignalExternalWorkflow():
                return e.SignalExternalWorkflowExecutionInitiated(
                    id, now, x.workflow_id, x.run_id, x.signal_name, x.input, done
                )
            case _:
                raise AssertionError(f"nothing asks for {command}")

    def activity(self, activity_id: str) -> int:
        """The id of the activity's event; the runtime must never cancel what is not there."""
        (found,) = [
            event.id
            for event in self.history
            if isinstance(event, e.ActivityTaskScheduled) and event.activity_id == activity_id
        ]
        assert found in self.open(e.ActivityTaskScheduled)
        return found

    def timer(self, timer_id: str) -> int:
        (found,) = [
            event.id for event in self.history if isinstance(event, e.TimerStarted) and event.timer_id == timer_id
        ]
        assert found in self.open(e.TimerStarted)
        return found

    # --- Questions --------------------------------------------------------------------------------------
    def query(self, name: str, *args: object) -> QueryAnswer:
        """Ask the live copy."""
        return self.run.query(QueryTask(REF, "q", name, payloads(*args), self.run.position, self.now))

    def ask(self, name: str, *args: object) -> object:
        answer = self.query(name, *args)
        assert answer.failure is None, answer.failure.message
        return value(answer.result)

    def ask_replayed(self, name: str, *args: object) -> object:
        """Ask a copy that is made from the history."""
        run = WorkflowRun(REF, self.definitions)
        task = QueryTask(REF, "q", name, payloads(*args), self.seen, self.now, tuple(self.history))
        answer = run.query(task)
        run.evict()
        assert answer.failure is None, answer.failure.message
        return value(answer.result)


def replay(scenario: Scenario, target: object = None) -> list[Outcome]:
    """Do each completed task again, each on a fresh copy that has the history before it.

    target: another version of the workflow.
    """
    definitions = scenario.definitions
    if target is not None:
        definitions = {definition_of(target).name: definition_of(target)}
    outcomes: list[Outcome] = []
    for task, _ in scenario.tasks:
        run = WorkflowRun(REF, definitions)
        events = tuple(scenario.history[: task.position.event_id])
        fresh = msgspec.structs.replace(task, previous=START, events=events)
        outcome = run.activate(fresh)
        assert outcome is not None
        outcomes.append(outcome)
        run.evict()
    return outcomes


def check_replay(scenario: Scenario) -> None:
    """A replay at every prefix of the history must ask for what was asked for then."""
    for (_, before), again in zip(scenario.tasks, replay(scenario), strict=True):
        assert isinstance(again, WorkflowTaskCompletion), again.failure.message
        assert [same(command) for command in again.commands] == [same(command) for command in before.commands]


def same(command: c.Command) -> c.Command | tuple[object, ...]:
    """A command as far as a replay must repeat it: not the addresses and lines in a traceback."""
    failure = getattr(command, "failure", None)
    if failure is None:
        return command
    return type(command), failure.types, failure.message


def kinds(commands: Sequence[c.Command]) -> list[str]:
    return [type(command).__name__ for command in commands]


def result(scenario: Scenario) -> object:
    """What the last task completed the workflow with."""
    command = scenario.tasks[-1][1].commands[-1]
    assert isinstance(command, c.CompleteWorkflow)
    return value(command.result)


def failure(scenario: Scenario) -> Failure:
    """What the last task failed the workflow with."""
    command = scenario.tasks[-1][1].commands[-1]
    assert isinstance(command, c.FailWorkflow)
    return command.failure
