"""The timeouts of activities and runs, heartbeats, retention: in simulated time."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import cast

import pytest

from perdure import ActivityTimedOut, NotFound, RetryPolicy, WorkflowTimedOut, activity, workflow
from perdure.clock import HOUR
from perdure.limits import DEFAULT_RETENTION
from perdure.sdk.client.client import Client
from tests.integration.engines import Simulation, activity_with
from tests.integration.work import Gate, echo

ONCE = RetryPolicy(maximum_attempts=1)


class Beats:
    """What the attempts of `beating` saw and were told."""

    seen: list[object] = []  # noqa: RUF012
    hang_until_attempt = 1
    cancelled = 0


@activity(name="timeouts.hangs")
async def hangs() -> int:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        Beats.cancelled += 1
        raise
    return 0


@activity(name="timeouts.beating", heartbeat_timeout="30s", retry_policy=RetryPolicy(initial_interval="1s"))
async def beating() -> int:
    """Counts to 10, a count a beat; goes on where the last attempt ended. Falls silent in the first attempts."""
    count = activity.heartbeat_details(int) or 0
    Beats.seen.append(count)
    while count < 10:
        count += 1
        activity.heartbeat(count)
        await asyncio.sleep(20)  # simulated time
        if count % 4 == 0 and activity.info().attempt <= Beats.hang_until_attempt:
            await asyncio.Event().wait()
    return count


@pytest.mark.parametrize(
    ("option", "seconds"),
    [("start_to_close", 3600), ("schedule_to_close", 7200), ("heartbeat", 60)],
)
def test_a_timeout_ends_an_attempt(simulation: Simulation, option: str, seconds: int) -> None:
    limited = hangs.options(
        retry_policy=ONCE,
        start_to_close_timeout=seconds if option == "start_to_close" else None,
        schedule_to_close_timeout=seconds if option == "schedule_to_close" else None,
        heartbeat_timeout=seconds if option == "heartbeat" else None,
    )

    @workflow(name="timeouts.limited")
    async def limited_run() -> list[object]:
        before = workflow.now()
        try:
            await limited()
        except TimeoutError as error:
            assert isinstance(error, ActivityTimedOut)
            return [error.timeout, (workflow.now() - before).total_seconds(), str(error)]
        return []

    async def body(client: Client) -> list[object]:
        return await client.run(limited_run())

    Beats.cancelled = 0
    timeout, took, text = simulation.run(body)
    assert timeout == option
    assert took == pytest.approx(seconds, abs=2)
    assert "timeouts.hangs" in str(text)
    assert Beats.cancelled == 1


def test_schedule_to_start_times_out_what_finds_no_slot(simulation: Simulation) -> None:
    @workflow(name="timeouts.crowded")
    async def crowded() -> list[object]:
        first = hangs.start()
        await asyncio.sleep(1)
        try:
            await echo.options(schedule_to_start_timeout="5m")("late")
        except ActivityTimedOut as error:
            first.cancel()
            return [error.timeout, await echo("and the slot is free again")]
        return []

    async def body(client: Client) -> list[object]:
        return await client.run(crowded())

    assert simulation.run(body, slots=1) == ["schedule_to_start", "and the slot is free again"]


def test_an_attempt_that_times_out_is_followed_by_another(simulation: Simulation) -> None:
    attempts: list[int] = []

    @activity(name="timeouts.second_works", start_to_close_timeout="1m", retry_policy=RetryPolicy(initial_interval=1))
    async def second_works() -> int:
        attempts.append(activity.info().attempt)
        if len(attempts) < 3:
            await asyncio.Event().wait()
        assert "start_to_close" in (activity.info().last_failure or "")
        return len(attempts)

    @workflow(name="timeouts.followed")
    async def followed() -> int:
        return await second_works()

    async def body(client: Client) -> int:
        return await client.run(followed())

    assert simulation.run(body) == 3
    assert attempts == [1, 2, 3]


def test_policies_may_name_timeouts(simulation: Simulation) -> None:
    @workflow(name="timeouts.holding")
    async def holding() -> int:
        policy = RetryPolicy(hold_on=(TimeoutError,))
        return await hangs.options(start_to_close_timeout="5s", retry_policy=policy)()

    async def body(client: Client) -> int:
        handle = await client.start(holding())
        held = await activity_with(handle, "held")
        await handle.complete_activity(held.activity_id, 5)
        return await handle.result()

    assert simulation.run(body) == 5


def test_heartbeats_keep_an_attempt_alive_and_survive_it(simulation: Simulation) -> None:
    @workflow(name="timeouts.beats")
    async def beats() -> int:
        return await beating()

    async def body(client: Client) -> int:
        return await client.run(beats())

    Beats.seen, Beats.hang_until_attempt = [], 2
    assert simulation.run(body) == 10
    assert Beats.seen == [0, 4, 8]


def test_heartbeat_details_survive_a_restart(simulation: Simulation) -> None:
    @workflow(name="timeouts.beats_again")
    async def beats_again() -> int:
        return await beating()

    async def starts(client: Client) -> None:
        handle = await client.start(beats_again(), id="b")
        await asyncio.sleep(50)  # simulated time
        assert (await activity_with(handle, "started")).heartbeat_details

    async def ends(client: Client) -> int:
        return await client.get("b", beats_again).result()

    Beats.seen, Beats.hang_until_attempt = [], 0
    simulation.run(starts)
    assert simulation.run(ends) == 10
    assert Beats.seen == [0, 3]


@activity(name="timeouts.climbs", start_to_close_timeout="10s", retry_policy=RetryPolicy(initial_interval="1s"))
async def climbs() -> list[int]:
    """Counts to 250, ten a second; tells where its attempts have begun."""
    begun = activity.heartbeat_details(list[int]) or [0]
    begun = [*begun, begun[-1]] if activity.info().attempt > 1 else begun
    while begun[-1] < 250:
        activity.heartbeat(begun)
        await asyncio.sleep(0.1)  # simulated time
        begun[-1] += 1
    return begun


def test_an_attempt_that_takes_too_long_leaves_to_the_next_how_far_it_came(simulation: Simulation) -> None:
    @workflow(name="timeouts.climbing")
    async def climbing() -> list[int]:
        return await climbs()

    async def body(client: Client) -> tuple[int, list[int]]:
        handle = await client.start(climbing(), id="c")
        await asyncio.sleep(2)  # simulated time
        (seen,) = (await activity_with(handle, "started")).heartbeat_details
        return cast("list[int]", seen)[0], await handle.result()

    seen, begun = simulation.run(body)
    assert 10 <= seen <= 20, "what it has told is seen, before it is on disk"
    assert len(begun) == 3
    assert all(after - before >= 90 for before, after in pairwise([0, *begun[:-1]]))


@pytest.mark.parametrize("option", ["execution_timeout", "run_timeout"])
def test_a_run_out_of_time_ends(simulation: Simulation, option: str) -> None:
    @workflow(name="timeouts.sleeps")
    async def sleeps() -> None:
        await asyncio.sleep(10 * 3600)

    async def body(client: Client) -> str:
        handle = await (
            client.start(sleeps(), execution_timeout="1h")
            if option == "execution_timeout"
            else client.start(sleeps(), run_timeout="1h")
        )
        with pytest.raises(WorkflowTimedOut, match="timeout"):
            await handle.result()
        assert asyncio.get_running_loop().time() == pytest.approx(3600, abs=5)
        return (await handle.describe()).status

    assert simulation.run(body) == "TimedOut"


def test_a_closed_run_is_kept_as_long_as_asked(simulation: Simulation) -> None:
    @workflow(name="timeouts.short")
    async def short() -> str:
        return await echo("x")

    async def starts(client: Client) -> None:
        handle = await client.start(short(), id="kept")
        assert await handle.result() == "x"
        await asyncio.sleep(0.9 * 3600)  # simulated time
        assert await handle.result() == "x"
        assert [row.id async for row in client.list()] == ["kept"]

    async def looks(client: Client) -> None:
        await asyncio.sleep(60)  # simulated time
        with pytest.raises(NotFound):
            await client.get("kept", short).result()
        assert [row.id async for row in client.list()] == []
        assert await client.run(short(), id="kept", id_reuse_policy="reject_duplicate") == "x"

    simulation.run(starts, retention=HOUR)
    simulation.pass_time(3600)
    simulation.run(looks, retention=HOUR)
    assert DEFAULT_RETENTION > HOUR


def test_timers_due_while_no_process_runs(simulation: Simulation) -> None:
    @workflow(name="timeouts.timers")
    async def timers() -> list[int]:
        order: list[int] = []

        async def sleep(days: int) -> None:
            await asyncio.sleep(days * 86_400)
            order.append(days)

        await asyncio.gather(sleep(3), sleep(1), sleep(2), sleep(40))
        return order

    async def starts(client: Client) -> None:
        await client.start(timers(), id="t")

    async def ends(client: Client) -> list[int]:
        return await client.get("t", timers).result()

    simulation.run(starts)
    simulation.pass_time(30 * 86_400)
    assert simulation.run(ends) == [1, 2, 3, 40]


def test_a_deadline_inside_a_workflow_cancels_its_activity(simulation: Simulation) -> None:
    @workflow(name="timeouts.deadline")
    async def deadline() -> str:
        try:
            async with asyncio.timeout(86_400):
                await hangs()
        except TimeoutError:
            return await echo("in time")
        return ""

    async def body(client: Client) -> str:
        return await client.run(deadline())

    Beats.cancelled = 0
    assert simulation.run(body) == "in time"
    assert Beats.cancelled == 1


def test_priorities_and_slots(simulation: Simulation) -> None:
    """One slot: what waits is started in order of priority, then of arrival, also after a restart."""
    gate = Gate.named("first")
    order: list[str] = []

    @activity(name="timeouts.noted")
    async def noted(name: str) -> str:
        order.append(name)
        if name == "first":
            await gate.pass_through()
        return name

    @workflow(name="timeouts.queueing")
    async def queueing() -> list[str]:
        first = noted.start("first")
        await asyncio.sleep(1)
        waiting = [
            noted.options(priority=priority).start(name) for name, priority in (("c", 5), ("a", -1), ("d", 5), ("b", 0))
        ]
        return [await each for each in (first, *waiting)]

    async def starts(client: Client) -> None:
        await client.start(queueing(), id="q")
        await asyncio.sleep(10)  # simulated time
        assert order == ["first"]

    async def ends(client: Client) -> None:
        await client.get("q", queueing).result()

    simulation.run(starts, slots=1)
    gate.open()
    simulation.run(ends, slots=1)
    assert [name for name in order if name != "first"] == ["a", "b", "c", "d"]
