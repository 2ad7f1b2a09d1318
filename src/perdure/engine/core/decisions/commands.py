"""What a workflow's code asks for: each command becomes one event. `checks` has allowed them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from perdure.engine.core.decisions import sending
from perdure.engine.core.decisions.activities import resolve_cancelled
from perdure.engine.core.decisions.carrying import carry
from perdure.engine.core.decisions.chains import end_or_retry, next_run_id
from perdure.engine.core.decisions.checks import started_timer
from perdure.engine.core.decisions.closing import children_of, close
from perdure.engine.core.effects import CancelAttempt, UpdateProgressed
from perdure.engine.core.transition import Transition
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import records as r
from perdure.model.requests import UpdateOutcome
from perdure.model.tasks import ActivityToken


def schedule_activity(tx: Transition, command: c.ScheduleActivity, completed: int) -> None:
    """An activity; it is offered when all commands are carried out."""
    tx.add(
        e.ActivityTaskScheduled(
            tx.next_id,
            tx.now,
            command.activity_id,
            command.activity_type,
            command.task_queue or tx.state.started.task_queue,
            command.input,
            completed,
            command.schedule_to_close_timeout,
            command.schedule_to_start_timeout,
            command.start_to_close_timeout,
            command.heartbeat_timeout,
            command.retry_policy,
            command.priority,
            command.header,
        )
    )


def cancel_activity(tx: Transition, command: c.RequestCancelActivity, completed: int) -> None:
    """The worker that has the activity is told; where nobody has it, it is over."""
    state, name = tx.state, command.activity_id
    scheduled = state.activity_ids[name] if name in state.activity_ids else state.ended_ids[name]
    tx.add(e.ActivityTaskCancelRequested(tx.next_id, tx.now, scheduled, completed))
    activity = state.activities.get(scheduled)
    if activity is None:
        return  # it ended while the code was asking; its outcome is in the buffer
    if activity.status == "started":
        token = ActivityToken(tx.execution.ref, scheduled, activity.attempt)
        tx.effects.append(CancelAttempt(activity.worker, token, "cancel_requested"))
    else:  # nobody works on it; its outcome follows the events of this task's commands
        resolve_cancelled(tx, activity)


def start_timer(tx: Transition, command: c.StartTimer, completed: int) -> None:
    """A timer, from the time that the code saw."""
    fire_at = tx.execution.taken_at + max(0, command.duration)
    tx.add(e.TimerStarted(tx.next_id, tx.now, command.timer_id, fire_at, completed))


def cancel_timer(tx: Transition, command: c.CancelTimer, completed: int) -> None:
    """A timer that runs, or that fired without the code's knowing, is over."""
    started = started_timer(tx.state, command.timer_id)
    tx.add(e.TimerCanceled(tx.next_id, tx.now, command.timer_id, started, completed))


def complete_workflow(tx: Transition, command: c.CompleteWorkflow, completed: int) -> None:
    """The run ends with a result."""
    close(tx, e.WorkflowExecutionCompleted(0, tx.now, command.result, completed))


def fail_workflow(tx: Transition, command: c.FailWorkflow, completed: int) -> None:
    """The run ends with a failure."""
    end_or_retry(tx, e.WorkflowExecutionFailed(0, tx.now, command.failure, completed))


def cancel_workflow(tx: Transition, command: c.CancelWorkflow, completed: int) -> None:
    """The run gives in to a cancel request."""
    close(tx, e.WorkflowExecutionCanceled(0, tx.now, completed))


def continue_as_new(tx: Transition, command: c.ContinueAsNew, completed: int) -> None:
    """The run ends, and the next of its chain begins in the same commit."""
    state = tx.state
    queue = command.task_queue or state.started.task_queue
    new_run_id = next_run_id(tx.execution.ref.run_id, completed)
    carried, kept = carry(state, command), children_of(state) if command.keep_children else ()
    close(
        tx,
        e.WorkflowExecutionContinuedAsNew(
            0,
            tx.now,
            new_run_id,
            command.workflow_type,
            queue,
            command.input,
            completed,
            command.header,
            len(command.signals),
        ),
        spared=kept,
        left=tuple(state.admitted),
    )
    tx.effects.append(carried)


