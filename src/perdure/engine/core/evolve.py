"""How a record changes the state: the only code that does.

Events go through :func:`evolve_event`, which also keeps ids, times, sizes and the digest; private records
through :func:`evolve_record`. Both are tables from type to function, and a test holds them complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, starmap
from typing import Any, Final

from perdure.engine.core import interventions, scheduling
from perdure.model import events as e
from perdure.model import records as r
from perdure.model.failures import Failure
from perdure.model.journal import AnyRecord, Undecodable, digest_after, encode_event, merged
from perdure.model.requests import Status
from perdure.model.state import (
    AcceptedUpdate,
    FinishedUpdate,
    OpenTask,
    OutboxEntry,
    PendingActivity,
    PendingChild,
    State,
)
from perdure.model.tasks import Position


def begin(namespace: str, workflow_id: str, run_no: int, started: e.WorkflowExecutionStarted) -> State:
    """The state that a run's first event makes."""
    state = State(namespace, workflow_id, run_no, started)
    evolve_event(state, started, encode_event(started))
    return state


def fold(state: State, rows: Iterable[tuple[bytes, bytes]]) -> State:
    """A state some journal rows (history, private) further."""
    return _fold(state, chain.from_iterable(starmap(merged, rows)))


def rebuild(namespace: str, workflow_id: str, run_no: int, rows: Iterable[tuple[bytes, bytes]]) -> State:
    """The state that a whole journal gives."""
    records = chain.from_iterable(starmap(merged, rows))
    first = next(records, None)
    if not isinstance(first, e.WorkflowExecutionStarted):
        raise Undecodable("its journal doesn't begin with its start")
    return _fold(begin(namespace, workflow_id, run_no, first), records)


def _fold(state: State, records: Iterable[AnyRecord]) -> State:
    for record in records:
        if isinstance(record, e.Event):
            evolve_event(state, record, encode_event(record))
        else:
            evolve_record(state, record)
    return state


def evolve_event(state: State, event: e.HistoryEvent, encoded: bytes) -> None:
    """Fold an event that enters the history."""
    handler = EVENTS[type(event)]
    if handler is not None:
        handler(state, event)
    state.last_event_id = event.id
    state.last_time = event.time
    state.history_bytes += len(encoded)
    state.digest = digest_after(encoded, state.digest)


def evolve_record(state: State, record: r.PrivateRecord) -> None:
    """Fold a private record."""
    RECORDS[type(record)](state, record)


# --- The execution --------------------------------------------------------------------------------------
def _closed(status: Status) -> Callable[[State, Any], None]:
    def close(state: State, event: Any) -> None:
        state.status = status
        state.close_time = event.time
        state.result = getattr(event, "result", None)
        state.failure = getattr(event, "failure", None)
        state.new_run_id = getattr(event, "new_run_id", "")
        state.task = None
        state.running = state.start_at = 0
        state.activities.clear()
        state.activity_ids.clear()
        state.ended_ids.clear()
        state.timers.clear()
        state.ended_timers.clear()
        state.children.clear()
        state.inherited.clear()
        state.signals_sent.clear()
        state.cancels_sent.clear()
        state.admitted.clear()
        state.accepted.clear()
        state.buffered.clear()
        state.postponed.clear()

    return close


def _started(state: State, event: e.WorkflowExecutionStarted) -> None:
    if event.first_workflow_task_backoff:
        state.start_at = event.time + event.first_workflow_task_backoff


def _terminated(state: State, event: e.WorkflowExecutionTerminated) -> None:
    _closed("Terminated")(state, event)
    state.failure = Failure(event.reason, kind="terminated")


def _canceled(state: State, event: e.WorkflowExecutionCanceled) -> None:
    _closed("Canceled")(state, event)
    if state.cancel_reason:
        state.failure = Failure(state.cancel_reason, kind="cancelled")


def _cancel_requested(state: State, event: e.WorkflowExecutionCancelRequested) -> None:
    state.cancel_requested = True
    state.cancel_reason = event.reason


def _run_held(state: State, record: r.RunHeld) -> None:
    state.held = record.reason


# --- The workflow task ----------------------------------------------------------------------------------
def _task_scheduled(state: State, event: e.WorkflowTaskScheduled) -> None:
    state.start_at = 0
    if event.attempt == 1:
        state.task = OpenTask(event.id, 1, event.time)
    else:
        # Written just before the outcome of a later attempt: the code had not seen it.
        assert state.task is not None
        state.task.scheduled_event_id = event.id
        state.task.began = Position(state.last_event_id, state.digest)


