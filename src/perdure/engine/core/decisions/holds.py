"""What a person does about an activity: let it go on, pause it, give it other options, or its outcome."""

from __future__ import annotations

from perdure.engine.core.decisions.activities import begin_outcome, offer, resolve_completed
from perdure.engine.core.decisions.messages import DONE, require_open
from perdure.engine.core.decisions.pauses import release_run
from perdure.engine.core.effects import CancelAttempt
from perdure.engine.core.retries import wrong_policy
from perdure.engine.core.transition import Transition
from perdure.errors import InvalidRequest, NotFound
from perdure.model import events as e
from perdure.model import records as r
from perdure.model.requests import (
    CompleteActivity,
    FailActivity,
    PauseActivity,
    ReleaseActivity,
    ResetActivity,
    UnpauseActivity,
    UpdateActivityOptions,
)
from perdure.model.state import PendingActivity
from perdure.model.tasks import ActivityToken


def pending(tx: Transition, activity_id: str) -> PendingActivity:
    """The activity with this id. Raises NotFound, listing those there are."""
    require_open(tx.execution)
    scheduled = tx.state.activity_ids.get(activity_id)
    if scheduled is None:
        there = ", ".join(
            f"{a.event.activity_id} ({a.event.activity_type}, {a.status})"
            for a in list(tx.state.activities.values())[:10]
        )
        raise NotFound(
            f"workflow {tx.state.workflow_id!r} has no pending activity {activity_id!r}; pending: {there or 'none'}"
        )
    return tx.state.activities[scheduled]


def release(tx: Transition, request: ReleaseActivity) -> None:
    """Let one activity, or all that are held, go on."""
    if request.retry_policy is not None and (wrong := wrong_policy(request.retry_policy)):
        raise InvalidRequest(f"retry_policy: {wrong}")
    require_open(tx.execution)
    if request.activity_id:
        activity = pending(tx, request.activity_id)
        if activity.status not in ("held", "backing_off"):
            raise NotFound(f"activity {request.activity_id!r} is {activity.status}: there is nothing to release")
        waiting = [activity]
    else:
        waiting = [a for a in tx.state.activities.values() if a.status == "held"]
        if tx.state.held:
            release_run(tx, request.note, request.identity)
        elif not waiting:
            raise NotFound(f"workflow {tx.state.workflow_id!r} has no held activity")
    for activity in waiting:
        tx.note(
            r.ActivityReleased(
                activity.event.id,
                request.note,
                request.identity,
                tx.now,
                request.retry_policy,
                request.start_to_close_timeout,
                request.schedule_to_close_timeout,
                request.heartbeat_timeout,
            )
        )
        offer(tx, activity)
    tx.reply = DONE


def complete(tx: Transition, request: CompleteActivity) -> None:
    """A person gives the activity its result."""
    activity = pending(tx, request.activity_id)
    take_away(tx, activity)
    scheduled = activity.event.id
    tx.note(r.ActivitySettled(scheduled, "completed", request.note, request.identity, tx.now))
    resolve_completed(tx, activity, request.result, request.identity)
    tx.reply = DONE


def fail(tx: Transition, request: FailActivity) -> None:
    """A person fails the activity for good."""
    activity = pending(tx, request.activity_id)
    take_away(tx, activity)
    scheduled = activity.event.id
    tx.note(r.ActivitySettled(scheduled, "failed", request.note, request.identity, tx.now))
    started = begin_outcome(tx, activity)
    tx.arrive(e.ActivityTaskFailed(0, tx.now, scheduled, started, request.failure, "manual", request.identity))
    tx.schedule_task()
    tx.reply = DONE


def take_away(tx: Transition, activity: PendingActivity) -> None:
    """If a worker has an attempt, it is told to stop."""
    if activity.status == "started":
        token = ActivityToken(tx.execution.ref, activity.event.id, activity.attempt)
        tx.effects.append(CancelAttempt(activity.worker, token, "settled"))


def pause_activity(tx: Transition, request: PauseActivity) -> None:
    """No other attempt is started. One that runs goes on."""
    activity = pending(tx, request.activity_id)
    if activity.paused is None:
        tx.note(r.ActivityPaused(activity.event.id, request.reason, request.identity, tx.now))
        tx.remember(request)
    tx.reply = DONE


def unpause_activity(tx: Transition, request: UnpauseActivity) -> None:
    """It goes on where it was."""
    activity = pending(tx, request.activity_id)
    if activity.paused is not None:
        tx.note(r.ActivityUnpaused(activity.event.id, request.note, request.identity, tx.now))
        tx.remember(request)
        offer_waiting(tx, activity)
    tx.reply = DONE


def reset_activity(tx: Transition, request: ResetActivity) -> None:
    """The policy counts from 1 again. What waits for its time, or for a person, is tried at once; what is paused stays
    so."""
    activity = pending(tx, request.activity_id)
    waited = activity.status == "scheduled"
    scheduled = activity.event.id
    tx.note(r.ActivityReset(scheduled, request.note, request.identity, tx.now, request.keep_heartbeat))
    tx.remember(request)
    if not waited:
        offer_waiting(tx, activity)
    tx.reply = DONE


def change_options(tx: Transition, request: UpdateActivityOptions) -> None:
    """Other options from now on. A running attempt is measured by the new timeouts, too."""
    if request.retry_policy is not None and (wrong := wrong_policy(request.retry_policy)):
        raise InvalidRequest(f"retry_policy: {wrong}")
    options = (
        request.task_queue,
        request.retry_policy,
        request.start_to_close_timeout,
        request.schedule_to_close_timeout,
        request.schedule_to_start_timeout,
        request.heartbeat_timeout,
    )
    if all(option is None for option in options):
        raise InvalidRequest("no option is given that is to be changed")
    activity = pending(tx, request.activity_id)
    tx.note(r.ActivityOptionsChanged(activity.event.id, request.note, request.identity, tx.now, *options))
    tx.remember(request)
    if request.task_queue is not None:
        offer_waiting(tx, activity)  # in the other queue; where it waited, it is found not to wait any more
    tx.reply = DONE


def offer_waiting(tx: Transition, activity: PendingActivity) -> None:
    """Offer an activity if it waits for a worker."""
    if activity.status == "scheduled":
        offer(tx, activity)
