"""Schedules: what starts workflows at recurring times, as clients ask for it and as it is kept.

A schedule is an execution of its own, without code: it has a journal, a snapshot, a version and a `wake_at` like any
other, its id is its workflow id, and the namespace of its chain is :func:`schedules_of` that of its workflows. So ids
of schedules and of workflows never meet, and listings of one don't show the other.

Times and durations are microseconds, 0: none, unless it is said otherwise.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from perdure.limits import DEFAULT_CATCHUP_WINDOW
from perdure.model.failures import Failure
from perdure.model.payloads import Payload
from perdure.model.requests import Done, Intervention, ListPage, Pause, Request, Started, StartWorkflow, Status

Overlap = Literal["skip", "buffer_one", "buffer_all", "cancel_other", "terminate_other", "allow_all"]
"""What becomes of a start that is due while what was started before runs."""

PREFIX: Final = "schedules/"
"""What the namespaces of schedules begin with, and no other."""


def schedules_of(namespace: str) -> str:
    """The namespace of the schedules that start workflows in a namespace."""
    return PREFIX + namespace


def namespace_of(schedules: str) -> str:
    """The namespace of the workflows that the schedules of a namespace start."""
    return schedules.removeprefix(PREFIX)


# --- What a schedule is -------------------------------------------------------------------------------------
class CalendarSpec(Struct, frozen=True, array_like=True, gc=False):
    """Wall times by their fields, as texts (see :mod:`perdure.calendars`); "": the default."""

    second: str = ""
    minute: str = ""
    hour: str = ""
    day_of_month: str = ""
    month: str = ""
    year: str = ""
    day_of_week: str = ""


class IntervalSpec(Struct, frozen=True, array_like=True, gc=False):
    """Every so often since the epoch, `offset` later."""

    every: int
    offset: int = 0


class ScheduleSpec(Struct, frozen=True, array_like=True, gc=False):
    """When. All that is named adds up, but what `skip` matches is left out.

    start_at, end_at: no times before or after. jitter: each time is put off by up to so much, and always by the same.
    """

    crons: tuple[str, ...] = ()
    calendars: tuple[CalendarSpec, ...] = ()
    intervals: tuple[IntervalSpec, ...] = ()
    skip: tuple[CalendarSpec, ...] = ()
    time_zone: str = "UTC"
    start_at: int = 0
    end_at: int = 0
    jitter: int = 0


class Schedule(Struct, frozen=True, array_like=True, gc=False):
    """When, what, and how.

    start: the start, but for what each has of its own: its workflow_id is what theirs begin with, its request_id is
        unused.
    catchup_window: a time that could not be kept is made up for, if it isn't longer ago than this; else it is missed.
    remaining_actions: how often it starts something yet, beside what persons ask for; -1: without end.
    """

    spec: ScheduleSpec
    start: StartWorkflow
    overlap: Overlap = "skip"
    catchup_window: int = DEFAULT_CATCHUP_WINDOW
    pause_on_failure: bool = False
    remaining_actions: int = -1


# --- How it stands ------------------------------------------------------------------------------------------
class DueStart(Struct, frozen=True, array_like=True, gc=False):
    """A start whose time has come. time: the nominal one. manual: a person asked for it."""

    time: int
    overlap: Overlap
    manual: bool = False


class ScheduledRun(Struct, array_like=True):
    """What was started. time: the nominal one; begun_at: when it was done. status "": the start is on its way, or
    (with an error) was refused. asked: how it was asked to end."""

    time: int
    begun_at: int
    workflow_id: str
    manual: bool = False
    run_id: str = ""
    status: Status | Literal[""] = ""
    error: str = ""
    asked: Literal["", "cancel", "terminate"] = ""


class Backfill(Struct, array_like=True):
    """Times of the past that are still to be made up for: those after `after`, up to `end`."""

    after: int
    end: int
    overlap: Overlap
    asked_at: int


class ScheduleState(Struct, array_like=True):
    """A schedule, folded.

    created: when; its runs in the store, which follow one another, all say so. revision: how often it was defined.
    until: the nominal time up to which all was looked at. next_time: the next one, 0: none; next_at: with its jitter.
    buffer: starts that wait until what runs has ended. running: what was started and has not ended, by the start's id.
    recent: the last that have ended, the latest last.
    begun, missed, skipped, refused: how many starts were begun; were due too long ago; were left out by the overlap
        policy; were begun and refused. last_refusal: of which workflow id, and why.
    steps: records since the run in the store began.
    resets: of what was reset after its end, by the start's id, the last (see `events.ScheduleRef`), the latest last: by
        them, what is told late or twice is recognised.
    """

    schedule: Schedule
    created: int
    revision: int = 1
    until: int = 0
    next_time: int = 0
    next_at: int = 0
    remaining: int = -1
    buffer: list[DueStart] = []
    backfills: list[Backfill] = []
    running: dict[int, ScheduledRun] = {}
    recent: list[ScheduledRun] = []
    next_start_id: int = 1
    begun: int = 0
    missed: int = 0
    skipped: int = 0
    refused: int = 0
    last_result: Payload | None = None
    last_failure: Failure | None = None
    steps: int = 0
    last_refusal: str = ""
    resets: dict[int, int] = {}


# --- Replies ------------------------------------------------------------------------------------------------
class ScheduleDescription(Struct, frozen=True, gc=False):
    """What can be told of a schedule. next_times: the next few, with their jitter; as if it were not paused.

    running: cut where there are many; running_count says how many there are. backfills: how many are under way.
    started: those of `begun` that exist, or have existed.
    """

    schedule_id: str
    schedule: Schedule
    revision: int
    created: int
    next_times: tuple[int, ...]
    running: tuple[ScheduledRun, ...]
    running_count: int
    recent: tuple[ScheduledRun, ...]
    buffered: tuple[DueStart, ...]
    backfills: int
    started: int
    missed: int
    skipped: int
    refused: int
    remaining: int
    paused: Pause | None = None
    interventions: tuple[Intervention, ...] = ()
    last_failure: Failure | None = None
    last_refusal: str = ""


# --- Requests: workflow_id is the schedule's id, namespace that of its workflows ----------------------------
class CreateSchedule(Request[Started], frozen=True, gc=False, tag="create_schedule"):
    """Make a schedule. paused: it starts nothing until it is unpaused."""

    schedule: Schedule
    request_id: str
    paused: bool = False
    note: str = ""
    identity: str = ""


class UpdateSchedule(Request[Done], frozen=True, gc=False, tag="update_schedule"):
    """Put another definition in the place of the one with this revision; 0: whichever there is.

    keep_start: what it starts stays what it is; the schedule's `start` is not looked at.
    """

    schedule: Schedule
    request_id: str
    revision: int = 0
    note: str = ""
    identity: str = ""
    keep_start: bool = False


class PauseSchedule(Request[Done], frozen=True, gc=False, tag="pause_schedule"):
    """Start nothing more, but what a person asks for."""

    request_id: str
    note: str = ""
    identity: str = ""


class UnpauseSchedule(Request[Done], frozen=True, gc=False, tag="unpause_schedule"):
    """Go on with the times from now on."""

    request_id: str
    note: str = ""
    identity: str = ""


class TriggerSchedule(Request[Done], frozen=True, gc=False, tag="trigger_schedule"):
    """One start now, paused or not. overlap: by default the schedule's."""

    request_id: str
    overlap: Overlap | None = None
    note: str = ""
    identity: str = ""