def _task_started(state: State, event: e.WorkflowTaskStarted) -> None:
    assert state.task is not None
    if state.task.attempt == 1:
        state.task.began = Position(state.last_event_id, state.digest)


def _task_completed(state: State, event: e.WorkflowTaskCompleted) -> None:
    assert state.task is not None
    state.seen = state.task.began
    state.task = None
    state.close_refusals = 0


def _task_over(state: State, event: e.Event) -> None:
    state.task = None


def _task_failed(state: State, event: e.WorkflowTaskFailed) -> None:
    state.task = None
    if event.base_run_id:  # the run was reset to here
        for child in state.children.values():
            child.begun_by = child.begun_by or event.base_run_id


def _task_attempt_failed(state: State, record: r.WorkflowTaskAttemptFailed) -> None:
    state.task = OpenTask(0, record.attempt + 1, record.time, record.next_attempt_at, record.failure)


def _task_due(state: State, record: r.WorkflowTaskDue) -> None:
    assert state.task is not None
    state.task.next_attempt_at = 0


def _close_refused(state: State, record: r.CloseRefused) -> None:
    state.close_refusals += 1


def _input_buffered(state: State, record: r.InputBuffered) -> None:
    event = record.event
    handler = EVENTS[type(event)]
    if handler is not None:  # what it resolves is resolved now; the code hears of it later
        handler(state, event)
    state.buffered.append(event)


def _buffer_flushed(state: State, record: r.BufferFlushed) -> None:
    state.buffered.clear()
    state.ended_ids.clear()
    state.ended_timers.clear()


# --- Activities -----------------------------------------------------------------------------------------
def _activity_scheduled(state: State, event: e.ActivityTaskScheduled) -> None:
    state.activities[event.id] = PendingActivity(event, queued_at=event.time)
    state.activity_ids[event.activity_id] = event.id


def _attempt_started(state: State, record: r.ActivityAttemptStarted) -> None:
    activity = state.activities[record.scheduled_event_id]
    activity.status = "started"
    activity.attempt = record.attempt
    activity.worker = record.worker
    activity.started_at = activity.heartbeat_at = record.time
    activity.detached = activity.was_reset = False
    state.running += 1


def _attempt_detached(state: State, record: r.ActivityAttemptDetached) -> None:
    state.activities[record.scheduled_event_id].detached = True
    state.running -= 1


def _attempt_failed(state: State, record: r.ActivityAttemptFailed) -> None:
    activity = state.activities[record.scheduled_event_id]
    _stop_running(state, activity)
    activity.status = "backing_off"
    activity.attempt = record.attempt + 1
    activity.last_failure = record.failure
    activity.next_attempt_at = record.next_attempt_at
    if not record.counts:
        activity.attempts_before += 1


def _attempt_due(state: State, record: r.ActivityAttemptDue) -> None:
    activity = state.activities[record.scheduled_event_id]
    activity.status = "scheduled"
    activity.queued_at = record.time
    activity.next_attempt_at = 0


def _activity_held(state: State, record: r.ActivityHeld) -> None:
    activity = state.activities[record.scheduled_event_id]
    _stop_running(state, activity)
    activity.status = "held"
    activity.hold_reason = record.reason
    activity.held_at = record.time
    activity.last_failure = record.failure


def _heartbeat_recorded(state: State, record: r.HeartbeatRecorded) -> None:
    activity = state.activities[record.scheduled_event_id]
    activity.heartbeat = record.details
    activity.heartbeat_at = record.time


def _activity_cancel_requested(state: State, event: e.ActivityTaskCancelRequested) -> None:
    activity = state.activities.get(event.scheduled_event_id)
    if activity is not None:
        activity.cancel_requested = True


def _activity_over(state: State, event: Any) -> None:
    activity = state.activities.pop(event.scheduled_event_id, None)
    if activity is not None:  # None: it was resolved when its event was buffered
        _stop_running(state, activity)
        del state.activity_ids[activity.event.activity_id]
        if not event.id:
            state.ended_ids[activity.event.activity_id] = activity.event.id


def _stop_running(state: State, activity: PendingActivity) -> None:
    if activity.status == "started" and not activity.detached:
        state.running -= 1


# --- Timers ---------------------------------------------------------------------------------------------
def _timer_started(state: State, event: e.TimerStarted) -> None:
    state.timers[event.timer_id] = event


