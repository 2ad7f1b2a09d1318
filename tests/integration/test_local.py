"""Local activities: run by the workflow's own worker, recorded with its workflow task."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from perdure import ActivityTimedOut, ApplicationError, RetryPolicy, activity, embedded, workflow
from perdure.limits import LOCAL_ACTIVITY_BACKOFF
from perdure.model.events import MarkerRecorded
from perdure.sdk.activity.definition import CancellationType
from perdure.sdk.client.client import Client
from perdure.sdk.worker import local, workflows
from perdure.sdk.workflow.calls import WorkflowFunction
from tests.integration.engines import Engine, Simulation, described, event_names, failing_task
from tests.integration.work import Gate, echo, wait_at

SOON = RetryPolicy(initial_interval="1ms", maximum_attempts=3)


class Unlucky(Exception):
    """For the tests."""


@activity(name="local.double")
async def double(n: int) -> int:
    assert activity.info().is_local == (n < 100)
    return n * 2


@activity(name="local.name_of")
def name_of(n: int) -> str:
    return f"name {n}"


@activity(name="local.fails", retry_policy=SOON)
async def fails(until: int) -> int:
    if activity.info().attempt < until:
        raise Unlucky(f"attempt {activity.info().attempt}")
    return activity.info().attempt


@workflow(name="local.chain")
async def chain(n: int) -> int:
    for _ in range(10):
        n = await double.local(n) // 2 + 1
    return n


@workflow(name="local.mixed")
async def mixed() -> list[object]:
    first, second, names = await asyncio.gather(double.local(1), double(100), name_of.local(3))
    await asyncio.sleep(0.001)
    third = await double.local(second // 10)
    return [first, second, names, third]


@workflow(name="local.plain")
def plain() -> list[object]:
    return [name_of.local(1).result(), double.local(2).result()]


@workflow(name="local.failing")
async def failing(until: int) -> object:
    try:
        return await fails.local(until)
    except Unlucky as error:
        return str(error)


@workflow(name="local.bad")
async def bad() -> None:
    await double.options(retry_policy=RetryPolicy(on_exhausted="hold")).local(1)


async def test_ten_steps_are_one_workflow_task(client: Client) -> None:
    handle = await client.start(chain(0))
    assert await handle.result() == 10
    names = await event_names(handle)
    assert names.count("MarkerRecorded") == 10 and names.count("WorkflowTaskCompleted") == 1
    assert "ActivityTaskScheduled" not in names


async def test_they_go_with_everything_else(client: Client) -> None:
    assert await client.run(mixed()) == [2, 200, "name 3", 40]
    assert await client.run(plain()) == ["name 1", 4]


@pytest.mark.parametrize(("until", "result"), [(1, 1), (3, 3), (9, "attempt 3")])
async def test_they_are_tried_again_and_raise_as_themselves(
    client: Client, until: int, result: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert await client.run(failing(until)) == result
    told = [record.getMessage() for record in caplog.records if "of local activity" in record.getMessage()]
    assert len(told) == (3 if until == 9 else until - 1)
    assert all(f"attempt {n} of local activity" in text for n, text in enumerate(told, 1))


async def test_a_replay_takes_the_recorded_outcomes(engine: Engine) -> None:
    runs: list[int] = []

    @activity(name="local.counted")
    async def counted(n: int) -> int:
        runs.append(n)
        return n

    @workflow(name="local.replayed")
    async def replayed() -> list[int]:
        done = list(await asyncio.gather(*[counted.local(n) for n in range(3)]))
        await workflow.receive("go", bool)
        return [*done, await counted.local(3)]

    async with engine.open() as client:
        handle = await client.start(replayed(), id="r")
        await described(handle, lambda d: d.history_length >= 7)
    async with engine.open() as client:
        handle = client.get("r", replayed)
        await handle.signal("go", True)
        assert await handle.result() == [0, 1, 2, 3]
    assert runs == [0, 1, 2, 3]


async def test_a_task_that_they_hold_open_reports_and_goes_on(
    engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflows, "LOCAL_ACTIVITY_REPORT", 0.002)  # of ten seconds
    gate = Gate.named("local.long")

    @workflow(name="local.long")
    class Long:
        def __init__(self) -> None:
            self.heard = 0

        async def run(self) -> tuple[int, str, int]:
            first = await double.local(4)
            return first, await wait_at.local("local.long"), self.heard

        @workflow.signal
        def hear(self) -> None:
            self.heard += 1

    handle = await client.start(Long())
    await gate.reached.wait()
    await handle.signal(Long.hear)
    await described(handle, lambda d: d.history_length > 20)
    gate.open()
    assert await handle.result() == (8, "local.long", 1)
    # Where another node takes a message while the task is open, what the task has come to is refused.
    assert gate.arrived == 1 or engine.kind in ("nodes", "postgres")


async def test_what_a_worker_did_not_finish_runs_again(engine: Engine) -> None:
    ran: list[int] = []
    gate = Gate.named("local.again")

    @activity(name="local.first")
    async def first() -> int:
        ran.append(1)
        return len(ran)

    @workflow(name="local.again")
    async def again() -> int:
        before = await first.local()
        await wait_at.local("local.again")
        return before

    async with engine.open() as client:
        await client.start(again(), id="a")
        await gate.reached.wait()
    gate.open()
    async with engine.open() as client:
        assert await client.get("a", again).result() == len(ran) > 1


async def test_what_takes_too_long_is_timed_out(client: Client) -> None:
    Gate.named("local.slow")

    @workflow(name="local.slow")
    async def slow() -> str:
        try:
            once = RetryPolicy(maximum_attempts=1)
            return await wait_at.options(start_to_close_timeout="20ms", retry_policy=once).local("local.slow")
        except ActivityTimedOut as error:
            return error.timeout

    assert await client.run(slow()) == "start_to_close"


async def test_there_is_a_bound_on_how_long_one_may_take(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LOCAL_ACTIVITY_TIMEOUT", 20_000)
    Gate.named("local.endless")

    @workflow(name="local.endless")
    async def endless() -> str:
        once = wait_at.options(start_to_close_timeout="1h", retry_policy=RetryPolicy(maximum_attempts=1))
        try:
            return await once.local("local.endless")
        except ActivityTimedOut as error:
            return str(error)

    assert await client.run(endless()) == "local activity work.wait_at, attempt 1: start_to_close timeout"


@pytest.mark.parametrize("how", ["try", "wait", "abandon"])
async def test_they_are_cancelled(client: Client, how: CancellationType) -> None:
    gate = Gate.named("local.cancelled")

    @workflow(name="local.cancels")
    async def cancels() -> str:
        handle = wait_at.options(cancellation_type=how).local("local.cancelled")
        quick = await double.local(1)
        handle.cancel()
        try:
            await handle
        except asyncio.CancelledError:
            return f"cancelled {quick}"
        return "went on"

    handle = await client.start(cancels())
    assert await handle.result() == "cancelled 2"
    if how != "abandon":
        await gate.cancelled.wait()


async def test_a_saga_that_has_stopped_one_goes_on_after_a_restart(engine: Engine) -> None:
    Gate.named("local.stopped")

    @workflow(name="local.undone")
    async def undone() -> str:
        try:
            async with workflow.saga() as saga:
                stopped = saga.do(wait_at.local("local.stopped"), undo=echo)
                await asyncio.gather(stopped, saga.do(fails.local(9), undo=name_of))
        except Unlucky:
            pass
        await workflow.receive("go", bool)
        return "undone"

    async with engine.open() as client:
        handle = await client.start(undone(), id="u")
        await described(handle, lambda d: d.history_length >= 6)
    async with engine.open() as client:
        handle = client.get("u", undone)
        await handle.signal("go", True)
        assert await handle.result() == "undone"


async def test_a_long_backoff_is_a_timer_of_the_workflow(simulation: Simulation) -> None:
    @activity(name="local.seldom", retry_policy=RetryPolicy(initial_interval="1h"))
    async def seldom() -> int:
        if activity.info().attempt == 1:
            raise ApplicationError("not yet")
        return activity.info().attempt

    @workflow(name="local.patient")
    async def patient() -> tuple[int, float]:
        began = workflow.now()
        return await seldom.local(), (workflow.now() - began) / timedelta(hours=1)

    async def start(client: Client) -> None:
        handle = await client.start(patient(), id="p")
        await described(handle, lambda d: d.pending_timers == 1)

    async def wait(client: Client) -> tuple[int, float]:
        return await client.get("p", patient).result()

    await asyncio.to_thread(simulation.run, start)
    attempt, hours = await asyncio.to_thread(simulation.run, wait)
    assert attempt == 2 and hours > 0.7


@pytest.mark.parametrize(("delay", "timers"), [(LOCAL_ACTIVITY_BACKOFF, 0), (LOCAL_ACTIVITY_BACKOFF + 1, 1)])
async def test_how_long_a_backoff_waits_in_the_worker(simulation: Simulation, delay: int, timers: int) -> None:
    @activity(name="local.at_times")
    async def at_times() -> int:
        if activity.info().attempt == 1:
            raise ApplicationError("not yet", next_retry_delay=timedelta(microseconds=delay))
        return activity.info().attempt

    @workflow(name="local.waits")
    async def waits() -> int:
        return await at_times.local()

    async def body(client: Client) -> tuple[int, list[str]]:
        handle = await client.start(waits(), id="w")
        return await handle.result(), await event_names(handle)

    attempt, names = await asyncio.to_thread(simulation.run, body)
    assert (attempt, names.count("TimerStarted")) == (2, timers)


async def test_a_backoff_counts_from_the_failure_not_from_the_task(simulation: Simulation) -> None:
    failed: list[float] = []

    @activity(name="local.slow", retry_policy=RetryPolicy(initial_interval="5s", backoff_coefficient=1.0))
    async def slow() -> int:
        loop = asyncio.get_running_loop()
        if not failed:
            await asyncio.wait([loop.create_future()], timeout=4)  # within the first task
            failed.append(loop.time())
            raise ApplicationError("not yet")
        return int(loop.time() - failed[0])

    @workflow(name="local.waits_after_failing")
    async def waits() -> int:
        return await slow.local()

    async def body(client: Client) -> int:
        return await client.run(waits(), id="w")

    assert await asyncio.to_thread(simulation.run, body) >= 4  # 5 s but for the jitter, and not less by what it ran


async def test_a_change_of_code_is_noticed(engine: Engine) -> None:
    def define(*, changed: bool) -> WorkflowFunction[[], int]:
        @workflow(name="local.changes")
        async def changes() -> int:
            total = 0 if changed else await double.local(1)
            await workflow.receive("go", bool)
            return total

        return changes

    before = define(changed=False)
    async with engine.open() as client:
        handle = await client.start(before(), id="c")
        await described(handle, lambda d: d.history_length >= 5)
    define(changed=True)
    async with engine.open() as client:
        handle = client.get("c")
        await handle.signal("go", True)
        failure, _, _ = await failing_task(handle)
        assert "the outcome of local activity local.double (number 1)" in failure
        assert "without an outcome at this point:\n  nothing" in failure
        define(changed=False)


@activity(name="local.moved")
async def moved(n: int) -> int:
    return n + n


@pytest.mark.parametrize("local_before", [True, False])
async def test_an_activity_that_becomes_a_local_one_or_ceases_to_be_shows_both(
    engine: Engine, local_before: bool
) -> None:
    def define(*, local: bool) -> WorkflowFunction[[], int]:
        @workflow(name="local.moves")
        async def moves() -> int:
            total = await (moved.local(1) if local else moved(1))
            await workflow.receive("go", bool)
            return total

        return moves

    before = define(local=local_before)
    async with engine.open() as client:
        handle = await client.start(before(), id="m")
        await described(handle, lambda d: d.history_length >= (5 if local_before else 9))
    define(local=not local_before)
    async with engine.open() as client:
        handle = client.get("m", before)
        await handle.signal("go", True)
        failure, _, _ = await failing_task(handle)
        recorded, _, asked = failure.partition("asked for by the code")
        local, queued = "local activity local.moved", "activity local.moved(1)"
        if local_before:
            assert f"the outcome of {local} (number 1)" in recorded and f"\n  {queued} at " in asked
        else:
            assert f"event 5: {queued}" in recorded and f"\n  {local}(1) at " in asked
        define(local=local_before)
    async with engine.open() as client:
        assert await client.get("m", before).result() == 2


async def test_another_order_is_noticed(engine: Engine) -> None:
    """As of a loop over a set of strings: what is recorded of one would be taken for another's."""

    def define(*numbers: int) -> WorkflowFunction[[], list[int]]:
        @workflow(name="local.ordered")
        async def ordered() -> list[int]:
            first = await double.local(numbers[0])
            await workflow.receive("go", bool)
            return [first, *[await double.local(n) for n in numbers[1:]]]

        return ordered

    before = define(1, 2)
    async with engine.open() as client:
        handle = await client.start(before(), id="c")
        await described(handle, lambda d: d.history_length >= 5)
    define(2, 1)
    async with engine.open() as client:
        handle = client.get("c", before)
        await handle.signal("go", True)
        failure, _, _ = await failing_task(handle)
        assert "in another order" in failure and "local.double (number 1) has another input now" in failure
    define(1, 2)
    async with engine.open() as client:
        assert await client.get("c", before).result() == [2, 4]


