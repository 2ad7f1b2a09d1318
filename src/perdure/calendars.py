"""Times that recur: calendar fields, cron expressions and time zones.

A :class:`Calendar` is a set of wall times; a cron expression is one or two of them. The wall times of a zone become
instants by one rule, which says what happens when clocks are set:

- A calendar that names hours ("at 02:30") means each of its times once a day. One that the clocks skip happens at the
  moment of the jump; of one that comes twice, the first counts.
- A calendar of every hour ("every 15 minutes") follows elapsed time: it has no gap and no heap, whatever clocks show.

Instants are whole seconds since the epoch here. Nothing asks for the time now.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from difflib import get_close_matches
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from perdure.clock import DAY, SECOND
from perdure.limits import MAX_CALENDAR_TEXT, SCHEDULE_HORIZON_YEARS

FIRST_YEAR, LAST_YEAR = 1970, 2199

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MACROS: Final[Mapping[str, str]] = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_WORD: Final = re.compile(r"\S+")
_DAY_SECONDS: Final = DAY // SECOND
_SECOND: Final = timedelta(seconds=1)
_LAST_DAY: Final = 32
"""What "L" of a month's days is kept as."""


class Field(NamedTuple):
    """What one field of a calendar may hold."""

    name: str
    low: int
    high: int
    names: Sequence[str] = ()
    first: int = 0
    """The number of the first name."""


SECONDS: Final = Field("second", 0, 59)
MINUTES: Final = Field("minute", 0, 59)
HOURS: Final = Field("hour", 0, 23)
DAYS_OF_MONTH: Final = Field("day_of_month", 1, 31)
MONTHS: Final = Field("month", 1, 12, _MONTHS, 1)
YEARS: Final = Field("year", FIRST_YEAR, LAST_YEAR)
DAYS_OF_WEEK: Final = Field("day_of_week", 0, 7, _DAYS)
_AROUND: Final = {
    "second": "minute",
    "minute": "hour",
    "hour": "day",
    "day_of_month": "month",
    "month": "year",
    "year": "calendar",
    "day_of_week": "week",
}
"""What the numbers of a field begin anew with."""
CRON_FIELDS: Final = (MINUTES, HOURS, DAYS_OF_MONTH, MONTHS, DAYS_OF_WEEK)


# --- Fields -------------------------------------------------------------------------------------------------
def parse_field(text: str, field: Field) -> tuple[int, ...]:
    """The numbers that a field such as ``"*/15"``, ``"1-5"``, ``"mon-fri"`` or ``"1,15"`` stands for, in order.

    Raises:
        ValueError: it can't be read; the message says which part, and what would be right.
    """
    numbers: set[int] = set()
    for part in text.split(","):
        numbers.update(_numbers(part.strip().lower(), field))
    if field is DAYS_OF_WEEK and 7 in numbers:
        numbers = (numbers - {7}) | {0}
    return tuple(sorted(numbers))


def _numbers(part: str, field: Field) -> range | tuple[int]:
    span, slash, step_text = part.partition("/")
    if field is DAYS_OF_MONTH and part == "l":
        return (_LAST_DAY,)
    step = 1
    if slash:
        if not (step_text.isascii() and step_text.isdigit()) or int(step_text) == 0:
            raise ValueError(f"{field.name}: the step in {part!r} must be a whole number from 1")
        step = int(step_text)
    last = 6 if field is DAYS_OF_WEEK else field.high
    if span == "*":
        return _stepped(part, field, range(field.low, last + 1, step))
    low_text, dash, high_text = span.partition("-")
    low = _number(low_text, part, field)
    if not dash:
        return _stepped(part, field, range(low, max(low, last) + 1, step)) if slash else (low,)
    high = _number(high_text, part, field)
    if field is DAYS_OF_WEEK and high == 0 and low > 0:
        high = 7  # fri-sun
    if low > high:
        raise ValueError(
            f"{field.name}: {span!r} runs backwards: write it as two ranges, "
            f"{low_text}-{field.high},{field.low}-{high_text}"
        )
    return _stepped(part, field, range(low, high + 1, step))


def _stepped(part: str, field: Field, numbers: range) -> range:
    """The numbers, unless the step leaves but one: then it is a mistake, since what it says never happens."""
    if numbers.step > 1 and len(numbers) == 1:
        raise ValueError(
            f"{field.name}: the step in {part!r} leaves nothing but {numbers[0]}: a step begins anew with each "
            f"{_AROUND[field.name]}. Write {numbers[0]}, or name an interval (every=…) that may be longer"
        )
    return numbers


def _number(text: str, part: str, field: Field) -> int:
    if text in field.names:
        return field.names.index(text) + field.first
    if not (text.isascii() and text.isdigit()):
        names = f", or one of {', '.join(field.names)}" if field.names else ""
        what = f"{text!r} in {part!r}" if text != part else repr(part)
        raise ValueError(f"{field.name}: {what} is not a number{names}")
    number = int(text[:10])
    if not field.low <= number <= field.high:
        raise ValueError(f"{field.name}: {number} is not between {field.low} and {field.high}")
    return number


