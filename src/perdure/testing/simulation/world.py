"""One seed: a number of processes, one after another, over one store, until all that was asked is done.

Each process is killed after a number of steps that the seed decides; the last one lives on. In each, clients
go on where they were, sending again, under the same request ids, what was never answered.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import cast

from perdure.clock import SECOND
from perdure.engine.core.invariants import check_history, check_state
from perdure.engine.node.node import Node
from perdure.engine.storage.api import Store
from perdure.engine.storage.memory import MemoryStore
from perdure.errors import NotFound, PerdureError, QueryFailed, Unavailable
from perdure.ids import SeededIds
from perdure.model.requests import GetResult, Reply, Request, SignalWorkflow, StartWorkflow, UpdateWorkflow
from perdure.sdk.client.client import Client
from perdure.sdk.client.handle import WorkflowHandle
from perdure.sdk.converter import encode
from perdure.sdk.worker.worker import Worker
from perdure.testing.simulation import ledger as outside
from perdure.testing.simulation.ledger import Asked, Ledger, Step
from perdure.testing.simulation.loop import Killed, SimulatedClock, SimulatedLoop, Stuck
from perdure.testing.simulation.network import SlowNetwork
from perdure.testing.simulation.script import Report, Script, expected, make_plan
from perdure.testing.simulation.store import Faults, FaultyStore
from perdure.testing.simulation.workers import Crew

EPOCH = 1_800_000_000_000_000
LONGEST = 30 * 24 * 3600.0
"""Seconds of simulated time after which a seed is stuck."""


@dataclass
class Wanted:
    """What the clients of one workflow do: its plan, and the messages they send, each after a pause."""

    workflow_id: str
    plan: list[Step]
    messages: list[tuple[float, str, int]]


@dataclass
class World:
    """A seed's parameters."""

    seed: int
    workflows: list[Wanted]
    faults: Faults
    kills: list[int]
    slots: int
    skews: list[int]
    network: float  # the longest delay of a message, seconds; 0: one process
    crew: int  # workers
    late: float  # seconds until they come
    deaths: list[float]  # in each process a worker dies, each so many seconds after the last
    _workers: list[Worker] = field(default_factory=list[Worker])
    ledger: Ledger = field(default_factory=lambda: Ledger(MemoryStore()))

    @classmethod
    def from_seed(cls, seed: int) -> World:
        """All of it follows from the seed."""
        random = Random(seed)
        workflows: list[Wanted] = []
        for w in range(random.randint(1, 5)):
            plan = make_plan(random, (w + 1) * 100)
            notes = max([step.n for step in plan if step.kind == "signals"], default=0) + random.randint(0, 2)
            messages = [(random.random() * random.choice((0.01, 2.0)), "note", n) for n in range(notes)]
            messages += [
                (random.random(), "add", 90_000 + n if random.random() < 0.8 else -1 - n)
                for n in range(random.randint(0, 2))
            ]
            messages += [
                (random.random(), random.choice(("describe", "query")), 0) for _ in range(random.randint(0, 2))
            ]
            random.shuffle(messages)
            if random.random() < 0.3 and not any(kind == "add" for _, kind, _ in messages):  # updates are of one run
                plan.insert(random.randrange(len(plan)), Step((w + 1) * 100 + 50, "again"))
            workflows.append(Wanted(f"w{w}", plan, messages))
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
        return cls(seed, workflows, faults, kills, slots, skews, network, crew, late, deaths)

    # --- Running ----------------------------------------------------------------------------------------
    def run(self, watch: Callable[[Node], None] | None = None) -> Ledger:
        """Run the seed to its end. Raises Violation or Stuck; the ledger's trace tells what happened.

        watch: called with each node before it starts.
        """
        loops: list[SimulatedLoop] = []  # kept until the end: collecting a dead one would run its clean-up code
        with outside.used(self.ledger), self.ledger.listening("perdure"):
            try:
                self._live_through(loops, watch)
                self._check_end()
            finally:
                self._bury(loops)
        return self.ledger

    def _live_through(self, loops: list[SimulatedLoop], watch: Callable[[Node], None] | None) -> None:
        """One process after another, until one of them is done."""
        ledger = self.ledger
        time = 0.0
        for process, kill_at in enumerate([*self.kills, 0]):
            loop = SimulatedLoop(time, kill_at)
            loops.append(loop)
            loop.failed = lambda: ledger.violation
            clock = SimulatedClock(loop, EPOCH, self.skews[process])
            ledger.process, ledger.time, ledger.clock = process, loop.time, partial(seconds_since_epoch, clock)
            ledger.say(f"process begins; to be killed at step {kill_at or 'none'}")
            try:
                loop.run_until_complete(self._process(loop, clock, watch))
            except Killed:
                ledger.say("KILLED")
                ledger.process_died()
                time = loop.time()
            else:
                return

    async def _process(self, loop: SimulatedLoop, clock: SimulatedClock, watch: Callable[[Node], None] | None) -> None:
        process = self.ledger.process
        random = Random(f"{self.seed}/{process}")
        store: Store = FaultyStore(self.ledger.store, self.faults, random, lambda: not loop.dead)
        ids = SeededIds(f"{self.seed}/{process}")
        node = Node(store, clock, ids)
        if watch is not None:
            watch(node)
        await node.start()
        service = SlowNetwork(node, random, self.network) if self.network else node
        client = Client(service, ids=ids, identity="simulated")
        crew = Crew(service, self.ledger, ids, random, self.slots, self._workers.append)
        if not self.late:
            await crew.come(self.crew)
        await node.serve()
        working = asyncio.ensure_future(self._work(crew))
        try:
            async with asyncio.timeout(LONGEST):
                await asyncio.gather(*(self._drive(client, wanted) for wanted in self.workflows))
        except TimeoutError:
            raise Stuck(f"not done after {LONGEST:.0f} s") from None
        working.cancel()
        await crew.stop()
        await node.stop()

    async def _work(self, crew: Crew) -> None:
        """What the workers of a process go through."""
        if self.late:
            await asyncio.sleep(self.late)
            await crew.come(self.crew)
        await crew.lose(self.deaths)

    async def _drive(self, client: Client, wanted: Wanted) -> None:
        """The clients of one workflow."""
        ledger, wid = self.ledger, wanted.workflow_id
        asked = ledger.asked.setdefault(wid, Asked())
        early = None
        if not asked.started:
            payload = (encode(wanted.plan, "plan"),)
            early = asyncio.ensure_future(self._early(client, wid))
            start = StartWorkflow("default", wid, "simulated-script", "default", payload, f"start-{wid}")
            await insist(client, start)
            ledger.say(f"{wid} started")
            ledger.told_started(wid)
        handle: WorkflowHandle[Report] = client.get(wid, Script)  # type: ignore[assignment]
        operator = asyncio.ensure_future(self._operate(handle))
        async with asyncio.TaskGroup() as clients:
            for pause, kind, n in wanted.messages:
                clients.create_task(self._message(client, handle, asked, pause, kind, n))
            clients.create_task(self._result(handle, asked))
            if early is not None:
                await early
        operator.cancel()

    async def _early(self, client: Client, wid: str) -> None:
        """A client who asks for the end before the start is through."""
        pause = 0.0
        while True:
            try:
                await client.service.call(GetResult("default", wid, ""))
            except (NotFound, Unavailable):
                await asyncio.sleep(pause)
                pause = pause * 2 + 0.0001
            else:
                return

    async def _result(self, handle: WorkflowHandle[Report], asked: Asked) -> None:
        result = await handle.result()
        self.ledger.say(f"{handle.id} gave {result}")
        self.ledger.told_result(handle.id, result)

    async def _message(
        self, client: Client, handle: WorkflowHandle[Report], asked: Asked, pause: float, kind: str, n: int
    ) -> None:
        await asyncio.sleep(pause)
        ledger, wid = self.ledger, handle.id
        if kind == "describe":
            description = await handle.describe()
            ledger.told_described(wid, description.run_id, description.history_length)
        elif kind == "query":
            await self._query(handle)
        elif kind == "note":
            if asked.notes.get(n, "asked") != "asked":
                return
            asked.notes[n] = "asked"
            try:
                await insist(client, SignalWorkflow("default", wid, "", "note", (encode(n, "n"),), f"note-{wid}-{n}"))
            except NotFound:
                ledger.say(f"{wid} refused signal {n}")
                asked.notes[n] = "refused"
                return
            ledger.say(f"{wid} took signal {n}")
            ledger.told_noted(wid, n)
        elif asked.updates.get(n, "asked") == "asked":
            asked.updates[n] = "asked"
            await self._update(client, wid, asked, n)

    async def _query(self, handle: WorkflowHandle[Report]) -> None:
        while True:
            try:
                await handle.query(Script.progress)
            except (NotFound, QueryFailed) as error:  # nobody is there to answer, or the code has not begun
                self.ledger.say(f"{handle.id} not queried: {error}")
                await asyncio.sleep(0.3)
            else:
                return

    async def _update(self, client: Client, wid: str, asked: Asked, n: int) -> None:
        try:
            outcome = await insist(client, UpdateWorkflow("default", wid, "", f"update-{n}", "add", (encode(n, "n"),)))
        except NotFound:
            asked.updates[n] = "refused"
            return
        self.ledger.say(f"{wid} update {n}: {outcome}")
        if outcome.result is not None:
            self.ledger.told_updated(wid, n, int(outcome.result.data))
        else:
            asked.updates[n] = "refused"

    async def _operate(self, handle: WorkflowHandle[Report]) -> None:
        """A person who looks now and then, and releases what is held."""
        while True:
            await asyncio.sleep(5)
            try:
                description = await handle.describe()
                if any(each.status == "held" for each in description.activities):
                    await handle.release(note="simulated")
                    self.ledger.say(f"{handle.id} released")
            except PerdureError as error:
                self.ledger.say(f"{handle.id} not released: {error}")

    def _bury(self, loops: list[SimulatedLoop]) -> None:
        """Dispose of what is over, without a sound."""
        for worker in self._workers:
            for run in worker.live_runs():
                run.evict()
        self._workers.clear()
        for loop in loops:
            loop.dead = True
            for task in asyncio.all_tasks(loop):
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
                with contextlib.suppress(BaseException):
                    cast("Coroutine[object, object, object]", task.get_coro()).close()
            loop.close()

    # --- The end ----------------------------------------------------------------------------------------
    def _check_end(self) -> None:
        ledger = self.ledger
        if ledger.errors:
            ledger.fail(f"the engine had errors: {ledger.errors[0]}")
        for wanted in self.workflows:
            wid, asked = wanted.workflow_id, ledger.asked[wanted.workflow_id]
            report = asked.result
            if not isinstance(report, Report):
                ledger.fail(f"{wid} gave {report!r}")
                return
            results = [expected(step) for step in wanted.plan]
            if report.results != results:
                ledger.fail(f"{wid} gave {report.results}, not {results}")
            taken = [n for n, how in asked.notes.items() if how == "taken"]
            if sorted(report.noted) != sorted(set(report.noted)) or not set(taken) <= set(report.noted):
                ledger.fail(f"{wid} saw the signals {report.noted}; acknowledged were {taken}")
            if any(how == "refused" and n in report.noted for n, how in asked.notes.items()):
                ledger.fail(f"{wid} saw a refused signal: {report.noted}, {asked.notes}")
            completed = [n for n, how in asked.updates.items() if how == "completed"]
            if len(report.added) != len(set(report.added)) or not set(completed) >= set(report.added):
                ledger.fail(f"{wid} carried out the updates {report.added}; completed were {completed}")
            state = ledger.on_disk(wid, "the end")
            check_state(state)
            for history in ledger.histories(wid):
                check_history(history)
        for key, attempts in ledger.attempts.items():
            if sum(attempt.end == "returned" for attempt in attempts) > 1:
                ledger.fail(f"{key} returned more than once: {attempts}")


def seconds_since_epoch(clock: SimulatedClock) -> float:
    """The wall clock of a simulated process, as seconds since the simulation's beginning."""
    return (clock.now() - EPOCH) / SECOND


async def insist(client: Client, request: Request[Reply]) -> Reply:
    """Send a request until it is answered, as a client does."""
    while True:
        try:
            return await client.service.call(request)
        except Unavailable:
            await asyncio.sleep(0.05)
