"""Failing activities: retries, exceptions that cross as themselves, holds, and what a person does about them."""

from __future__ import annotations

import asyncio
import sys
import threading
from datetime import timedelta

import pytest

from perdure import ApplicationError, Hold, NotFound, RetryPolicy, WorkflowHandle, activity, workflow
from perdure.clock import DAY
from perdure.engine.storage.api import ChainKey
from perdure.engine.storage.sqlite import SqliteStore
from perdure.model import records as r
from perdure.model.journal import merged
from perdure.sdk.client.client import Client
from tests.integration.engines import (
    EPOCH_TIME,
    Engine,
    Simulation,
    activity_with,
    described,
    event_names,
    failing_task,
)

FAST = RetryPolicy(initial_interval="1ms", maximum_interval="5ms")


class QuotaExceeded(Exception):
    def __init__(self, limit: int, used: int) -> None:
        super().__init__(f"{used} of {limit} used")
        self.limit, self.used = limit, used


class HardQuotaExceeded(QuotaExceeded):
    pass


class Outside:
    """The world that the activities act on."""

    failures = 0
    attempts = 0
    quota = 1
    error: type[Exception] = LookupError

    @classmethod
    def reset(cls, failures: int = 0, error: type[Exception] = LookupError) -> None:
        cls.failures, cls.error, cls.attempts, cls.quota = failures, error, 0, 1


@activity(name="failures.flaky", retry_policy=FAST)
async def flaky() -> int:
    Outside.attempts += 1
    if Outside.attempts <= Outside.failures:
        raise Outside.error(f"attempt {Outside.attempts}")
    return Outside.attempts


@activity(name="failures.flaky_thread", retry_policy=FAST)
def flaky_thread() -> tuple[int, bool, str | None]:
    Outside.attempts += 1
    if Outside.attempts <= Outside.failures:
        raise ConnectionError("refused")
    info = activity.info()
    return info.attempt, threading.current_thread() is not threading.main_thread(), info.last_failure


@activity(name="failures.quota", retry_policy=RetryPolicy(initial_interval="1ms", hold_on=(QuotaExceeded,)))
async def take_quota(n: int) -> int:
    Outside.attempts += 1
    if Outside.quota < n:
        raise HardQuotaExceeded(Outside.quota, n)
    return n


@activity(name="failures.asks")
async def asks() -> str:
    Outside.attempts += 1
    if Outside.quota < 2:
        raise Hold("approve the purchase")
    return "bought"


@workflow(name="failures.one")
async def one_quota(n: int) -> int:
    return await take_quota(n)


@workflow(name="failures.asking")
async def asking() -> str:
    return await asks()


async def test_an_activity_is_retried_until_it_works(client: Client) -> None:
    @workflow(name="failures.retried")
    async def retried() -> int:
        return await flaky()

    Outside.reset(failures=3)
    handle = await client.start(retried())
    assert await handle.result() == 4
    assert [name for name in await event_names(handle) if name.startswith("Activity")] == [
        "ActivityTaskScheduled",
        "ActivityTaskStarted",
        "ActivityTaskCompleted",
    ]


async def test_a_plain_activity_is_retried_in_a_thread(client: Client) -> None:
    @workflow(name="failures.threaded")
    async def threaded() -> tuple[int, bool, str | None]:
        return await flaky_thread.start()

    Outside.reset(failures=1)
    assert await client.run(threaded()) == (2, True, "ConnectionError: refused")


async def test_an_exception_crosses_as_itself(client: Client) -> None:
    @activity(name="failures.no_retry", retry_policy=RetryPolicy(non_retryable=(QuotaExceeded,)))
    async def no_retry() -> None:
        Outside.attempts += 1
        try:
            raise KeyError("cause")
        except KeyError as error:
            raise HardQuotaExceeded(20, 21) from error

    @workflow(name="failures.catching")
    async def catching() -> list[object]:
        try:
            await no_retry()
        except QuotaExceeded as error:
            cause = error.__cause__
            return [type(error).__name__, error.limit, error.used, str(error), isinstance(cause, KeyError)]
        return []

    @workflow(name="failures.not_catching")
    async def not_catching() -> None:
        await no_retry()

    Outside.reset()
    assert await client.run(catching()) == ["HardQuotaExceeded", 20, 21, "21 of 20 used", True]
    assert Outside.attempts == 1
    with pytest.raises(HardQuotaExceeded) as caught:
        await client.run(not_catching())
    assert (caught.value.limit, caught.value.used) == (20, 21)


class Exhausted(StopIteration):
    pass


@activity(name="failures.next", retry_policy=RetryPolicy(maximum_attempts=1))
def next_free(subnets: list[str], of: str) -> str:
    if of == "builtins":
        return next(subnet for subnet in subnets if subnet.startswith("free"))
    raise Exhausted("none")


