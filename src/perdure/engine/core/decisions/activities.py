"""Activities: handing attempts to workers, and what comes back.

::

    scheduled ──StartActivity──▶ started ──completion──▶ (outcome)
        ▲                          │ failure, timeout, lost worker
        │ due                      ├──▶ backing off ──┐
        └──────────────────────────┼──────────────────┘
        ▲ release                  └──▶ held ──┐
        └──────────────────────────────────────┘
"""

from __future__ import annotations

from typing import Final

from perdure.engine.core.deadlines import Beat, limits_of
from perdure.engine.core.effects import ActivityOffer, CancelAttempt, HandOver, KeepSoon, Tell
from perdure.engine.core.execution import Execution
from perdure.engine.core.inputs import KeepBeats, StartActivity, WorkersLost
from perdure.engine.core.retries import HoldFor, Retry, after_failure, told
from perdure.engine.core.transition import Transition
from perdure.errors import NotFound
from perdure.limits import HEARTBEAT_JOURNAL_INTERVAL
from perdure.model import events as e
from perdure.model import records as r
from perdure.model.failures import Failure
from perdure.model.payloads import Payload
from perdure.model.state import PendingActivity, State
from perdure.model.tasks import (
    ActivityCancellation,
    ActivityCompletion,
    ActivityEvicted,
    ActivityFailure,
    ActivityHeartbeat,
    ActivityTask,
    ActivityToken,
)

TIMED_OUT: Final = ("perdure.errors.ActivityTimedOut", "perdure.errors.ActivityError", "builtins.TimeoutError")
"""The classes that a timeout is an instance of in the workflow's code, for policies that name them."""


def offer(tx: Transition, activity: PendingActivity) -> None:
    """An attempt may start as soon as a worker has a slot; unless it, or the run, is paused: then when it goes on."""
    if tx.state.paused is None and activity.paused is None:
        event = activity.event
        queue = activity.task_queue or event.task_queue
        tx.offers.append(ActivityOffer(event.id, activity.attempt, queue, event.priority))


def waits(state: State, activity: PendingActivity, attempt: int) -> bool:
    """Whether an attempt waits for a worker."""
    paused = state.paused is not None or activity.paused is not None
    return activity.status == "scheduled" and activity.attempt == attempt and not paused


def start(tx: Transition, start: StartActivity) -> None:
    """Hand an attempt to the worker that has a slot for it: in a transition of its own, or in the one that offers it.

    Raises NotFound where it does not wait any more.
    """
    activity = tx.state.activities.get(start.scheduled_event_id)
    if activity is None or not waits(tx.state, activity, start.attempt):
        raise NotFound("that attempt does not wait for a worker any more")
    tx.note(r.ActivityAttemptStarted(start.scheduled_event_id, start.attempt, start.worker, tx.now))
    event = activity.event
    _, _, start_to_close, heartbeat = limits_of(activity)
    tx.effects.append(
        HandOver(
            start.worker,
            ActivityTask(
                ActivityToken(tx.execution.ref, event.id, activity.attempt),
                event.activity_id,
                event.activity_type,
                tx.state.started.workflow_type,
                activity.task_queue or event.task_queue,
                event.input,
                event.time,
                tx.now,
                start_to_close,
                heartbeat,
                activity.heartbeat,
                activity.last_failure,
                event.header,
            ),
        )
    )


def attempt(execution: Execution, token: ActivityToken) -> PendingActivity:
    """The activity whose running attempt the token names. Raises NotFound for any other."""
    activity = execution.state.activities.get(token.scheduled_event_id)
    if (
        activity is None
        or activity.status != "started"
        or activity.attempt != token.attempt
        or token.run.run_id != execution.ref.run_id
    ):
        # Of one that is over, its event is all that is known.
        named = "" if activity is None else f"activity {activity.event.activity_id!r}"
        raise NotFound(
            f"attempt {token.attempt} of {named or f'the activity of event {token.scheduled_event_id}'} of workflow "
            f"{token.run.workflow_id!r} is not running: it timed out, was cancelled, or has an outcome"
        )
    return activity


