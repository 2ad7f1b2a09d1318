"""Resets, as far as they read: a run that moves on is read on from where it was, and a long history is refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from perdure.engine.node import resets
from perdure.engine.node.node import Node
from perdure.engine.storage.api import JournalPage, RunKey
from perdure.engine.storage.memory import MemoryStore
from perdure.errors import LimitExceeded, Unavailable
from perdure.limits import RESET_TRIES
from perdure.model import tasks as t
from perdure.model.commands import Command, ContinueAsNew
from perdure.model.payloads import Payload
from perdure.model.requests import GetHistory, ResetWorkflow, SignalWorkflow
from tests.engine.node.hands import Hand, simulate, start


def reset(request_id: str = "reset", *, run_id: str = "", reapply: bool = True) -> ResetWorkflow:
    return ResetWorkflow("default", "w", run_id, request_id, to="first", reapply=reapply)


def signal(request_id: str, size: int = 0) -> SignalWorkflow:
    return SignalWorkflow("default", "w", "", "hello", (Payload(b"x" * size),), request_id)


class Restless(MemoryStore):
    """Notes what is read of which run, after which version; after each reading, something happens."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[tuple[int, int]] = []
        self.then: list[Callable[[], Awaitable[object]]] = []

    async def journal(self, run: RunKey, after: int, limit_bytes: int) -> JournalPage:
        self.read.append((run.run_no, after))
        page = await super().journal(run, after, limit_bytes)
        if self.then:
            await self.then.pop(0)()
        return page


class Busy(Hand):
    """Answers whatever it is given at once, and has nothing to do but what it is told."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.told: list[Command] = []

    async def attach(self, node: Node) -> Busy:
        hello = t.WorkerHello("default", self.name, self.queues, self.slots, "", ("sample",), ("a",))
        self.link = await node.attach(hello, self._receive)
        return self

    def _receive(self, message: t.ToWorker) -> None:
        self.given.append(message)
        if isinstance(message, t.WorkflowTask):
            told, self.told = self.told, []
            self.complete(message, *told)


async def begun(node: Node) -> Busy:
    """A run whose first workflow task was completed."""
    hand = await Busy("hand").attach(node)
    await node.call(start("w"))
    await node.call(signal("r0"))
    return hand


def test_a_run_that_moves_on_is_read_on_from_where_it_was() -> None:
    store = Restless()

    async def body(node: Node) -> list[str]:
        hand = await begun(node)
        first = hand.all(t.WorkflowTask)[0].run.run_id

        async def go_on() -> None:
            hand.told.append(ContinueAsNew("sample", "default", ()))
            await node.call(signal("r3"))
            await node.call(signal("r4"))

        store.then = [lambda: node.call(signal("r1")), lambda: node.call(signal("r2")), go_on]
        again = await node.call(reset(run_id=first))
        page = await node.call(GetHistory("default", "w", again.run_id))
        return [type(event).__name__ for event in page.events]

    names = simulate(body, store)
    assert len(store.read) == len(set(store.read)), store.read
    assert [run_no for run_no, _ in store.read] == [1, 1, 1, 1, 2, 3]  # the last for the history
    assert names.count("WorkflowExecutionSignaled") == 5


def test_a_run_that_is_never_still_is_not_reset() -> None:
    store = Restless()

    async def body(node: Node) -> None:
        await begun(node)
        store.then = [lambda n=n: node.call(signal(f"s{n}")) for n in range(RESET_TRIES)]
        with pytest.raises(Unavailable, match="moved on"):
            await node.call(reset())
        await node.call(reset())

    simulate(body, store)
    assert len(store.read) == RESET_TRIES + 1


def test_what_a_reset_writes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resets, "MAX_RESET_BYTES", 2_000)

    async def body(node: Node) -> None:
        first = (await begun(node)).all(t.WorkflowTask)[0].run.run_id
        await node.call(signal("r1", 1_500))
        await node.call(reset("small", run_id=first))
        await node.call(signal("r2", 1_500))
        with pytest.raises(LimitExceeded, match=r"would write \d+ bytes at once.*limits.MAX_RESET_BYTES is 2000"):
            await node.call(reset("large", run_id=first))
        await node.call(reset("without", run_id=first, reapply=False))

    simulate(body)