# --- Calendars ----------------------------------------------------------------------------------------------
class Calendar(NamedTuple):
    """Wall times: those at which every field has one of its numbers. `years` empty: all."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days_of_month: tuple[int, ...]
    months: tuple[int, ...]
    years: tuple[int, ...]
    days_of_week: tuple[int, ...]

    def at_or_after(self, wall: datetime) -> datetime | None:
        """The first of its times that is not before a wall time (a whole second); None: there is none."""
        if self._has_day(wall.date()):
            found = self._time_from(wall.hour, wall.minute, wall.second)
            if found is not None:
                return datetime.combine(wall.date(), time(*found))
        day = next(self._days_after(wall.date()), None)
        if day is None:
            return None
        return datetime.combine(day, time(self.hours[0], self.minutes[0], self.seconds[0]))

    def has(self, wall: datetime) -> bool:
        """Whether a wall time (a whole second) is one of its times."""
        return (
            wall.second in self.seconds
            and wall.minute in self.minutes
            and wall.hour in self.hours
            and self._has_day(wall.date())
        )

    def most(self, first: datetime, last: datetime, enough: int) -> int:
        """How many of its times lie between two wall times, both included: no more than this, and not exact beyond
        `enough`. Looks at days, not at times."""
        a_day, a_minute = len(self.hours) * len(self.minutes) * len(self.seconds), len(self.seconds)
        days = int(self._has_day(first.date()))
        for day in self._days_after(first.date()):
            if day > last.date() or days * a_day > enough:
                break
            days += 1
        hours, minutes = ((last - first) // timedelta(**{unit: 1}) + 2 for unit in ("hours", "minutes"))
        return min(days * a_day, hours * len(self.minutes) * a_minute, minutes * a_minute)

    def end_of(self, wall: datetime) -> datetime:
        """Where the day, the hour, the minute or the second ends that is all its own, of a time that it has."""
        if len(self.seconds) < 60:
            return wall + _SECOND
        if len(self.minutes) < 60:
            return wall.replace(second=0) + timedelta(minutes=1)
        if len(self.hours) < 24:
            return wall.replace(minute=0, second=0) + timedelta(hours=1)
        return wall.replace(hour=0, minute=0, second=0) + timedelta(days=1)

    def _time_from(self, hour: int, minute: int, second: int) -> tuple[int, int, int] | None:
        for h in self.hours:
            if h > hour:
                return h, self.minutes[0], self.seconds[0]
            if h < hour:
                continue
            for m in self.minutes:
                if m > minute:
                    return h, m, self.seconds[0]
                if m == minute:
                    for s in self.seconds:
                        if s >= second:
                            return h, m, s
        return None

    def _has_day(self, day: date) -> bool:
        return (
            day.month in self.months
            and (not self.years or day.year in self.years)
            and (day.isoweekday() % 7) in self.days_of_week
            and (
                day.day in self.days_of_month
                or (_LAST_DAY in self.days_of_month and (day + timedelta(days=1)).month != day.month)
            )
        )

    def _days_after(self, day: date) -> Iterator[date]:
        for year in range(day.year, min(day.year + SCHEDULE_HORIZON_YEARS, LAST_YEAR) + 1):
            if self.years and year not in self.years:
                continue
            for month in self.months:
                if (year, month) < (day.year, day.month):
                    continue
                first = day.day + 1 if (year, month) == (day.year, day.month) else 1
                for number in range(first, days_in(year, month) + 1):
                    candidate = date(year, month, number)
                    if self._has_day(candidate):
                        yield candidate


def days_in(year: int, month: int) -> int:
    """How many days a month has."""
    following = date(year + month // 12, month % 12 + 1, 1)
    return (following - timedelta(days=1)).day


def days_to(year: int) -> int:
    """Days from the epoch to the begin of a year."""
    return (date(year, 1, 1) - date(FIRST_YEAR, 1, 1)).days


def parse_calendar(
    second: str, minute: str, hour: str, day_of_month: str, month: str, year: str, day_of_week: str, *, whole: bool
) -> Calendar:
    """A calendar from its fields.

    Args:
        second, minute, hour, day_of_month, month, year, day_of_week: texts; "" is any for what is longer than a day,
            and 0 for the time of the day.
        whole: then "" is any for the time of the day, too: the calendar is of days, or hours, as a whole.

    Raises:
        ValueError: a field can't be read.
    """
    clock = "*" if whole else "0"
    texts = (
        second or clock,
        minute or clock,
        hour or clock,
        day_of_month or "*",
        month or "*",
        year,
        day_of_week or "*",
    )
    fields = (SECONDS, MINUTES, HOURS, DAYS_OF_MONTH, MONTHS, YEARS, DAYS_OF_WEEK)
    for text in texts:
        if len(text) > MAX_CALENDAR_TEXT:
            raise ValueError(f"a field has {len(text)} characters; limits.MAX_CALENDAR_TEXT is {MAX_CALENDAR_TEXT}")
    parsed = [
        () if field is YEARS and text in ("", "*") else parse_field(text, field)
        for text, field in zip(texts, fields, strict=True)
    ]
    return Calendar(*parsed)


def parse_cron(text: str) -> tuple[Calendar, ...]:
    """The calendars of a cron expression of five fields: minute, hour, day of the month, month, day of the week.

    As everywhere, a day matches if either of its two fields does, where neither is `*`: then there are two calendars.

    Raises:
        ValueError: it can't be read; the message says where.
    """
    if len(text) > MAX_CALENDAR_TEXT:
        raise ValueError(f"cron has {len(text)} characters; limits.MAX_CALENDAR_TEXT is {MAX_CALENDAR_TEXT}")
    expression = text.strip()
    if expression.startswith("@"):
        if expression.lower() not in _MACROS:
            raise ValueError(f"cron {text!r}: {expression!r} is none of {', '.join(_MACROS)}")
        expression = _MACROS[expression.lower()]
        words = list(_WORD.finditer(expression))
    else:
        words = list(_WORD.finditer(text))
    if words and "=" in words[0][0]:
        raise ValueError(f"cron {text!r}: leave out {words[0][0]!r}, and name the zone by time_zone")
    if len(words) != len(CRON_FIELDS):
        raise ValueError(
            f"cron {text!r} has {len(words)} fields; it has 5: minute, hour, day of the month, month, day of the week "
            f"(for seconds and years, use a Calendar)"
        )
    numbers: list[tuple[int, ...]] = []
    for place, (word, field) in enumerate(zip(words, CRON_FIELDS, strict=True), 1):
        try:
            numbers.append(parse_field(word[0], field))
        except ValueError as error:
            raise ValueError(f"cron {text!r}, field {place} (character {word.start() + 1}): {error}") from None
    minutes, hours, days, months, weekdays = numbers
    any_day, any_weekday = tuple(range(1, 32)), tuple(range(7))
    if words[2][0].startswith("*") or words[4][0].startswith("*"):
        return (Calendar((0,), minutes, hours, days, months, (), weekdays),)
    return (
        Calendar((0,), minutes, hours, days, months, (), any_weekday),
        Calendar((0,), minutes, hours, any_day, months, (), weekdays),
    )


# --- Time zones ---------------------------------------------------------------------------------------------
@lru_cache(maxsize=256)
def zone(name: str) -> ZoneInfo:
    """A time zone of the IANA database, by its name.

    Raises:
        ValueError: there is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = available_timezones()
        near = get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ', such as "Europe/Zurich" or "UTC"'
        raise ValueError(f"time_zone: there is no {name!r} in the IANA database{hint}") from None


