"""Ordinary asyncio inside workflows, and what is deterministic there."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from datetime import timedelta

import pytest

from perdure import WorkflowCancelled, workflow
from perdure.sdk.client.client import Client
from tests.integration.engines import Engine, Simulation, activity_with
from tests.integration.work import Gate, echo, wait_at


@workflow(name="asyncio.tools")
async def tools() -> dict[str, object]:
    said: dict[str, object] = {}
    said["gather"] = await asyncio.gather(echo("a"), asyncio.sleep(0.001, "b"), echo("c"))
    first, rest = await asyncio.wait(
        [echo.start("fast"), asyncio.ensure_future(asyncio.sleep(3600))], return_when=asyncio.FIRST_COMPLETED
    )
    said["wait"] = [task.result() for task in first]
    for task in rest:
        task.cancel()
    said["as_completed"] = sorted([await each for each in asyncio.as_completed([echo("x"), echo("y")])])
    try:
        await asyncio.wait_for(asyncio.Event().wait(), 0.001)
    except TimeoutError:
        said["wait_for"] = "timed out"
    try:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(3600)
    except TimeoutError:
        said["timeout"] = "timed out"
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(echo(text)) for text in ("g", "h")]
    said["group"] = [task.result() for task in tasks]
    said["shield"] = await asyncio.shield(echo("s"))
    return said


@workflow(name="asyncio.locks")
async def locks() -> list[object]:
    seen: list[object] = []
    event, lock, condition = asyncio.Event(), asyncio.Lock(), asyncio.Condition()
    queue: asyncio.Queue[str] = asyncio.Queue(maxsize=1)
    semaphore = asyncio.Semaphore(1)

    async def produce() -> None:
        for text in ("one", "two"):
            await queue.put(await echo(text))
        await event.wait()
        async with condition:
            seen.append("notified")
            condition.notify_all()

    async def inside(text: str) -> None:
        async with lock, semaphore:
            seen.append(f"+{text}")
            await echo(text)
            seen.append(f"-{text}")

    task = asyncio.create_task(produce())
    seen += [await queue.get(), await queue.get()]
    async with condition:
        event.set()
        await condition.wait()
    await asyncio.gather(inside("p"), inside("q"))
    await task
    return seen


async def test_the_tools_of_asyncio(client: Client) -> None:
    assert await client.run(tools()) == {
        "gather": ["a", "b", "c"],
        "wait": ["fast"],
        "as_completed": ["x", "y"],
        "wait_for": "timed out",
        "timeout": "timed out",
        "group": ["g", "h"],
        "shield": "s",
    }


async def test_events_queues_locks_and_conditions(client: Client) -> None:
    assert await client.run(locks()) == ["one", "two", "notified", "+p", "-p", "+q", "-q"]


async def test_a_failing_task_group_cancels_its_other_tasks(client: Client) -> None:
    @workflow(name="asyncio.failing_group")
    async def failing_group() -> list[str]:
        seen: list[str] = []

        async def waits() -> None:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                seen.append(await echo("cleaned up"))
                raise

        async def fails() -> None:
            await echo("a moment")
            raise LookupError("no such thing")

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(waits())
                group.create_task(fails())
        except* LookupError as errors:
            seen.append(str(errors.exceptions[0]))
        return seen

    assert await client.run(failing_group()) == ["cleaned up", "no such thing"]


async def test_time_chance_and_ids_are_the_same_in_a_replay(engine: Engine) -> None:
    gate = Gate.named("determinism")
    seen: list[tuple[object, ...]] = []

    @workflow(name="asyncio.deterministic")
    async def deterministic() -> int:
        before = time.time()
        drawn = (
            before, time.time_ns(), time.monotonic(), random.random(), random.sample(range(100), 3),
            uuid.uuid4(), workflow.uuid4(), workflow.random().random(), workflow.now(),
            workflow.info().run_id, workflow.info().start_time,
        )  # fmt: skip
        seen.append(drawn)
        await wait_at("determinism")
        assert time.time() >= before
        return len({str(value) for value in drawn})

    async with engine.open() as client:
        handle = await client.start(deterministic(), id="d")
        await gate.reached.wait()
    async with engine.open() as client:
        gate.open()
        assert await client.get("d", deterministic).result() >= 9
    assert len(seen) >= 2
    assert all(each == seen[0] for each in seen)
    assert seen[0][9] == handle.run_id


async def test_info_tells_of_the_run(client: Client) -> None:
    @workflow(name="asyncio.told")
    async def told() -> tuple[str, str, str, bool]:
        info = workflow.info()
        return info.workflow_id, info.workflow_type, info.task_queue, info.parent_workflow_id is None

    assert await client.run(told(), id="me") == ("me", "asyncio.told", "default", True)


async def test_log_lines_appear_once_and_none_in_a_replay(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate.named("logging")

    @workflow(name="asyncio.logs")
    async def logs() -> None:
        workflow.logger.info("before %s", "a")
        await echo("x")
        workflow.logger.info("between")
        await wait_at("logging")
        workflow.logger.info("after")

    with caplog.at_level(logging.INFO, "perdure.workflow"):
        async with engine.open() as client:
            await client.start(logs(), id="l")
            await gate.reached.wait()
        async with engine.open() as client:
            gate.open()
            await client.get("l", logs).result()
    lines = [record.getMessage() for record in caplog.records if record.name == "perdure.workflow"]
    assert lines == ["before a", "between", "after"]
    assert {getattr(record, "workflow_id", "") for record in caplog.records if record.name == "perdure.workflow"} == {
        "l"
    }


async def test_cancelling_a_workflow_lets_it_clean_up(client: Client) -> None:
    cleaned = Gate.named("cleaned")
    cleaned.open()

    @workflow(name="asyncio.cancelled")
    async def cancelled() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await wait_at("cleaned")

    handle = await client.start(cancelled())
    await handle.cancel("no longer wanted")
    with pytest.raises(WorkflowCancelled):
        await handle.result()
    assert cleaned.passed == 1
    assert (await handle.describe()).status == "Canceled"


async def test_a_workflow_may_refuse_to_be_cancelled(client: Client) -> None:
    @workflow(name="asyncio.stubborn")
    async def stubborn() -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return await echo("finished all the same")
        return ""

    handle = await client.start(stubborn())
    await handle.cancel()
    assert await handle.result() == "finished all the same"


async def test_cancelling_an_activity_reaches_its_function(client: Client) -> None:
    gate = Gate.named("to-cancel")

    @workflow(name="asyncio.cancels_activity")
    async def cancels_activity() -> str:
        handle = wait_at.start("to-cancel")
        await workflow.receive("go", object)
        handle.cancel()
        try:
            await handle
        except asyncio.CancelledError:
            return "cancelled"
        return ""

    handle = await client.start(cancels_activity())
    await gate.reached.wait()
    await handle.signal("go")
    assert await handle.result() == "cancelled"
    await gate.cancelled.wait()


async def test_cancelling_a_workflow_cancels_its_activity(client: Client) -> None:
    gate = Gate.named("inner")

    @workflow(name="asyncio.waits_on_activity")
    async def waits_on_activity() -> None:
        await wait_at("inner")

    handle = await client.start(waits_on_activity())
    await activity_with(handle, "started")
    await gate.reached.wait()
    await handle.cancel()
    with pytest.raises(WorkflowCancelled):
        await handle.result()
    await gate.cancelled.wait()


def test_a_year_passes(simulation: Simulation) -> None:
    @workflow(name="asyncio.year")
    async def year() -> float:
        begun = workflow.now()
        await asyncio.sleep(timedelta(days=365).total_seconds())
        return (workflow.now() - begun).total_seconds()

    async def starts(client: Client) -> None:
        await client.start(year(), id="y")

    async def waits(client: Client) -> float:
        return await client.get("y", year).result()

    simulation.run(starts)
    assert simulation.run(waits) == pytest.approx(365 * 86_400, abs=0.1)


def test_wait_until_and_receive_with_timeouts(simulation: Simulation) -> None:
    @workflow(name="asyncio.deadlines")
    async def deadlines() -> list[str]:
        seen: list[str] = []
        try:
            await workflow.wait_until(lambda: len(seen) > 5, timeout="7d")
        except TimeoutError:
            seen.append("wait_until")
        try:
            await workflow.receive("never", str, timeout="30d")
        except TimeoutError:
            seen.append("receive")
        seen.append(await workflow.receive("news", str, timeout="30d"))
        return seen

    async def body(client: Client) -> list[str]:
        handle = await client.start(deadlines())
        await asyncio.sleep(40 * 86_400)  # simulated time
        await handle.signal("news", "hello")
        return await handle.result()

    assert simulation.run(body) == ["wait_until", "receive", "hello"]
