"""Schedules: they start workflows, once each, whatever happens to the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from perdure import (
    Calendar,
    Client,
    InvalidRequest,
    NotFound,
    Schedule,
    ScheduleDescription,
    ScheduleExists,
    ScheduleHandle,
    embedded,
    workflow,
)
from perdure.engine.storage.api import RunKey
from tests.integration.engines import Engine, ShiftedClock, Simulation

DAILY = Schedule(cron="0 3 * * *", time_zone="Europe/Zurich")
HOURLY = Schedule(every="1h")


@workflow(name="schedules.quick")
async def quick(n: int) -> str:
    info = workflow.info()
    assert info.scheduled_time is not None
    return f"{info.schedule_id} {info.scheduled_time.isoformat()} {n}"


@workflow(name="schedules.rolls")
async def rolls(n: int) -> str:
    if n:
        workflow.continue_as_new(rolls(n - 1))
    return workflow.info().schedule_id or ""


@workflow(name="schedules.waits")
async def waits() -> str:
    await workflow.receive("go", object)
    return "gone"


@workflow(name="schedules.works")
async def works(minutes: int) -> None:
    await asyncio.sleep(minutes * 60)


@workflow(name="schedules.counts")
async def counts() -> list[int]:
    return [*(workflow.last_result(list[int]) or []), len(workflow.last_result(list[int]) or [])]


async def described(
    handle: ScheduleHandle, wanted: Callable[[ScheduleDescription], bool], *, tries: int = 100_000
) -> ScheduleDescription:
    """The first description of a schedule that is as wanted."""
    description = await handle.describe()
    while not wanted(description):
        assert tries, f"not as wanted: {description}"
        tries -= 1
        await asyncio.sleep(0)
        description = await handle.describe()
    return description


async def started_by(client: Client, id: str) -> list[str]:
    """The ids of all that a schedule has started, the first first."""
    return [row.id async for row in client.list(f"ScheduledById = '{id}'")][::-1]


# --- Over every kind of engine --------------------------------------------------------------------------
async def test_a_trigger_starts_the_workflow_once(client: Client) -> None:
    handle = await client.create_schedule("nightly", quick(7), DAILY)
    await handle.trigger(note="to see", request_id="t1")
    await handle.trigger(note="to see", request_id="t1")
    seen = await described(handle, lambda d: len(d.recent) == 1)
    (run,) = seen.recent
    assert (run.status, run.manual, seen.started, seen.running) == ("Completed", True, 1, ())
    result = await client.get(run.workflow_id, quick).result()
    assert result == f"nightly {run.scheduled_time.isoformat()} 7"
    assert await started_by(client, "nightly") == [run.workflow_id]
    assert [(done.action, done.note) for done in seen.interventions] == [("triggered", "to see")]


async def test_a_time_that_comes_is_kept(client: Client) -> None:
    once = Schedule(every="1s", remaining_actions=1)
    handle = await client.create_schedule("soon", quick(1), once)
    (next, *_) = (await handle.describe()).next_times
    seen = await described(handle, lambda d: bool(d.recent), tries=10_000_000)
    assert [(run.scheduled_time, run.status, run.manual) for run in seen.recent] == [(next, "Completed", False)]
    assert await started_by(client, "soon") == [seen.recent[0].workflow_id]
    assert (seen.next_times, seen.schedule.remaining_actions) == ((), 0)


async def test_what_a_schedule_starts_tells_so(client: Client) -> None:
    handle = await client.create_schedule("tells", waits(), DAILY, workflow_id="job", memo={"why": "nightly"})
    await handle.trigger()
    (run,) = (await described(handle, lambda d: bool(d.running) and d.running[0].status == "Running")).running
    assert run.workflow_id.startswith("job-20")
    description = await client.get(run.workflow_id).describe()
    assert (description.schedule_id, description.scheduled_time) == ("tells", run.scheduled_time)
    assert description.memo == {"why": "nightly"}
    assert description.search_attributes["ScheduledById"] == "tells"
    assert [row.id async for row in client.list("ScheduledStartTime > '2020-01-01' AND ExecutionStatus = 'Running'")]
    await client.get(run.workflow_id).signal("go")
    (run,) = (await described(handle, lambda d: bool(d.recent))).recent
    assert run.status == "Completed"


async def test_schedules_and_workflows_are_listed_apart(client: Client) -> None:
    for n in range(3):
        await client.create_schedule(f"s{n}", quick(n) if n else waits(), DAILY)
    await client.run(works(0), id="s1")
    assert [row.id async for row in client.list_schedules()] == ["s2", "s1", "s0"]
    assert [row.id async for row in client.list_schedules("WorkflowType = 'schedules.waits'")] == ["s0"]
    assert [row.id async for row in client.list()] == ["s1"]
    await client.schedule("s2").pause()
    assert [row.id async for row in client.list_schedules("Paused = TRUE")] == ["s2"]
    await client.schedule("s2").unpause()
    assert [row.id async for row in client.list_schedules("Paused = FALSE")] == ["s2", "s1", "s0"]
    await client.schedule("s1").delete("not needed")
    assert [row.id async for row in client.list_schedules()] == ["s2", "s0"]
    with pytest.raises(NotFound, match="no schedule with the id 's1'"):
        await client.schedule("s1").describe()
    with pytest.raises(NotFound, match="no schedule with the id 's1'"):
        await client.schedule("s1").pause()
    again = await client.create_schedule("s1", quick(1), DAILY)
    assert (await again.describe()).revision == 1
    for query, why in {
        "ExecutionStatus = 'Completed'": "ExecutionStatus is no field of schedules",
        "Paused = 'yes'": "column 1: Paused takes TRUE or FALSE, and 'yes' is neither",
        "Env = 'test'": "unknown field 'Env': schedules have no search attributes",
    }.items():
        with pytest.raises(InvalidRequest, match=why):
            [_ async for _ in client.list_schedules(query)]
    with pytest.raises(InvalidRequest, match=r"Paused is no field of workflows, but of client.list_schedules\(\)"):
        [_ async for _ in client.list("Paused = TRUE")]


async def test_an_id_is_taken_once(client: Client) -> None:
    await client.create_schedule("taken", quick(1), DAILY, request_id="c1")
    await client.create_schedule("taken", quick(1), DAILY, request_id="c1")
    with pytest.raises(ScheduleExists, match="'taken' already"):
        await client.create_schedule("taken", quick(2), DAILY)


async def test_a_missed_time_is_made_up_for_after_a_restart(engine: Engine) -> None:
    if engine.kind in ("nodes", "postgres"):
        pytest.skip("nobody sets the clock of a shared store")
    clock = ShiftedClock()
    async with engine.open(clock=clock) as client:
        handle = await client.create_schedule("hourly", quick(1), replace(HOURLY, overlap="buffer_all"))
        (first, *_) = (await handle.describe()).next_times
    clock.ahead += 3 * 3600 * 1_000_000
    async with engine.open(clock=clock) as client:
        handle = client.schedule("hourly")
        seen = await described(handle, lambda d: len(d.recent) == 3 and not d.running)
        assert [run.scheduled_time for run in seen.recent] == [first + timedelta(hours=n) for n in range(3)]
        assert len(await started_by(client, "hourly")) == 3
    async with engine.open(clock=clock) as client:
        seen = await client.schedule("hourly").describe()
        assert (seen.started, seen.missed, seen.skipped, seen.next_times[0]) == (3, 0, 0, first + timedelta(hours=3))
        assert len(await started_by(client, "hourly")) == 3


async def test_pause_update_and_unpause(client: Client) -> None:
    handle = await client.create_schedule("changes", quick(1), DAILY, paused=True, note="not yet")
    seen = await handle.describe()
    assert seen.paused is not None
    assert seen.paused.reason == "not yet"
    await handle.unpause("go on")
    await handle.pause("stop")
    await handle.pause("again")
    await handle.update(lambda schedule: replace(schedule, cron="30 4 * * *"), note="later")
    await handle.update(HOURLY, waits(), note="something else", task_queue="other")
    seen = await handle.describe()
    assert (seen.schedule.every, seen.schedule.cron, seen.workflow_type) == ("1h", (), "schedules.waits")
    assert (seen.task_queue, seen.revision) == ("other", 3)
    await handle.trigger()
    (run,) = (await described(handle, lambda d: bool(d.running) and d.running[0].status == "Running")).running
    assert (await client.get(run.workflow_id).describe()).task_queue == "other"
    actions = [(done.action, done.note) for done in seen.interventions]
    assert actions == [
        ("paused", "not yet"),
        ("resumed", "go on"),
        ("paused", "stop"),
        ("changed", "later"),
        ("changed", "something else"),
    ]


async def test_changes_at_the_same_time_are_all_kept(client: Client) -> None:
    handle = await client.create_schedule("both", quick(1), DAILY)
    await asyncio.gather(
        handle.update(lambda schedule: replace(schedule, jitter="5m")),
        handle.update(lambda schedule: replace(schedule, overlap="buffer_one")),
        handle.update(lambda schedule: replace(schedule, pause_on_failure=True)),
    )
    seen = await handle.describe()
    assert (seen.schedule.jitter, seen.schedule.overlap, seen.schedule.pause_on_failure) == ("5m", "buffer_one", True)
    assert seen.revision == 4


async def test_an_update_of_the_times_leaves_what_is_started(client: Client) -> None:
    handle = await client.create_schedule("leaves", quick(7), DAILY, memo={"why": "nightly"})
    await handle.update(HOURLY)
    await handle.trigger()
    (run,) = (await described(handle, lambda d: bool(d.recent))).recent
    started = client.get(run.workflow_id, quick)
    assert (await started.result()).endswith(" 7")
    assert (await started.describe()).memo == {"why": "nightly"}


async def test_a_backfill_starts_what_would_have_been_due(client: Client) -> None:
    calendar = Calendar(hour="3,4", minute=30)
    handle = await client.create_schedule("past", quick(1), Schedule(calendars=calendar), paused=True)
    day = datetime(2026, 2, 1, tzinfo=UTC)
    await handle.backfill(day, day + timedelta(days=2), overlap="buffer_all", note="the outage")
    seen = await described(handle, lambda d: d.started == 4 and not d.running and not d.backfills)
    times = [day + timedelta(days=n, hours=hour, minutes=30) for n in range(2) for hour in (3, 4)]
    assert [run.scheduled_time for run in seen.recent] == times
    assert all(run.manual for run in seen.recent)
    with pytest.raises(InvalidRequest, match="before it starts"):
        await handle.backfill(day, day - timedelta(days=1))
    with pytest.raises(InvalidRequest, match="for the past"):
        await handle.backfill(day, datetime.now(UTC) + timedelta(days=1))


async def test_overlap_policies(client: Client) -> None:
    handle = await client.create_schedule("overlaps", waits(), DAILY)
    await handle.trigger()
    await described(handle, lambda d: bool(d.running) and d.running[0].status == "Running")
    await handle.trigger(overlap="skip")
    await handle.trigger(overlap="buffer_one")
    await handle.trigger(overlap="buffer_one")
    seen = await handle.describe()
    assert (seen.started, seen.skipped, len(seen.buffered)) == (1, 2, 1)
    await client.get(seen.running[0].workflow_id).signal("go")
    seen = await described(handle, lambda d: d.started == 2 and bool(d.running) and d.running[0].status == "Running")
    await handle.trigger(overlap="terminate_other")
    seen = await described(handle, lambda d: d.started == 3 and bool(d.running) and d.running[0].status == "Running")
    assert [run.status for run in seen.recent] == ["Completed", "Terminated"]
    await handle.trigger(overlap="cancel_other")
    seen = await described(handle, lambda d: d.started == 4 and bool(d.running) and d.running[0].status == "Running")
    assert [run.status for run in seen.recent] == ["Completed", "Terminated", "Canceled"]
    await handle.trigger(overlap="allow_all")
    seen = await described(handle, lambda d: d.running_count == 2)
    await handle.trigger(overlap="buffer_all")
    await handle.trigger(overlap="buffer_all")
    seen = await handle.describe()
    assert len(seen.buffered) == 2


async def test_a_workflow_knows_the_last_result(client: Client) -> None:
    handle = await client.create_schedule("counts", counts(), DAILY)
    for n in range(3):
        await handle.trigger()
        await described(handle, lambda d, n=n: len(d.recent) == n + 1)
    seen = await handle.describe()
    assert await client.get(seen.recent[-1].workflow_id, counts).result() == [0, 1, 2]


async def test_what_a_schedule_started_and_was_reset_reports_once(client: Client) -> None:
    handle = await client.create_schedule("resets", waits(), DAILY)
    await handle.trigger()
    seen = await described(handle, lambda d: bool(d.running) and d.running[0].status == "Running")
    run = client.get(seen.running[0].workflow_id)
    again = await run.reset(to="first", reason="once more")
    assert (await again.describe()).schedule_id == "resets"
    await again.signal("go")
    seen = await described(handle, lambda d: bool(d.recent))
    assert [(each.run_id, each.status) for each in seen.recent] == [(again.run_id, "Completed")]
    assert seen.running == ()


async def test_what_is_reset_after_its_end_runs_again_for_its_schedule(client: Client) -> None:
    handle = await client.create_schedule("revived", waits(), DAILY)
    await handle.trigger()
    (first,) = (await described(handle, lambda d: bool(d.running) and d.running[0].status == "Running")).running
    run = client.get(first.workflow_id)
    await run.signal("go")
    await described(handle, lambda d: bool(d.recent))
    run = revived = await client.get(run.id).reset(to="first", reapply=False)
    for _ in range(2):
        (again,) = (await described(handle, lambda d: bool(d.running))).running
        assert (again.run_id, again.status, again.manual) == (revived.run_id, "Running", True)
        run = await client.get(run.id).reset(to="first", reapply=False)  # while it runs, which is nothing new
    await handle.trigger()
    seen = await handle.describe()
    assert (seen.started, seen.skipped, seen.running_count) == (1, 1, 1)
    await run.signal("go")
    seen = await described(handle, lambda d: len(d.recent) == 2)
    assert [(each.run_id, each.status) for each in seen.recent] == [
        (first.run_id, "Completed"),
        (run.run_id, "Completed"),
    ]
    await handle.trigger()
    assert (await handle.describe()).running_count == 1


async def test_a_run_is_reset_whose_id_another_start_has_taken(client: Client) -> None:
    handle = await client.create_schedule("twice", waits(), DAILY)
    begin, end = datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 1, 2, tzinfo=UTC)
    first = None
    for number in range(2):
        await handle.backfill(begin, end, request_id=f"backfill-{number}")
        (run,) = (await described(handle, lambda d: bool(d.running) and d.running[0].status == "Running")).running
        if first is None:
            first = run
            await client.get(first.workflow_id).signal("go")
            await described(handle, lambda d: len(d.recent) == 1)
    assert first is not None and first.run_id
    again = await client.get(first.workflow_id, run_id=first.run_id).reset(to="first", reapply=False)
    seen = await described(handle, lambda d: len(d.recent) == 2 and bool(d.running))
    assert [each.status for each in seen.recent] == ["Completed", "Terminated"]
    assert [each.run_id for each in seen.running] == [again.run_id]
    await again.signal("go")
    seen = await described(handle, lambda d: len(d.recent) == 3)
    assert seen.running == ()


async def test_a_reset_for_a_schedule_that_was_deleted_is_like_any_other(client: Client) -> None:
    handle = await client.create_schedule("mortal", quick(1), DAILY)
    await handle.trigger()
    (run,) = (await described(handle, lambda d: bool(d.recent))).recent
    await handle.delete()
    await client.create_schedule("mortal", quick(2), DAILY)
    again = await client.get(run.workflow_id, quick).reset(to="first")
    assert (await again.result()).endswith(" 1")
    seen = await handle.describe()
    assert (seen.running, seen.recent) == ((), ())


async def test_a_workflow_that_continues_as_new_reports_at_its_end(client: Client) -> None:
    handle = await client.create_schedule("rolls", rolls(2), DAILY)
    await handle.trigger()
    (run,) = (await described(handle, lambda d: bool(d.recent))).recent
    assert await client.get(run.workflow_id, rolls).result() == "rolls"
    assert (await handle.describe()).started == 1


# --- What is refused ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("schedule", "error", "says"),
    [
        (Schedule(), InvalidRequest, "can never fire: it has no cron expression"),
        (Schedule(cron="0 0 30 2 *"), InvalidRequest, r"can never fire: cron '0 0 30 2 \*' has no date"),
        (Schedule(cron="0 25 * * *"), InvalidRequest, r"field 2 \(character 3\): hour: 25 is not between 0 and 23"),
        (Schedule(cron="*/90 * * * *"), InvalidRequest, r"field 1 \(character 1\): minute: the step in '\*/90' leaves"),
        (Schedule(cron="@daily", time_zone="Europe/Zuerich"), InvalidRequest, "did you mean 'Europe/Zurich'"),
        (Schedule(every="-1s"), ValueError, "every is '-1s', which is not a duration"),
        (Schedule(every=-5), ValueError, "every must not be negative"),
        (Schedule(every=0), InvalidRequest, "an interval must be between 1 s"),
        (Schedule(every="0.1s"), InvalidRequest, "an interval must be between 1 s"),
        (Schedule(offset="5m", cron="@daily"), ValueError, "offset is that of an interval: give `every`"),
        (Schedule(every="1h", offset="2h"), InvalidRequest, "offset must be less than the interval"),
        (Schedule(every="1h", overlap="maybe"), ValueError, 'overlap must be "skip" or "buffer_one"'),  # pyright: ignore[reportArgumentType]
        (Schedule(every="1h", catchup_window="1s"), InvalidRequest, "catchup_window must be at least 10 s"),
        (Schedule(every="1h", remaining_actions=-1), ValueError, "remaining_actions must be between 0"),
        (Schedule(every="1h", remaining_actions=0), InvalidRequest, "can never fire: remaining_actions is 0"),
        (Schedule(every="1h", start_at=datetime(2027, 1, 1)), ValueError, "start_at has no time zone"),  # noqa: DTZ001
        (Schedule(every="1h", end_at=datetime(2020, 1, 1, tzinfo=UTC)), InvalidRequest, "it ended at 2020-01-01"),
        (Schedule(every="1h", start_at=datetime(1950, 1, 1, tzinfo=UTC)), InvalidRequest, "start_at must be between"),
        (Schedule(every="1h", end_at=datetime(9999, 1, 1, tzinfo=UTC)), InvalidRequest, "the years 1970 and 2199"),
        (Schedule(calendars=Calendar(hour=24)), InvalidRequest, r"calendar \(hour='24'\): hour: 24 is not between"),
        (Schedule(calendars=Calendar(hour=1.5)), TypeError, "calendars: hour must be a number or text, not float"),  # pyright: ignore[reportArgumentType]
        (Schedule(cron=["@daily", 5]), TypeError, "cron must hold str, not int"),  # pyright: ignore[reportArgumentType]
        (Schedule(calendars="@daily"), TypeError, "calendars must be a Calendar or several, not str"),  # pyright: ignore[reportArgumentType]
        (Schedule(every="1h", pause_on_failure=1), TypeError, "pause_on_failure must be True or False"),  # pyright: ignore[reportArgumentType]
        ("@daily", TypeError, "the schedule must be a Schedule, not str"),
    ],
)
async def test_a_schedule_that_makes_no_sense(schedule: Schedule, error: type[Exception], says: str) -> None:
    async with embedded(":memory:") as client:
        with pytest.raises(error, match=says):
            await client.create_schedule("wrong", quick(1), schedule)
        assert [row async for row in client.list_schedules()] == []
        with pytest.raises(NotFound):
            await client.schedule("wrong").describe()


async def test_other_wrong_uses(client: Client) -> None:
    with pytest.raises(TypeError, match=r"'overlap' is of the schedule itself: Schedule\(…, overlap=…\)"):
        await client.create_schedule("x", quick(1), DAILY, overlap="skip")  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="has no option 'start_delay'; it has workflow_id, task_queue"):
        await client.create_schedule("x", quick(1), DAILY, start_delay="1s")  # pyright: ignore[reportCallIssue]
    with pytest.raises(ValueError, match="id must have between 1 and"):
        await client.create_schedule("", quick(1), DAILY)
    for id in (" ", "nightly\n"):
        with pytest.raises(ValueError, match="id must neither begin nor end with white space"):
            await client.create_schedule(id, quick(1), DAILY)
    with pytest.raises(TypeError):
        await client.create_schedule("x", quick, DAILY)  # pyright: ignore[reportCallIssue, reportArgumentType]
    handle = await client.create_schedule("x", quick(1), DAILY)
    with pytest.raises(TypeError, match="task_queue: options are of a start; give the call, too"):
        await handle.update(DAILY, task_queue="other")
    with pytest.raises(ValueError, match="overlap must be"):
        await handle.trigger(overlap="never")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="start has no time zone"):
        await handle.backfill(datetime(2026, 1, 1), datetime(2026, 1, 2, tzinfo=UTC))  # noqa: DTZ001
    with pytest.raises(TypeError, match="start must be a datetime, not NoneType"):
        await handle.backfill(None, None)  # pyright: ignore[reportArgumentType]
    for what in (client.schedule("none").pause(), client.schedule("none").trigger(), client.schedule("none").delete()):
        with pytest.raises(NotFound, match="no schedule with the id 'none'"):
            await what
    with pytest.raises(InvalidRequest, match="must not begin with 'schedules/'"):
        await Client(client.service, namespace="schedules/default").get("x").terminate()


# --- In simulated time ----------------------------------------------------------------------------------
def test_a_year_of_nights(simulation: Simulation) -> None:
    """Each night once, by the clocks of the place, through both changes of the clocks."""

    async def year(client: Client) -> ScheduleDescription:
        handle = await client.create_schedule("nightly", quick(1), DAILY)
        await asyncio.sleep(365 * 24 * 3600)  # simulated time
        times = [row async for row in client.list("ScheduledById = 'nightly'")]
        assert len(times) == 30  # the others are beyond their retention
        return await handle.describe()

    seen = simulation.run(year)
    assert (seen.started, seen.missed, seen.skipped, seen.refused) == (365, 0, 0, 0)


def test_a_week_without_an_engine(simulation: Simulation) -> None:
    async def make(client: Client) -> None:
        await client.create_schedule("skips", works(1), Schedule(every="1h"))
        await client.create_schedule(
            "forgets", works(1), Schedule(every="1h", overlap="allow_all", catchup_window="5h")
        )
        await client.create_schedule("waits", works(1), Schedule(every="1h", overlap="buffer_one"))

    async def look(client: Client) -> list[tuple[int, int, int]]:
        await asyncio.sleep(600)  # simulated time
        return [
            (seen.started, seen.missed, seen.skipped)
            for seen in [await client.schedule(id).describe() for id in ("skips", "forgets", "waits")]
        ]

    simulation.run(make)
    simulation.pass_time(7 * 24 * 3600 - 60)
    assert simulation.run(look) == [(1, 0, 167), (6, 162, 0), (2, 0, 166)]


def test_a_failure_pauses_and_the_number_of_starts_is_limited(simulation: Simulation) -> None:
    async def body(client: Client) -> None:
        timed = Schedule(every="1h", pause_on_failure=True)
        handle = await client.create_schedule("fails", works(30), timed, run_timeout="1m")
        limited = await client.create_schedule("thrice", works(1), Schedule(every="1h", remaining_actions=3))
        await asyncio.sleep(24 * 3600)  # simulated time
        seen = await handle.describe()
        assert seen.paused is not None
        assert "took too long" in seen.paused.reason
        assert (seen.started, seen.recent[0].status) == (1, "TimedOut")
        seen = await limited.describe()
        assert (seen.started, seen.next_times, seen.schedule.remaining_actions) == (3, (), 0)

    simulation.run(body)


def test_what_lives_for_years_stays_small(simulation: Simulation) -> None:
    async def body(client: Client) -> None:
        handle = await client.create_schedule("often", quick(1), Schedule(every="1m", overlap="buffer_one"))
        await handle.pause("a while")
        await handle.unpause()
        await asyncio.sleep(2 * 24 * 3600)  # simulated time
        seen = await handle.describe()
        assert seen.started >= 2 * 24 * 60 - 1
        assert [done.action for done in seen.interventions] == ["paused", "resumed"]
        assert [row.id async for row in client.list_schedules()] == ["often"]

    simulation.run(body)
    runs = [RunKey("schedules/default", "often", number) for number in range(1, 100)]
    kept = [number for number in asyncio.run(simulation.store.versions(runs)) if number]
    assert len(kept) == 1
    assert kept[0] < 2_000
