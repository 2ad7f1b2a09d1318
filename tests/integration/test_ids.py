"""Workflow ids, request ids, listings, histories, and runs that end in other ways."""

from __future__ import annotations

import asyncio

import pytest

from perdure import (
    InvalidRequest,
    NotFound,
    NotRunning,
    WorkflowAlreadyStarted,
    WorkflowHandle,
    WorkflowTerminated,
    workflow,
)
from perdure.clock import MINUTE
from perdure.engine.node import reading
from perdure.limits import MAX_ID_LENGTH, MAX_REASON_LENGTH
from perdure.model.events import WorkflowExecutionTerminated
from perdure.sdk.client.client import Client
from tests.integration.engines import Engine, Simulation, described, event_names
from tests.integration.work import Gate, echo, wait_at


@workflow(name="ids.waits")
async def waits(n: int) -> int:
    await workflow.receive("go", object)
    return n


@workflow(name="ids.quick")
async def quick(n: int) -> int:
    return n


@workflow(name="ids.waits_again")
async def waits_again(n: int) -> int:
    await workflow.receive("go", object)
    workflow.continue_as_new(quick(n))


@workflow(name="ids.counts_down")
async def counts_down(n: int) -> str:
    if n > 0:
        workflow.continue_as_new(counts_down(n - 1))
    return await echo("down")


async def test_a_taken_id_is_refused(client: Client) -> None:
    handle = await client.start(waits(1), id="taken")
    with pytest.raises(WorkflowAlreadyStarted, match="taken") as refused:
        await client.start(waits(2), id="taken")
    assert refused.value.run_id == handle.run_id
    existing = await client.start(waits(3), id="taken", id_conflict_policy="use_existing")
    assert existing.run_id == handle.run_id
    other = await client.start(waits(4), id="taken", id_conflict_policy="terminate_existing")
    assert other.run_id != handle.run_id
    with pytest.raises(WorkflowTerminated, match="another run"):
        await handle.result()
    await other.signal("go")
    assert await other.result() == 4
    assert await client.get("taken", waits).result() == 4


async def test_the_id_of_a_closed_workflow(client: Client) -> None:
    assert await client.run(quick(1), id="used") == 1
    with pytest.raises(WorkflowAlreadyStarted, match="used"):
        await client.start(quick(2), id="used", id_reuse_policy="reject_duplicate")
    with pytest.raises(WorkflowAlreadyStarted, match="completed"):
        await client.start(quick(3), id="used", id_reuse_policy="allow_duplicate_failed_only")
    assert await client.run(quick(4), id="used") == 4
    handle = await client.start(waits(5), id="used")
    await handle.terminate("by hand")
    assert await client.run(quick(6), id="used", id_reuse_policy="allow_duplicate_failed_only") == 6


async def test_a_start_is_idempotent_by_its_request_id(engine: Engine) -> None:
    async with engine.open() as client:
        first = await client.start(quick(1), id="again", request_id="r1")
        second = await client.start(quick(1), id="again", request_id="r1")
        assert first.run_id == second.run_id
        assert await first.result() == 1
    async with engine.open() as client:
        third = await client.start(quick(1), id="again", request_id="r1")
        assert third.run_id == first.run_id
        await client.run(quick(2), id="again", request_id="r2")
        with pytest.raises(WorkflowAlreadyStarted, match="before"):
            await client.start(quick(1), id="again", request_id="r1")
        assert len([row async for row in client.list()]) == 2


async def test_a_start_is_remembered_however_its_run_went_on(client: Client) -> None:
    """By the run itself while that is the latest; and that a signal has the same request id is no repetition."""
    await client.start(waits_again(1), id="goes-on", request_id="r1")
    await client.get("goes-on").options(request_id="r1").signal("go")
    assert await client.get("goes-on").result() == 1
    assert await client.run(quick(2), id="goes-on", request_id="r2") == 2
    for repeated in ("r1", "r2"):
        handle = client.start(quick(3), id="goes-on", request_id=repeated)
        if repeated == "r1":
            with pytest.raises(WorkflowAlreadyStarted, match="before"):
                await handle
        else:
            assert await (await handle).result() == 2
    assert len([row async for row in client.list()]) == 3


