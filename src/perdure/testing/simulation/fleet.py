"""One seed of several nodes: processes that live at once over one store, come late, leave, and go wrong.

All of them are on one timeline, and the seed decides whose step is next. Clients are outside; each of their requests
goes to some process. What goes wrong with a process does so after some step of it; the store as a whole is out of reach
at some times. One process (the first) comes some time, has the code for everything, and does not end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Literal

from perdure.engine.node.node import Node
from perdure.engine.storage.memory import MemoryStore
from perdure.ids import SeededIds
from perdure.limits import BLOCKED_LOOP_WARNING, MEMBER_REMEMBERED, SECOND
from perdure.sdk.client.client import Client
from perdure.testing.simulation import ledger as outside
from perdure.testing.simulation.attempts import Step
from perdure.testing.simulation.clients import Clients, Wanted, make_wanted
from perdure.testing.simulation.ending import check_end
from perdure.testing.simulation.ledger import Ledger
from perdure.testing.simulation.lives import GRACE
from perdure.testing.simulation.loop import SimulatedClock, SimulatedLoop, Stuck, Timeline
from perdure.testing.simulation.pets import rolling_over_early
from perdure.testing.simulation.process import EPOCH, Process, Surroundings, Traits, bury
from perdure.testing.simulation.schedules import Timed, Timekeepers, Told, check_schedules, make_timed
from perdure.testing.simulation.script import KINDS, SIDE
from perdure.testing.simulation.store import Faults
from perdure.testing.simulation.switchboard import Switchboard
from perdure.testing.simulation.watchman import Watchman
from perdure.testing.simulation.workers import ACTIVITIES, WORKFLOWS, Outfit

LONGEST = 4 * 3_600.0
"""Seconds of simulated time after which a seed is stuck. Where there is one slot, the loser of a race may have it, for
an hour, before the winner has."""

QUIET = 45.0
"""Seconds after the last answer, and after the last mishap, until nothing waits any more: no mishap lasts as long."""

OUTSIDE = -1
"""The number of the clients' loop."""

What = Literal["killed", "suspended", "cut off", "asked to leave"]


@dataclass
class Mishap:
    """What happens to a process after some step; for how long, if it is not for ever."""

    step: int
    what: What
    seconds: float = 0.0


@dataclass
class Member:
    """A process: when it begins, what it is like, and what happens to it."""

    begins: float
    traits: Traits
    mishaps: list[Mishap]


@dataclass
class Fleet:
    """A seed's parameters. outages: when nobody can reach the store, and for how long; full: when
    it has no space."""

    seed: int
    workflows: list[Wanted]
    faults: Faults
    network: float
    members: list[Member]
    outages: list[tuple[float, float]]
    full: list[tuple[float, float]]
    ledger: Ledger = field(default_factory=lambda: Ledger(MemoryStore(), several=True))
    schedules: list[Timed] = field(default_factory=list[Timed])

    @classmethod
    def from_seed(cls, seed: int) -> Fleet:
        """All of it follows from the seed."""
        random = Random(f"fleet {seed}")
        faults = Faults(
            slow=random.choice((0.0, 0.1, 0.5)),
            delay=random.choice((0.005, 0.2)),
            late=random.choice((0.0, 0.1, 0.5)),
            refuse=random.choice((0.0, 0.0, 0.05)),
            lose=random.choice((0.0, 0.0, 0.05)),
            conflict=random.choice((0.0, 0.0, 0.02)),
            unheard=random.choice((0.0, 0.1, 1.0)),
            unpunctual=random.choice((0.0, 0.3)),
            repeated=random.choice((0.0, 0.3)),
        )
        members = [_member(random, number) for number in range(random.randint(2, 5))]
        outages = [(random.random() * 20, random.random() * 30) for _ in range(random.choice((0, 0, 0, 1)))]
        workflows, network = _workflows(random), random.choice((0.0, 0.0, 0.003, 0.1))
        schedules = make_timed(workflows, f"fleet {seed}")
        later = Random(f"full {seed}")
        full = [(later.random() * 20, later.random() * 10) for _ in range(later.choice((0, 0, 0, 1, 2)))]
        return cls(seed, workflows, faults, network, members, outages, full, schedules=schedules)

    def run(self, watch: Callable[[Node], None] = lambda node: None) -> Ledger:
        """Run the seed to its end. Raises Violation or Stuck; the ledger's trace tells what happened.

        watch: called with each node before it starts.
        """
        return Course(self, watch).run()


