"""What must hold of every run, whatever happens to it. Assertions only: nothing here changes anything.

Tests and the simulator check them after every transition, and a node can (`limits` are enforced elsewhere; what
is broken here is a bug of the engine, never of its user). A history is checked as a whole, event by event, against
a table that says what each event must point at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from perdure.engine.core.deadlines import Deadlines
from perdure.engine.core.decisions.activities import waits
from perdure.engine.core.effects import HandOver
from perdure.engine.core.execution import Execution
from perdure.engine.core.transition import Transition
from perdure.limits import CLOSE_REFUSALS
from perdure.model import events as e
from perdure.model.journal import encode_event
from perdure.model.state import PendingActivity, State
from perdure.model.tasks import Position

CLOSING: Final[frozenset[type[Any]]] = frozenset(
    {
        e.WorkflowExecutionCompleted,
        e.WorkflowExecutionFailed,
        e.WorkflowExecutionTimedOut,
        e.WorkflowExecutionCanceled,
        e.WorkflowExecutionTerminated,
        e.WorkflowExecutionContinuedAsNew,
    }
)
"""Events that end a run."""


class InvariantBroken(AssertionError):
    """The engine has a bug; the message says what is not as it must be, and in which run."""


# --- States ---------------------------------------------------------------------------------------------
def check_state(state: State) -> None:
    """Raises InvariantBroken where the parts of a state contradict one another."""
    where = f"{state.workflow_id!r} (run {state.started.run_id})"

    def hold(condition: bool, what: str) -> None:
        if not condition:
            raise InvariantBroken(f"{where}: {what}")

    hold(state.close_refusals <= CLOSE_REFUSALS, f"a close was refused {state.close_refusals} times")
    hold(state.history_bytes > 0, "it has no history")
    hold(0 <= state.seen.event_id <= state.last_event_id, f"the code has seen {state.seen} of {state.last_event_id}")
    hold(all(event.id == 0 for event in state.buffered), "an event in the buffer has an id")
    hold(all(id < state.next_entry_id for id in state.outbox), "an outbox entry's id will be used again")
    hold(all(id == entry.added.entry_id for id, entry in state.outbox.items()), "an outbox entry is misfiled")
    running = sum(activity.status == "started" and not activity.detached for activity in state.activities.values())
    hold(state.running == running, f"running is {state.running}, but {running} activities are started")
    if state.status == "Running":
        _check_open(state, hold)
    else:
        _check_closed(state, hold)


def _check_open(state: State, hold: Callable[[bool, str], None]) -> None:
    last = state.last_event_id
    hold(not state.close_time, "it is running, and has a close time")
    names = {activity.event.activity_id: id for id, activity in state.activities.items()}
    hold(state.activity_ids == names, f"activity_ids is {state.activity_ids}, but pending are {names}")
    hold(not state.ended_ids.keys() & names.keys(), "an activity is pending and has its outcome in the buffer")
    hold(not state.ended_timers.keys() & state.timers.keys(), "a timer runs and has its firing in the buffer")
    waiting = len(state.ended_ids) + len(state.ended_timers)
    hold(len(state.buffered) >= waiting, f"{waiting} outcomes should be in the buffer")
    for id, activity in state.activities.items():
        hold(id == activity.event.id and 0 < id <= last, f"activity {id} is misfiled")
        wrong = _wrong_activity(activity)
        hold(not wrong, f"activity {activity.event.activity_id!r} is {activity.status}, {wrong}: {activity}")
    for name, timer in state.timers.items():
        hold(name == timer.timer_id and 0 < timer.id <= last, f"timer {name!r} is misfiled")
    for id, child in state.children.items():
        hold(id == child.event.id and 0 < id <= last, f"child {id} is misfiled")
        hold(bool(child.run_id) or not child.started_event_id, f"child {id} is started, but has no run")
    for pending in (state.signals_sent, state.cancels_sent):
        hold(all(id == event.id <= last for id, event in pending.items()), "what was sent is misfiled")
    updates = [*state.admitted, *state.accepted, *state.finished]
    hold(len(updates) == len(set(updates)), f"an update is in two stages at once: {sorted(updates)}")
    if state.postponed:
        later = [message for message in state.postponed if isinstance(message, str)]
        hold(later == list(state.admitted), f"the updates {later} are in order, but admitted are {[*state.admitted]}")
        hold(isinstance(state.postponed[0], str), "a signal waits that nothing is before")
    hold(all(0 < update.accepted_event_id <= last for update in state.accepted.values()), "an update has no event")
    task = state.task
    if task is None:
        hold(not state.buffered, f"{len(state.buffered)} inputs wait for a workflow task that isn't open")
        waits = bool(state.held or state.start_at)
        hold(not state.admitted or waits, "an update waits, but no workflow task is open")
        return
    hold(not state.start_at, "a workflow task is open before the start's delay is over")
    hold(task.attempt >= 1 and (task.attempt == 1) == (task.scheduled_event_id > 0), f"the open task is {task}")
    hold(not task.next_attempt_at or task.attempt > 1, "a first workflow task backs off")


def _wrong_activity(activity: PendingActivity) -> str:
    """What contradicts an activity's status; "" if nothing does."""
    if activity.attempt - activity.attempts_before < 1:
        return "and more attempts are forgiven than were made"
    if activity.held_for < 0:
        return "and was held for less than no time"
    if activity.status == "started" and not (activity.worker and activity.started_at):
        return "but nobody knows where or when"
    if (activity.status == "backing_off") != (activity.next_attempt_at > 0):
        return f"and next_attempt_at is {activity.next_attempt_at}"
    if (activity.status == "held") != (activity.held_at > 0):
        return f"and held_at is {activity.held_at}"
    if activity.cancel_requested and activity.status != "started":
        return "though its cancellation was requested and nobody works on it"
    return ""


