"""The scan for what is due: nothing that fails is in the way of anything else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from perdure.engine.node.node import Node
from perdure.engine.node.stalls import Stalls
from perdure.engine.storage.api import ChainKey, Due, StoredRun
from perdure.engine.storage.memory import MemoryStore
from perdure.errors import StoreError, Unavailable
from perdure.limits import DEDUP_LIFETIME, FORGET_AT_ONCE, FORGET_INTERVAL, LONGEST_NAP, SECOND, STALLS_KEPT
from perdure.model import tasks as t
from perdure.model.commands import StartTimer
from perdure.model.requests import DescribeWorkflow, SignalWorkflow
from tests.engine.node.hands import EPOCH, Hand, SetClock, simulate, start


async def pass_time(seconds: float) -> None:
    await asyncio.sleep(seconds)  # simulated time


class Damaged(MemoryStore):
    """Can't read one workflow."""

    scans = 0

    async def load(self, chains: Sequence[ChainKey]) -> Sequence[StoredRun | None]:
        if any(chain.workflow_id == "damaged" for chain in chains):
            raise StoreError("damaged")
        return await super().load(chains)

    async def due(self, now: int, limit: int) -> Sequence[Due]:
        self.scans += 1
        return await super().due(now, limit)


async def sleepers(node: Node, naps: dict[str, float]) -> None:
    """Workflows that sleep, each for some seconds."""
    hand = await Hand("hand").attach(node)
    for workflow_id, seconds in naps.items():
        await node.call(start(workflow_id))
        hand.complete(hand.all(t.WorkflowTask)[-1], StartTimer("nap", int(seconds * SECOND)))
    await pass_time(0.1)


def test_a_run_that_can_not_be_woken_delays_no_other(caplog: pytest.LogCaptureFixture) -> None:
    store = Damaged()

    async def begin(node: Node) -> None:
        await sleepers(node, {"damaged": 10.0, "fine": 40.0})

    async def go_on(node: Node) -> None:
        hand = await Hand("hand").attach(node)
        await pass_time(35.0)
        assert store.scans < 100, "what fails is tried again less and less often"
        (task,) = hand.all(t.WorkflowTask)
        assert task.run.workflow_id == "fine"
        assert abs(task.time - EPOCH - 40 * SECOND) < SECOND
        with pytest.raises(StoreError, match="damaged"):
            await node.call(DescribeWorkflow("default", "damaged", ""))

    simulate(begin, store)
    store.scans = 0
    simulate(go_on, store, seconds=9.0)
    assert "the wake-up of" in caplog.text


def test_a_run_that_is_not_due_any_more_does_not_fail_any_more() -> None:
    async def body(node: Node) -> int:
        node.wakeups._waking.add(("default", "gone", 1))
        node.wakeups.done(("default", "gone", 1), ValueError("once"))
        store.scans = 0
        await pass_time(1000.0)
        return store.scans

    store = Damaged()
    assert simulate(body, store) < 10


def test_a_clock_that_was_set_is_noticed_soon() -> None:
    async def body(node: Node) -> None:
        assert isinstance(node.clock, SetClock)
        await sleepers(node, {"w": 3600.0})
        await pass_time(LONGEST_NAP / SECOND + 1)
        assert (await node.call(DescribeWorkflow("default", "w", ""))).timers
        node.clock.ahead = 4000 * SECOND  # as after a suspended machine
        await pass_time(LONGEST_NAP / SECOND + 1)
        assert not (await node.call(DescribeWorkflow("default", "w", ""))).timers

    simulate(body)


def test_expired_request_ids_are_forgotten_and_no_others() -> None:
    store = MemoryStore()

    async def body(node: Node) -> None:
        await node.call(start("w"))
        for n in range(3):
            await node.call(SignalWorkflow("default", "w", "", "hello", (), f"r{n}"))
        await pass_time((DEDUP_LIFETIME - FORGET_INTERVAL) / SECOND)
        await node.call(SignalWorkflow("default", "w", "", "hello", (), "late"))
        await pass_time(2 * FORGET_INTERVAL / SECOND + 1)
        assert set(store._dedup[ChainKey("default", "w")]) == {"signal:late"}

    simulate(body, store)
    assert FORGET_AT_ONCE >= 3


class Clock:
    """A clock that a test sets."""

    time = 0

    def now(self) -> int:
        return self.time


def test_a_stall_counts_while_it_lasts() -> None:
    clock = Clock()
    stalls = Stalls(clock)
    clock.time = 5
    stalls.commit_sent()
    clock.time = 7
    assert stalls.known() == ()
    stalls.store_failed(Unavailable("down"))
    stalls.commit_sent()
    clock.time = 9
    assert stalls.known() == ((5, 9),)
    stalls.store_works()
    clock.time = 20
    assert stalls.known() == ((5, 9),)


def test_the_latest_stalls_are_known() -> None:
    stalls = Stalls(Clock())
    for n in range(STALLS_KEPT + 5):
        stalls.add(n, n + 1)
    assert len(stalls.known()) == STALLS_KEPT
    assert stalls.known()[-1] == (STALLS_KEPT + 4, STALLS_KEPT + 5)