async def test_an_engine_that_ends_meanwhile_warns_of_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its worker leaves first, and gives the workflow task back: nobody serves its queue then."""
    gate = Gate.named("ends meanwhile")

    @workflow(name="local.interrupted")
    async def interrupted() -> str:
        return await wait_at.local("ends meanwhile")

    async with embedded(tmp_path / "engine.db") as client:
        await client.start(interrupted(), id="i")
        await gate.reached.wait()
    assert [record.getMessage() for record in caplog.records] == []


async def test_markers_say_what_they_are_of(client: Client) -> None:
    handle = await client.start(failing(9))
    await handle.result()
    (marker,) = [event async for event in handle.history() if isinstance(event, MarkerRecorded)]
    assert marker.marker_name == "core_local_activity"
    assert set(marker.details) == {"data", "failure"}


async def test_what_a_local_activity_can_not_be_is_refused(client: Client) -> None:
    @activity(name="local.later", retry_policy=RetryPolicy(maximum_attempts=1))
    async def later() -> None:
        raise activity.CompleteLater()

    @workflow(name="local.not_later")
    async def not_later() -> str:
        try:
            await later.local()
        except ApplicationError as error:
            return str(error)
        return ""

    handle = await client.start(bad())
    failure, _, _ = await failing_task(handle)
    assert "a local activity can't wait for a person" in failure
    told = await client.run(not_later())
    assert (
        told
        == "CompleteLater: what runs locally can't be completed later; call local.later(…), not local.later.local(…)"
    )
    with pytest.raises(RuntimeError, match=r"double\.local\(\) can only be used inside a workflow"):
        double.local(1)