def _check_closed(state: State, hold: Callable[[bool, str], None]) -> None:
    hold(state.task is None, "it is closed, and has an open workflow task")
    hold(state.close_time == state.last_time, "something happened after it was closed")
    for name in (
        "activities", "activity_ids", "ended_ids", "timers", "ended_timers", "children", "inherited", "signals_sent",
        "cancels_sent", "admitted", "accepted", "buffered", "postponed",
    ):  # fmt: skip
        hold(not getattr(state, name), f"it is closed, but {name} is not empty")


# --- Executions and transitions -------------------------------------------------------------------------
def check_execution(execution: Execution) -> None:
    """Raises InvariantBroken where a loaded run contradicts itself: its state, or what only memory knows.

    The work grows with what is pending.
    """
    state, taken = execution.state, execution.taken
    check_state(state)
    where = f"{state.workflow_id!r} (run {execution.ref.run_id})"
    if taken is not None:
        if state.task is None or state.task.next_attempt_at:
            raise InvariantBroken(f"{where}: a worker has a workflow task that isn't open")
        if taken != Position(state.last_event_id, state.digest):
            raise InvariantBroken(f"{where}: the history moved on from {taken} while a worker had the task")
    for scheduled in execution.beats:
        if scheduled not in state.activities or state.activities[scheduled].status != "started":
            raise InvariantBroken(f"{where}: activity {scheduled} has a heartbeat, but does not run")
    deadlines = execution.deadlines
    afresh = Deadlines(state, execution.beats, deadlines.retention)
    afresh.extend(deadlines.stalls)
    if deadlines.next() != afresh.next():
        raise InvariantBroken(f"{where}: it next wakes at {deadlines.next()}, but should at {afresh.next()}")


def check_transition(tx: Transition) -> None:
    """Raises InvariantBroken where what was decided contradicts itself or the state that it led to."""
    check_execution(tx.execution)
    state = tx.state
    where = f"{state.workflow_id!r} (run {state.started.run_id})"
    if [encode_event(event) for event in tx.events] != tx.encoded:
        raise InvariantBroken(f"{where}: the events are not what is stored")
    if tx.events and (tx.events[-1].id, tx.events[-1].time) != (state.last_event_id, state.last_time):
        raise InvariantBroken(f"{where}: the last event is not the state's")
    positions = [position for position, _ in tx.private]
    if positions != sorted(positions) or not all(0 <= position <= len(tx.events) for position in positions):
        raise InvariantBroken(f"{where}: private records stand at {positions} among {len(tx.events)} events")
    for offer in tx.offers:
        waiting = state.activities.get(offer.scheduled_event_id)
        if waiting is None or not waits(state, waiting, offer.attempt):
            raise InvariantBroken(f"{where}: {offer} offers what does not wait")
    for effect in tx.effects:
        if isinstance(effect, HandOver):
            begun = state.activities.get(effect.task.token.scheduled_event_id)
            if begun is None or begun.status != "started" or begun.worker != effect.worker:
                raise InvariantBroken(f"{where}: an attempt is handed over that was not started")


# --- Histories ------------------------------------------------------------------------------------------
def check_history(events: Iterable[e.HistoryEvent]) -> None:
    """Raises InvariantBroken where a history, read from its first event, is not well formed. It may go on."""
    history = _History()
    for event in events:
        history.read(event)


