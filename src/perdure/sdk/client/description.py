"""What a person wants to know of a workflow: the model's replies with times, texts and values."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from perdure.clock import to_datetime
from perdure.errors import CodecError
from perdure.model.events import SearchValue
from perdure.model.failures import HIDDEN, Failure
from perdure.model.payloads import Payload
from perdure.model.requests import (
    Action,
    ActivityStatus,
    Description,
    Intervention,
    ListedWorkflow,
    Pause,
    PendingActivityInfo,
    Status,
    WorkflowTaskInfo,
)
from perdure.sdk.converter import decode


class WorkflowRow(Struct, frozen=True, kw_only=True):
    """One workflow of a listing. Times are in UTC."""

    id: str
    run_id: str
    workflow_type: str
    status: Status
    start_time: datetime
    close_time: datetime | None


class PauseDescription(Struct, frozen=True, kw_only=True):
    """A pause: since when, by whom and why."""

    since: datetime
    identity: str
    reason: str


class ActivityDescription(Struct, frozen=True, kw_only=True):
    """An activity that has no outcome yet. Times are in UTC."""

    activity_id: str
    activity_type: str
    status: ActivityStatus
    attempt: int
    maximum_attempts: int | None
    """None: without end."""
    scheduled_time: datetime
    started_time: datetime | None
    next_attempt_time: datetime | None
    """When it is tried again, while it is backing off."""
    last_failure: str | None
    """What the last attempt failed with, as "type: message"."""
    hold_reason: str | None
    """Why it waits for a person, while it is held."""
    held_since: datetime | None
    heartbeat_details: tuple[object, ...]
    worker: str | None
    cancel_requested: bool
    paused: PauseDescription | None
    """Since when, by whom and why no other attempt is started."""
    detached: bool
    """Whether the attempt that runs is in no worker's hands: it is completed from elsewhere."""


class WorkflowTaskDescription(Struct, frozen=True, kw_only=True):
    """News that the workflow's code has not taken yet, or that it fails on. Times are in UTC."""

    attempt: int
    scheduled_time: datetime
    next_attempt_time: datetime | None
    failure: str | None
    """The bug that the last attempt failed with, as "type: message"."""
    location: str | None
    """The last line of the user's code in the bug's traceback, as "file:line"."""
    traceback: str | None


class UpdateDescription(Struct, frozen=True, kw_only=True):
    """An update that has no answer yet. accepted: its handler runs; else it waits for the workflow's code."""

    id: str
    name: str
    accepted: bool


class InterventionDescription(Struct, frozen=True, kw_only=True):
    """What a person did about an activity, or (without an activity_id) about the run: who, when, and why."""

    time: datetime
    identity: str
    activity_id: str
    action: Action
    note: str


class WorkflowDescription(Struct, frozen=True, kw_only=True):
    """A run, as it is now. Times are in UTC."""

    id: str
    run_id: str
    workflow_type: str
    task_queue: str
    status: Status
    start_time: datetime
    close_time: datetime | None
    failure: str | None
    """Why it is closed, where it has not completed, as "type: message"."""
    failure_location: str | None
    """The last line of the user's code in the failure's traceback, as "file:line"."""
    history_length: int
    history_bytes: int
    activities: tuple[ActivityDescription, ...]
    """Those that are held, those that failed before, then the others; the first 1,000 of them."""
    pending_activities: int
    """How many there are."""
    timers: tuple[datetime, ...]
    """When its timers fire, the next one first; the first 1,000 of them."""
    pending_timers: int
    """How many there are."""
    workflow_task: WorkflowTaskDescription | None
    pending_updates: tuple[UpdateDescription, ...]
    buffered: int
    """Messages and outcomes that wait until the workflow task that is open is over."""
    hold_reason: str | None
    """Why the run itself waits for a person: it reached a hard limit."""
    parent_id: str | None
    memo: dict[str, object]
    search_attributes: dict[str, SearchValue]
    interventions: tuple[InterventionDescription, ...]
    """What persons did about it and its activities, the latest last."""
    paused: PauseDescription | None
    """Since when, by whom and why its code is given nothing, and no attempts of its activities are started."""
    attempt: int
    """How often the workflow was tried, by its retry policy."""
    begins: datetime | None
    """When a delayed start begins, until it has."""
    unserved: tuple[str, ...]
    """Why tasks that wait are not begun, where that is for want of a worker."""
    schedule_id: str | None
    """The schedule that has started it."""
    scheduled_time: datetime | None
    """The nominal time that it was started for."""


