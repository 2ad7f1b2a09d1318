"""The times of a schedule: the next one, and whether there can be any.

Computed from the specification and a time, nothing else: every node, and the same one after a crash, finds the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from perdure.calendars import (
    FIRST_YEAR,
    LAST_YEAR,
    Calendar,
    days_to,
    instant,
    iso,
    next_instant,
    parse_calendar,
    parse_cron,
    wall_time,
    zone,
)
from perdure.clock import DAY, SECOND
from perdure.errors import InvalidRequest
from perdure.limits import (
    MAX_DURATION,
    MINIMUM_CATCHUP_WINDOW,
    MINIMUM_INTERVAL,
    SCHEDULE_PARTS,
    SKIPPED_IN_A_ROW,
)
from perdure.model.schedules import CalendarSpec, IntervalSpec, Schedule, ScheduleSpec

LATEST: Final = days_to(LAST_YEAR + 1) * DAY
"""Times are before this one, and not before the epoch: a calendar knows no others."""

_Part = Callable[[int], int]
"""The first time of a part of a specification after another; 0: none."""


class Timetable:
    """The nominal times of a specification. Raises ValueError where a part of it can't be read."""

    def __init__(self, spec: ScheduleSpec) -> None:
        self._spec = spec
        self._zone = zone(spec.time_zone)
        self._skip = [_calendar(each, "skip", whole=True) for each in spec.skip]
        self._calendars: list[Calendar] = []
        self.parts: list[tuple[str, _Part]] = list(self._parts())

    def next(self, after: int) -> int:
        """The first time after another, both in microseconds; 0: there is none."""
        spec = self._spec
        after = max(after, spec.start_at - 1)
        for _ in range(SKIPPED_IN_A_ROW + 1):
            times = [time for _, part in self.parts if (time := part(after))]
            if not times or (spec.end_at and min(times) > spec.end_at):
                return 0
            found = min(times)
            passed = self._passed_over(found)
            if not passed:
                return found
            after = passed
        return 0

    def most(self, begin: int, end: int, enough: int) -> int:
        """How many times lie between two others, both included: no more than this, what is excluded among them; not
        exact beyond `enough`. Quick, also where they are millions."""
        spec = self._spec
        begin, end = max(begin, spec.start_at), min(end, spec.end_at or end)
        if begin > end:
            return 0
        first, last = (wall_time(time // SECOND, self._zone) for time in (begin, end))
        count = sum(end // each.every - begin // each.every + 1 for each in spec.intervals)
        for calendar in self._calendars:
            if count > enough:
                break
            count += calendar.most(first, max(first, last), enough)
        return count

    def _passed_over(self, time: int) -> int:
        """The last moment of what is excluded around a time; 0: it isn't."""
        if not self._skip:
            return 0
        wall = wall_time(time // SECOND, self._zone)
        ends = [each.end_of(wall) for each in self._skip if each.has(wall)]
        if not ends:
            return 0
        # Where clocks are set back, that may be a time that is over already.
        return max(instant(max(ends), self._zone) * SECOND - 1, time)

    def _parts(self) -> Iterator[tuple[str, _Part]]:
        for text in self._spec.crons:
            for calendar in parse_cron(text):
                yield f"cron {text!r}", self._calendar_part(calendar)
        for spec in self._spec.calendars:
            yield f"calendar {written(spec)}", self._calendar_part(_calendar(spec, "calendar", whole=False))
        for interval in self._spec.intervals:
            yield f"interval of {interval.every / SECOND:g} s", _interval_part(interval)

    def _calendar_part(self, calendar: Calendar) -> _Part:
        self._calendars.append(calendar)

        def following(after: int) -> int:
            return (next_instant(calendar, self._zone, after // SECOND) or 0) * SECOND

        return following


def _interval_part(interval: IntervalSpec) -> _Part:
    every, offset = interval.every, interval.offset

    def following(after: int) -> int:
        return ((after - offset) // every + 1) * every + offset

    return following


def _calendar(spec: CalendarSpec, what: str, *, whole: bool) -> Calendar:
    try:
        return parse_calendar(
            spec.second,
            spec.minute,
            spec.hour,
            spec.day_of_month,
            spec.month,
            spec.year,
            spec.day_of_week,
            whole=whole,
        )
    except ValueError as error:
        raise ValueError(f"{what} {written(spec)}: {error}") from None


def written(spec: CalendarSpec) -> str:
    """A calendar as users write it."""
    fields = {name: getattr(spec, name) for name in spec.__struct_fields__}
    return f"({', '.join(f'{name}={text!r}' for name, text in fields.items() if text)})"


@lru_cache(maxsize=1024)
def timetable(spec: ScheduleSpec) -> Timetable:
    """The timetable of a specification. Raises ValueError where it can't be read."""
    return Timetable(spec)


def with_jitter(spec: ScheduleSpec, schedule_id: str, nominal: int) -> int:
    """When a nominal time is acted on: up to the jitter later, but before the next one. It is always the same."""
    if not spec.jitter or not nominal:
        return nominal
    following = timetable(spec).next(nominal)
    room = min(spec.jitter, following - nominal) if following else spec.jitter
    drawn = int.from_bytes(blake2b(f"{schedule_id}/{nominal}".encode(), digest_size=4).digest(), "big")
    return nominal + room * drawn // 2**32


def upcoming(spec: ScheduleSpec, schedule_id: str, after: int, count: int) -> Iterator[int]:
    """The next few times, with their jitter."""
    table = timetable(spec)
    for _ in range(count):
        after = table.next(after)
        if not after:
            return
        yield with_jitter(spec, schedule_id, after)


# --- What is refused ------------------------------------------------------------------------------------
def check_schedule(schedule: Schedule, now: int, before: ScheduleSpec | None = None) -> None:
    """Raises InvalidRequest where a schedule makes no sense, or can never start anything; where its times are those
    that it had before, it may be over."""
    spec = schedule.spec
    if schedule.catchup_window < MINIMUM_CATCHUP_WINDOW:
        raise InvalidRequest(
            f"catchup_window must be at least {MINIMUM_CATCHUP_WINDOW // SECOND} s "
            f"(limits.MINIMUM_CATCHUP_WINDOW), not {schedule.catchup_window / SECOND:g} s"
        )
    if schedule.remaining_actions < -1:
        raise InvalidRequest(f"remaining_actions must be 0 or more, or -1 for no end, not {schedule.remaining_actions}")
    parts = len(spec.crons) + len(spec.calendars) + len(spec.intervals)
    if parts + len(spec.skip) > SCHEDULE_PARTS:
        raise InvalidRequest(f"a schedule has at most {SCHEDULE_PARTS} parts (limits.SCHEDULE_PARTS)")
    if not parts:
        raise InvalidRequest("the schedule can never fire: it has no cron expression, no calendar and no interval")
    if not 0 <= spec.jitter <= MAX_DURATION:
        raise InvalidRequest(f"jitter must be between 0 and {MAX_DURATION} microseconds, not {spec.jitter}")
    check_time(spec.start_at, "start_at")
    check_time(spec.end_at, "end_at")
    for interval in spec.intervals:
        _check_interval(interval)
    try:
        table = timetable(spec)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    if spec != before:
        _check_fires(table, spec, now)


def check_time(time: int, what: str) -> None:
    """Raises InvalidRequest where no calendar knows a time."""
    if not 0 <= time < LATEST:
        raise InvalidRequest(f"{what} must be between the years {FIRST_YEAR} and {LAST_YEAR}")


def _check_interval(interval: IntervalSpec) -> None:
    if not MINIMUM_INTERVAL <= interval.every <= MAX_DURATION:
        raise InvalidRequest(
            f"an interval must be between {MINIMUM_INTERVAL // SECOND} s (limits.MINIMUM_INTERVAL) and "
            f"{MAX_DURATION // SECOND} s, not {interval.every / SECOND:g} s"
        )
    if not 0 <= interval.offset < interval.every:
        raise InvalidRequest(
            f"an interval's offset must be less than the interval of {interval.every / SECOND:g} s and not negative, "
            f"not {interval.offset / SECOND:g} s"
        )


def _check_fires(table: Timetable, spec: ScheduleSpec, now: int) -> None:
    if spec.end_at and spec.end_at < spec.start_at:
        raise InvalidRequest(
            f"the schedule can never fire: it ends at {iso(spec.end_at)}, before it starts at {iso(spec.start_at)}"
        )
    if spec.end_at and spec.end_at <= now:
        raise InvalidRequest(f"the schedule can never fire: it ended at {iso(spec.end_at)}, and it is {iso(now)}")
    begin = max(now, spec.start_at - 1)
    for what, part in table.parts:
        if not part(begin):
            raise InvalidRequest(
                f"the schedule can never fire: {what} has no date after {iso(begin)} "
                f"(within limits.SCHEDULE_HORIZON_YEARS)"
            )
    if not table.next(now):
        reason = f"no time lies between {iso(begin)} and its end at {iso(spec.end_at)}" if spec.end_at else ""
        raise InvalidRequest(
            f"the schedule can never fire: {reason or 'what it skips leaves no time'}"
            + (", or what it skips leaves none" if reason and spec.skip else "")
        )
