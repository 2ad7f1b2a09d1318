"""One seed of a single node: a number of processes, one after another, over one store, until all is done.

Each process is killed after a number of steps that the seed decides; the last one lives on. In each, clients
go on where they were, sending again, under the same request ids, what was never answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from perdure.engine.node.node import Node
from perdure.engine.storage.memory import MemoryStore
from perdure.sdk.client.client import Client
from perdure.testing.simulation import ledger as outside
from perdure.testing.simulation.clients import Clients, Wanted, make_wanted
from perdure.testing.simulation.ending import check_end
from perdure.testing.simulation.ledger import Ledger
from perdure.testing.simulation.loop import Stuck, Timeline
from perdure.testing.simulation.pets import rolling_over_early
from perdure.testing.simulation.process import Process, Surroundings, Traits, bury
from perdure.testing.simulation.schedules import Timed, Timekeepers, Told, check_schedules, make_timed
from perdure.testing.simulation.store import Faults
from perdure.testing.simulation.workers import Outfit

MAX_STEPS = 150_000

LONGEST = 30 * 24 * 3600.0
"""Seconds of simulated time after which a seed is stuck."""


@dataclass
class World:
    """A seed's parameters."""

    seed: int
    workflows: list[Wanted]
    faults: Faults
    kills: list[int]
    slots: int
    skews: list[int]
    network: float
    crew: int  # workers
    late: float  # seconds until they come
    deaths: list[float]  # in each process a worker dies, each so many seconds after the last
    ledger: Ledger = field(default_factory=lambda: Ledger(MemoryStore()))
    schedules: list[Timed] = field(default_factory=list[Timed])
    _told: dict[str, Told] = field(default_factory=dict[str, Told])

    @classmethod
    def from_seed(cls, seed: int) -> World:
        """All of it follows from the seed."""
        random = Random(seed)
        workflows = make_wanted(random)
        faults = Faults(
            slow=random.choice((0.0, 0.1, 0.5)),
            delay=random.choice((0.005, 0.5)),
            refuse=random.choice((0.0, 0.0, 0.05)),
            lose=random.choice((0.0, 0.0, 0.05)),
            conflict=random.choice((0.0, 0.0, 0.02)),
            outage=random.choice((0.0, 0.0, 0.01)),
        )
        kills = [random.randint(1, random.choice((200, 1500, 6000))) for _ in range(random.choice((0, 1, 2, 3, 6)))]
        skews = [random.choice((0, 0, -3_000_000, 3_000_000)) for _ in range(len(kills) + 1)]
        network = random.choice((0.0, 0.0, 0.003, 0.1))
        slots, crew, late = (
            random.choice((1, 3, 100)),
            random.choice((1, 1, 2, 3)),
            random.choice((0.0, 0.0, 0.01, 1.0)),
        )
        deaths = [random.random() * random.choice((0.01, 1.0, 5.0)) for _ in range(random.choice((0, 0, 1, 5)))]
        faults.full = Random(f"full {seed}").choice((0.0, 0.0, 0.003, 0.03))
        schedules = make_timed(workflows, f"world {seed}")
        return cls(seed, workflows, faults, kills, slots, skews, network, crew, late, deaths, schedules=schedules)

    def run(self, watch: Callable[[Node], None] = lambda node: None) -> Ledger:
        """Run the seed to its end. Raises Violation or Stuck; the ledger's trace tells what happened.

        watch: called with each node before it starts.
        """
        ledger, timeline = self.ledger, Timeline(Random(self.seed), max_steps=MAX_STEPS)
        timeline.failed = lambda: ledger.violation
        ledger.time = timeline.time
        around = Surroundings(str(self.seed), timeline, ledger, ledger.store, self.faults, self.network, watch)
        processes: list[Process] = []
        with outside.used(ledger), ledger.listening("perdure"), rolling_over_early():
            try:
                for number, kill_at in enumerate([*self.kills, 0]):
                    processes.append(self._process(number, kill_at, around))
                    if self._live(processes[-1], timeline):
                        break
                check_schedules(ledger, self.schedules, self._told)
                check_end(ledger, self.workflows)
            finally:
                bury(processes)
        return ledger

    def _process(self, number: int, kill_at: int, around: Surroundings) -> Process:
        traits = Traits(self.skews[number], Outfit(self.crew, self.slots), self.late, self.deaths)
        if kill_at:
            traits.mishaps[kill_at] = lambda process: process.loop.kill()
        process = Process(number, traits, around)
        self.ledger.process, self.ledger.clock = number, process.seconds
        self.ledger.say(f"process begins; to be killed at step {kill_at or 'none'}")
        return process

    def _live(self, process: Process, timeline: Timeline) -> bool:
        """Whether all is done before it is killed."""
        life = process.loop.create_task(process.live(self._drive))
        timeline.run(lambda: life.done() or process.loop.dead)
        if process.loop.dead:
            self.ledger.say("KILLED")
            self.ledger.attempts.process_died(process.number)
            return False
        life.result()
        return True

    async def _drive(self, client: Client) -> None:
        clients, keepers = Clients(client, self.ledger), Timekeepers(client, self.ledger, self._told)
        try:
            async with asyncio.timeout(LONGEST):
                await asyncio.gather(
                    *(clients.drive(wanted) for wanted in self.workflows),
                    *(keepers.drive(timed) for timed in self.schedules),
                )
        except TimeoutError:
            raise Stuck(f"not done after {LONGEST:.0f} s") from None