def describe(reply: Description) -> WorkflowDescription:
    """A description for people."""
    return WorkflowDescription(
        id=reply.workflow_id,
        run_id=reply.run_id,
        workflow_type=reply.workflow_type,
        task_queue=reply.task_queue,
        status=reply.status,
        start_time=to_datetime(reply.start_time),
        close_time=moment_or_none(reply.close_time),
        failure=_text(reply.failure),
        failure_location=_location(reply.failure),
        history_length=reply.history_events,
        history_bytes=reply.history_bytes,
        activities=tuple([_activity(each) for each in reply.activities]),
        pending_activities=reply.pending_activities,
        timers=tuple([to_datetime(each) for each in reply.timers]),
        pending_timers=reply.pending_timers,
        workflow_task=None if reply.workflow_task is None else _workflow_task(reply.workflow_task),
        pending_updates=tuple(
            [UpdateDescription(id=u.update_id, name=u.name, accepted=u.accepted) for u in reply.pending_updates]
        ),
        buffered=reply.buffered,
        hold_reason=reply.held or None,
        parent_id=None if reply.parent is None else reply.parent.workflow_id,
        memo={name: _value(payload, f"memo {name!r}") for name, payload in (reply.memo or {}).items()},
        search_attributes=reply.search_attributes or {},
        interventions=tuple([intervention_of(each) for each in reply.interventions]),
        paused=pause_of(reply.paused),
        attempt=reply.attempt,
        begins=moment_or_none(reply.start_at),
        unserved=reply.unserved,
        schedule_id=None if reply.scheduled_by is None else reply.scheduled_by.schedule_id,
        scheduled_time=None if reply.scheduled_by is None else to_datetime(reply.scheduled_by.time),
    )


def intervention_of(done: Intervention) -> InterventionDescription:
    """What a person did, for people."""
    return InterventionDescription(
        time=to_datetime(done.time),
        identity=done.identity,
        activity_id=done.activity_id,
        action=done.action,
        note=done.note,
    )


def row(listed: ListedWorkflow) -> WorkflowRow:
    """A row of a listing for people."""
    return WorkflowRow(
        id=listed.workflow_id,
        run_id=listed.run_id,
        workflow_type=listed.workflow_type,
        status=listed.status,
        start_time=to_datetime(listed.start_time),
        close_time=moment_or_none(listed.close_time),
    )


def _activity(info: PendingActivityInfo) -> ActivityDescription:
    return ActivityDescription(
        activity_id=info.activity_id,
        activity_type=info.activity_type,
        status=info.status,
        attempt=info.attempt,
        maximum_attempts=info.maximum_attempts or None,
        scheduled_time=to_datetime(info.scheduled_at),
        started_time=moment_or_none(info.started_at),
        next_attempt_time=moment_or_none(info.next_attempt_at),
        last_failure=_text(info.last_failure),
        hold_reason=_hold_reason(info) or None,
        held_since=moment_or_none(info.held_at),
        heartbeat_details=tuple([_value(each, "a heartbeat detail") for each in info.heartbeat_details]),
        worker=info.worker or None,
        cancel_requested=info.cancel_requested,
        paused=pause_of(info.paused),
        detached=info.detached,
    )


def _hold_reason(info: PendingActivityInfo) -> str:
    """Why it is held. The engine made that of a message that it may not have been able to read."""
    failure = info.last_failure
    return info.hold_reason if failure is None else info.hold_reason.replace(HIDDEN, failure.message)


def pause_of(pause: Pause | None) -> PauseDescription | None:
    """A pause for people."""
    if pause is None:
        return None
    return PauseDescription(since=to_datetime(pause.time), identity=pause.identity, reason=pause.reason)


def _workflow_task(info: WorkflowTaskInfo) -> WorkflowTaskDescription:
    failure = info.failure
    return WorkflowTaskDescription(
        attempt=info.attempt,
        scheduled_time=to_datetime(info.scheduled_at),
        next_attempt_time=moment_or_none(info.next_attempt_at),
        failure=_text(failure),
        location=_location(failure),
        traceback=(failure.story or None) if failure is not None else None,
    )


def _text(failure: Failure | None) -> str | None:
    return None if failure is None else failure.text


def _location(failure: Failure | None) -> str | None:
    return (failure.location or None) if failure is not None else None


def _value(payload: Payload, what: str) -> object:
    """A value; why it can't be decoded, where its codec or its key is missing: the rest can be told."""
    try:
        return decode(payload, object, what)
    except CodecError as error:
        return f"({error})"


def moment_or_none(microseconds: int) -> datetime | None:
    """A time in UTC; None for 0."""
    return to_datetime(microseconds) if microseconds else None
