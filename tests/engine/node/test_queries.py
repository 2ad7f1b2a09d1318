"""Queries that come while the run's news is on its way to the code, or to the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from perdure.engine.node.node import Node
from perdure.engine.storage.api import Verdict, Write
from perdure.engine.storage.memory import MemoryStore
from perdure.model import tasks as t
from perdure.model.payloads import Payload
from perdure.model.requests import QueryWorkflow, SignalWorkflow
from tests.engine.node.hands import Hand, simulate, start


class Forgetful(Hand):
    """Says at once, as the SDK's worker does, that it does not hold the workflow that it is asked about."""

    async def attach(self, node: Node) -> Forgetful:
        hello = t.WorkerHello("default", self.name, self.queues, self.slots, "", ("sample",), ("a",))
        self.link = await node.attach(hello, self._receive)
        return self

    def _receive(self, message: t.ToWorker) -> None:
        self.given.append(message)
        if isinstance(message, t.QueryTask) and not message.events:
            self.link.send(t.HistoryWanted(message.run, message.query_id))


class Slow(MemoryStore):
    """Takes a while for each commit."""

    async def commit(self, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        await asyncio.sleep(0.01)  # simulated time
        return await super().commit(group, now)


def test_queries_at_the_end_of_a_run_see_all_of_it() -> None:
    async def body(node: Node) -> None:
        hand = await Forgetful("hand").attach(node)
        await node.call(start("w"))
        hand.complete(hand.all(t.WorkflowTask)[-1])
        await node.call(SignalWorkflow("default", "w", "", "hello", (), "r"))
        query = QueryWorkflow("default", "w", "", "status", ())
        asking = [asyncio.ensure_future(node.call(query)) for _ in range(3)]
        await asyncio.sleep(0)
        hand.finish(hand.all(t.WorkflowTask)[-1])  # the SDK's worker keeps no workflow that has ended
        await asyncio.sleep(1)  # simulated time
        asked = [task for task in hand.all(t.QueryTask) if task.events]
        assert [type(task.events[-1]).__name__ for task in asked] == ["WorkflowExecutionCompleted"] * 3
        for task in asked:
            hand.link.send(t.QueryAnswer(task.run, task.query_id, Payload(b"1")))
        assert [answer.result for answer in await asyncio.gather(*asking)] == [Payload(b"1")] * 3

    simulate(body, Slow())
