"""Runs that go on as new ones: no moment, and no crash, comes between the end of one and the begin of the next."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.engine.node.node import Node
from perdure.engine.storage.api import Verdict, Write
from perdure.engine.storage.memory import MemoryStore
from perdure.model import tasks as t
from perdure.model.commands import ContinueAsNew
from perdure.model.requests import GetResult
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