def accept_update(tx: Transition, command: c.AcceptUpdate, completed: int) -> None:
    """An update's handler runs."""
    update = tx.state.admitted[command.update_id]
    tx.add(
        e.WorkflowExecutionUpdateAccepted(
            tx.next_id, tx.now, update.update_id, update.name, update.input, update.identity, completed, update.header
        )
    )
    tx.effects.append(UpdateProgressed(UpdateOutcome(update.update_id, "accepted")))


def reject_update(tx: Transition, command: c.RejectUpdate, completed: int) -> None:
    """An update is refused by its validator. No event."""
    tx.note(r.UpdateRejected(command.update_id, command.failure))
    tx.effects.append(UpdateProgressed(UpdateOutcome(command.update_id, "rejected", None, command.failure)))


def complete_update(tx: Transition, command: c.CompleteUpdate, completed: int) -> None:
    """An update's handler has returned or raised."""
    accepted = tx.state.accepted[command.update_id]
    tx.add(
        e.WorkflowExecutionUpdateCompleted(
            tx.next_id,
            tx.now,
            command.update_id,
            accepted.accepted_event_id,
            command.result,
            command.failure,
            completed,
        )
    )
    outcome = UpdateOutcome(command.update_id, "completed", command.result, command.failure)
    tx.effects.append(UpdateProgressed(outcome))


def start_child(tx: Transition, command: c.StartChildWorkflow, completed: int) -> None:
    """A child, started through the outbox."""
    event = e.StartChildWorkflowExecutionInitiated(
        tx.next_id,
        tx.now,
        command.workflow_id,
        command.workflow_type,
        command.task_queue or tx.state.started.task_queue,
        command.input,
        completed,
        command.parent_close_policy,
        command.execution_timeout,
        command.run_timeout,
        command.header,
        command.task_timeout,
        command.retry_policy,
        command.id_reuse_policy,
        command.memo,
    )
    tx.add(event)
    sending.start_child(tx, event)


def signal_external(tx: Transition, command: c.SignalExternalWorkflow, completed: int) -> None:
    """A signal to another run, sent through the outbox."""
    event = e.SignalExternalWorkflowExecutionInitiated(
        tx.next_id,
        tx.now,
        command.workflow_id,
        command.run_id,
        command.signal_name,
        command.input,
        completed,
        command.header,
    )
    tx.add(event)
    sending.signal_external(tx, event, tx.execution.ref.run_id)


def cancel_external(tx: Transition, command: c.RequestCancelExternalWorkflow, completed: int) -> None:
    """A request to another run to stop, sent through the outbox."""
    child = command.child_initiated_event_id
    event = e.RequestCancelExternalWorkflowExecutionInitiated(
        tx.next_id, tx.now, command.workflow_id, command.run_id, completed, child
    )
    tx.add(event)
    sending.cancel_external(tx, event, tx.execution.ref.run_id)


def record_marker(tx: Transition, command: c.RecordMarker, completed: int) -> None:
    """A note of the code to its own replays."""
    tx.add(e.MarkerRecorded(tx.next_id, tx.now, command.marker_name, command.details, completed))


COMMANDS: Final[dict[type[Any], Callable[[Transition, Any, int], None]]] = {
    c.ScheduleActivity: schedule_activity,
    c.RequestCancelActivity: cancel_activity,
    c.StartTimer: start_timer,
    c.CancelTimer: cancel_timer,
    c.CompleteWorkflow: complete_workflow,
    c.FailWorkflow: fail_workflow,
    c.CancelWorkflow: cancel_workflow,
    c.ContinueAsNew: continue_as_new,
    c.AcceptUpdate: accept_update,
    c.RejectUpdate: reject_update,
    c.CompleteUpdate: complete_update,
    c.StartChildWorkflow: start_child,
    c.SignalExternalWorkflow: signal_external,
    c.RequestCancelExternalWorkflow: cancel_external,
    c.RecordMarker: record_marker,
}
"""What carries out each command."""
