"""Schedules, as the core decides on them: times, overlap policies, catching up, and what persons ask for."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from perdure.clock import DAY, HOUR, MINUTE, SECOND
from perdure.engine.core import effects as fx
from perdure.engine.core import inputs as i
from perdure.engine.core.decisions import schedules
from perdure.engine.core.decisions.schedules import check_create
from perdure.engine.core.scheduling import of
from perdure.engine.core.timetable import timetable, upcoming, with_jitter
from perdure.engine.node.schedules import describe
from perdure.errors import InvalidRequest, LimitExceeded, NotRunning, ScheduleChanged, ScheduleExists
from perdure.limits import (
    DEFAULT_RETENTION,
    MAX_BACKFILL_TIMES,
    MAX_BACKFILLS,
    MAX_ID_LENGTH,
    MAX_SCHEDULE_BUFFER,
    MAX_SCHEDULED_RUNS,
    MINIMUM_CATCHUP_WINDOW,
    RECENT_ACTIONS,
    SCHEDULE_BATCH,
    SCHEDULE_PARTS,
    SCHEDULE_ROLL_OVER,
    SCHEDULE_STARTS,
)
from perdure.model import events as e
from perdure.model import records as r
from perdure.model import schedules as s
from perdure.model.requests import Started, StartSignal
from tests.engine.core.harness import FAILURE, NOW, effects, payload
from tests.engine.core.timed import FIRST, HOURLY, TARGET, Timed, creation, definition, sent


# --- Times ----------------------------------------------------------------------------------------------
def test_each_time_is_started_once() -> None:
    run = Timed()
    assert run.execution.wake_at() == FIRST
    (first,) = run.due()
    assert isinstance(first.message, r.OutboxScheduledStart)
    assert first.message.workflow_id == "hourly-2023-11-14T23:00:00Z"
    assert first.message.request_id == "run-1:1"
    run.answer_all()
    assert run.execution.wake_at() == FIRST + HOUR
    run.report(1)
    assert run.counts == (1, 0, 0, 0)
    assert run.kept.recent == [
        s.ScheduledRun(FIRST, FIRST, "hourly-2023-11-14T23:00:00Z", False, "run-of-1", "Completed")
    ]
    assert run.kept.last_result == payload(1)
    run.report(1)  # once more, as a network may
    assert run.counts == (1, 0, 0, 0)
    assert len(run.kept.recent) == 1


def test_a_start_that_is_not_answered_is_sent_again() -> None:
    run = Timed()
    run.due()
    run.crash()
    (again,) = run.due(run.execution.wake_at())
    assert isinstance(again.message, r.OutboxScheduledStart)
    assert again.message.request_id == "run-1:1"
    assert run.counts == (1, 0, 0, 0)


def test_jitter_is_the_same_for_everybody_and_keeps_the_order() -> None:
    spec = replace(HOURLY, jitter=DAY)
    times = list(upcoming(spec, "hourly", NOW, 200))
    assert times == list(upcoming(spec, "hourly", NOW, 200))
    assert times != list(upcoming(spec, "other", NOW, 200))
    assert times == sorted(set(times))
    assert all(FIRST + n * HOUR <= time < FIRST + (n + 1) * HOUR for n, time in enumerate(times))
    spread = [(time - FIRST) % HOUR for time in times]
    assert min(spread) < HOUR // 10
    assert max(spread) > HOUR - HOUR // 10
    assert with_jitter(spec, "hourly", 0) == 0
    run = Timed(definition(spec))
    assert run.execution.wake_at() == times[0]
    (start,) = run.due()
    assert isinstance(start.message, r.OutboxScheduledStart)
    assert start.message.time == FIRST


def test_what_is_excluded_is_left_out() -> None:
    spec = s.ScheduleSpec(
        crons=("0 9 * * *",),
        skip=(s.CalendarSpec(day_of_week="sat,sun"), s.CalendarSpec(month="12", day_of_month="24-31", year="2023")),
        time_zone="Europe/Zurich",
    )
    after, found = NOW + 30 * DAY, list[int]()  # a Thursday
    for _ in range(7):
        after = timetable(spec).next(after)
        found.append(after)
    days = [(time - found[0]) // DAY for time in found]
    assert days == [0, 3, 4, 5, 6, 7, 17]  # Friday 15th, 18th to 22nd, and 1 January


def test_what_is_excluded_may_be_part_of_a_day() -> None:
    spec = s.ScheduleSpec(
        intervals=(s.IntervalSpec(10 * MINUTE, 5 * MINUTE),),
        skip=(s.CalendarSpec(hour="0-21"), s.CalendarSpec(minute="15")),
    )
    after, found = NOW // DAY * DAY, list[int]()
    for _ in range(6):
        after = timetable(spec).next(after)
        found.append((after % DAY) // MINUTE - 22 * 60)
    assert found == [5, 25, 35, 45, 55, 65]


def test_it_begins_and_ends() -> None:
    spec = replace(HOURLY, start_at=FIRST + 2 * HOUR, end_at=FIRST + 3 * HOUR)
    run = Timed(definition(spec, "allow_all"))
    assert run.execution.wake_at() == FIRST + 2 * HOUR
    run.catch_up(FIRST + 10 * HOUR)
    assert run.counts == (2, 0, 0, 0)
    assert run.execution.wake_at() == 0


# --- Catching up ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("overlap", "expected", "buffered"),
    [
        ("skip", (1, 0, 9, 0), 0),
        ("buffer_one", (1, 0, 8, 0), 1),
        ("buffer_all", (1, 0, 0, 0), 9),
        ("cancel_other", (1, 0, 8, 0), 1),
        ("terminate_other", (1, 0, 8, 0), 1),
        ("allow_all", (10, 0, 0, 0), 0),
    ],
)
def test_what_was_due_meanwhile(overlap: s.Overlap, expected: tuple[int, ...], buffered: int) -> None:
    run = Timed(definition(overlap=overlap))
    run.catch_up(FIRST + 9 * HOUR)
    assert run.counts == expected
    assert len(run.kept.buffer) == buffered
    assert run.execution.wake_at() == FIRST + 10 * HOUR


def test_what_is_due_for_too_long_is_missed() -> None:
    run = Timed(definition(overlap="allow_all", catchup_window=2 * HOUR))
    run.catch_up(FIRST + 9 * HOUR + MINUTE)
    assert run.counts == (2, 8, 0, 0)


def test_many_that_are_due_are_taken_in_batches() -> None:
    run = Timed(definition(overlap="skip"))
    run.now = FIRST + 2_000 * HOUR
    run.due(run.now)
    assert run.kept.begun + run.kept.skipped == SCHEDULE_BATCH
    assert run.execution.wake_at() <= run.now
    run.catch_up(run.now)
    assert run.counts == (1, 0, 2_000, 0)


def test_only_so_many_starts_are_on_their_way() -> None:
    run = Timed(definition(overlap="allow_all"))
    run.now = FIRST + 249 * HOUR
    assert len(run.due(run.now)) == SCHEDULE_STARTS
    assert run.execution.wake_at() > run.now  # only to send them again
    run.answer(1)
    assert run.execution.wake_at() <= run.now
    assert len(run.due(run.now)) == 1
    run.catch_up(run.now)
    assert run.counts == (250, 0, 0, 0)


# --- Overlap --------------------------------------------------------------------------------------------
def test_what_waits_begins_when_what_runs_has_ended() -> None:
    run = Timed(definition(overlap="buffer_all"))
    run.catch_up(FIRST + 2 * HOUR)
    for start_id in (1, 2):
        run.report(start_id)
        (entry,) = run.state.outbox.values()
        assert isinstance(entry.added.message, r.OutboxScheduledStart)
        assert entry.added.message.time == FIRST + start_id * HOUR
        run.answer_all()
    run.report(3)
    assert run.counts == (3, 0, 0, 0)
    assert not run.kept.running


@pytest.mark.parametrize(("overlap", "how"), [("cancel_other", "cancel"), ("terminate_other", "terminate")])
def test_what_runs_is_ended_for_the_next(overlap: s.Overlap, how: str) -> None:
    run = Timed(definition(overlap=overlap))
    run.due()
    assert sent(run.due(FIRST + HOUR)) == ["hourly-2023-11-14T23:00:00Z"]  # once more: it may not exist yet
    (stop,) = effects(run.decide(i.OutboxAnswered(1, "", "run-of-1")), fx.Send)
    assert sent([stop]) == [f"{how} hourly-2023-11-14T23:00:00Z"]
    run.answer(stop.entry_id)
    assert run.due(FIRST + 2 * HOUR) == []
    run.report(1, "Canceled")
    entry = list(run.state.outbox.values())[-1]
    assert isinstance(entry.added.message, r.OutboxScheduledStart)
    assert entry.added.message.time == FIRST + 2 * HOUR
    assert run.counts == (2, 0, 1, 0)


def test_a_refused_start_is_counted_and_the_next_one_begins() -> None:
    run = Timed(definition(overlap="buffer_all"))
    run.due()
    run.due(FIRST + HOUR)
    run.answer(1, "the id is taken")
    assert run.kept.recent[0].error == "the id is taken"
    assert run.kept.recent[0].status == ""
    assert run.kept.last_refusal == "hourly-2023-11-14T23:00:00Z: the id is taken"
    assert run.counts == (2, 0, 0, 1)
    told = describe(run.execution, run.now)
    assert (told.started, told.refused) == (0, 1)  # the other one is on its way
    run.answer_all()
    told = describe(run.execution, run.now)
    assert (told.started, told.refused, told.last_refusal) == (1, 1, run.kept.last_refusal)


def test_a_refused_start_does_not_hide_what_failed_before() -> None:
    run = Timed()
    run.due()
    run.answer_all()
    run.report(1, "Failed", FAILURE)
    run.due(FIRST + HOUR)
    run.answer(next(iter(run.state.outbox)), "the id is taken")
    assert run.kept.last_failure == FAILURE


def test_a_backfill_has_a_limit() -> None:
    secondly = s.ScheduleSpec(intervals=(s.IntervalSpec(SECOND),), crons=("0 3 * * mon",))
    begin, day = NOW - 400 * DAY, MAX_BACKFILL_TIMES * SECOND
    for spec, most in (
        (secondly, day - 3 * SECOND),
        (s.ScheduleSpec(calendars=(s.CalendarSpec(second="*", minute="*", hour="*"),)), day - 2 * MINUTE),
        (s.ScheduleSpec(crons=("* 9-16 * * *",), time_zone="Europe/Zurich"), MAX_BACKFILL_TIMES // 480 * DAY - DAY),
    ):
        run = Timed(definition(spec, overlap="skip"))
        run.decide(s.BackfillSchedule(*TARGET, run.request_id(), begin, begin + most))
        for end in (begin + most + 6 * DAY, NOW):
            with pytest.raises(LimitExceeded, match=r"a backfill may have 100000 times \(limits.MAX_BACKFILL_TIMES\)"):
                run.decide(s.BackfillSchedule(*TARGET, run.request_id(), begin, end))
        assert len(run.kept.backfills) == 1
    run = Timed(definition(s.ScheduleSpec(crons=("0 3 1 * *",))))
    run.decide(s.BackfillSchedule(*TARGET, "long", 0, NOW))
    assert len(run.kept.backfills) == 1


def test_an_end_may_be_reported_before_the_start_is_answered() -> None:
    run = Timed()
    run.due()
    run.report(1)
    run.answer(1)
    assert run.kept.running == {}
    assert run.kept.recent[0].run_id == "run-of-1"


def test_limits_of_what_waits_and_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.engine.core.deadlines.MAX_SCHEDULE_BUFFER", 3)
    monkeypatch.setattr(schedules, "MAX_SCHEDULED_RUNS", 5)
    run = Timed(definition(overlap="buffer_all"))
    run.catch_up(FIRST + 9 * HOUR)
    assert (run.counts, len(run.kept.buffer)) == ((1, 0, 6, 0), 3)
    run = Timed(definition(overlap="allow_all"))
    run.catch_up(FIRST + 9 * HOUR)
    assert run.counts == (5, 0, 5, 0)
    assert (MAX_SCHEDULE_BUFFER, MAX_SCHEDULED_RUNS) == (1_000, 10_000)


def test_only_the_last_ends_are_remembered() -> None:
    run = Timed()
    for n in range(RECENT_ACTIONS + 3):
        run.due()
        run.answer_all()
        run.report(n + 1)
    assert [each.time for each in run.kept.recent] == [FIRST + n * HOUR for n in range(3, RECENT_ACTIONS + 3)]


# --- What persons ask for -------------------------------------------------------------------------------
def test_a_pause_makes_up_for_nothing() -> None:
    run = Timed(definition(overlap="allow_all"))
    run.decide(s.PauseSchedule(*TARGET, "p", "stop", "ann"))
    assert run.execution.wake_at() == 0
    assert sent(run.trigger()) == ["hourly-2023-11-14T22:13:20Z"]
    run.answer_all()
    run.now = FIRST + 5 * HOUR + 1
    run.decide(s.PauseSchedule(*TARGET, "p2", "again", "ann"))
    run.decide(s.UnpauseSchedule(*TARGET, "u", "go", "bob"))
    assert run.execution.wake_at() == FIRST + 6 * HOUR
    assert run.counts == (1, 0, 0, 0)
    actions = [(done.action, done.identity, done.note) for done in run.state.interventions]
    assert actions == [("paused", "ann", "stop"), ("triggered", "ann", "because"), ("resumed", "bob", "go")]


def test_a_clock_that_is_behind_starts_nothing_again() -> None:
    run = Timed(definition(overlap="allow_all"))
    run.due()
    run.answer_all()
    run.now = FIRST - MINUTE
    run.decide(s.PauseSchedule(*TARGET, "p"))
    run.decide(s.UnpauseSchedule(*TARGET, "u"))
    assert run.execution.wake_at() == FIRST + HOUR
    run.decide(s.UpdateSchedule(*TARGET, definition(s.ScheduleSpec(crons=("*/30 * * * *",))), "u2"))
    assert run.execution.wake_at() == FIRST + HOUR // 2


def test_in_a_pause_only_what_a_person_asked_for_is_begun() -> None:
    run = Timed(definition(overlap="buffer_all"))
    run.catch_up(FIRST + HOUR)
    run.trigger()
    run.decide(s.PauseSchedule(*TARGET, "p"))
    run.report(1)
    run.answer_all()
    assert [each.manual for each in run.kept.running.values()] == [True]
    run.report(2)
    assert not run.kept.running
    run.decide(s.UnpauseSchedule(*TARGET, "u"))
    assert [each.time for each in run.kept.running.values()] == [FIRST + HOUR]


def test_a_failure_pauses_if_it_is_to() -> None:
    run = Timed(definition(pause_on_failure=True))
    run.due()
    run.answer_all()
    run.report(1, "Failed", FAILURE)
    assert run.state.paused is not None
    assert run.state.paused.identity == "pause_on_failure"
    assert "hourly-2023-11-14T23:00:00Z failed: app.errors.NoLuck: no luck" in run.state.paused.reason
    assert run.execution.wake_at() == 0
    other = Timed()
    other.due()
    other.answer_all()
    other.report(1, "Failed", FAILURE)
    assert other.state.paused is None
    assert other.kept.last_failure == FAILURE


def test_a_number_of_starts() -> None:
    run = Timed(definition(overlap="buffer_all", remaining_actions=2))
    run.catch_up(FIRST + 5 * HOUR)
    for start_id in (1, 2):
        run.report(start_id)
        run.answer_all()
    assert run.counts == (2, 0, 4, 0)
    assert (run.execution.wake_at(), run.kept.remaining) == (0, 0)
    assert run.trigger()  # which doesn't count
    run.answer_all()
    run.decide(s.UpdateSchedule(*TARGET, definition(remaining_actions=1), "more"))
    run.report(3)
    run.catch_up(FIRST + 6 * HOUR)
    assert run.kept.remaining == 0
    run.decide(s.UpdateSchedule(*TARGET, definition(overlap="skip", remaining_actions=0), "something else"))
    assert (run.kept.remaining, run.kept.schedule.overlap) == (0, "skip")


def test_two_triggers_of_one_moment_have_two_ids() -> None:
    run = Timed()
    ids = [sent(run.trigger("allow_all")) for _ in range(2)]
    assert ids == [["hourly-2023-11-14T22:13:20Z"], ["hourly-2023-11-14T22:13:20.000001Z"]]


def test_a_backfill() -> None:
    run = Timed(paused=True)
    begin = FIRST - 10 * HOUR
    run.decide(s.BackfillSchedule(*TARGET, "b", begin, begin + 3 * HOUR, "allow_all", "lost", "ann"))
    run.catch_up(run.now)
    assert [each.time for each in run.kept.running.values()] == [begin + n * HOUR for n in range(4)]
    assert run.execution.wake_at() == 0
    assert run.state.interventions[-1].action == "backfilled"


def test_a_backfill_waits_rather_than_lose_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.engine.core.deadlines.MAX_SCHEDULE_BUFFER", 2)
    run = Timed(paused=True)
    begin = FIRST - 10 * HOUR
    run.decide(s.BackfillSchedule(*TARGET, "b", begin, begin + 5 * HOUR, "buffer_all"))
    for start_id in range(1, 7):
        run.catch_up(run.now)
        assert len(run.kept.buffer) == min(2, 6 - start_id)
        run.report(start_id)
    assert run.counts == (6, 0, 0, 0)


def test_an_update_counts_from_now_where_times_change() -> None:
    run = Timed(definition(overlap="allow_all"))
    run.now = FIRST + 3 * HOUR + MINUTE
    run.decide(s.UpdateSchedule(*TARGET, definition(overlap="skip"), "u1", 1, "fewer", "ann"))
    assert run.execution.wake_at() == FIRST  # still to be made up for
    half = s.ScheduleSpec(intervals=(s.IntervalSpec(HOUR, 30 * MINUTE),))
    run.decide(s.UpdateSchedule(*TARGET, definition(half), "u2", 2))
    assert run.execution.wake_at() == FIRST + 3 * HOUR + 30 * MINUTE
    with pytest.raises(ScheduleChanged, match="at revision 3, not 2"):
        run.decide(s.UpdateSchedule(*TARGET, definition(), "u3", 2))


def test_a_deleted_schedule_starts_nothing_more() -> None:
    run = Timed()
    run.due()
    run.decide(s.DeleteSchedule(*TARGET, "d", "enough", "ann"))
    run.answer_all()
    run.report(1)
    assert isinstance(run.last, e.WorkflowExecutionTerminated)
    assert (run.last.reason, run.last.identity) == ("enough", "ann")
    assert run.execution.wake_at() == run.state.close_time + DEFAULT_RETENTION
    with pytest.raises(NotRunning, match="no schedule with the id 'hourly'"):
        run.decide(s.TriggerSchedule(*TARGET, "t"))


# --- The chain ------------------------------------------------------------------------------------------
def test_it_goes_on_in_another_run() -> None:
    run = Timed(definition(overlap="buffer_one"))
    run.decide(s.PauseSchedule(*TARGET, "p", "stop", "ann"))
    run.decide(s.UnpauseSchedule(*TARGET, "u"))
    started = 0
    while run.state.status == "Running":
        started += 1
        assert started <= SCHEDULE_ROLL_OVER
        run.due()
        if run.state.status == "Running":
            run.answer_all()
            run.report(started)
    next = run.continued()
    schedule = of(next.state)
    assert schedule == replace_steps(run.kept)
    assert (schedule.begun, schedule.revision, next.state.run_no) == (run.kept.begun, 1, 2)
    assert [done.action for done in next.state.interventions] == ["paused", "resumed"]
    assert next.state.started.first_run_id == "run-1"
    assert next.state.task is None
    assert next.execution.wake_at() == schedule.next_at > run.now
    assert run.execution.wake_at() == run.state.close_time  # it is deleted at once


def replace_steps(schedule: s.ScheduleState) -> s.ScheduleState:
    """The same, as another run has it."""
    return replace(schedule, steps=0)


# --- What is refused ------------------------------------------------------------------------------------
def test_an_id_that_is_taken() -> None:
    run = Timed()
    assert check_create(run.execution, creation(), NOW) == Started("run-1", existing=True)
    with pytest.raises(ScheduleExists, match="'hourly' already; update it, or use another id"):
        check_create(run.execution, replace(creation(), request_id="other"), NOW)
    run.decide(s.DeleteSchedule(*TARGET, "d"))
    assert check_create(run.execution, replace(creation(), request_id="other"), NOW) is None


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (s.ScheduleSpec(), "can never fire: it has no cron expression, no calendar and no interval"),
        (s.ScheduleSpec(crons=("0 0 30 2 *",)), r"can never fire: cron '0 0 30 2 \*' has no date after 2023-11-14"),
        (
            s.ScheduleSpec(crons=("0 3 * * *",), calendars=(s.CalendarSpec(year="2020"),)),
            r"can never fire: calendar \(year='2020'\) has no date",
        ),
        (replace(HOURLY, end_at=NOW), "it ended at 2023-11-14T22:13:20Z, and it is 2023-11-14T22:13:20Z"),
        (replace(HOURLY, start_at=FIRST + DAY, end_at=FIRST), "it ends at 2023-11-14T23:00:00Z, before it starts"),
        (replace(HOURLY, end_at=NOW + MINUTE), "no time lies between 2023-11-14T22:13:20Z and its end"),
        (replace(HOURLY, skip=(s.CalendarSpec(),)), "can never fire: what it skips leaves no time"),
        (replace(HOURLY, time_zone="Mars/Olympus"), "there is no 'Mars/Olympus' in the IANA database"),
        (s.ScheduleSpec(crons=("0 25 * * *",)), "hour: 25 is not between 0 and 23"),
        (s.ScheduleSpec(calendars=(s.CalendarSpec(hour="x"),)), r"calendar \(hour='x'\): hour: 'x' is not a number"),
        (replace(HOURLY, skip=(s.CalendarSpec(month="0"),)), r"skip \(month='0'\): month: 0 is not between"),
        (s.ScheduleSpec(intervals=(s.IntervalSpec(0),)), "an interval must be between 1 s"),
        (s.ScheduleSpec(intervals=(s.IntervalSpec(-HOUR),)), "an interval must be between 1 s .* not -3600 s"),
        (s.ScheduleSpec(intervals=(s.IntervalSpec(HOUR, HOUR),)), "offset must be less than the interval of 3600 s"),
        (s.ScheduleSpec(intervals=(s.IntervalSpec(HOUR, -1),)), "offset must be less .* and not negative"),
        (replace(HOURLY, jitter=-SECOND), "jitter must be between 0"),
        (s.ScheduleSpec(crons=("@daily",) * (SCHEDULE_PARTS + 1)), "at most 100 parts"),
        (s.ScheduleSpec(crons=("0 " * 1000,)), "has 2000 characters; limits.MAX_CALENDAR_TEXT is 500"),
        (s.ScheduleSpec(calendars=(s.CalendarSpec(hour="1," * 1000),)), "limits.MAX_CALENDAR_TEXT is 500"),
    ],
)
def test_a_schedule_that_makes_no_sense(spec: s.ScheduleSpec, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        check_create(None, creation(definition(spec)), NOW)
    run = Timed()
    with pytest.raises(InvalidRequest, match=says):
        run.decide(s.UpdateSchedule(*TARGET, definition(spec), "u"))


def test_other_things_that_make_no_sense() -> None:
    wrong: list[tuple[s.Schedule, str]] = [
        (definition(catchup_window=MINIMUM_CATCHUP_WINDOW - 1), "catchup_window must be at least 10 s"),
        (definition(remaining_actions=-2), "remaining_actions must be 0 or more"),
        (definition(remaining_actions=0), "can never fire: remaining_actions is 0"),
        (replace(definition(), start=replace(definition().start, start_delay=1)), "can't have a start_delay"),
        (replace(definition(), start=replace(definition().start, message=StartSignal("x", ()))), "or a message"),
        (replace(definition(), start=replace(definition().start, workflow_id="x" * MAX_ID_LENGTH)), "MAX_ID_LENGTH"),
    ]
    for schedule, says in wrong:
        with pytest.raises(InvalidRequest, match=says):
            check_create(None, creation(schedule), NOW)
    with pytest.raises(InvalidRequest, match="needs a request_id"):
        check_create(None, replace(creation(), request_id=""), NOW)
    run = Timed()
    with pytest.raises(InvalidRequest, match="needs a request_id"):
        run.decide(s.TriggerSchedule(*TARGET, ""))
    with pytest.raises(InvalidRequest, match=r"ends at .*, before it starts"):
        run.decide(s.BackfillSchedule(*TARGET, "b", NOW, NOW - 1))
    with pytest.raises(InvalidRequest, match="start must be between the years 1970 and 2199"):
        run.decide(s.BackfillSchedule(*TARGET, "b", -1, NOW))
    with pytest.raises(InvalidRequest, match="for the past"):
        run.decide(s.BackfillSchedule(*TARGET, "b", NOW, NOW + 1))
    run = Timed(definition(overlap="buffer_all"))
    run.state.schedule.backfills = [s.Backfill(0, 1, "skip", NOW)] * MAX_BACKFILLS  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
    with pytest.raises(LimitExceeded, match="100 backfills"):
        run.decide(s.BackfillSchedule(*TARGET, "b", NOW - 2, NOW - 1))


# --- Whatever happens -----------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["skip", "buffer_one", "buffer_all", "cancel_other", "allow_all"]))
def test_whatever_happens_everything_due_is_accounted_for(seed: int, overlap: s.Overlap) -> None:
    """With all that the harness checks after each step: what is stored folds to what is live, also after a crash."""
    random = Random(seed)
    run = Timed(definition(overlap=overlap), seed=seed)
    triggers, running = 0, set[int]()
    for _ in range(60):
        what = random.random()
        if what < 0.35:
            run.due(max(run.now, min(run.execution.wake_at(), run.now + random.randint(0, 3) * HOUR)))
        elif what < 0.6 and run.state.outbox:
            entry_id, entry = random.choice(list(run.state.outbox.items()))
            run.answer(entry_id)
            if isinstance(entry.added.message, r.OutboxScheduledStart):
                running.add(entry.added.message.start_id)
        elif what < 0.8 and running:
            start_id = random.choice(sorted(running))
            running.discard(start_id)
            run.report(start_id, random.choice(("Completed", "Failed", "Canceled")))
        elif what < 0.9:
            run.trigger()
            triggers += 1
        else:
            run.crash()
        if run.state.status != "Running":
            break
    schedule = run.kept
    until = schedule.until
    due = (until - FIRST) // HOUR + 1 if until >= FIRST else 0
    assert schedule.begun + schedule.skipped + len(schedule.buffer) == due + triggers
    if overlap != "allow_all":
        assert len(schedule.running) <= 1
