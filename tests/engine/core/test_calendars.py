"""Calendar fields, cron expressions and time zones, and what happens when clocks are set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.calendars import (
    DAYS_OF_MONTH,
    DAYS_OF_WEEK,
    HOURS,
    MINUTES,
    MONTHS,
    Calendar,
    iso,
    next_instant,
    parse_calendar,
    parse_cron,
    parse_field,
    zone,
)

ZURICH = zone("Europe/Zurich")
LORD_HOWE = zone("Australia/Lord_Howe")  # clocks are set by half an hour


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def following(calendar: Calendar, where: ZoneInfo, after: str, count: int) -> list[str]:
    """The next few times, as clocks of the place show them."""
    at, found = seconds(after), list[str]()
    for _ in range(count):
        reached = next_instant(calendar, where, at)
        assert reached is not None
        assert reached > at
        at = reached
        found.append(datetime.fromtimestamp(at, where).isoformat(timespec="minutes"))
    return found


def only(cron: str) -> Calendar:
    (calendar,) = parse_cron(cron)
    return calendar


# --- Fields ---------------------------------------------------------------------------------------------
def test_fields() -> None:
    assert parse_field("*/20", MINUTES) == (0, 20, 40)
    assert parse_field("5-7,30,50/5", MINUTES) == (5, 6, 7, 30, 50, 55)
    assert parse_field("Mon-FRI", DAYS_OF_WEEK) == (1, 2, 3, 4, 5)
    assert parse_field("7", DAYS_OF_WEEK) == (0,)
    assert parse_field("fri-sun", DAYS_OF_WEEK) == (0, 5, 6)
    assert parse_field("*", DAYS_OF_WEEK) == tuple(range(7))
    assert parse_field("jan,nov-dec", MONTHS) == (1, 11, 12)
    assert parse_field("9-17/4", HOURS) == (9, 13, 17)


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("60", MINUTES, "minute: 60 is not between 0 and 59"),
        ("5-", MINUTES, "minute: '' in '5-' is not a number"),
        ("", MINUTES, "minute: '' is not a number"),
        ("1,,2", MINUTES, "minute: '' is not a number"),
        ("10-5", MINUTES, "minute: '10-5' runs backwards: write it as two ranges, 10-59,0-5"),
        ("*/0", MINUTES, "the step in '\\*/0' must be a whole number from 1"),
        ("*/x", HOURS, "hour: the step in '\\*/x'"),
        ("*/-5", HOURS, "hour: the step in '\\*/-5'"),
        (
            "*/90",
            MINUTES,
            "minute: the step in '\\*/90' leaves nothing but 0: a step begins anew with each hour. Write 0",
        ),
        ("*/60", MINUTES, "leaves nothing but 0"),
        ("0,*/24", HOURS, "hour: the step in '\\*/24' leaves nothing but 0: .* each day"),
        ("59/5", MINUTES, "the step in '59/5' leaves nothing but 59"),
        ("10-20/15", MINUTES, "the step in '10-20/15' leaves nothing but 10"),
        ("*/7", DAYS_OF_WEEK, "leaves nothing but 0: .* each week"),
        ("1/31", DAYS_OF_MONTH, "leaves nothing but 1"),
        ("mo", DAYS_OF_WEEK, "day_of_week: 'mo' is not a number, or one of sun, mon"),
        ("32", DAYS_OF_MONTH, "day_of_month: 32 is not between 1 and 31"),
        ("0", MONTHS, "month: 0 is not between 1 and 12"),
        ("٣", HOURS, "hour: '٣' is not a number"),
        ("9" * 400, HOURS, "hour: 9999999999 is not between 0 and 23"),
    ],
)
def test_a_field_that_cant_be_read(text: str, field: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_field(text, field)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0 25 * * *", r"cron '0 25 \* \* \*', field 2 \(character 3\): hour: 25 is not between 0 and 23"),
        ("  0 3 * xyz *", r"field 4 \(character 9\): month: 'xyz' is not a number, or one of jan"),
        ("0 3 * *", "has 4 fields; it has 5"),
        ("", "has 0 fields; it has 5"),
        ("0 0 3 * * *", "has 6 fields; it has 5: .*for seconds and years, use a Calendar"),
        ("@often", "'@often' is none of @yearly"),
        ("TZ=UTC 0 3 * * *", "leave out 'TZ=UTC', and name the zone by time_zone"),
        ("0 3 ? * *", r"field 3 \(character 5\): day_of_month: '\?' is not a number"),
    ],
)
def test_a_cron_expression_that_cant_be_read(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_cron(text)


def test_an_unknown_zone_is_named_with_a_guess() -> None:
    with pytest.raises(ValueError, match="no 'Europe/Zürich' in the IANA database; did you mean 'Europe/Zurich'"):
        zone("Europe/Zürich")
    for name in ("", "../etc/passwd", "/etc/localtime", "Europe", "\0", "x" * 300):
        with pytest.raises(ValueError, match="time_zone: there is no"):
            zone(name)


# --- Days -----------------------------------------------------------------------------------------------
_field = st.one_of(
    st.just("*"),
    st.integers(1, 6).map(str),
    st.tuples(st.integers(1, 3), st.integers(3, 6)).map(lambda ends: f"{ends[0]}-{ends[1]}"),
    st.integers(2, 9).map(lambda step: f"*/{step}"),
)
_weekday = _field.filter(lambda text: text not in ("*/7", "*/8", "*/9"))  # a week has no such step


@settings(max_examples=300, deadline=None)
@given(st.tuples(_field, _field, _field, _field, _weekday), st.integers(0, 3_000_000_000))
def test_cron_is_what_cron_is(fields: tuple[str, ...], after: int) -> None:
    """In UTC, against another implementation."""
    text = " ".join(fields)
    utc = zone("UTC")
    expected = CronSim(text, datetime.fromtimestamp(after, UTC))
    at = after
    for _ in range(3):
        found = [time for each in parse_cron(text) if (time := next_instant(each, utc, at)) is not None]
        at = min(found)
        assert datetime.fromtimestamp(at, UTC) == next(expected)


def test_the_last_day_of_a_month() -> None:
    calendar = parse_calendar("", "", "6", "L", "", "", "", whole=False)
    assert following(calendar, zone("UTC"), "2028-01-15T00:00Z", 3) == [
        "2028-01-31T06:00+00:00",
        "2028-02-29T06:00+00:00",
        "2028-03-31T06:00+00:00",
    ]


def test_days_that_are_rare_or_never() -> None:
    utc = zone("UTC")
    monday = parse_calendar("", "", "", "29", "feb", "", "mon", whole=False)
    assert following(monday, utc, "2025-01-01T00:00Z", 2) == ["2044-02-29T00:00+00:00", "2072-02-29T00:00+00:00"]
    for calendar in (only("0 0 30 2 *"), parse_calendar("", "", "", "", "", "2020", "", whole=False)):
        assert next_instant(calendar, utc, seconds("2027-01-01T00:00Z")) is None


# --- Clocks that are set --------------------------------------------------------------------------------
def test_a_time_that_clocks_skip_comes_when_they_jump() -> None:
    assert following(only("30 2 * * *"), ZURICH, "2027-03-27T00:00+01:00", 3) == [
        "2027-03-27T02:30+01:00",
        "2027-03-28T03:00+02:00",
        "2027-03-29T02:30+02:00",
    ]
    assert following(only("*/30 2,3 * * *"), ZURICH, "2027-03-27T12:00+01:00", 3) == [
        "2027-03-28T03:00+02:00",
        "2027-03-28T03:30+02:00",
        "2027-03-29T02:00+02:00",
    ]


def test_a_time_that_comes_twice_counts_once() -> None:
    assert following(only("30 2 * * *"), ZURICH, "2027-10-30T12:00+02:00", 2) == [
        "2027-10-31T02:30+02:00",
        "2027-11-01T02:30+01:00",
    ]
    assert following(only("30 2 * * *"), ZURICH, "2027-10-31T02:10+01:00", 1) == ["2027-11-01T02:30+01:00"]


def test_times_of_every_hour_follow_elapsed_time() -> None:
    assert following(only("30 * * * *"), ZURICH, "2027-03-28T00:45+01:00", 2) == [
        "2027-03-28T01:30+01:00",
        "2027-03-28T03:30+02:00",
    ]
    assert following(only("30 * * * *"), ZURICH, "2027-10-31T01:45+02:00", 3) == [
        "2027-10-31T02:30+02:00",
        "2027-10-31T02:30+01:00",
        "2027-10-31T03:30+01:00",
    ]
    assert following(only("40 * * * *"), LORD_HOWE, "2027-04-04T00:50+11:00", 3) == [
        "2027-04-04T01:40+11:00",
        "2027-04-04T01:40+10:30",
        "2027-04-04T02:40+10:30",
    ]


def test_a_heap_at_the_end_of_a_day() -> None:
    beirut = zone("Asia/Beirut")  # at midnight clocks are set back to 23:00
    saturdays = only("30 * * * 6")
    assert following(saturdays, beirut, "2026-10-24T22:45+03:00", 3) == [
        "2026-10-24T23:30+03:00",
        "2026-10-24T23:30+02:00",
        "2026-10-31T00:30+02:00",
    ]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["Europe/Zurich", "America/New_York", "Australia/Lord_Howe", "Asia/Beirut", "Pacific/Apia", "UTC"]),
    st.sampled_from(["*/15 * * * *", "7 * * * *", "30 2 * * *", "0 0 * * *", "*/10 1-3 * * *", "59 23 * * *"]),
    st.integers(1_200_000_000, 2_000_000_000),
)
def test_times_follow_one_another(name: str, cron: str, after: int) -> None:
    """Nothing is passed over, nothing comes twice, and clocks show what was asked for, or have just jumped."""
    calendar, where = only(cron), zone(name)
    first = next_instant(calendar, where, after)
    assert first is not None
    assert first > after
    assert next_instant(calendar, where, first - 1) == first
    middle = (after + first) // 2
    assert next_instant(calendar, where, middle) == (first if middle < first else next_instant(calendar, where, first))
    wall = datetime.fromtimestamp(first, where).replace(tzinfo=None)
    jumped = datetime.fromtimestamp(first - 1, where).replace(tzinfo=None) != wall - timedelta(seconds=1)
    assert calendar.has(wall) or jumped


def test_times_as_text() -> None:
    assert iso(0) == "1970-01-01T00:00:00Z"
    assert iso(1_800_000_000_000_001) == "2027-01-15T08:00:00.000001Z"