@workflow(name="failures.allocating")
async def allocating(of: str) -> str:
    try:
        return await next_free.start(["used"], of)
    except ApplicationError as error:
        return error.type


@pytest.mark.parametrize(("of", "type"), [("builtins", "builtins.StopIteration"), ("tests", f"{__name__}.Exhausted")])
async def test_what_no_coroutine_can_raise_arrives_as_an_application_error(client: Client, of: str, type: str) -> None:
    assert await client.run(allocating(of)) == type


async def test_attempts_run_out(client: Client) -> None:
    @workflow(name="failures.exhausted")
    async def exhausted() -> int:
        return await flaky.options(retry_policy=RetryPolicy(initial_interval="1ms", maximum_attempts=3))()

    Outside.reset(failures=99)
    with pytest.raises(LookupError, match="attempt 3"):
        await client.run(exhausted())
    assert Outside.attempts == 3


async def test_application_errors_say_how_they_are_retried(client: Client) -> None:
    @activity(name="failures.told", retry_policy=RetryPolicy(initial_interval="1d"))
    async def told() -> None:
        Outside.attempts += 1
        if Outside.attempts == 1:
            raise ApplicationError("soon again", next_retry_delay="1ms")
        raise ApplicationError("never again", {"a": 1}, type="Final", non_retryable=True)

    @workflow(name="failures.told_workflow")
    async def told_workflow() -> None:
        await told()

    Outside.reset()
    with pytest.raises(ApplicationError, match="never again") as caught:
        await client.run(told_workflow(), id="told")
    assert (caught.value.type, caught.value.details, Outside.attempts) == ("Final", ({"a": 1},), 2)
    found = await client.get("told").describe()
    assert (found.status, found.failure) == ("Failed", "Final: never again")
    assert (found.failure_location or "").startswith(f"{__file__}:")


async def test_a_hold_waits_for_a_release(engine: Engine) -> None:
    Outside.reset()
    async with engine.open() as client:
        handle = await client.start(one_quota(3), id="held")
        held = await activity_with(handle, "held")
        assert "3 of 1 used" in (held.hold_reason or "") and held.held_since is not None
        assert (held.attempt, Outside.attempts) == (1, 1)
    Outside.quota = 5
    async with engine.open() as client:
        handle = client.get("held", one_quota)
        assert (await activity_with(handle, "held")).attempt == 1
        await handle.release(note="quota is now 5")
        assert await handle.result() == 3
        with pytest.raises(NotFound):
            await handle.release()


async def test_an_activity_may_ask_for_a_person(client: Client) -> None:
    Outside.reset()
    handle = await client.start(asking())
    held = await activity_with(handle, "held")
    assert "approve the purchase" in (held.hold_reason or "")
    await handle.release(held.activity_id)  # nothing has changed, so it is held again
    await described(handle, lambda d: Outside.attempts == 2 and d.activities[0].status == "held")
    Outside.quota = 2
    await handle.release()
    assert await handle.result() == "bought"


async def test_exhausted_attempts_may_hold_and_a_release_may_change_the_policy(client: Client) -> None:
    policy = RetryPolicy(initial_interval="1ms", maximum_attempts=2, on_exhausted="hold")

    @workflow(name="failures.holds_at_end")
    async def holds_at_end() -> int:
        return await flaky.options(retry_policy=policy)()

    Outside.reset(failures=5)
    handle = await client.start(holds_at_end())
    await activity_with(handle, "held")
    assert Outside.attempts == 2
    await handle.release(retry_policy=RetryPolicy(initial_interval="1ms", maximum_attempts=4))
    assert await handle.result() == 6
    assert Outside.attempts == 6


async def test_a_person_gives_the_outcome(engine: Engine) -> None:
    Outside.reset()
    async with engine.open() as client:
        first, second, third = [await client.start(one_quota(3), id=f"by-hand-{n}") for n in range(3)]
        held = await activity_with(first, "held")
        await first.complete_activity(held.activity_id, 77, note="did it by hand")
        assert await first.result() == 77
        held = await activity_with(second, "held")
        await second.fail_activity(held.activity_id, QuotaExceeded(1, 3), note="no money")
        with pytest.raises(QuotaExceeded):
            await second.result()
        held = await activity_with(third, "held")
        with pytest.raises(NotFound, match=held.activity_id):
            await third.complete_activity("no-such-activity", 1)
        await third.fail_activity(held.activity_id, "in words")
        with pytest.raises(ApplicationError, match="in words"):
            await third.result()
        identity = client.identity
    if engine.kind in ("memory", "nodes", "postgres"):
        return
    records = await private_records(engine, "by-hand-0")
    settled = [record for record in records if isinstance(record, r.ActivitySettled)]
    assert [(each.how, each.note, each.identity) for each in settled] == [("completed", "did it by hand", identity)]
    assert settled[0].time > 0