def _member(random: Random, number: int) -> Member:
    steady = number == 0
    outfit = Outfit(random.choice((1, 1, 2)), random.choice((1, 3, 100)), ("default", SIDE))
    if not steady and random.random() < 0.4:
        types = [*WORKFLOWS, *(name for name in ACTIVITIES if name != "simulated-near")]  # which goes with its workflow
        outfit.lacks = random.sample(types, random.randint(1, len(types) - 1))
    if not steady and random.random() < 0.3:
        outfit.queues = (random.choice(("default", SIDE)),)
    traits = Traits(
        random.choice((0, 0, -3_000_000, 3_000_000)),
        outfit,
        random.choice((0.0, 0.0, 0.01, 1.0)),
        [random.random() * random.choice((0.01, 1.0, 5.0)) for _ in range(random.choice((0, 0, 0, 2)))],
        (0.0, 0.5, 5.0),
    )
    begins = random.choice((0.0, 0.0, random.random() * 15))
    return Member(begins, traits, [_mishap(random, steady) for _ in range(random.choice((0, 1, 1, 2)))])


def _mishap(random: Random, steady: bool) -> Mishap:
    kinds: tuple[What, ...] = ("suspended", "cut off") if steady else (
        "killed", "killed", "suspended", "cut off", "asked to leave"
    )  # fmt: skip
    step = random.randint(1, random.choice((200, 1_500, 6_000)))
    return Mishap(step, random.choice(kinds), random.choice((0.1, 3.0, 12.0, 40.0)) * random.random())


def _workflows(random: Random) -> list[Wanted]:
    """As with one node, but with longer activities and shorter sleeps, other queues, and rivals."""
    workflows = make_wanted(random, (*KINDS, "side", "act"))
    for wanted in workflows:
        wanted.rivals = random.choice((0, 0, 1, 2))
        wanted.messages += [(random.random() * 20, random.choice(("describe", "query")), 0) for _ in range(3)]
        wanted.plan = [_step(random, step) for step in wanted.plan]
    return workflows


def _step(random: Random, step: Step) -> Step:
    if step.kind in ("act", "side") and random.random() < 0.3:
        return replace(step, ms=random.choice((5_000, 25_000)))
    if step.kind == "sleep":
        return replace(step, ms=min(step.ms, 30_000))
    if step.kind == "child":
        return replace(step, n=random.choice((0, 1)))
    return step