class _History:
    """How far a history has been read, and what in it is still open."""

    def __init__(self) -> None:
        self.previous: e.HistoryEvent | None = None
        self.task = 0  # the open workflow task's scheduled event
        self.completed = 0  # the completed workflow task, as long as its commands' events follow
        self.closed = False
        self.activities: dict[int, str] = {}  # scheduled → activity_id
        self.names: set[str] = set()  # the pending activities' ids
        self.timers: dict[str, e.TimerStarted] = {}
        self.children: dict[int, int] = {}  # initiated → started
        self.signals: set[int] = set()
        self.cancels: set[int] = set()
        self.updates: dict[int, str] = {}  # accepted → update_id
        self.update_ids: set[str] = set()

    def read(self, event: e.HistoryEvent) -> None:
        """The next event."""
        self.hold(not self.closed, event, "comes after the end")
        previous = self.previous
        if previous is None:
            self.hold(isinstance(event, e.WorkflowExecutionStarted), event, "is the first")
            self.hold(event.id == 1, event, "should have the id 1")
        else:
            self.hold(event.id == previous.id + 1, event, f"comes after event {previous.id}")
            self.hold(event.time >= previous.time, event, f"is before event {previous.id}, by time")
            self._check_follows(previous, event)
        asked = getattr(event, "workflow_task_completed_event_id", None)
        if type(event) is not e.WorkflowTaskCompleted:
            if asked is None:
                self.completed = 0
            self.hold(asked is None or asked == self.completed, event, f"is not asked for by {self.completed}")
        rule = RULES[type(event)]
        if rule is not None:
            rule(self, event)
        self.closed = type(event) in CLOSING
        self.previous = event

    def _check_follows(self, previous: e.HistoryEvent, event: e.HistoryEvent) -> None:
        """What is written together stands together."""
        if isinstance(previous, e.ActivityTaskStarted | e.WorkflowTaskStarted):
            started = getattr(event, "started_event_id", None)
            self.hold(started == previous.id, event, f"should be the outcome of event {previous.id}")
        elif isinstance(previous, e.WorkflowTaskScheduled) and previous.attempt > 1:
            self.hold(isinstance(event, e.WorkflowTaskStarted), event, "stands between a later attempt's events")

    def hold(self, condition: bool, event: e.HistoryEvent, what: str) -> None:
        """Raises InvariantBroken unless the condition holds of the event."""
        if not condition:
            raise InvariantBroken(f"event {event.id}, {type(event).__name__}, {what}: {event}")

    # --- What each event must be like -------------------------------------------------------------------
    def started(self, event: e.WorkflowExecutionStarted) -> None:
        self.hold(self.previous is None, event, "is not the first")

    def task_scheduled(self, event: e.WorkflowTaskScheduled) -> None:
        self.hold(not self.task, event, f"opens a second workflow task, beside {self.task}")
        self.task = event.id

    def task_started(self, event: e.WorkflowTaskStarted) -> None:
        self.hold(event.scheduled_event_id == self.task, event, f"should point at {self.task}")

    def task_over(self, event: e.WorkflowTaskCompleted | e.WorkflowTaskFailed | e.WorkflowTaskTimedOut) -> None:
        self.hold(event.scheduled_event_id == self.task, event, f"should point at {self.task}")
        self.hold(isinstance(self.previous, e.WorkflowTaskStarted), event, "has no started event before it")
        self.task = 0
        if isinstance(event, e.WorkflowTaskCompleted):
            self.completed = event.id

    def activity_scheduled(self, event: e.ActivityTaskScheduled) -> None:
        self.hold(event.activity_id not in self.names, event, "has the id of a pending activity")
        self.names.add(event.activity_id)
        self.activities[event.id] = event.activity_id

    def activity_started(self, event: e.ActivityTaskStarted) -> None:
        self.hold(event.scheduled_event_id in self.activities, event, "is of no pending activity")
        self.hold(event.attempt >= 1 and event.started_at > 0, event, "began at no time")

    def activity_cancel_requested(self, event: e.ActivityTaskCancelRequested) -> None:
        self.hold(event.scheduled_event_id in self.activities, event, "is of no pending activity")

    def activity_over(self, event: Any) -> None:
        self.hold(event.scheduled_event_id in self.activities, event, "is of no pending activity")
        self.names.discard(self.activities.pop(event.scheduled_event_id))
        previous = self.previous
        if isinstance(previous, e.ActivityTaskStarted):
            self.hold(previous.scheduled_event_id == event.scheduled_event_id, event, f"is not of event {previous.id}")
        else:
            self.hold(event.started_event_id == 0, event, "has no started event before it")

    def timer_started(self, event: e.TimerStarted) -> None:
        self.hold(event.timer_id not in self.timers, event, "has a running timer's id")
        self.timers[event.timer_id] = event

    def timer_over(self, event: e.TimerFired | e.TimerCanceled) -> None:
        timer = self.timers.pop(event.timer_id, None)
        self.hold(timer is not None and timer.id == event.started_event_id, event, "is of no running timer")
        if timer is not None and isinstance(event, e.TimerFired):
            self.hold(event.time >= timer.fire_at, event, f"is early: due at {timer.fire_at}")

    def update_accepted(self, event: e.WorkflowExecutionUpdateAccepted) -> None:
        self.hold(event.update_id not in self.update_ids, event, "accepts an update twice")
        self.update_ids.add(event.update_id)
        self.updates[event.id] = event.update_id

    def update_completed(self, event: e.WorkflowExecutionUpdateCompleted) -> None:
        self.hold(self.updates.pop(event.accepted_event_id, "") == event.update_id, event, "is of no open update")
        self.hold((event.result is None) != (event.failure is None), event, "needs a result or a failure")

    def child_initiated(self, event: e.StartChildWorkflowExecutionInitiated) -> None:
        self.children[event.id] = 0

    def child_started(self, event: e.ChildWorkflowExecutionStarted) -> None:
        self.hold(self.children.get(event.initiated_event_id) == 0, event, "is of no child that is to be started")
        self.children[event.initiated_event_id] = event.id

    def child_not_started(self, event: e.StartChildWorkflowExecutionFailed) -> None:
        begun = self.children.pop(event.initiated_event_id, None)
        self.hold(begun == 0, event, "is of no child that is to be started")

    def child_over(self, event: e.ChildWorkflowExecutionCompleted | e.ChildWorkflowExecutionFailed) -> None:
        begun = self.children.pop(event.initiated_event_id, 0)
        self.hold(0 < begun == event.started_event_id, event, f"is of a child that event {begun} began")

    def signal_sent(self, event: e.SignalExternalWorkflowExecutionInitiated) -> None:
        self.signals.add(event.id)

    def signal_settled(
        self, event: e.ExternalWorkflowExecutionSignaled | e.SignalExternalWorkflowExecutionFailed
    ) -> None:
        self.hold(event.initiated_event_id in self.signals, event, "is of no signal on its way")
        self.signals.discard(event.initiated_event_id)

    def cancel_sent(self, event: e.RequestCancelExternalWorkflowExecutionInitiated) -> None:
        self.cancels.add(event.id)

    def cancel_settled(
        self,
        event: e.ExternalWorkflowExecutionCancelRequested | e.RequestCancelExternalWorkflowExecutionFailed,
    ) -> None:
        self.hold(event.initiated_event_id in self.cancels, event, "is of no request on its way")
        self.cancels.discard(event.initiated_event_id)


