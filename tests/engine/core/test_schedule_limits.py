"""The bounds of `perdure.limits` that the times of a schedule keep."""

from __future__ import annotations

import pytest

from perdure.clock import DAY, HOUR, SECOND
from perdure.engine.core import timetable
from perdure.engine.core.decisions.schedules import check_create
from perdure.errors import InvalidRequest
from perdure.limits import DEFAULT_CATCHUP_WINDOW, MINIMUM_INTERVAL, SCHEDULE_HORIZON_YEARS
from perdure.model import schedules as s
from tests.engine.core.harness import NOW
from tests.engine.core.test_schedules import FIRST, HOURLY, Timed, creation, definition


def test_the_shortest_interval() -> None:
    Timed(definition(s.ScheduleSpec(intervals=(s.IntervalSpec(MINIMUM_INTERVAL),))))
    with pytest.raises(InvalidRequest, match=r"between 1 s \(limits.MINIMUM_INTERVAL\)"):
        check_create(None, creation(definition(s.ScheduleSpec(intervals=(s.IntervalSpec(MINIMUM_INTERVAL - 1),)))), NOW)


def test_how_far_ahead_a_date_is_looked_for() -> None:
    last = 2023 + SCHEDULE_HORIZON_YEARS  # NOW is in 2023

    def once(year: int) -> s.Schedule:
        return definition(s.ScheduleSpec(calendars=(s.CalendarSpec(day_of_month="1", month="1", year=f"{year}"),)))

    Timed(once(last))
    with pytest.raises(InvalidRequest, match=r"has no date .*limits\.SCHEDULE_HORIZON_YEARS"):
        check_create(None, creation(once(last + 1)), NOW)


@pytest.mark.parametrize(("hours", "goes_on"), [("0-2", True), ("0-3", False)])
def test_times_in_a_row_that_are_passed_over(monkeypatch: pytest.MonkeyPatch, hours: str, goes_on: bool) -> None:
    monkeypatch.setattr(timetable, "SKIPPED_IN_A_ROW", 3)
    spec = s.ScheduleSpec(intervals=HOURLY.intervals, skip=(s.CalendarSpec(hour=hours),))
    table = timetable.Timetable(spec)
    midnight = (NOW // DAY + 1) * DAY
    assert table.next(midnight - 1) == (midnight + 3 * HOUR if goes_on else 0)


def test_how_old_a_time_is_that_is_made_up_for_unless_it_is_said() -> None:
    daily = s.ScheduleSpec(intervals=(s.IntervalSpec(DAY, FIRST % DAY),))
    days = DEFAULT_CATCHUP_WINDOW // DAY
    run = Timed(definition(daily, "allow_all"))
    run.catch_up(FIRST + days * DAY + SECOND)  # only the first of them is older
    assert run.counts == (days, 1, 0, 0)