def complete(tx: Transition, message: ActivityCompletion) -> None:
    """The running attempt returned."""
    resolve_completed(tx, attempt(tx.execution, message.token), message.result)


def resolve_completed(tx: Transition, activity: PendingActivity, result: Payload, identity: str = "") -> None:
    """The activity returned."""
    scheduled, started = activity.event.id, begin_outcome(tx, activity)
    tx.arrive(e.ActivityTaskCompleted(0, tx.now, scheduled, started, result, identity))
    tx.schedule_task()


def begin_outcome(tx: Transition, activity: PendingActivity) -> int:
    """Write the started event that goes before an outcome; its id, or 0 where the flush will know it, or where
    no attempt ever began."""
    tx.execution.beats.pop(activity.event.id, None)
    attempt = activity.attempt if activity.status in ("started", "held") else activity.attempt - 1
    if not attempt:
        return 0
    buffered = tx.execution.taken is not None
    tx.arrive(
        e.ActivityTaskStarted(
            0,
            tx.now,
            activity.event.id,
            attempt,
            activity.worker,
            activity.started_at,
            activity.last_failure,
        )
    )
    return 0 if buffered else tx.state.last_event_id


def fail(tx: Transition, message: ActivityFailure) -> None:
    """The running attempt raised."""
    attempt_failed(tx, attempt(tx.execution, message.token), message.failure)


def attempt_failed(tx: Transition, activity: PendingActivity, failure: Failure) -> None:
    """An attempt is over without a result: retry, hold or give up, as its policy says."""
    keep_beat(tx, activity)
    scheduled = activity.event.id
    verdict = after_failure(tx.execution.ref.run_id, activity, failure, tx.now)
    if not isinstance(verdict, Retry) or failure.is_news(activity.last_failure, activity.attempt):
        what = f"attempt {activity.attempt} of activity {activity.event.activity_type} ({activity.event.activity_id})"
        usual = failure.kind == "worker_lost" and isinstance(verdict, Retry)
        tx.effects.append(Tell(what, failure, told(verdict, tx.now), usual))
    if isinstance(verdict, Retry):
        counts = failure.kind != "unread"
        tx.note(r.ActivityAttemptFailed(scheduled, activity.attempt, failure, verdict.at, tx.now, counts))
        if verdict.at <= tx.now:
            tx.note(r.ActivityAttemptDue(scheduled, tx.now))
            offer(tx, activity)
        return
    if isinstance(verdict, HoldFor):
        tx.note(r.ActivityHeld(scheduled, verdict.reason, failure, tx.now))
        return
    started = begin_outcome(tx, activity)
    outcome = e.ActivityTaskTimedOut if failure.kind == "timeout" else e.ActivityTaskFailed
    tx.arrive(outcome(0, tx.now, scheduled, started, failure, verdict.why))
    tx.schedule_task()


def timed_out(tx: Transition, activity: PendingActivity, timeout: str) -> None:
    """One of its timeouts has passed. Only those of one attempt may be followed by another."""
    event = activity.event
    if activity.status == "started":
        token = ActivityToken(tx.execution.ref, event.id, activity.attempt)
        tx.effects.append(CancelAttempt(activity.worker, token, "timed_out"))
    what = f"activity {event.activity_type} ({event.activity_id}), attempt {activity.attempt}"
    last = activity.last_failure
    failure = Failure(f"{what}: {timeout} timeout", (timeout, *TIMED_OUT), "timeout", cause=last)
    if timeout in ("start_to_close", "heartbeat"):
        attempt_failed(tx, activity, failure)
        return
    started = begin_outcome(tx, activity)
    tx.arrive(e.ActivityTaskTimedOut(0, tx.now, event.id, started, failure, "timeout"))
    tx.schedule_task()