async def test_who_released_when_and_why_is_in_the_journal(engine: Engine) -> None:
    if engine.kind in ("memory", "nodes", "postgres"):
        pytest.skip("looks into the file")
    Outside.reset()
    async with engine.open() as client:
        handle = await client.start(one_quota(2), id="noted")
        await activity_with(handle, "held")
        Outside.quota = 2
        await handle.release(note="quota is now 2")
        await handle.result()
        identity = client.identity
    released = [each for each in await private_records(engine, "noted") if isinstance(each, r.ActivityReleased)]
    assert [(each.note, each.identity, each.time > 0) for each in released] == [("quota is now 2", identity, True)]


async def private_records(engine: Engine, workflow_id: str) -> list[object]:
    """The records of a run's journal, read from its file."""
    store = SqliteStore(engine.path)
    await store.open(1)
    try:
        (run,) = await store.load([ChainKey("default", workflow_id)])
    finally:
        await store.close()
    assert run is not None
    return [record for row in run.journal for record in merged(*row)]


def test_a_retry_is_visible_while_it_waits(simulation: Simulation) -> None:
    @activity(
        name="failures.slowly",
        retry_policy=RetryPolicy(initial_interval="10m", backoff_coefficient=3, maximum_interval="1h"),
    )
    async def slowly() -> int:
        Outside.attempts += 1
        if Outside.attempts < 4:
            raise QuotaExceeded(1, Outside.attempts)
        return Outside.attempts

    @workflow(name="failures.slow")
    async def slow() -> int:
        return await slowly()

    async def looks(client: Client) -> tuple[int, object, str | None]:
        handle: WorkflowHandle[object] = client.get("slow", slow)
        found = await described(handle, lambda d: bool(d.activities) and d.activities[0].status == "backing_off")
        one = found.activities[0]
        assert one.next_attempt_time is not None
        return one.attempt, one.next_attempt_time - EPOCH_TIME, one.last_failure

    async def starts(client: Client) -> tuple[int, object, str | None]:
        await client.start(slow(), id="slow")
        return await looks(client)

    Outside.reset()
    attempt, at, failure = simulation.run(starts)
    assert attempt == 2  # the one that it waits for
    assert failure is not None and failure.endswith("QuotaExceeded: 1 of 1 used")
    assert isinstance(at, timedelta) and timedelta(minutes=8) <= at <= timedelta(minutes=10, seconds=1)
    assert simulation.run(looks) == (attempt, at, failure)  # a restart forgets nothing

    async def waits(client: Client) -> tuple[int, float]:
        result = await client.get("slow", slow).result()
        return result, asyncio.get_running_loop().time()

    result, seconds = simulation.run(waits)
    assert result == 4
    assert 8 * 60 + 24 * 60 + 48 * 60 <= seconds <= 10 * 60 + 30 * 60 + 60 * 60 + 60


def test_held_time_does_not_count_against_schedule_to_close(simulation: Simulation) -> None:
    @workflow(name="failures.held_long")
    async def held_long() -> int:
        return await take_quota.options(schedule_to_close_timeout="1h")(3)

    async def body(client: Client) -> int:
        handle = await client.start(held_long())
        await activity_with(handle, "held")
        await asyncio.sleep(30 * DAY / 1_000_000)  # simulated time
        assert (await activity_with(handle, "held")).status == "held"
        Outside.quota = 3
        await handle.release()
        return await handle.result()

    Outside.reset()
    assert simulation.run(body) == 3


async def test_an_exit_ends_no_engine(client: Client) -> None:
    @activity(name="failures.exits", retry_policy=RetryPolicy(maximum_attempts=1))
    async def exits() -> None:
        sys.exit(3)

    @activity(name="failures.exits_in_a_thread", retry_policy=RetryPolicy(maximum_attempts=1))
    def exits_in_a_thread() -> None:
        sys.exit(4)

    @activity(name="failures.ends_as_a_generator", retry_policy=RetryPolicy(maximum_attempts=1))
    async def ends_as_a_generator() -> None:
        await asyncio.sleep(0)
        raise GeneratorExit("no more")

    @workflow(name="failures.meets_exits")
    async def meets_exits() -> list[str]:
        calls = exits(), exits_in_a_thread.start(), ends_as_a_generator()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        return [str(outcome) for outcome in outcomes]

    @workflow(name="failures.exits_itself")
    async def exits_itself() -> None:
        await asyncio.sleep(0)
        sys.exit(5)

    assert await client.run(meets_exits()) == [
        "builtins.SystemExit: 3",
        "builtins.SystemExit: 4",
        "builtins.GeneratorExit: no more",
    ]
    failure, location, _ = await failing_task(await client.start(exits_itself()))
    assert failure.endswith("SystemExit: 5")
    assert location.startswith(__file__)
