"""Processes that end, in good order or not, and those that come after them."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from perdure import NotRunning, RetryPolicy, StoreLocked, activity, embedded, workflow
from perdure.clock import DAY
from perdure.sdk.client.client import Client
from perdure.sdk.client.handle import WorkflowHandle
from tests.integration.engines import Engine, ShiftedClock
from tests.integration.work import Gate, echo, wait_at


async def test_activities_that_run_at_the_end_go_on_with_their_details(engine: Engine) -> None:
    begun, seen = asyncio.Event(), list[object]()

    @activity(name="restarts.counts", heartbeat_timeout="1h")
    async def counts() -> int:
        before = activity.heartbeat_details(int)
        seen.append(before)
        if before is None:
            activity.heartbeat(41)
            begun.set()
            await asyncio.Event().wait()
        return (before or 0) + 1

    @workflow(name="restarts.counting")
    async def counting() -> int:
        return await counts.options(retry_policy=RetryPolicy(maximum_attempts=2))()

    async with engine.open() as client:
        await client.start(counting(), id="c")
        await begun.wait()
    async with engine.open() as client:
        assert await client.get("c", counting).result() == 42
    assert seen == [None, 41]


async def test_a_thread_that_runs_at_the_end_stops_and_is_run_again(engine: Engine) -> None:
    begun, runs = threading.Event(), list[int]()

    @activity(name="restarts.thread")
    def in_thread() -> int:
        runs.append(activity.info().attempt)
        if len(runs) == 1:
            begun.set()
            while not activity.is_cancelled():
                threading.Event().wait(0.001)
            raise asyncio.CancelledError
        return len(runs)

    @workflow(name="restarts.threading")
    async def threaded() -> int:
        return await in_thread.start()

    async with engine.open() as client:
        await client.start(threaded(), id="t")
        await asyncio.to_thread(begun.wait)
    async with engine.open() as client:
        assert await client.get("t", threaded).result() == 2
    assert len(runs) == 2 and runs[0] == 1
    if engine.kind not in ("nodes", "postgres"):  # there the last node to stop may take it, and let it go again
        assert runs == [1, 2]


async def test_a_clean_end_costs_no_attempts(engine: Engine) -> None:
    gate = Gate.named("restarts")

    @workflow(name="restarts.patient")
    async def patient() -> str:
        return await wait_at.options(retry_policy=RetryPolicy(maximum_attempts=2))("restarts")

    async with engine.open() as client:
        await client.start(patient(), id="p")
        await gate.reached.wait()
    for _ in range(3):
        gate.reached.clear()
        async with engine.open():
            await gate.reached.wait()
    gate.open()
    async with engine.open() as client:
        assert await client.get("p", patient).result() == "restarts"
    assert gate.arrived == 5 or engine.kind in (
        "nodes",
        "postgres",
    )  # there the last node to stop takes it from the others


async def test_what_was_not_begun_at_the_end_is_no_attempt(engine: Engine) -> None:
    ran: list[int] = []
    all_started, under_way = asyncio.Event(), asyncio.Event()

    @activity(name="restarts.once", retry_policy=RetryPolicy(maximum_attempts=1))
    async def once(n: int) -> int:
        await all_started.wait()
        ran.append(n)
        if len(ran) == 50:
            under_way.set()
        return n

    @workflow(name="restarts.in_a_row")
    async def in_a_row(n: int) -> list[int]:
        return [await once(n * 10 + k) for k in range(10)]

    async with engine.open() as client:
        await asyncio.gather(*(client.start(in_a_row(n), id=f"w{n}") for n in range(20)))
        all_started.set()
        await under_way.wait()
    assert len(ran) < 200
    async with engine.open() as client:
        for n in range(20):
            assert await client.get(f"w{n}", in_a_row).result() == list(range(n * 10, n * 10 + 10))
    assert sorted(ran) == list(range(200))


async def test_the_backlog_is_worked_off_after_a_restart(engine: Engine) -> None:
    gate = Gate.named("backlog")
    running = most = 0

    @activity(name="restarts.slotted")
    async def slotted(n: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await gate.pass_through()
        finally:
            running -= 1
        return n

    @workflow(name="restarts.backlogged")
    async def backlogged() -> list[int]:
        return await slotted.map(range(30))

    async with engine.open(max_concurrent_activities=3) as client:
        await client.start(backlogged(), id="b")
        await gate.reached.wait()
        assert gate.arrived <= 3
    gate.open()
    async with engine.open(max_concurrent_activities=4) as client:
        assert await client.get("b", backlogged).result() == list(range(30))
    assert most <= 4


async def test_timers_that_came_due_meanwhile(engine: Engine) -> None:
    if engine.kind == "postgres":
        pytest.skip("nobody sets the database's clock, which the nodes follow")

    @workflow(name="restarts.sleeping")
    async def sleeping() -> float:
        before = workflow.now()
        await asyncio.sleep(7 * 86_400)
        return (workflow.now() - before).total_seconds()

    clock = ShiftedClock()
    async with engine.open(clock=clock) as client:
        handles = [await client.start(sleeping(), id=f"s-{n}") for n in range(20)]
        assert (await handles[0].describe()).timers
    clock.ahead = 8 * DAY
    async with engine.open(clock=clock) as client:
        slept = await asyncio.gather(*(client.get(f"s-{n}", sleeping).result() for n in range(20)))
    assert min(slept) >= 8 * 86_400


async def test_whoever_waits_hears_that_the_engine_stops(engine: Engine) -> None:
    @workflow(name="restarts.waits")
    async def waits() -> None:
        await asyncio.sleep(3600)

    async with engine.open() as client:
        handle = await client.start(waits(), id="w")
        waiting = asyncio.ensure_future(handle.result())
        await handle.describe()
    with pytest.raises(Exception, match="stopped"):
        await waiting
    with pytest.raises(Exception, match="stopped"):
        await handle.describe()


async def test_an_interrupt_in_an_activity_is_no_outcome(tmp_path: Path) -> None:
    """Ctrl-C ends the loop, wherever it strikes; the next process goes on."""
    path = tmp_path / "interrupted.db"
    attempts: list[int] = []

    @activity(name="restarts.interrupted")
    async def interrupted() -> int:
        attempts.append(1)
        if len(attempts) == 1:
            raise KeyboardInterrupt
        return len(attempts)

    @workflow(name="restarts.interrupting")
    async def interrupting() -> int:
        return await interrupted()

    async def process() -> None:
        async with embedded(path) as client:
            await client.run(interrupting(), id="i")

    def interrupted_process() -> None:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(process())

    await asyncio.to_thread(interrupted_process)
    async with embedded(path) as client:
        handle: WorkflowHandle[int] = client.get("i", interrupting)
        assert await handle.result() == 2


async def test_what_an_unclean_end_has_cut_off_is_told_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A copy of a file in use is as a killed process would leave it."""
    path, copy = tmp_path / "used.db", tmp_path / "copy.db"
    gate = Gate.named("cut off")

    @workflow(name="restarts.cut_off")
    async def cut_off() -> str:
        return await wait_at("cut off")

    async with embedded(path) as client:
        handles = [await client.start(cut_off(), id=f"w-{number}") for number in range(3)]
        while gate.arrived < len(handles):
            gate.reached.clear()
            await gate.reached.wait()
        with closing(sqlite3.connect(path)) as file:
            file.execute("VACUUM INTO ?", (str(copy),))
        gate.open()
        await asyncio.gather(*(handle.result() for handle in handles))
    assert not caplog.records
    caplog.set_level(logging.INFO, "perdure")
    async with embedded(copy) as client:
        for handle in handles:
            assert await client.get(handle.id, cut_off).result() == "cut off"
    said = [(record.levelname, record.message) for record in caplog.records]
    (warning,) = [message for level, message in said if level == "WARNING"]
    assert warning.startswith(
        "the last process ended without leaving in order; what was at work goes on (workflows: 3)"
    )
    assert sum("WorkerLost" in message and "tried again in 0 s" in message for _, message in said) == 3
    caplog.clear()
    async with embedded(path) as client:
        await client.get("w-0").describe()
    assert not caplog.records