def test_a_start_that_is_repeated_when_its_runs_are_deleted_is_another_one(simulation: Simulation) -> None:
    """Its request id is remembered for longer than they are kept; but it does not hinder the new run's going on."""

    async def twice(client: Client) -> list[int]:
        results: list[int] = []
        for n in range(2):
            handle = await client.start(waits_again(n), id="deleted", request_id="r1")
            await described(handle, lambda now: now.workflow_task is None)
            await client.get("deleted").signal("go")
            results.append(await handle.result())
            await client.run(quick(1), id="deleted")
            await asyncio.sleep(3_600)  # simulated time
        return results

    assert simulation.run(twice, retention=MINUTE) == [0, 1]


async def test_a_start_that_can_not_be_carried_out_terminates_nothing(client: Client) -> None:
    handle = await client.start(waits(1), id="one")
    with pytest.raises(WorkflowAlreadyStarted, match="so it is not terminated") as refused:
        await client.start(
            waits(2), id="one", id_conflict_policy="terminate_existing", id_reuse_policy="reject_duplicate"
        )
    assert refused.value.run_id == handle.run_id
    assert (await handle.describe()).status == "Running"


async def test_a_repeated_start_terminates_nothing(client: Client) -> None:
    """One that was carried out before, and whose run another has followed."""
    for request_id in ("hook-1", "hook-2"):
        last = await client.start(waits(1), id="w", request_id=request_id, id_conflict_policy="terminate_existing")
    with pytest.raises(WorkflowAlreadyStarted, match="carried out before"):
        await client.start(waits(1), id="w", request_id="hook-1", id_conflict_policy="terminate_existing")
    again = client.with_start(waits(1), id="w", request_id="hook-1", id_conflict_policy="terminate_existing")
    assert (await again.signal("go", 1)).run_id == last.run_id
    assert [run.status async for run in client.list("WorkflowId = 'w'")] == ["Running", "Terminated"]


@workflow(name="ids.Counter")
class Counter:
    def __init__(self) -> None:
        self.count, self.over = 0, False

    async def run(self) -> int:
        await workflow.wait_until(lambda: self.over)
        return self.count

    @workflow.update
    def add(self) -> int:
        self.count += 1
        return self.count

    @workflow.signal
    def end(self) -> None:
        self.over = True


@pytest.mark.parametrize("how", ["update", "with a start"])
async def test_a_repeated_update_is_not_for_a_later_run(engine: Engine, how: str) -> None:
    async def add(client: Client) -> int:
        if how == "update":
            return await client.get("c", Counter).options(request_id="u").update(Counter.add)
        return await client.with_start(Counter(), id="c", request_id="u").update(Counter.add)

    async with engine.open() as client:
        if how == "update":
            await client.start(Counter(), id="c")
        assert await add(client) == 1
        assert await add(client) == 1
        await client.get("c", Counter).signal(Counter.end)
        assert await client.get("c", Counter).result() == 1
        assert await add(client) == 1, "it is answered as long as its run is the latest"
        await client.start(Counter(), id="c")
        for _ in range(2):
            with pytest.raises(NotRunning, match="was given to an earlier run"):
                await add(client)
    async with engine.open() as client:
        with pytest.raises(NotRunning, match="was given to an earlier run"):
            await add(client)
        await client.get("c", Counter).signal(Counter.end)
        assert await client.get("c", Counter).result() == 0


async def test_many_starts_of_one_id_at_once_make_one_run(client: Client) -> None:
    async def start(n: int) -> str:
        try:
            return (await client.start(waits(n), id="raced")).run_id or ""
        except WorkflowAlreadyStarted as error:
            return f"taken by {error.run_id}"

    runs = await asyncio.gather(*(start(n) for n in range(20)))
    (winner,) = [run for run in runs if not run.startswith("taken")]
    assert sorted(set(runs)) == sorted({winner, f"taken by {winner}"})