def _timer_fired(state: State, event: e.TimerFired) -> None:
    timer = state.timers.pop(event.timer_id, None)
    if timer is not None and not event.id:  # None: it fired when its event was buffered
        state.ended_timers[event.timer_id] = timer.id


def _timer_canceled(state: State, event: e.TimerCanceled) -> None:
    if state.timers.pop(event.timer_id, None) is None:  # it fired, but the code will never hear of that
        del state.ended_timers[event.timer_id]


# --- Updates --------------------------------------------------------------------------------------------
def _update_admitted(state: State, record: r.UpdateAdmitted) -> None:
    state.admitted[record.update_id] = record


def _answered(state: State, update_id: str) -> None:
    state.admitted.pop(update_id, None)
    if state.postponed:
        state.postponed.remove(update_id)


def _message_postponed(state: State, record: r.MessagePostponed) -> None:
    state.postponed.append(record.message)


def _postponed_given(state: State, record: r.PostponedGiven) -> None:
    del state.postponed[: record.count]


def _update_rejected(state: State, record: r.UpdateRejected) -> None:
    _answered(state, record.update_id)
    state.finished[record.update_id] = FinishedUpdate(None, record.failure, rejected=True)


def _update_remembered(state: State, record: r.UpdateRemembered) -> None:
    state.finished[record.update_id] = FinishedUpdate(record.result, record.failure, record.rejected)


def _update_accepted(state: State, event: e.WorkflowExecutionUpdateAccepted) -> None:
    _answered(state, event.update_id)
    state.accepted[event.update_id] = AcceptedUpdate(event.id, event.name)


def _update_completed(state: State, event: e.WorkflowExecutionUpdateCompleted) -> None:
    state.accepted.pop(event.update_id, None)
    state.finished[event.update_id] = FinishedUpdate(event.result, event.failure)


# --- Children and other executions ----------------------------------------------------------------------
def _child_initiated(state: State, event: e.StartChildWorkflowExecutionInitiated) -> None:
    state.children[event.id] = PendingChild(event)


def _child_started(state: State, event: e.ChildWorkflowExecutionStarted) -> None:
    child = state.children.get(event.initiated_event_id)
    if child is not None:
        child.run_id = event.run_id
        child.started_event_id = event.id


def _child_over(state: State, event: Any) -> None:
    state.children.pop(event.initiated_event_id, None)


def _child_inherited(state: State, record: r.ChildInherited) -> None:
    state.inherited[record.begun_by, record.initiated_event_id] = record


def _inherited_child_over(state: State, record: r.InheritedChildOver) -> None:
    state.inherited.pop((record.begun_by, record.initiated_event_id), None)


def _signal_sent(state: State, event: e.SignalExternalWorkflowExecutionInitiated) -> None:
    state.signals_sent[event.id] = event


def _signal_settled(state: State, event: Any) -> None:
    state.signals_sent.pop(event.initiated_event_id, None)


def _cancel_sent(state: State, event: e.RequestCancelExternalWorkflowExecutionInitiated) -> None:
    state.cancels_sent[event.id] = event


def _cancel_settled(state: State, event: Any) -> None:
    state.cancels_sent.pop(event.initiated_event_id, None)


# --- The outbox -----------------------------------------------------------------------------------------
def _outbox_added(state: State, record: r.OutboxAdded) -> None:
    state.outbox[record.entry_id] = OutboxEntry(record)
    state.next_entry_id = record.entry_id + 1


def _outbox_settled(state: State, record: r.OutboxSettled) -> None:
    state.outbox.pop(record.entry_id, None)


def _outbox_delayed(state: State, record: r.OutboxDelayed) -> None:
    entry = state.outbox[record.entry_id]
    entry.attempt = record.attempt
    entry.next_attempt_at = record.next_attempt_at
    entry.failure = record.failure