def _hold(path: Path, opened: object, end: object) -> None:
    async def hold() -> None:
        async with embedded(path):
            opened.set()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
            await asyncio.to_thread(end.wait)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]

    asyncio.run(hold())


async def test_a_second_process_is_told_who_has_the_file(tmp_path: Path) -> None:
    path = tmp_path / "held.db"
    spawn = multiprocessing.get_context("spawn")
    opened, end = spawn.Event(), spawn.Event()
    holder = spawn.Process(target=_hold, args=(path, opened, end))
    holder.start()
    try:
        await asyncio.to_thread(opened.wait)
        with pytest.raises(StoreLocked, match=str(holder.pid)) as locked:
            async with embedded(path):
                pass
        assert locked.value.pid == holder.pid
    finally:
        end.set()
        await asyncio.to_thread(holder.join)
    async with embedded(path) as client:
        assert [row async for row in client.list()] == []


async def test_the_same_process_is_told_so_too(tmp_path: Path) -> None:
    path = tmp_path / "twice.db"
    async with embedded(path):
        with pytest.raises(StoreLocked, match=str(os.getpid())):
            async with embedded(path):
                pass


@pytest.mark.parametrize("steps", range(7))
async def test_an_engine_that_is_left_by_a_deadline_gives_its_file_back(tmp_path: Path, steps: int) -> None:
    @workflow(name="restarts.left")
    async def left() -> str:
        return await echo("x")

    leaving = asyncio.Event()

    async def serve() -> None:
        async with embedded(tmp_path / "left.db") as client:
            await client.start(left(), id="a")
            leaving.set()

    serving = asyncio.create_task(serve())
    await leaving.wait()
    for _ in range(steps):
        await asyncio.sleep(0)
    serving.cancel()
    await asyncio.wait([serving])
    async with embedded(tmp_path / "left.db") as client:
        assert await client.get("a", left).result() == "x"


async def test_memory_is_the_simplest_place(client: Client) -> None:
    @workflow(name="restarts.simple")
    async def simple() -> str:
        return await echo("hello")

    async with embedded(":memory:") as other:
        handle = await other.start(simple(), id="only-there")
        assert await handle.result() == "hello"
        with pytest.raises(NotRunning):
            await handle.signal("late")
    assert [row async for row in client.list()] == []
