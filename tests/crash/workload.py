"""The workflows that are run, their activities, and plans of what they do, each with a known result.

A function (`errand`) does steps; a class (`Desk`) does steps and takes messages meanwhile. How often an activity
fails, hangs or holds is decided by the world outside (`outside.Outside`), as in life.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from perdure import ActivityTimedOut, ApplicationError, RetryPolicy, WorkerLost, activity, workflow
from perdure.sdk.workflow.api import WorkflowFunction

GAVE_UP, RACED = 13, 17
BACKOFF, LONGEST_BACKOFF = 0.04, 0.2
"""Seconds of the first and the longest backoff."""

PATIENCE = 0.3
"""Seconds after which an attempt that hangs is given up."""

LIMIT = 3
"""Attempts that a hopeless activity has."""

SENDERS = ("ann", "bob")


class Flaky(Exception):
    """An activity failed, as its step said."""


@dataclass(frozen=True)
class Step:
    """One step. `turns` is how often its activities let others run before they end; the counts say how often
    they fail, hang and hold before they return."""

    key: int
    kind: str = "act"
    turns: int = 0
    width: int = 0
    fails: int = 0
    hangs: int = 0
    holds: int = 0
    ms: int = 0


@dataclass(frozen=True)
class Report:
    """What a workflow did."""

    results: list[int]
    notes: list[str] = field(default_factory=list[str])
    booked: list[int] = field(default_factory=list[int])


# --- Activities -----------------------------------------------------------------------------------------
class World(Protocol):
    """What activities act on."""

    def begin(self, step: Step) -> bool:
        """The running attempt begins. True if it is to hang."""
        ...

    def end(self, step: Step) -> int:
        """The running attempt has its effect: it returns, or raises Flaky or Hold."""
        ...

    def cancelled(self, step: Step) -> None:
        """The running attempt was told to stop."""
        ...


_world: list[World] = []


def enter(world: World) -> None:
    """Set the world that the activities of this process act on."""
    _world[:] = [world]


def world() -> World:
    """The world that the activities of this process act on."""
    return _world[0]


async def _perform(step: Step) -> int:
    hangs = world().begin(step)
    try:
        if hangs:
            await asyncio.Event().wait()
        for _ in range(step.turns):
            await asyncio.sleep(0)
        return world().end(step)
    except asyncio.CancelledError:
        if not hangs:
            world().cancelled(step)
        raise


retried = RetryPolicy(initial_interval=BACKOFF, maximum_interval=LONGEST_BACKOFF)


@activity(retry_policy=retried)
async def work(step: Step) -> int:
    """Let others run for a while; fail or hold as often as the step says; return its key."""
    return await _perform(step)


@activity(retry_policy=retried)
def plain_work(step: Step) -> int:
    """The same in a thread."""
    world().begin(step)
    for _ in range(step.turns):
        time.sleep(0)
    try:
        return world().end(step)
    except asyncio.CancelledError:  # by its heartbeat
        world().cancelled(step)
        raise


@activity(start_to_close_timeout=PATIENCE, retry_policy=retried)
async def stuck(step: Step) -> int:
    """Hangs as often as the step says, and is given up by its timeout."""
    return await _perform(step)


@activity(retry_policy=RetryPolicy(initial_interval=BACKOFF, maximum_attempts=LIMIT))
async def hopeless(step: Step) -> int:
    """Always fails."""
    return await _perform(step)


# --- Workflows ------------------------------------------------------------------------------------------
Do = Callable[[Step], Awaitable[int]]
"""What does a step, and gives its result."""


async def go_on(
    errand: WorkflowFunction[[list[Step], list[int]], Report], plan: list[Step], done: list[int], do: Do
) -> Report:
    """Do the steps of a plan in order; go on in a new run of the errand where it says so."""
    results = list(done)
    for place, step in enumerate(plan):
        if step.kind == "again":
            workflow.continue_as_new(errand(plan[place + 1 :], [*results, step.key]))
        results.append(await do(step))
    return Report(results)


class AnyDesk:
    """Does the steps of a plan, and takes notes and bookings meanwhile; ends when it has all of them."""

    def __init__(self, plan: list[Step], notes: int, bookings: int) -> None:
        self.plan = plan
        self.expected = notes, bookings
        self.results: list[int] = []
        self.notes: list[str] = []
        self.booked: list[int] = []

    async def do(self, step: Step) -> int:
        """Do a step; its result."""
        raise NotImplementedError

    async def run(self) -> Report:
        for step in self.plan:
            self.results.append(await self.do(step))
        notes, bookings = self.expected
        await workflow.wait_until(lambda: len(self.notes) >= notes and len(self.booked) >= bookings)
        return Report(self.results, self.notes, self.booked)

    @workflow.signal
    def note(self, text: str) -> None:
        self.notes.append(text)

    @workflow.query
    def seen(self, sender: str) -> int:
        return sum(note.startswith(sender) for note in self.notes)

    @workflow.update
    async def book(self, number: int) -> int:
        result = await self.do(Step(number, turns=number % 3))
        self.booked.append(result)
        return result

    @book.validator
    def _(self, number: int) -> None:
        if number < 0:
            raise ApplicationError("negative")


@workflow
async def errand(plan: list[Step], done: list[int]) -> Report:
    """Does the steps of a plan."""
    return await go_on(errand, plan, done, _do)


@workflow
class Desk(AnyDesk):
    """Does the steps of a plan, and takes messages."""

    async def do(self, step: Step) -> int:
        return await _do(step)


async def _do(step: Step) -> int:
    match step.kind:
        case "plain":
            return await plain_work.start(step)
        case "fan":
            return await fan(work, step)
        case "sleep":
            return await sleep(step)
        case "stuck":
            return await stuck(step)
        case "hopeless":
            try:
                return await hopeless(step)
            except (Flaky, WorkerLost):
                return GAVE_UP
        case "race":
            slow = work.start(Step(step.key + 1, hangs=1_000_000))
            first = await work(step)
            slow.cancel()
            return RACED if first == step.key else 0
        case "deadline":
            try:
                return await stuck.options(schedule_to_close_timeout=step.ms / 1000)(step)
            except (ActivityTimedOut, WorkerLost):
                return GAVE_UP
        case "child":
            report = await errand.options(id=child_of(step))([Step(step.key + 1, turns=step.turns)], [])
            return report.results[0]
        case _:
            return await work(step)


async def fan(work: Do, step: Step) -> int:
    """All parts of a step at once."""
    return sum(await asyncio.gather(*(work(part) for part in parts_of(step))))


async def sleep(step: Step) -> int:
    """Wait for a timer; 1 if it was not early."""
    before = workflow.now()
    await asyncio.sleep(step.ms / 1000)
    return int((workflow.now() - before).total_seconds() * 1000 >= step.ms)


def child_of(step: Step) -> str:
    """The workflow id of a step's child."""
    return f"child-{step.key}"


