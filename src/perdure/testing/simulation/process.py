"""One simulated process: an event loop, an engine over the store, and its workers; until it ends or is killed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Final, cast

from perdure.clock import SECOND
from perdure.engine.node import resting
from perdure.engine.node.cluster.cluster import Cluster
from perdure.engine.node.cluster.members import StoreClock
from perdure.engine.node.node import Node
from perdure.engine.storage.memory import MemoryStore
from perdure.errors import Unavailable
from perdure.ids import SeededIds
from perdure.limits import NODE_GRACE
from perdure.model.requests import Service
from perdure.sdk.client.client import Client
from perdure.sdk.worker.worker import Worker
from perdure.testing.simulation.ledger import Ledger
from perdure.testing.simulation.loop import SimulatedClock, SimulatedLoop, Timeline
from perdure.testing.simulation.network import SlowNetwork
from perdure.testing.simulation.store import Faults, FaultyStore
from perdure.testing.simulation.witness import Witness
from perdure.testing.simulation.workers import Crew, Outfit

EPOCH: Final = 1_800_000_000_000_000


@dataclass
class Surroundings:
    """What all processes of a seed have in common.

    network: the longest delay of a message, seconds; 0: there is none between clients, workers and node.
    down: whether nobody can reach the store.
    """

    seed: str
    timeline: Timeline
    ledger: Ledger
    store: MemoryStore
    faults: Faults
    network: float
    watch: Callable[[Node], None] = lambda node: None
    down: bool = False
    full: bool = False


@dataclass
class Traits:
    """What one process is like.

    late: seconds until its workers come.
    deaths: a worker dies, each so many seconds after the last.
    silences: how many seconds it may take until the node notices.
    """

    skew: int
    outfit: Outfit
    late: float
    deaths: list[float]
    silences: tuple[float, ...] = (0.0, 0.5, 25.0)
    mishaps: dict[int, Callable[[Process], None]] = field(default_factory=dict[int, "Callable[[Process], None]"])


class Process:
    """See the module. Its `life` is a task of its loop."""

    def __init__(self, number: int, traits: Traits, around: Surroundings) -> None:
        name = f"{around.seed}/{number}"
        self.number, self.traits, self._around = number, traits, around
        mishaps = {step: partial(happens, self) for step, happens in traits.mishaps.items()}
        self.loop = SimulatedLoop(timeline=around.timeline, process=number, mishaps=mishaps)
        self.clock = SimulatedClock(self.loop, EPOCH, traits.skew)
        self.cut = False
        self.leaving: asyncio.Future[None]  # set when it is to end in good order
        self._random, self._ids = Random(name), SeededIds(name)
        self.node: Node
        self.service: Service | None = None  # while it takes requests
        self.workers: list[Worker] = []

    @property
    def running(self) -> bool:
        """Whether it serves, and nothing is wrong with it."""
        return self.service is not None and not (self.loop.dead or self.loop.suspended or self.cut)

    def seconds(self) -> float:
        """Its wall clock, as seconds since the simulation's beginning."""
        return (self.clock.now() - EPOCH) / SECOND

    async def live(self, do: Callable[[Client], Awaitable[None]]) -> None:
        """Begin, do something, and end in good order."""
        around, traits = self._around, self.traits
        self.node = await self._start()
        door = Witness(self.node, around.ledger)
        service = SlowNetwork(door, self._random, around.network) if around.network else door
        crew = Crew(
            service, around.ledger, self._ids, self._random, traits.outfit, self.workers.append, traits.silences
        )
        if not traits.late:
            await crew.come()
        await self.node.serve()
        self.service = service
        working = asyncio.ensure_future(self._work(crew))
        await do(Client(service, ids=self._ids, identity="simulated"))
        working.cancel()
        await crew.stop()
        await self.node.stop()
        self.service = None

    async def _start(self) -> Node:
        """A node that is open; perhaps the store can't be reached yet."""
        while True:
            node = self._node()
            self._around.watch(node)
            try:
                await node.start()
            except Unavailable:
                await asyncio.sleep(0.5)
            else:
                return node

    def _node(self) -> Node:
        around, ledger = self._around, self._around.ledger
        store = FaultyStore(
            around.store.another() if ledger.several else around.store,
            around.faults,
            self._random,
            lambda: not self.loop.dead,
            lambda: self.cut or around.down,
            lambda: around.full,
            lambda: ledger.lives.renewed(self.number),
        )
        if not ledger.several:
            return Node(store, self.clock, self._ids)
        clock = StoreClock(self.clock)
        return Node(
            store,
            clock,
            self._ids,
            peers=lambda node: Cluster(store, clock, node, self._random.random, NODE_GRACE),
        )

    async def _work(self, crew: Crew) -> None:
        """What its workers go through."""
        if self.traits.late:
            await asyncio.sleep(self.traits.late)
            await crew.come()
        await crew.lose(self.traits.deaths)


def bury(processes: Iterable[Process], loops: Iterable[SimulatedLoop] = ()) -> None:
    """Dispose of what is over, without a sound. Until then it is kept: to collect it would run its clean-up code."""
    processes = list(processes)
    for worker in [worker for process in processes for worker in process.workers]:
        for run in worker.live_runs():
            run.evict()
    for loop in (*loops, *(process.loop for process in processes)):
        loop.dead = True
        for task in asyncio.all_tasks(loop):
            _close(task)
        loop.close()
    resting.wake()  # a process takes its collector along


def _close(task: asyncio.Task[Any]) -> None:
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    with contextlib.suppress(BaseException):
        cast("Coroutine[object, object, object]", task.get_coro()).close()