class Course:
    """One run of a fleet."""

    def __init__(self, fleet: Fleet, watch: Callable[[Node], None]) -> None:
        self._fleet, self._ledger = fleet, fleet.ledger
        self._timeline = timeline = Timeline(Random(fleet.seed))
        self._loop = SimulatedLoop(timeline=timeline, process=OUTSIDE)
        # The store's clock is the true one.
        store = MemoryStore(SimulatedClock(timeline, EPOCH))
        ledger = self._ledger
        ledger.store, ledger.time, ledger.clock, ledger.process = store, timeline.time, timeline.time, OUTSIDE
        timeline.failed = lambda: ledger.violation
        timeline.stepping = self._stepping
        ledger.served = self._served
        self._around = Surroundings(f"fleet {fleet.seed}", timeline, ledger, store, fleet.faults, fleet.network, watch)
        self._processes: list[Process] = []
        self._told: dict[str, Told] = {}
        self._disturbed = 0.0
        self._looks = True
        random = Random(f"clients {fleet.seed}")
        self._switchboard = Switchboard(self._loop, random, self._processes)
        self._watchman = Watchman(ledger, self._processes, self._calm_since)

    def run(self) -> Ledger:
        ledger, fleet, timeline = self._ledger, self._fleet, self._timeline
        with outside.used(ledger), ledger.listening("perdure"), rolling_over_early():
            try:
                for number, member in enumerate(fleet.members):
                    timeline.after(member.begins, partial(self._begin, number, member))
                for begins, seconds in fleet.outages:
                    timeline.after(begins, partial(self._outage, seconds))
                for begins, seconds in fleet.full:
                    timeline.after(begins, partial(self._fill, seconds))
                self._look()
                done = self._loop.create_task(self._drive())
                timeline.run(done.done)
                done.result()
                self._come_to_rest()
                check_schedules(ledger, fleet.schedules, self._told)
                check_end(ledger, fleet.workflows)
            finally:
                bury(self._processes, (self._loop,))
        return ledger

    def _stepping(self, loop: SimulatedLoop) -> None:
        self._ledger.process = loop.process

    async def _drive(self) -> None:
        ids = SeededIds(f"clients {self._fleet.seed}")
        client = Client(self._switchboard, ids=ids, identity="outside")
        clients, keepers = Clients(client, self._ledger), Timekeepers(client, self._ledger, self._told)
        try:
            async with asyncio.timeout(LONGEST):
                await asyncio.gather(
                    *(clients.drive(wanted) for wanted in self._fleet.workflows),
                    *(keepers.drive(timed) for timed in self._fleet.schedules),
                )
        except TimeoutError:
            raise Stuck(f"not done after {LONGEST:.0f} s") from None

    # --- What happens -----------------------------------------------------------------------------------
    def _begin(self, number: int, member: Member) -> None:
        traits = replace(member.traits)
        traits.mishaps = {mishap.step: partial(self._befall, mishap) for mishap in member.mishaps}
        process = Process(number, traits, self._around)
        self._ledger.process = number
        self._ledger.say(f"process begins: {member}")
        self._processes.append(process)
        leaving = process.leaving = process.loop.create_future()

        async def wait(client: Client) -> None:
            await leaving
            self._disturb("leaves")

        process.loop.create_task(process.live(wait)).add_done_callback(partial(self._ended, process))

    def _ended(self, process: Process, life: asyncio.Task[None]) -> None:
        if process.loop.dead:
            return
        life.result()
        self._ledger.lives.ended(process.number)
        self._ledger.attempts.process_died(process.number)
        self._disturb("has left")

    def _befall(self, mishap: Mishap, process: Process) -> None:
        """A mishap, after a step of its process."""
        self._disturb(f"is {mishap.what} ({mishap.seconds:.1f} s)")
        if mishap.what == "killed":
            process.loop.kill()
            self._ledger.lives.ended(process.number)
            self._ledger.attempts.process_died(process.number)
            self._switchboard.gone(process)
        elif mishap.what == "asked to leave":
            if not process.leaving.done():
                process.leaving.set_result(None)
        elif mishap.what == "suspended":
            process.loop.suspended = True
            self._timeline.after(mishap.seconds, partial(self._resume, process, process.clock.now()))
        else:
            process.cut = True
            self._timeline.after(mishap.seconds, partial(self._connect, process))

    def _resume(self, process: Process, since: int) -> None:
        process.loop.suspended = False
        self._ledger.process = process.number
        self._ledger.attempts.losses += 1
        self._disturb("goes on")
        if process.service is not None and process.clock.now() - since > BLOCKED_LOOP_WARNING:
            process.loop.call_soon(process.node.stalls.add, since, process.clock.now())  # as the watchdog does

    def _connect(self, process: Process) -> None:
        process.cut = False
        self._ledger.process = process.number
        self._ledger.attempts.losses += 1
        self._disturb("reaches the store again")

    def _outage(self, seconds: float) -> None:
        self._around.down = True
        self._store_is("away", seconds, self._outage_over)

    def _outage_over(self) -> None:
        self._around.down = False
        self._store_works("is back")

    def _fill(self, seconds: float) -> None:
        self._around.full = True
        self._store_is("full", seconds, self._emptied)

    def _emptied(self) -> None:
        self._around.full = False
        self._store_works("has space")

    def _store_is(self, how: str, seconds: float, over: Callable[[], None]) -> None:
        self._ledger.process = OUTSIDE
        self._disturb(f"the store is {how} for {seconds:.1f} s")
        self._timeline.after(seconds, over)

    def _store_works(self, how: str) -> None:
        self._ledger.process = OUTSIDE
        self._ledger.attempts.losses += 1
        self._disturb(f"the store {how}")

    def _disturb(self, what: str) -> None:
        self._ledger.say(what.upper())
        self._disturbed = self._timeline.time()

    def _calm_since(self) -> float | None:
        """When something last went wrong; None: nobody could do anything now."""
        if self._around.down or self._around.full or not any(process.running for process in self._processes):
            self._disturbed = self._timeline.time()
            return None
        return self._disturbed

    def _served(self) -> float:
        """For how many seconds the one that has the code for everything could work undisturbed."""
        calm, steady = self._calm_since(), self._fleet.members[0]
        there = steady.begins + steady.traits.late + sum(steady.traits.deaths) + 10.0  # other workers have come by then
        if calm is None or not any(process.number == 0 and process.running for process in self._processes):
            return 0.0
        return self._timeline.time() - max(calm, there)

    def _look(self) -> None:
        self._ledger.process = OUTSIDE
        if self._looks:
            self._watchman.look()
            self._timeline.after(1.0, self._look)

    # --- The end ----------------------------------------------------------------------------------------
    def _come_to_rest(self) -> None:
        """Soon nothing waits any more; and when they have been gone for long, the dead are forgotten."""
        timeline, ledger = self._timeline, self._ledger
        end = timeline.time() + QUIET
        timeline.run(lambda: (calm := self._calm_since()) is not None and timeline.time() >= max(end, calm + QUIET))
        self._looks = False
        if not self._watchman.at_rest():
            ledger.fail("something is left over when all is done")
        for process in self._processes:
            process.loop.suspended = True
        self._pass(MEMBER_REMEMBERED / SECOND + GRACE)
        for process in self._processes:
            process.loop.suspended = process.number != 0  # the one that does not end
        self._pass(QUIET)
        if left := ledger.store.in_use():
            ledger.fail(f"of those who are gone, {left} are not forgotten")

    def _pass(self, seconds: float) -> None:
        over: list[None] = []
        self._timeline.after(seconds, lambda: over.append(None))
        self._timeline.run(lambda: bool(over))
