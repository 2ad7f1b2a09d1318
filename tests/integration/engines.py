"""Engines for tests: the same test runs over each kind of them, and can stop and start one again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final, TypeVar

from perdure.clock import Clock, SystemClock
from perdure.embedded import Embedded, embedded
from perdure.engine.node.cluster.cluster import Cluster
from perdure.engine.node.cluster.members import StoreClock
from perdure.engine.node.node import Node
from perdure.engine.storage.api import Shared
from perdure.engine.storage.memory import MemoryStore
from perdure.engine.storage.postgres import PostgresStore
from perdure.engine.storage.sqlite import SqliteStore
from perdure.ids import RandomIds, SeededIds
from perdure.limits import DEFAULT_RETENTION, NODE_GRACE
from perdure.model.requests import Reply, Request, Service, WorkerLink
from perdure.model.tasks import ToWorker, WorkerHello
from perdure.sdk.client.client import Client
from perdure.sdk.client.description import ActivityDescription, WorkflowDescription
from perdure.sdk.client.handle import WorkflowHandle
from perdure.sdk.codecs.aes_gcm import AesGcm
from perdure.sdk.codecs.api import PayloadCodec
from perdure.sdk.codecs.offload import Offload
from perdure.sdk.worker.worker import Worker
from perdure.testing.simulation.loop import SimulatedClock, SimulatedLoop
from perdure.testing.transport import InProcessTransport
from tools.postgres import shared_server

T = TypeVar("T")
_numbers = count(1)

EPOCH: Final = 1_800_000_000_000_000
EPOCH_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=EPOCH)


class ShiftedClock:
    """The machine's clock, some time ahead: for what is due after a long time without a process."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self.ahead = 0

    def now(self) -> int:
        return self._clock.now() + self.ahead


class HandedClock:
    """The clock that it was handed last."""

    def __init__(self) -> None:
        self.clock: Clock = SystemClock()

    def now(self) -> int:
        return self.clock.now()


class Engine:
    """A store that outlives the engines that a test opens over it, one after another.

    kind: "memory", "sqlite" (through `embedded`), "transport" (SQLite, every message encoded), "codecs" (the same, and
    every payload and failure encrypted), or two nodes, each with
    a worker, to which requests go in turn: "nodes" over one memory, "postgres" in one database.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.path = folder / "engine.db"
        self._time = HandedClock()
        self._memory = MemoryStore(self._time)
        self._schema = f"integration_{next(_numbers)}"

    @asynccontextmanager
    async def open(
        self,
        *,
        clock: Clock | None = None,
        max_concurrent_activities: int = 100,
        retention: timedelta | None = None,
        codecs: Sequence[PayloadCodec | Offload] = (),
        encode_failures: bool = False,
    ) -> AsyncGenerator[Client]:
        """An engine, a worker and a client, as `embedded` puts them together."""
        if self.kind == "codecs" and not codecs:
            codecs, encode_failures = [AesGcm(key=f"file:{key_file(self.path.parent)}")], True
        if self.kind == "sqlite":
            async with embedded(
                self.path,
                clock=clock,
                max_concurrent_activities=max_concurrent_activities,
                retention=retention,
                codecs=codecs,
                encode_failures=encode_failures,
            ) as client:
                yield client
            return
        kept = DEFAULT_RETENTION if retention is None else int(retention.total_seconds() * 1_000_000)
        if self.kind in ("nodes", "postgres"):
            coded = partial(Client, codecs=codecs, encode_failures=encode_failures)
            async with self._nodes(clock or SystemClock(), max_concurrent_activities, kept, coded) as client:
                yield client
            return
        store = self._memory if self.kind == "memory" else SqliteStore(self.path)
        node = Node(store, clock or SystemClock(), RandomIds(), retention=kept)
        service = InProcessTransport(node) if self.kind in ("transport", "codecs") else node
        client = Client(service, codecs=codecs, encode_failures=encode_failures)
        worker = Worker(client, max_concurrent_activities=max_concurrent_activities)
        async with Embedded(node, worker, client) as opened:
            yield opened

    @asynccontextmanager
    async def _nodes(
        self, clock: Clock, slots: int, retention: int, client_of: Callable[[Service], Client]
    ) -> AsyncGenerator[Client]:
        self._time.clock = clock  # the nodes follow the store's clock; but nobody sets the database's
        async with AsyncExitStack() as stack:
            nodes = [member(self._shared(), clock, retention) for _ in range(2)]
            for node in nodes:
                client = client_of(node)
                await stack.enter_async_context(Embedded(node, Worker(client, max_concurrent_activities=slots), client))
            yield client_of(InTurn(nodes))

    def _shared(self) -> Shared:
        if self.kind == "nodes":
            return self._memory.another()
        return PostgresStore(shared_server("postgres").dsn(), schema=self._schema)


def key_file(folder: Path) -> Path:
    """A file with a key, made if need be."""
    file = folder / "key"
    if not file.exists():
        file.write_text("5a" * 32)
    return file


def member(store: Shared, clock: Clock, retention: int = DEFAULT_RETENTION) -> Node:
    """A node among those that share a store."""
    followed = StoreClock(clock)
    return Node(
        store,
        followed,
        RandomIds(),
        retention=retention,
        peers=lambda node: Cluster(store, followed, node, random.random, NODE_GRACE),
    )


class InTurn:
    """Requests go to one node after another."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self._next = 0

    async def call(self, request: Request[Reply], /) -> Reply:
        self._next += 1
        return await self._nodes[self._next % len(self._nodes)].call(request)

    async def attach(self, hello: WorkerHello, receive: Callable[[ToWorker], None], /) -> WorkerLink:
        return await self._nodes[0].attach(hello, receive)


