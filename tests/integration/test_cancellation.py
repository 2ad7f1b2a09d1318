"""Cancellation of activities and children, over every kind of engine."""

from __future__ import annotations

import asyncio

import pytest

from perdure import WorkflowCancelled, activity, workflow
from perdure.sdk.activity.definition import CancellationType
from perdure.sdk.client.client import Client
from tests.integration.engines import Engine, described, event_names
from tests.integration.work import Gate, echo, wait_at


@activity(name="cancellation.cleans")
async def cleans(gate: str) -> str:
    """Takes its time to stop: until the gate "cleaned" is open."""
    try:
        return await wait_at(gate)
    except asyncio.CancelledError:
        await Gate.find(f"{gate}-cleaned").pass_through()
        raise


@workflow(name="cancellation.calls")
async def calls(kind: CancellationType, gate: str) -> list[str]:
    said: list[str] = []
    try:
        said.append(await cleans.options(cancellation_type=kind)(gate))
    except asyncio.CancelledError:
        said.append(await echo("cleaned up"))
    return said


async def test_wait_gives_the_activity_time_to_stop(client: Client) -> None:
    gate, cleaned = Gate.named("w"), Gate.named("w-cleaned")
    handle = await client.start(calls("wait", "w"))
    await gate.reached.wait()
    await handle.cancel()
    await cleaned.reached.wait()
    (pending,) = (await described(handle, lambda d: bool(d.activities))).activities
    assert pending.status == "started"
    cleaned.open()
    assert await handle.result() == ["cleaned up"]
    assert "ActivityTaskCanceled" in await event_names(handle)


async def test_try_does_not_wait_for_it(client: Client) -> None:
    gate, cleaned = Gate.named("t"), Gate.named("t-cleaned")
    handle = await client.start(calls("try", "t"))
    await gate.reached.wait()
    await handle.cancel()
    assert await handle.result() == ["cleaned up"]
    await cleaned.reached.wait()
    cleaned.open()


async def test_abandon_leaves_it_alone(client: Client) -> None:
    @workflow(name="cancellation.abandons")
    async def abandons(gate: str) -> str:
        handle = wait_at.options(cancellation_type="abandon").start(gate)
        await workflow.receive("go", object)
        handle.cancel()
        await workflow.receive("end", object)
        return "cancelled" if handle.cancelled() else ""

    gate = Gate.named("a")
    handle = await client.start(abandons("a"))
    await gate.reached.wait()
    await handle.signal("go")
    await described(handle, lambda d: d.workflow_task is None)
    gate.open()
    await described(handle, lambda d: not d.activities)
    assert gate.passed
    await handle.signal("end")
    assert await handle.result() == "cancelled"
    assert not gate.cancelled.is_set()
    assert "ActivityTaskCancelRequested" not in await event_names(handle)


async def test_shielded_clean_up_outlives_a_restart(engine: Engine) -> None:
    @workflow(name="cancellation.shields")
    async def shields(gate: str) -> list[str]:
        said: list[str] = []
        try:
            await workflow.receive("never", object)
        finally:
            said.append(await workflow.shielded(wait_at(gate)))
        return said

    gate = Gate.named("shielded")
    async with engine.open() as client:
        handle = await client.start(shields("shielded"), id="shields")
        await handle.cancel()
        await gate.reached.wait()
    gate.open()
    async with engine.open() as client:
        with pytest.raises(WorkflowCancelled):
            await client.get("shields", shields).result()
    assert gate.passed


@workflow(name="cancellation.child")
async def child(gate: str) -> str:
    try:
        return await wait_at(gate)
    finally:
        await echo("cleaned up")


async def test_a_cancelled_parent_lets_its_child_clean_up(client: Client) -> None:
    @workflow(name="cancellation.parent")
    async def parent(gate: str) -> str:
        return await child.options(id=f"child-of-{gate}")(gate)

    gate = Gate.named("kid")
    handle = await client.start(parent("kid"))
    await gate.reached.wait()
    await handle.cancel("enough")
    with pytest.raises(WorkflowCancelled):
        await handle.result()
    kid = client.get("child-of-kid", child)
    assert (await kid.describe()).status == "Canceled"
    assert (await event_names(kid)).count("ActivityTaskCompleted") == 1


_loops: dict[str, asyncio.AbstractEventLoop] = {}


@activity(name="cancellation.beats", heartbeat_timeout="30s")
def beats(gate: str) -> None:
    """A plain function, which hears of its cancellation when it beats."""
    _loops[gate].call_soon_threadsafe(Gate.find(gate).reached.set)
    try:
        while True:
            activity.heartbeat()
    finally:
        _loops[gate].call_soon_threadsafe(Gate.find(gate).cancelled.set)


async def test_a_plain_activity_is_cancelled_by_its_heartbeat(client: Client) -> None:
    @workflow(name="cancellation.plain")
    async def plain(gate: str) -> None:
        await beats.options(cancellation_type="wait").start(gate)

    gate = Gate.named("plain")
    _loops["plain"] = asyncio.get_running_loop()
    handle = await client.start(plain("plain"))
    await gate.reached.wait()
    await handle.cancel()
    with pytest.raises(WorkflowCancelled):
        await handle.result()
    await gate.cancelled.wait()


@activity(name="cancellation.runs", heartbeat_timeout="30s", start_to_close_timeout="1m")
async def runs(gate: str) -> None:
    """Runs a program that says when it is there, and when it is told to end."""
    code = "trap 'echo ended; exit 1' TERM; echo ready; while :; do sleep 0.01; done"
    Gate.find(gate).reached.set()
    try:
        await activity.run_process("sh", "-c", code)
    except asyncio.CancelledError:
        Gate.find(gate).cancelled.set()
        raise


async def test_a_program_ends_with_its_activity(client: Client) -> None:
    @workflow(name="cancellation.programs")
    async def programs(gate: str) -> None:
        await runs.options(cancellation_type="wait")(gate)

    gate = Gate.named("program")
    handle = await client.start(programs("program"))
    await gate.reached.wait()
    await handle.cancel()
    with pytest.raises(WorkflowCancelled):
        await handle.result()
    assert gate.cancelled.is_set()
