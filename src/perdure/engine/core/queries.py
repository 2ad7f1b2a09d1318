"""What can be told of a run from its state alone."""

from __future__ import annotations

from typing import Final

from perdure.engine.core.execution import Execution
from perdure.engine.core.refusals import refusal
from perdure.errors import NotRunning
from perdure.limits import SHOWN_ACTIVITIES, SHOWN_TIMERS
from perdure.model.requests import (
    Description,
    Outcome,
    PendingActivityInfo,
    PendingUpdate,
    Status,
    UpdateOutcome,
    WorkflowTaskInfo,
)
from perdure.model.state import PendingActivity, State

CLOSED: Final = refusal(NotRunning("the workflow closed before it completed the update"))
"""What became of an update that a run left open."""

FOLLOWED: Final[frozenset[Status]] = frozenset({"ContinuedAsNew", "Terminated"})
"""Ends that leave open updates to the run that follows, if there is one."""


def outcome(state: State) -> Outcome:
    """How the run ended, or that it hasn't."""
    return Outcome(state.started.run_id, state.status, state.result, state.failure, state.new_run_id)


def update_outcome(state: State, update_id: str) -> UpdateOutcome | None:
    """How far an update is; None where it hasn't been accepted, or was never sent."""
    finished = state.finished.get(update_id)
    if finished is not None:
        stage = "rejected" if finished.rejected else "completed"
        return UpdateOutcome(update_id, stage, finished.result, finished.failure)
    if update_id in state.accepted:
        return UpdateOutcome(update_id, "accepted")
    return None


def heir(state: State) -> str:
    """The run that has a closed run's open updates, or has their answers; "": nobody has. Another attempt of what has
    failed begins without them."""
    return state.new_run_id if state.status in FOLLOWED else ""


def describe(execution: Execution) -> Description:
    """Everything but the history. Long lists are cut; of activities, those that need somebody's eye are left."""
    state = execution.state
    started, task = state.started, state.task
    return Description(
        state.workflow_id,
        started.run_id,
        started.workflow_type,
        started.task_queue,
        state.status,
        started.time,
        state.close_time,
        state.last_event_id,
        state.history_bytes,
        tuple(_activity(execution, a) for a in sorted(state.activities.values(), key=_trouble)[:SHOWN_ACTIVITIES]),
        tuple(sorted(timer.fire_at for timer in state.timers.values())[:SHOWN_TIMERS]),
        WorkflowTaskInfo(task.attempt, task.scheduled_at, task.failure, task.next_attempt_at) if task else None,
        (
            *(PendingUpdate(id, update.name) for id, update in state.admitted.items()),
            *(PendingUpdate(id, update.name, accepted=True) for id, update in state.accepted.items()),
        ),
        len(state.buffered) + sum(not isinstance(message, str) for message in state.postponed),
        state.held,
        started.parent,
        started.memo,
        started.search_attributes,
        tuple(state.interventions),
        pending_activities=len(state.activities),
        pending_timers=len(state.timers),
        paused=state.paused if execution.open else None,
        attempt=started.attempt,
        start_at=state.start_at,
        scheduled_by=started.scheduled_by,
        failure=state.failure,
    )


def _trouble(activity: PendingActivity) -> int:
    """Orders activities: the held ones, those that failed before, the others."""
    if activity.status == "held":
        return 0
    return 2 if activity.last_failure is None else 1


def _activity(execution: Execution, activity: PendingActivity) -> PendingActivityInfo:
    event = activity.event
    beat = execution.beats.get(event.id)
    policy = activity.retry_policy or event.retry_policy
    started = activity.status == "started"
    return PendingActivityInfo(
        event.activity_id,
        event.activity_type,
        activity.status,
        activity.attempt,
        event.time,
        activity.started_at if started else 0,
        activity.next_attempt_at,
        policy.maximum_attempts,
        activity.last_failure,
        activity.hold_reason,
        activity.held_at,
        activity.heartbeat if beat is None else beat.details,
        activity.worker if started and not activity.detached else "",
        activity.cancel_requested,
        activity.paused,
        started and activity.detached,
    )
