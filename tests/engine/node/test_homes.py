"""Two nodes over one store: what becomes of a run whose home goes."""

from __future__ import annotations

import asyncio

from perdure.engine.node.cluster.cluster import Cluster
from perdure.engine.node.cluster.members import StoreClock
from perdure.engine.node.node import Node
from perdure.engine.storage.memory import MemoryStore
from perdure.ids import SeededIds
from perdure.limits import NODE_GRACE, SECOND
from perdure.model import tasks as t
from perdure.model.requests import GetResult
from perdure.testing.simulation.loop import SimulatedClock, SimulatedLoop
from tests.engine.node.hands import EPOCH, Hand, start


async def member(store: MemoryStore, clock: SimulatedClock, name: str) -> Node:
    """A node that has come."""
    own = StoreClock(clock)
    node = Node(store, own, SeededIds(name), peers=lambda node: Cluster(store, own, node, lambda: 0.5, NODE_GRACE))
    await node.start()
    await node.serve()
    return node


def test_a_task_that_was_taken_over_is_given_once() -> None:
    """Who gives it is the run's home from then on, and keeps it in memory until the answer is there."""
    loop = SimulatedLoop(max_steps=1_000_000)
    clock = SimulatedClock(loop, EPOCH)
    store = MemoryStore(clock)

    async def body() -> None:
        first = await member(store, clock, "first")
        hand = await Hand("first").attach(first)
        second = await member(store.another(), clock, "second")
        await first.call(start("w"))
        await first.stop()
        assert hand.all(t.WorkflowTask)
        other = await Hand("second").attach(second)
        await asyncio.sleep(3 * NODE_GRACE / SECOND)  # simulated time
        (task,) = other.all(t.WorkflowTask)
        other.finish(task)
        assert (await second.call(GetResult("default", "w", ""))).status == "Completed"
        assert len(other.all(t.WorkflowTask)) == 1
        await second.stop()

    try:
        loop.run_until_complete(body())
    finally:
        loop.close()