def next_instant(calendar: Calendar, where: ZoneInfo, after: int) -> int | None:
    """The first instant after another at which a calendar's time is reached in a zone; None: there is none."""
    if len(calendar.hours) == 24:
        return _by_elapsed_time(calendar, where, after + 1)
    candidate = wall_time(after, where)
    while (wall := calendar.at_or_after(candidate)) is not None:
        reached = instant(wall, where)
        if reached > after:
            return reached
        candidate = wall + _SECOND
    return None


def _by_elapsed_time(calendar: Calendar, where: ZoneInfo, begin: int) -> int | None:
    """Search from instant to instant, each time as if the clocks weren't set any more; where they are, from there."""
    while True:
        wall = wall_time(begin, where)
        found = calendar.at_or_after(wall)
        if found is None:
            return None
        guess = begin + (found - wall) // _SECOND
        soon = min(guess, begin + _DAY_SECONDS)
        if _offset(soon, where) != _offset(begin, where):
            begin = _change(begin, soon, where)
        elif wall_time(guess, where) == found:
            return guess
        else:
            begin = _change(soon, guess, where)


def wall_time(at: int, where: ZoneInfo) -> datetime:
    """What clocks show at an instant."""
    return datetime.fromtimestamp(at, where).replace(tzinfo=None, fold=0)


def instant(wall: datetime, where: ZoneInfo) -> int:
    """When clocks first show a wall time, or jump over it."""
    at = int(wall.replace(tzinfo=where, fold=0).timestamp())
    if wall_time(at, where) == wall:
        return at
    return _change(int(wall.replace(tzinfo=where, fold=1).timestamp()), at, where)


def _offset(at: int, where: ZoneInfo) -> timedelta | None:
    return datetime.fromtimestamp(at, where).utcoffset()


def _change(early: int, late: int, where: ZoneInfo) -> int:
    """The first instant after `early`, up to `late`, at which clocks have another offset; at `late` they have."""
    before = _offset(early, where)
    while late - early > 1:
        middle = (early + late) // 2
        if _offset(middle, where) == before:
            early = middle
        else:
            late = middle
    return late


def iso(microseconds: int) -> str:
    """A time as ids and search attributes have it: in UTC, "2027-03-28T01:00:00Z", with a fraction only if there is
    one."""
    seconds, fraction = divmod(microseconds, SECOND)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{fraction:06d}Z" if fraction else f"{text}Z"