EVENTS: Final[dict[type[e.Event], Callable[[State, Any], None] | None]] = {
    e.WorkflowExecutionStarted: _started,
    e.WorkflowExecutionCompleted: _closed("Completed"),
    e.WorkflowExecutionFailed: _closed("Failed"),
    e.WorkflowExecutionTimedOut: _closed("TimedOut"),
    e.WorkflowExecutionCanceled: _canceled,
    e.WorkflowExecutionTerminated: _terminated,
    e.WorkflowExecutionContinuedAsNew: _closed("ContinuedAsNew"),
    e.WorkflowExecutionSignaled: None,
    e.WorkflowExecutionCancelRequested: _cancel_requested,
    e.WorkflowTaskScheduled: _task_scheduled,
    e.WorkflowTaskStarted: _task_started,
    e.WorkflowTaskCompleted: _task_completed,
    e.WorkflowTaskFailed: _task_failed,
    e.WorkflowTaskTimedOut: _task_over,
    e.ActivityTaskScheduled: _activity_scheduled,
    e.ActivityTaskStarted: None,
    e.ActivityTaskCompleted: _activity_over,
    e.ActivityTaskFailed: _activity_over,
    e.ActivityTaskTimedOut: _activity_over,
    e.ActivityTaskCancelRequested: _activity_cancel_requested,
    e.ActivityTaskCanceled: _activity_over,
    e.TimerStarted: _timer_started,
    e.TimerFired: _timer_fired,
    e.TimerCanceled: _timer_canceled,
    e.WorkflowExecutionUpdateAccepted: _update_accepted,
    e.WorkflowExecutionUpdateCompleted: _update_completed,
    e.StartChildWorkflowExecutionInitiated: _child_initiated,
    e.ChildWorkflowExecutionStarted: _child_started,
    e.StartChildWorkflowExecutionFailed: _child_over,
    e.ChildWorkflowExecutionCompleted: _child_over,
    e.ChildWorkflowExecutionFailed: _child_over,
    e.SignalExternalWorkflowExecutionInitiated: _signal_sent,
    e.ExternalWorkflowExecutionSignaled: _signal_settled,
    e.SignalExternalWorkflowExecutionFailed: _signal_settled,
    e.RequestCancelExternalWorkflowExecutionInitiated: _cancel_sent,
    e.ExternalWorkflowExecutionCancelRequested: _cancel_settled,
    e.RequestCancelExternalWorkflowExecutionFailed: _cancel_settled,
    e.MarkerRecorded: None,
}
"""What each event changes; None: nothing beyond being the last event."""

RECORDS: Final[dict[type[r.Record], Callable[[State, Any], None]]] = {
    r.InputBuffered: _input_buffered,
    r.BufferFlushed: _buffer_flushed,
    r.ActivityAttemptStarted: _attempt_started,
    r.ActivityAttemptFailed: _attempt_failed,
    r.ActivityAttemptDue: _attempt_due,
    r.ActivityHeld: _activity_held,
    r.ActivityReleased: interventions.activity_released,
    r.ActivitySettled: interventions.activity_settled,
    r.HeartbeatRecorded: _heartbeat_recorded,
    r.WorkflowTaskAttemptFailed: _task_attempt_failed,
    r.UpdateAdmitted: _update_admitted,
    r.UpdateRejected: _update_rejected,
    r.CloseRefused: _close_refused,
    r.RunHeld: _run_held,
    r.OutboxAdded: _outbox_added,
    r.OutboxSettled: _outbox_settled,
    r.OutboxDelayed: _outbox_delayed,
    r.WorkflowTaskDue: _task_due,
    r.RunPaused: interventions.run_paused,
    r.RunResumed: interventions.run_resumed,
    r.RunReleased: interventions.run_released,
    r.ActivityPaused: interventions.activity_paused,
    r.ActivityUnpaused: interventions.activity_unpaused,
    r.ActivityReset: interventions.activity_reset,
    r.ActivityOptionsChanged: interventions.activity_options_changed,
    r.UpdateRemembered: _update_remembered,
    r.ChildInherited: _child_inherited,
    r.InheritedChildOver: _inherited_child_over,
    r.RunForked: interventions.run_forked,
    r.MessagePostponed: _message_postponed,
    r.PostponedGiven: _postponed_given,
    r.ActivityAttemptDetached: _attempt_detached,
    r.ScheduleDefined: scheduling.defined,
    r.ScheduleCarried: scheduling.carried,
    r.ScheduleAdvanced: scheduling.advanced,
    r.ScheduleActed: scheduling.acted,
    r.ScheduleBuffered: scheduling.buffered,
    r.ScheduleSkipped: scheduling.skipped,
    r.ScheduledRunAsked: scheduling.asked,
    r.ScheduledStartAnswered: scheduling.answered,
    r.ScheduledRunClosed: scheduling.closed,
    r.ScheduledRunReset: scheduling.run_again,
    r.ScheduleTriggered: scheduling.triggered,
    r.BackfillAdded: scheduling.backfill_added,
    r.BackfillAdvanced: scheduling.backfill_advanced,
}
"""What each private record changes."""