RULES: Final[dict[type[e.Event], Callable[[_History, Any], None] | None]] = {
    e.WorkflowExecutionStarted: _History.started,
    e.WorkflowExecutionCompleted: None,
    e.WorkflowExecutionFailed: None,
    e.WorkflowExecutionTimedOut: None,
    e.WorkflowExecutionCanceled: None,
    e.WorkflowExecutionTerminated: None,
    e.WorkflowExecutionContinuedAsNew: None,
    e.WorkflowExecutionSignaled: None,
    e.WorkflowExecutionCancelRequested: None,
    e.WorkflowTaskScheduled: _History.task_scheduled,
    e.WorkflowTaskStarted: _History.task_started,
    e.WorkflowTaskCompleted: _History.task_over,
    e.WorkflowTaskFailed: _History.task_over,
    e.WorkflowTaskTimedOut: _History.task_over,
    e.ActivityTaskScheduled: _History.activity_scheduled,
    e.ActivityTaskStarted: _History.activity_started,
    e.ActivityTaskCompleted: _History.activity_over,
    e.ActivityTaskFailed: _History.activity_over,
    e.ActivityTaskTimedOut: _History.activity_over,
    e.ActivityTaskCancelRequested: _History.activity_cancel_requested,
    e.ActivityTaskCanceled: _History.activity_over,
    e.TimerStarted: _History.timer_started,
    e.TimerFired: _History.timer_over,
    e.TimerCanceled: _History.timer_over,
    e.WorkflowExecutionUpdateAccepted: _History.update_accepted,
    e.WorkflowExecutionUpdateCompleted: _History.update_completed,
    e.StartChildWorkflowExecutionInitiated: _History.child_initiated,
    e.ChildWorkflowExecutionStarted: _History.child_started,
    e.StartChildWorkflowExecutionFailed: _History.child_not_started,
    e.ChildWorkflowExecutionCompleted: _History.child_over,
    e.ChildWorkflowExecutionFailed: _History.child_over,
    e.SignalExternalWorkflowExecutionInitiated: _History.signal_sent,
    e.ExternalWorkflowExecutionSignaled: _History.signal_settled,
    e.SignalExternalWorkflowExecutionFailed: _History.signal_settled,
    e.RequestCancelExternalWorkflowExecutionInitiated: _History.cancel_sent,
    e.ExternalWorkflowExecutionCancelRequested: _History.cancel_settled,
    e.RequestCancelExternalWorkflowExecutionFailed: _History.cancel_settled,
    e.MarkerRecorded: None,
}
"""What is required of each event; None: nothing beyond its place."""
