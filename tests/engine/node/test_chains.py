"""Runs that go on as new ones: no moment, and no crash, comes between the end of one and the begin of the next."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from perdure.engine.node.node import Node
from perdure.engine.storage.api import Verdict, Write
from perdure.engine.storage.memory import MemoryStore
from perdure.errors import NotRunning
from perdure.model import tasks as t
from perdure.model.commands import ContinueAsNew
from perdure.model.payloads import Payload
from perdure.model.requests import GetResult, QueryResult, QueryWorkflow, SignalWorkflow
from tests.engine.node.hands import Hand, simulate, start


class Groups(MemoryStore):
    """Keeps what was committed together: which runs ended in favour of others, and which began."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[tuple[set[int], set[int]]] = []

    async def commit(self, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        ended = {write.key.run_no for write in group if write.status == "ContinuedAsNew"}
        begun = {write.key.run_no for write in group if not write.expected}
        self.groups.append((ended, begun))
        return await super().commit(group, now)


class Hasty(Hand):
    """Lets the first runs go on as new ones at once, in the same turn."""

    async def attach(self, node: Node) -> Hasty:
        hello = t.WorkerHello("default", self.name, self.queues, self.slots, "", ("sample",), ("a",))
        self.link = await node.attach(hello, self._receive)
        return self

    def _receive(self, message: t.ToWorker) -> None:
        self.given.append(message)
        if isinstance(message, t.WorkflowTask) and len(self.all(t.WorkflowTask)) < 3:
            self.complete(message, ContinueAsNew("sample", "default", ()))


def test_a_run_that_ends_in_favour_of_another_is_committed_with_it() -> None:
    store = Groups()

    async def body(node: Node) -> None:
        hand = await Hasty("hand").attach(node)
        first = await node.call(start("w"))
        hand.finish(hand.all(t.WorkflowTask)[-1])
        assert (await node.call(GetResult("default", "w", first.run_id))).status == "ContinuedAsNew"
        assert (await node.call(GetResult("default", "w", ""))).status == "Completed"

    simulate(body, store)
    assert all({run_no + 1 for run_no in ended} <= begun for ended, begun in store.groups), store.groups
    assert set[int]().union(*(ended for ended, _ in store.groups)) == {1, 2}


class Gated(MemoryStore):
    """Commits when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def commit(self, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        await self.gate.wait()
        return await super().commit(group, now)


def test_a_run_whose_end_is_on_its_way_to_the_disk_is_not_gone_on_with() -> None:
    """What comes for it meanwhile finds it open there. It must not be given out, and followed by another run again."""

    async def body(node: Node) -> None:
        hand = await Hand("hand").attach(node)
        first = await node.call(start("w"))
        hand.complete(hand.all(t.WorkflowTask)[-1])
        await node.call(SignalWorkflow("default", "w", "", "hello", (), "r1"))
        store.gate.clear()
        hand.complete(hand.all(t.WorkflowTask)[-1], ContinueAsNew("sample", "default", ()))
        await asyncio.sleep(0.1)  # simulated time
        asking = asyncio.ensure_future(node.call(QueryWorkflow("default", "w", "", "status", ())))
        late = SignalWorkflow("default", "w", first.run_id, "hello", (), "r2")
        telling = asyncio.ensure_future(node.call(late))
        await asyncio.sleep(0.1)  # simulated time
        task = hand.all(t.WorkflowTask)[-1]
        hand.complete(task, *([ContinueAsNew("sample", "default", ())] if task.run.run_id == first.run_id else []))
        await asyncio.sleep(0.1)  # simulated time
        store.gate.set()
        with pytest.raises(NotRunning):
            await telling
        await asyncio.sleep(60)  # simulated time
        assert [task.run.run_id for task in hand.all(t.WorkflowTask)].count(first.run_id) == 2
        (query,) = hand.all(t.QueryTask)
        hand.link.send(t.QueryAnswer(query.run, query.query_id, Payload(b"1")))
        assert await asking == QueryResult(Payload(b"1"), None)

    store = Gated()
    simulate(body, store)
