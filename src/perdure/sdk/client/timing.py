"""When a schedule starts its workflow, as users write it, and as the engine has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, TypeVar, cast, get_args

from msgspec import Struct

from perdure.clock import DAY, HOUR, MICROSECOND, MINUTE, SECOND, from_datetime
from perdure.durations import Duration, microseconds
from perdure.limits import DEFAULT_CATCHUP_WINDOW
from perdure.model.requests import StartWorkflow
from perdure.model.schedules import CalendarSpec, IntervalSpec, Overlap, ScheduleSpec
from perdure.model.schedules import Schedule as EngineSchedule
from perdure.sdk.client.description import moment_or_none
from perdure.sdk.options import one_of, text, whole_number

Kind = TypeVar("Kind")

_OVERLAPS: Final = get_args(Overlap)
_MOST: Final = 1_000_000_000


class Calendar(Struct, frozen=True, kw_only=True):
    """Times of the clock and days of the calendar. Each field is a number or a text such as ``"1,15"``, ``"9-17"``,
    ``"*/15"`` or ``"mon-fri"``.

    Fields of the date that aren't given are any; those of the time are 0 (in `Schedule.skip`: any, so that a calendar
    there is whole days). A day of the month may be ``"L"``, the last one.
    """

    second: int | str = ""
    minute: int | str = ""
    hour: int | str = ""
    day_of_month: int | str = ""
    month: int | str = ""
    year: int | str = ""
    day_of_week: int | str = ""


class Interval(Struct, frozen=True, kw_only=True):
    """Every so often, counted from the epoch (so that "1h" is on the hour, UTC), `offset` later."""

    every: Duration
    offset: Duration = 0


class Schedule(Struct, frozen=True, kw_only=True):
    """When something is started, and how. All times that are named add up.

    ::

        Schedule(cron="0 3 * * mon-fri", time_zone="Europe/Zurich", jitter="5m")
        Schedule(every="15m", overlap="buffer_one")
        Schedule(calendars=[Calendar(hour=9, day_of_month="L")], skip=[Calendar(month=12, day_of_month="24-31")])

    Args:
        cron: one or more expressions of five fields (minute, hour, day of the month, month, day of the week).
        every, offset: an interval, counted from the epoch.
        calendars, intervals: more of them.
        skip: times that are left out.
        time_zone: which clocks `cron`, `calendars` and `skip` mean, by its IANA name. A time that clocks skip is kept
            when they jump; of one that comes twice, the first counts. Times of every hour follow elapsed time.
        start_at, end_at: no times before or after these.
        jitter: each time is put off by up to so much, but stays before the next one. The same time always by the same.
        overlap: what becomes of a start that is due while what was started before still runs: "skip" leaves it out,
            "buffer_one" lets one wait, "buffer_all" all, "cancel_other" and "terminate_other" end what runs and start
            then, "allow_all" starts at once.
        catchup_window: how long ago a time may be that could not be kept (since no engine ran) and is made up for; at
            least 10 s (`limits.MINIMUM_CATCHUP_WINDOW`), and a year by default.
        pause_on_failure: a workflow that fails or times out pauses the schedule.
        remaining_actions: how many starts are left, beside those that persons ask for; None: without end. A new
            schedule has at least one.
    """

    cron: str | Sequence[str] = ()
    every: Duration | None = None
    offset: Duration = 0
    calendars: Calendar | Sequence[Calendar] = ()
    intervals: Interval | Sequence[Interval] = ()
    skip: Calendar | Sequence[Calendar] = ()
    time_zone: str = "UTC"
    start_at: datetime | None = None
    end_at: datetime | None = None
    jitter: Duration = 0
    overlap: Overlap = "skip"
    catchup_window: Duration = DEFAULT_CATCHUP_WINDOW / SECOND
    pause_on_failure: bool = False
    remaining_actions: int | None = None


# --- To the engine ------------------------------------------------------------------------------------------
def engine_schedule(schedule: object, start: StartWorkflow) -> EngineSchedule:
    """A schedule as the engine has it. Raises TypeError or ValueError that names what is wrong."""
    if not isinstance(schedule, Schedule):
        raise TypeError(f"the schedule must be a Schedule, not {type(schedule).__name__}")
    intervals = list(_several(schedule.intervals, Interval, "intervals"))
    if schedule.every is not None:
        intervals.append(Interval(every=schedule.every, offset=schedule.offset))
    elif schedule.offset != 0:
        raise ValueError("offset is that of an interval: give `every`, too")
    if not isinstance(cast(object, schedule.pause_on_failure), bool):
        raise TypeError(f"pause_on_failure must be True or False, not {type(schedule.pause_on_failure).__name__}")
    spec = ScheduleSpec(
        tuple(_several(schedule.cron, str, "cron")),
        tuple(_calendar(each, "calendars") for each in _several(schedule.calendars, Calendar, "calendars")),
        tuple(
            IntervalSpec(microseconds(each.every, "every"), microseconds(each.offset, "offset")) for each in intervals
        ),
        tuple(_calendar(each, "skip") for each in _several(schedule.skip, Calendar, "skip")),
        text(schedule.time_zone, "time_zone"),
        0 if schedule.start_at is None else moment(schedule.start_at, "start_at"),
        0 if schedule.end_at is None else moment(schedule.end_at, "end_at"),
        microseconds(schedule.jitter, "jitter"),
    )
    remaining = schedule.remaining_actions
    return EngineSchedule(
        spec,
        start,
        one_of(schedule.overlap, "overlap", _OVERLAPS),
        microseconds(schedule.catchup_window, "catchup_window"),
        schedule.pause_on_failure,
        -1 if remaining is None else whole_number(remaining, "remaining_actions", 0, _MOST),
    )


def overlap_or_default(overlap: Overlap | None) -> Overlap | None:
    """An overlap policy, if one is given. Raises ValueError."""
    return None if overlap is None else one_of(overlap, "overlap", _OVERLAPS)


def moment(time: object, what: str) -> int:
    """A moment in microseconds since the epoch. Raises TypeError, or ValueError where it has no zone."""
    if not isinstance(time, datetime):
        raise TypeError(f"{what} must be a datetime, not {type(time).__name__}")
    if time.tzinfo is None:
        raise ValueError(f"{what} has no time zone: write datetime(…, tzinfo=UTC), or of another zone")
    return from_datetime(time)


def _several(values: object, kind: type[Kind], what: str) -> Sequence[Kind]:
    if isinstance(values, kind):
        return (values,)
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise TypeError(f"{what} must be a {kind.__name__} or several, not {type(values).__name__}")
    for each in cast("Sequence[object]", values):
        if not isinstance(each, kind):
            raise TypeError(f"{what} must hold {kind.__name__}, not {type(each).__name__}")
    return cast("Sequence[Kind]", values)


def _calendar(calendar: Calendar, what: str) -> CalendarSpec:
    return CalendarSpec(*[_field(getattr(calendar, name), f"{what}: {name}") for name in Calendar.__struct_fields__])


def _field(value: object, what: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a number or text, not {type(value).__name__}")
    return value


# --- Back ---------------------------------------------------------------------------------------------------
def user_schedule(schedule: EngineSchedule, remaining: int) -> Schedule:
    """A schedule as users write it."""
    spec = schedule.spec
    only = spec.intervals[0] if len(spec.intervals) == 1 else None
    return Schedule(
        cron=spec.crons[0] if len(spec.crons) == 1 else spec.crons,
        every=None if only is None else written(only.every),
        offset=0 if only is None or not only.offset else written(only.offset),
        calendars=tuple(_user_calendar(each) for each in spec.calendars),
        intervals=()
        if only is not None
        else tuple(Interval(every=written(each.every), offset=written(each.offset)) for each in spec.intervals),
        skip=tuple(_user_calendar(each) for each in spec.skip),
        time_zone=spec.time_zone,
        start_at=moment_or_none(spec.start_at),
        end_at=moment_or_none(spec.end_at),
        jitter=written(spec.jitter) if spec.jitter else 0,
        overlap=schedule.overlap,
        catchup_window=written(schedule.catchup_window),
        pause_on_failure=schedule.pause_on_failure,
        remaining_actions=None if remaining < 0 else remaining,
    )


def _user_calendar(spec: CalendarSpec) -> Calendar:
    fields: Mapping[str, str] = {name: getattr(spec, name) for name in spec.__struct_fields__}
    return Calendar(**fields)


def written(duration: int) -> str:
    """A duration as people write it: "1h30m"."""
    parts: list[str] = []
    for unit, size in (("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", SECOND), ("us", MICROSECOND)):
        count, duration = divmod(duration, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
