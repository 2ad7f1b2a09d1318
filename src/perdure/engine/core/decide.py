"""The engine's one function: `decide(execution, input, now) → Transition`.

A table from the input's type to its decision. Requests that only read are answered in `queries`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from perdure.engine.core import inputs as i
from perdure.engine.core.decisions import (
    activities,
    elsewhere,
    holds,
    messages,
    outbox,
    pauses,
    schedules,
    wake,
    workflow_tasks,
)
from perdure.engine.core.execution import Execution
from perdure.engine.core.transition import Transition
from perdure.model import requests as q
from perdure.model import schedules as s
from perdure.model import tasks as t

DECISIONS: Final[dict[type[Any], Callable[[Transition, Any], None]]] = {
    q.SignalWorkflow: messages.signal,
    q.UpdateWorkflow: messages.update,
    q.CancelWorkflowRequest: messages.cancel,
    q.TerminateWorkflow: messages.terminate,
    q.ReleaseActivity: holds.release,
    q.CompleteActivity: holds.complete,
    q.FailActivity: holds.fail,
    q.SettleAttempt: elsewhere.settle,
    q.HeartbeatAttempt: elsewhere.heartbeat,
    q.PauseWorkflow: pauses.pause,
    q.ResumeWorkflow: pauses.resume,
    q.PauseActivity: holds.pause_activity,
    q.UnpauseActivity: holds.unpause_activity,
    q.ResetActivity: holds.reset_activity,
    q.UpdateActivityOptions: holds.change_options,
    s.UpdateSchedule: schedules.update,
    s.PauseSchedule: schedules.pause,
    s.UnpauseSchedule: schedules.unpause,
    s.TriggerSchedule: schedules.trigger,
    s.BackfillSchedule: schedules.backfill,
    s.DeleteSchedule: schedules.delete,
    t.WorkflowTaskCompletion: workflow_tasks.complete,
    t.WorkflowTaskFailure: workflow_tasks.fail,
    t.ActivityCompletion: activities.complete,
    t.ActivityFailure: activities.fail,
    t.ActivityCancellation: activities.cancelled,
    t.ActivityHeartbeat: activities.heartbeat,
    t.ActivityEvicted: activities.evicted,
    t.ActivityDetached: elsewhere.detach,
    i.Join: messages.join,
    i.KeepBeats: activities.keep_beats,
    i.WorkflowTaskLost: workflow_tasks.lost,
    i.WorkflowTaskUndecided: workflow_tasks.undecided,
    i.RetryWorkflowTask: workflow_tasks.retry_now,
    i.StartActivity: activities.start,
    i.WorkersLost: activities.workers_lost,
    i.WakeUp: wake.wake_up,
    i.OutboxAnswered: outbox.answered,
    i.OutboxUndelivered: outbox.undelivered,
    i.ChildReported: outbox.child_reported,
    i.ScheduledRunReported: schedules.reported,
}
"""What decides on each input. A start is apart: it makes the execution (`decisions.starts`); so is the taking of a
workflow task, which changes memory only (`decisions.workflow_tasks.take`)."""


def decide(execution: Execution, input: object, now: int) -> Transition:
    """One step of an execution.

    Raises:
        PerdureError: the input is refused; nothing was changed.
    """
    tx = Transition(execution, now)
    DECISIONS[type(input)](tx, input)
    return tx
