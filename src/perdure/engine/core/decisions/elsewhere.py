"""Attempts that are completed from elsewhere: a worker began them, and a client reports how they end.

::

    started ──ActivityDetached──▶ started, in no worker's hands ──SettleAttempt──▶ (outcome, or another attempt)
                                     ▲──HeartbeatAttempt──┘

Its timeouts count on, and nobody's death ends it. A report may be faster than the worker is to let go; so it counts
from when the attempt is started.
"""

from __future__ import annotations

from perdure.engine.core.decisions import activities
from perdure.engine.core.decisions.holds import pending
from perdure.engine.core.decisions.messages import DONE, require_open
from perdure.engine.core.transition import Transition
from perdure.errors import InvalidRequest, NotFound
from perdure.model import records as r
from perdure.model.requests import AttemptState, HeartbeatAttempt, SettleAttempt
from perdure.model.state import PendingActivity
from perdure.model.tasks import ActivityCancellation, ActivityDetached, ActivityToken


def detach(tx: Transition, message: ActivityDetached) -> None:
    """The worker has let an attempt go, which goes on."""
    activity = activities.attempt(tx.execution, message.token)
    if not activity.detached:
        activities.keep_beat(tx, activity)
        tx.note(r.ActivityAttemptDetached(activity.event.id, activity.attempt, tx.now))


def settle(tx: Transition, request: SettleAttempt) -> None:
    """The attempt is over."""
    activity = _running(tx, request)
    if request.result is not None and request.failure is not None:
        raise InvalidRequest("an attempt has a result or a failure, not both")
    if request.result is not None:
        activities.resolve_completed(tx, activity, request.result, request.identity)
    elif request.failure is not None:
        activities.attempt_failed(tx, activity, request.failure)
    else:
        _stopped(tx, activity)
    tx.remember(request)
    tx.reply = DONE


def _stopped(tx: Transition, activity: PendingActivity) -> None:
    token = ActivityToken(tx.execution.ref, activity.event.id, activity.attempt)
    if _state(tx, activity) == AttemptState():
        raise InvalidRequest(
            f"nobody asked activity {activity.event.activity_id!r} to stop: report that it failed, or its result"
        )
    activities.cancelled(tx, ActivityCancellation(token))


def heartbeat(tx: Transition, request: HeartbeatAttempt) -> None:
    """The attempt is alive. That is journaled, since whoever said so was told that it is known."""
    activity = _running(tx, request)
    beat = tx.execution.beats.pop(activity.event.id, None)
    details = request.details or (activity.heartbeat if beat is None else beat.details)
    tx.note(r.HeartbeatRecorded(activity.event.id, activity.attempt, details, tx.now))
    tx.reply = _state(tx, activity)


def _state(tx: Transition, activity: PendingActivity) -> AttemptState:
    paused = activity.paused is not None or tx.state.paused is not None
    return AttemptState(activity.cancel_requested, paused, activity.was_reset)


def _running(tx: Transition, request: SettleAttempt | HeartbeatAttempt) -> PendingActivity:
    """The activity whose running attempt is meant. Raises NotFound where it isn't running (any more)."""
    require_open(tx.execution)
    if not request.activity_id:
        return activities.attempt(
            tx.execution, ActivityToken(tx.execution.ref, request.scheduled_event_id, request.attempt)
        )
    activity = pending(tx, request.activity_id)
    if activity.status != "started":
        raise NotFound(f"activity {request.activity_id!r} is {activity.status}: no attempt of it is running")
    return activity