class BackfillSchedule(Request[Done], frozen=True, gc=False, tag="backfill_schedule"):
    """Start what would have been due from one time of the past to another, both included. overlap: "" is the
    schedule's."""

    request_id: str
    start: int
    end: int
    overlap: Overlap | None = None
    note: str = ""
    identity: str = ""


class DeleteSchedule(Request[Done], frozen=True, gc=False, tag="delete_schedule"):
    """End the schedule. What it has started goes on."""

    request_id: str
    note: str = ""
    identity: str = ""


class DescribeSchedule(Request[ScheduleDescription], frozen=True, gc=False, tag="describe_schedule"):
    """Tell how it stands."""


class ListSchedules(Request[ListPage], frozen=True, gc=False, tag="list_schedules"):
    """A page of schedules, the latest made first. `workflow_id` is unused.

    query: as that of `ListWorkflows`; WorkflowId is the schedule's id, WorkflowType what it starts, Paused
        whether it is.
    """

    query: str = ""
    page: str = ""
    limit: int = 0


ScheduleRequest = (
    CreateSchedule
    | UpdateSchedule
    | PauseSchedule
    | UnpauseSchedule
    | TriggerSchedule
    | BackfillSchedule
    | DeleteSchedule
    | DescribeSchedule
    | ListSchedules
)
"""Every request about schedules."""
