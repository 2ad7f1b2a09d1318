"""How what persons do changes the state: releases, pauses, resets, other options. A part of `evolve`."""

from __future__ import annotations

from perdure.limits import MAX_INTERVENTIONS
from perdure.model import records as r
from perdure.model.requests import Action, Intervention, Pause
from perdure.model.state import PendingActivity, State


# --- The run --------------------------------------------------------------------------------------------
def run_paused(state: State, record: r.RunPaused) -> None:
    state.paused = Pause(record.time, record.identity, record.reason)
    keep(state, Intervention(record.time, record.identity, "", "paused", record.reason))


def run_resumed(state: State, record: r.RunResumed) -> None:
    state.paused = None
    for activity in state.activities.values():
        if activity.status == "scheduled":
            activity.queued_at = record.time  # no worker could have taken it meanwhile
    keep(state, Intervention(record.time, record.identity, "", "resumed", record.note))


def run_released(state: State, record: r.RunReleased) -> None:
    state.held = ""
    state.released_events, state.released_bytes = record.events, record.bytes
    keep(state, Intervention(record.time, record.identity, "", "released", record.note))


def run_forked(state: State, record: r.RunForked) -> None:
    state.forked_at = record.time
    state.released_events, state.released_bytes = record.events, record.bytes
    for activity in state.activities.values():  # as if they had been asked for now
        activity.queued_at = record.time
        activity.held_for = max(0, record.time - activity.event.time)
    keep(state, Intervention(record.time, record.identity, "", "reset", record.reason))


# --- One activity ---------------------------------------------------------------------------------------
def activity_released(state: State, record: r.ActivityReleased) -> None:
    activity = state.activities[record.scheduled_event_id]
    _intervened(state, activity, record, "released", record.note)
    if activity.status == "held":
        _begin_anew(activity, record.time)
    _wait_for_worker(activity, record.time)
    _change(activity, record)


def activity_settled(state: State, record: r.ActivitySettled) -> None:
    # The outcome follows as an event.
    _intervened(state, state.activities[record.scheduled_event_id], record, record.how, record.note)


def activity_paused(state: State, record: r.ActivityPaused) -> None:
    activity = state.activities[record.scheduled_event_id]
    activity.paused = Pause(record.time, record.identity, record.reason)
    _intervened(state, activity, record, "paused", record.reason)


def activity_unpaused(state: State, record: r.ActivityUnpaused) -> None:
    activity = state.activities[record.scheduled_event_id]
    activity.paused = None
    if activity.status == "scheduled":
        activity.queued_at = record.time
    _intervened(state, activity, record, "resumed", record.note)


def activity_reset(state: State, record: r.ActivityReset) -> None:
    activity = state.activities[record.scheduled_event_id]
    _intervened(state, activity, record, "reset", record.note)
    if activity.status == "held":
        _begin_anew(activity, record.time)
    else:
        activity.attempts_before = activity.attempt - 1
    if activity.status == "started":
        activity.was_reset = True
    else:
        _wait_for_worker(activity, record.time)
    if not record.keep_heartbeat:
        activity.heartbeat = ()


def activity_options_changed(state: State, record: r.ActivityOptionsChanged) -> None:
    activity = state.activities[record.scheduled_event_id]
    _intervened(state, activity, record, "changed", record.note)
    if record.task_queue is not None:
        activity.task_queue = record.task_queue
    if record.schedule_to_start_timeout is not None:
        activity.schedule_to_start_timeout = record.schedule_to_start_timeout
    _change(activity, record)


def _begin_anew(activity: PendingActivity, time: int) -> None:
    """A held activity has another attempt, and a person's word gives the policy a fresh start."""
    activity.held_for += max(0, time - activity.held_at)
    activity.attempts_before = activity.attempt
    activity.attempt += 1


def _wait_for_worker(activity: PendingActivity, time: int) -> None:
    activity.status = "scheduled"
    activity.queued_at = time
    activity.hold_reason, activity.held_at, activity.next_attempt_at = "", 0, 0


def _change(activity: PendingActivity, record: r.ActivityReleased | r.ActivityOptionsChanged) -> None:
    if record.retry_policy is not None:
        activity.retry_policy = record.retry_policy
    if record.start_to_close_timeout is not None:
        activity.start_to_close_timeout = record.start_to_close_timeout
    if record.schedule_to_close_timeout is not None:
        activity.schedule_to_close_timeout = record.schedule_to_close_timeout
    if record.heartbeat_timeout is not None:
        activity.heartbeat_timeout = record.heartbeat_timeout


def _intervened(
    state: State,
    activity: PendingActivity,
    record: r.ActivityReleased
    | r.ActivitySettled
    | r.ActivityPaused
    | r.ActivityUnpaused
    | r.ActivityReset
    | r.ActivityOptionsChanged,
    action: Action,
    note: str,
) -> None:
    keep(state, Intervention(record.time, record.identity, activity.event.activity_id, action, note))


def keep(state: State, done: Intervention) -> None:
    """Remember what a person did, to be shown."""
    state.interventions.append(done)
    del state.interventions[:-MAX_INTERVENTIONS]
