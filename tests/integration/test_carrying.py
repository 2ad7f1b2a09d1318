"""Continue-as-new under a stream of messages: none is lost, none is there twice, over every kind of engine."""

from __future__ import annotations

import asyncio

import pytest

from perdure import WorkflowCancelled, workflow
from perdure.sdk.client.client import Client
from tests.integration.work import Gate, wait_at


@workflow(name="carrying.Tally")
class Tally:
    """Goes on as new after every few messages, from the midst of them."""

    def __init__(self, heard: list[int], updates: list[int], runs: int) -> None:
        self.heard = heard
        self.updates = updates
        self.runs = runs
        self.room = 5

    async def run(self) -> tuple[list[int], list[int], int]:
        while not workflow_is_over(self.heard):
            self.heard.append(await workflow.receive("number", int))
            self.room -= 1
            if self.room <= 0:
                workflow.continue_as_new(Tally(self.heard, self.updates, self.runs + 1))
        return self.heard, self.updates, self.runs

    @workflow.update
    def add(self, n: int) -> int:
        self.updates.append(n)
        self.room -= 1
        return n * 2


def workflow_is_over(heard: list[int]) -> bool:
    return -1 in heard


async def test_nothing_is_lost_between_runs(client: Client) -> None:
    handle = await client.start(Tally([], [], 1), id="tally")
    numbers = list(range(60))
    latest = client.get("tally", Tally)
    sent = [latest.signal("number", n) for n in numbers]
    asked = [latest.update(Tally.add, n) for n in range(20)]
    answers = await asyncio.gather(*sent, *asked)
    assert answers[60:] == [2 * n for n in range(20)]
    await latest.signal("number", -1)
    heard, updates, runs = await handle.result()
    assert sorted(heard) == [-1, *numbers]
    assert sorted(updates) == list(range(20))
    assert runs > 3


async def test_an_update_with_a_start_is_answered_by_the_run_that_it_was_left_to(client: Client) -> None:
    tally = client.with_start(Tally([], [], 1), id="joined")
    sent = [tally.signal("number", n) for n in range(60)]
    answers = await asyncio.gather(*(tally.update(Tally.add, n) for n in range(20)), *sent)
    assert answers[:20] == [2 * n for n in range(20)]
    await tally.signal("number", -1)
    heard, updates, runs = await client.get("joined", Tally).result()
    assert sorted(heard) == [-1, *range(60)]
    assert sorted(updates) == list(range(20))
    assert runs > 3


async def test_an_answered_update_is_answered_the_same_by_the_next_run(client: Client) -> None:
    await client.start(Tally([], [], 1), id="repeated")
    latest = client.get("repeated", Tally)
    assert await latest.options(request_id="once").update(Tally.add, 7) == 14
    for n in range(12):
        await latest.signal("number", n)
    assert await latest.options(request_id="once").update(Tally.add, 7) == 14
    await latest.signal("number", -1)
    _, updates, _ = await latest.result()
    assert updates == [7]


@workflow(name="carrying.batches")
async def batches(*, first: bool = True) -> None:
    if not first:
        await workflow.receive("more", str)
    await workflow.shielded(wait_at("batch"))
    workflow.continue_as_new(batches(first=False))


async def test_a_cancellation_that_comes_while_nothing_may_interrupt_reaches_the_next_run(client: Client) -> None:
    gate = Gate.named("batch")
    handle = await client.start(batches())
    await gate.reached.wait()
    await handle.cancel()
    gate.open()
    with pytest.raises(WorkflowCancelled):
        await handle.result()


async def test_each_run_may_have_a_child_of_the_same_id(client: Client) -> None:
    @workflow(name="carrying.guarded")
    async def guarded(last: bool) -> str:
        return await wait_at("guarded") if last else await workflow.receive("never", str)

    @workflow(name="carrying.guarding")
    async def guarding(run: int) -> str:
        child = guarded.options(id="guarded").start(run == 20)
        if run < 20:
            workflow.continue_as_new(guarding(run + 1))
        return await child

    gate = Gate.named("guarded")
    handle = await client.start(guarding(1), id="guarding")
    await gate.reached.wait()
    gate.open()
    assert await handle.result() == "guarded"
