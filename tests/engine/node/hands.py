"""A node in simulated time, and workers that do only what a test tells them to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from perdure.engine.node.node import Node
from perdure.engine.storage.api import ChainKey, Store
from perdure.engine.storage.memory import MemoryStore
from perdure.ids import SeededIds
from perdure.model import tasks as t
from perdure.model.commands import Command, CompleteWorkflow
from perdure.model.payloads import Payload
from perdure.model.requests import StartWorkflow, WorkerLink
from perdure.testing.simulation.loop import SimulatedClock, SimulatedLoop

T = TypeVar("T")
Message = TypeVar("Message", bound=t.ToWorker)

EPOCH = 1_800_000_000_000_000
NOTHING = Payload(b"null")


class SetClock(SimulatedClock):
    """The loop's time, unless a test sets it ahead."""

    ahead = 0

    def now(self) -> int:
        return super().now() + self.ahead


def simulate(body: Callable[[Node], Awaitable[T]], store: Store | None = None, *, seconds: float = 0.0) -> T:
    """One life of a node over a store, from `seconds` after the epoch."""
    loop = SimulatedLoop(seconds, max_steps=1_000_000)
    node = Node(store or MemoryStore(), SetClock(loop, EPOCH), SeededIds(f"{seconds}"))

    async def life() -> T:
        await node.start()
        await node.serve()
        try:
            return await body(node)
        finally:
            await node.stop()

    try:
        return loop.run_until_complete(life())
    finally:
        loop.close()


def start(workflow_id: str, *, queue: str = "default") -> StartWorkflow:
    """A request to start a workflow."""
    return StartWorkflow("default", workflow_id, "sample", queue, (), f"start {workflow_id}")


def chain(workflow_id: str) -> ChainKey:
    """All runs of a workflow id."""
    return ChainKey("default", workflow_id)


class Hand:
    """A worker that keeps what it is given, and answers when it is told to."""

    def __init__(self, name: str, *, slots: int = 0, queues: tuple[str, ...] = ("default",)) -> None:
        self.name, self.slots, self.queues = name, slots, queues
        self.given: list[t.ToWorker] = []
        self.link: WorkerLink

    async def attach(self, node: Node) -> Hand:
        """Come to work."""
        hello = t.WorkerHello("default", self.name, self.queues, self.slots, "", ("sample",), ("a",))
        self.link = await node.attach(hello, self.given.append)
        return self

    def all(self, kind: type[Message]) -> list[Message]:
        """What it was given of a kind."""
        return [message for message in self.given if isinstance(message, kind)]

    def complete(self, task: t.WorkflowTask, *commands: Command) -> None:
        """Answer a workflow task."""
        self.link.send(t.WorkflowTaskCompletion(task.run, task.attempt, task.position, commands, given=task.given))

    def finish(self, task: t.WorkflowTask) -> None:
        """Answer it with the end of the workflow."""
        self.complete(task, CompleteWorkflow(NOTHING))