class Simulation:
    """Engines in simulated time over one store in memory: a year passes in no time.

    `run` is one process's life; the next one begins where the last one ended.
    """

    def __init__(self) -> None:
        self.store = MemoryStore()
        self._time = 0.0
        self._processes = 0

    def run(
        self,
        body: Callable[[Client], Awaitable[T]],
        *,
        slots: int = 100,
        retention: int | None = None,
        codecs: Sequence[PayloadCodec | Offload] = (),
    ) -> T:
        """Run `body` with a client, in a loop of its own."""
        loop = SimulatedLoop(self._time, max_steps=2_000_000)
        clock = SimulatedClock(loop, EPOCH)
        self._processes += 1
        ids = SeededIds(self._processes)

        async def process() -> T:
            node = Node(self.store, clock, ids, retention=DEFAULT_RETENTION if retention is None else retention)
            client = Client(node, ids=ids, identity="simulated", codecs=codecs)
            worker = Worker(client, max_concurrent_activities=slots, ids=ids)
            async with Embedded(node, worker, client) as opened:
                return await body(opened)

        try:
            return loop.run_until_complete(process())
        finally:
            self._time = loop.time()
            loop.close()

    def pass_time(self, seconds: float) -> None:
        """Let time pass in which no process runs."""
        self._time += seconds


async def described(
    handle: WorkflowHandle[object], wanted: Callable[[WorkflowDescription], bool], *, tries: int = 100_000
) -> WorkflowDescription:
    """The first description of a workflow that is as wanted."""
    pause = 0.001 if isinstance(asyncio.get_running_loop(), SimulatedLoop) else 0
    description = await handle.describe()
    while not wanted(description):
        assert tries, f"not as wanted: {description}"
        tries -= 1
        await asyncio.sleep(pause)  # simulated time
        description = await handle.describe()
    return description


async def activity_with(handle: WorkflowHandle[object], status: str) -> ActivityDescription:
    """The workflow's only pending activity, as soon as it has a status."""
    found = await described(handle, lambda d: bool(d.activities) and d.activities[0].status == status)
    return found.activities[0]


async def failing_task(handle: WorkflowHandle[object]) -> tuple[str, str, str]:
    """The bug that a workflow's task fails with: its text, its place, and its traceback."""
    found = await described(handle, lambda d: d.workflow_task is not None and d.workflow_task.failure is not None)
    assert found.workflow_task is not None
    return found.workflow_task.failure or "", found.workflow_task.location or "", found.workflow_task.traceback or ""


async def event_names(handle: WorkflowHandle[object]) -> list[str]:
    """The names of a history's events."""
    return [type(event).__name__ async for event in handle.history()]