def parts_of(step: Step) -> list[Step]:
    """The activities of a fan; the first of them is the one that fails."""
    return [Step(step.key + n, turns=step.turns, fails=0 if n else step.fails) for n in range(step.width)]


# --- Plans ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Order:
    """A workflow that clients want: an errand; or, where `notes` is not None, a desk, with how many notes each
    of the senders sends, and the bookings. A negative booking is to be refused."""

    workflow_id: str
    plan: list[Step]
    notes: int | None = None
    bookings: list[int] = field(default_factory=list[int])

    def expected(self) -> list[int]:
        """The results of its steps."""
        return [result_of(step) for step in self.plan]


def result_of(step: Step) -> int:
    """What a step gives."""
    match step.kind:
        case "fan":
            return sum(part.key for part in parts_of(step))
        case "sleep":
            return 1
        case "hopeless" | "deadline":
            return GAVE_UP
        case "race":
            return RACED
        case "child":
            return step.key + 1
        case _:
            return step.key


_KINDS = (
    "act", "act", "act", "act", "plain", "fan", "fan", "sleep", "stuck", "hopeless", "race", "deadline", "child",
    "again",
)  # fmt: skip


def make_orders(seed: str, count: int) -> list[Order]:
    """As many workflows as asked for, from a seed."""
    random = Random(seed)
    orders: list[Order] = []
    for number in range(count):
        first_key = (number + 1) * 10_000
        if random.random() < 0.5:
            plan = [_make_step(random, first_key + 100 * n, _KINDS) for n in range(random.randint(2, 7))]
            orders.append(Order(f"errand-{number}", plan))
        else:
            plan = [_make_step(random, first_key + 100 * n, _KINDS[:-1]) for n in range(random.randint(0, 3))]
            bookings = [first_key + 9_000 + n for n in range(random.randint(0, 3))]
            bookings += [-1] * random.choice((0, 0, 1))
            orders.append(Order(f"desk-{number}", plan, random.randint(0, 6), bookings))
    return orders


def _make_step(random: Random, key: int, kinds: tuple[str, ...]) -> Step:
    kind = random.choice(kinds)
    turns = random.choice((0, 1, 20, 300))
    match kind:
        case "act":
            holds = random.choice((0, 0, 0, 1))
            return Step(key, kind, turns, fails=random.choice((0, 0, 1, 2, 4)), holds=holds)
        case "plain":
            return Step(key, kind, turns, fails=random.choice((0, 0, 1)))
        case "fan":
            return Step(key, kind, turns, width=random.choice((2, 5, 30)), fails=random.choice((0, 1)))
        case "sleep":
            return Step(key, kind, ms=random.choice((1, 30, 200)))
        case "stuck":
            return Step(key, kind, hangs=random.choice((0, 1, 2)))
        case "deadline":
            return Step(key, kind, hangs=1_000_000, ms=random.choice((100, 500)))
        case "hopeless":
            return Step(key, kind, turns, fails=1_000_000)
        case _:
            return Step(key, kind, turns)