async def test_ids_and_reasons_have_limits(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="must not be empty"):
        await client.start(quick(1), id="")
    with pytest.raises(InvalidRequest, match="MAX_ID_LENGTH"):
        await client.start(quick(1), id="x" * (MAX_ID_LENGTH + 1))
    handle = await client.start(waits(1), id="ümlaut 🙂 / path\\ 'quoted' \"%_")
    with pytest.raises(InvalidRequest, match="MAX_REASON_LENGTH"):
        await handle.terminate("x" * (MAX_REASON_LENGTH + 1))
    await handle.signal("go")
    assert await handle.result() == 1


async def test_a_terminated_workflow_has_no_say(client: Client) -> None:
    gate = Gate.named("terminated")
    cleaned: list[str] = []

    @workflow(name="ids.terminated")
    async def terminated() -> None:
        try:
            await wait_at("terminated")
        finally:
            cleaned.append(await echo("cleaned"))

    handle = await client.start(terminated())
    await gate.reached.wait()
    await handle.terminate("out of money")
    with pytest.raises(WorkflowTerminated, match="out of money"):
        await handle.result()
    await gate.cancelled.wait()
    *_, last = [event async for event in handle.history()]
    assert isinstance(last, WorkflowExecutionTerminated)
    assert (last.reason, last.identity) == ("out of money", client.identity)
    assert cleaned == []
    with pytest.raises(NotFound):
        await handle.terminate("again")


async def test_continue_as_new_keeps_the_id_and_gives_the_last_result(engine: Engine) -> None:
    async with engine.open() as client:
        handle = await client.start(counts_down(5), id="chain")
        assert await handle.result() == "down"
        rows = [row async for row in client.list("WorkflowId = 'chain'")]
        assert len(rows) == 6
        assert sorted(row.status for row in rows) == ["Completed"] + ["ContinuedAsNew"] * 5
        assert (await event_names(handle))[-1] == "WorkflowExecutionContinuedAsNew"
        assert (await event_names(client.get("chain")))[-1] == "WorkflowExecutionCompleted"
    async with engine.open() as client:
        assert await client.get("chain", counts_down).result() == "down"
        assert await client.get("chain", counts_down, run_id=handle.run_id).result() == "down"
        with pytest.raises(NotFound, match="no-such-run"):
            await client.get("chain", counts_down, run_id="no-such-run").result()


async def test_results_of_closed_runs_by_their_run_id(engine: Engine) -> None:
    async with engine.open() as client:
        handles: list[WorkflowHandle[int]] = []
        for n in range(3):
            handles.append(await client.start(quick(n), id="several"))
            await handles[-1].result()
        assert [await handle.result() for handle in handles] == [0, 1, 2]
    async with engine.open() as client:
        runs = [client.get("several", quick, run_id=handle.run_id) for handle in handles]
        assert [await run.result() for run in runs] == [0, 1, 2]
        assert (await runs[0].describe()).run_id == handles[0].run_id
        with pytest.raises(NotFound):
            await runs[0].signal("go")


async def test_listing(client: Client) -> None:
    for n in range(5):
        await client.run(quick(n), id=f"quick-{n}")
        await client.start(waits(n), id=f"waits-{n}", memo={"n": n})
    rows = [row async for row in client.list()]
    assert len(rows) == 10
    assert [row.start_time for row in rows] == sorted([row.start_time for row in rows], reverse=True)
    running = [row.id async for row in client.list("WorkflowType = 'ids.waits' AND ExecutionStatus = 'Running'")]
    assert sorted(running) == [f"waits-{n}" for n in range(5)]
    assert [row.id async for row in client.list("WorkflowId = 'quick-3'")] == ["quick-3"]
    assert (await client.get("waits-3").describe()).memo == {"n": 3}
    with pytest.raises(InvalidRequest):
        assert [row async for row in client.list("WorkflowType = ")]


async def test_a_history_is_read_page_by_page(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    @workflow(name="ids.long")
    async def long() -> int:
        for n in range(20):
            await echo(str(n))
        return 20

    monkeypatch.setattr(reading, "HISTORY_PAGE_BYTES", 300)
    handle = await client.start(long())
    assert await handle.result() == 20
    events = [event async for event in handle.history()]
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert len(events) > 100
    assert (await handle.describe()).history_length == len(events)