def cancelled(tx: Transition, message: ActivityCancellation) -> None:
    """The running attempt stopped because it was told to."""
    activity = attempt(tx.execution, message.token)
    if activity.cancel_requested:
        resolve_cancelled(tx, activity)
    else:  # nobody has told it to: it has let go
        evicted(tx, ActivityEvicted(message.token))


def resolve_cancelled(tx: Transition, activity: PendingActivity) -> None:
    """The activity stopped because its workflow no longer wants it."""
    scheduled, started = activity.event.id, begin_outcome(tx, activity)
    tx.arrive(e.ActivityTaskCanceled(0, tx.now, scheduled, started))
    tx.schedule_task()


def heartbeat(tx: Transition, message: ActivityHeartbeat) -> None:
    """Alive. The sign of life stays in memory; the details are journaled now and then."""
    activity = attempt(tx.execution, message.token)
    tx.execution.beats[activity.event.id] = Beat(tx.now, message.details)
    *_, heartbeat_timeout = limits_of(activity)
    # How far it came, the next attempt is to know, though this process may be killed; that it is alive, is no news.
    known = message.details == activity.heartbeat
    interval = max(HEARTBEAT_JOURNAL_INTERVAL, heartbeat_timeout // 2 if known else 0)
    if tx.now - activity.heartbeat_at >= interval:
        keep_beat(tx, activity)
    elif not known:
        tx.effects.append(KeepSoon())


def keep_beat(tx: Transition, activity: PendingActivity) -> None:
    """Journal what only memory knows of how far an attempt came."""
    beat = tx.execution.beats.pop(activity.event.id, None)
    if beat is not None:
        tx.note(r.HeartbeatRecorded(activity.event.id, activity.attempt, beat.details, beat.time))


def keep_beats(tx: Transition, _: KeepBeats) -> None:
    """Journal all that only memory knows of how far attempts came."""
    for scheduled in list(tx.execution.beats):
        keep_beat(tx, tx.state.activities[scheduled])


def evicted(tx: Transition, message: ActivityEvicted) -> None:
    """The worker let go without an outcome, in good order. That costs the activity none of its attempts,
    unless it has only one, which was begun: it may have had its effect, and must not have it twice."""
    activity = attempt(tx.execution, message.token)
    if message.worker and message.worker != activity.worker:
        raise NotFound(f"attempt {activity.attempt} of activity {activity.event.activity_id!r} is another worker's")
    policy = activity.retry_policy or activity.event.retry_policy
    if (policy.maximum_attempts == 1 and message.begun) or activity.cancel_requested:
        lose(tx, activity, "its worker stopped")
        return
    keep_beat(tx, activity)
    failure = Failure("its worker stopped", ("perdure.errors.WorkerLost",), "worker_lost")
    tx.note(r.ActivityAttemptFailed(activity.event.id, activity.attempt, failure, tx.now, tx.now, counts=False))
    tx.note(r.ActivityAttemptDue(activity.event.id, tx.now))
    offer(tx, activity)


def workers_lost(tx: Transition, lost: WorkersLost) -> None:
    """Attempts on workers that are gone are over."""
    for activity in list(tx.state.activities.values()):
        if (
            activity.status == "started"
            and not activity.detached
            and not lost.alive(activity.worker, activity.started_at)
        ):
            lose(tx, activity, f"its worker {activity.worker} is gone")


def lose(tx: Transition, activity: PendingActivity, why: str) -> None:
    """An attempt that nobody works on any more. It counts: it may have had its effect."""
    event = activity.event
    text = f"attempt {activity.attempt} of activity {event.activity_type} ({event.activity_id}) was lost: {why}"
    # Nothing is wrong with the other side, so there is nothing to back off from.
    failure = Failure(text, ("perdure.errors.WorkerLost",), "worker_lost", next_retry_delay=0)
    if activity.cancel_requested:
        resolve_cancelled(tx, activity)
    else:
        attempt_failed(tx, activity, failure)
