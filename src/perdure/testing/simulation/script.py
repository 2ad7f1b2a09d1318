"""The workflows that a simulation runs: scripts of steps, each with a known result.

What a step does to the outside world is told to the ledger, which checks it. A script's plan is made from the
seed; how often its activities fail, hang or hold is decided by the outside world, as in life.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from perdure.errors import ApplicationError, WorkerLost
from perdure.sdk.activity.api import activity
from perdure.sdk.retry import RetryPolicy
from perdure.sdk.workflow.api import workflow
from perdure.testing.simulation import ledger as outside
from perdure.testing.simulation.attempts import BACKOFF, Flaky, Step
from perdure.testing.simulation.families import KEPT, LEFT, RECALLED, UNDONE, later, leave, nearby, recall, saga

CANCELLED, GAVE_UP, TIMED, STOPPED = 7, 13, 17, 37
LATE = 2_000
"""Messages with this number or a higher one are taken, but perhaps not dealt with, for a while."""

SIDE = "side"
"""A task queue beside the default one."""


@dataclass
class Report:
    """What a script did."""

    results: list[int]
    noted: list[int]
    added: list[int]
    heard: list[int]  # both, as their handlers began


@activity(name="simulated-work", retry_policy=RetryPolicy(initial_interval=BACKOFF, maximum_interval=4.0))
async def work(step: Step) -> int:
    """Take a while; fail, hang or hold as often as the step says; return its key."""
    return await outside.current().attempts.perform(step)


@activity(name="simulated-hopeless", retry_policy=RetryPolicy(initial_interval=BACKOFF, maximum_attempts=2))
async def hopeless(step: Step) -> int:
    """Always fails."""
    return await outside.current().attempts.perform(step)


@activity(
    name="simulated-guarded",
    start_to_close_timeout=2,
    heartbeat_timeout=1,
    retry_policy=RetryPolicy(initial_interval=BACKOFF),
)
async def guarded(step: Step) -> int:
    """Hangs, and is given up by its timeouts."""
    return await outside.current().attempts.perform(step)


@workflow(name="simulated-errand")
async def errand(step: Step) -> int:
    """One step, as a child of another type than its parent."""
    return await work(step)


async def tried_twice(step: Step) -> int:
    """One step, in a child whose first attempt fails."""
    policy = RetryPolicy(initial_interval=BACKOFF, maximum_attempts=2)
    try:
        report = await workflow.run(Script([Step(step.key + 800_000, "retry", n=1), step]), retry_policy=policy)
    except ApplicationError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # what is to stop has no second attempt
            return STOPPED
        raise
    return report.results[1]


@workflow(name="simulated-script")
class Script:
    """Runs its steps in order, and takes messages meanwhile."""

    def __init__(self, plan: list[Step], before: Report | None = None) -> None:
        self.plan = plan
        self.results: list[int] = before.results if before else []
        self.noted: list[int] = before.noted if before else []
        self.added: list[int] = before.added if before else []
        self.heard: list[int] = before.heard if before else []

    async def run(self) -> Report:
        try:
            for done, step in enumerate(self.plan, 1):
                if step.kind == "again":
                    self.results.append(1)
                    workflow.continue_as_new(Script(self.plan[done:], self.progress()))
                self.results.append(await self.one(step))
        except asyncio.CancelledError:
            self.results.append(STOPPED)
        return self.progress()

    async def one(self, step: Step) -> int:
        match step.kind:
            case "fan":
                parts = [Step(step.key * 1000 + i, "act", step.ms, fails=step.fails if i == 0 else 0)
                         for i in range(step.n)]  # fmt: skip
                return sum(await asyncio.gather(*(work(part) for part in parts)))
            case "sleep":
                before = workflow.now()
                await asyncio.sleep(step.ms / 1000)
                return int((workflow.now() - before).total_seconds() * 1000 >= step.ms)
            case "signals":
                await workflow.wait_until(lambda: len(self.noted) >= step.n)
                return int(len(self.noted) >= step.n)
            case "cancel":
                handle = work.start(step)
                await asyncio.sleep(0.05)
                handle.cancel()
                return CANCELLED
            case "hopeless":
                try:
                    return await hopeless(step)
                except (Flaky, WorkerLost):
                    return GAVE_UP
            case "guarded":
                return await guarded(step)
            case "race":
                first = work.start(step)
                second = work.start(Step(step.key + 500_000, "act", 3_600_000))
                await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
                second.cancel()
                return await first
            case "child":
                inner = Step(step.key + 700_000, "act", step.ms, fails=step.fails)
                if step.n:
                    return await errand(inner)
                if step.fails:
                    return await tried_twice(inner)
                report = await workflow.run(Script([inner]))
                return report.results[0]
            case "retry":
                if workflow.info().attempt <= step.n:
                    raise ApplicationError(f"attempt {workflow.info().attempt}")
                return 1
            case "side":
                return await work.options(task_queue=SIDE)(step)
            case "deadline":
                try:
                    async with asyncio.timeout(step.ms / 1000):
                        return await work(Step(step.key, "act", 3_600_000))
                except TimeoutError:
                    return TIMED
            case "parcel":
                for _ in range(step.n):
                    self.noted.append(await workflow.receive("parcel", int))
                return 1
            case "near":
                return await nearby(step, self.noted)
            case _:
                family = FAMILIES.get(step.kind, work)
                return await family(step)

    @workflow.signal
    def note(self, n: int) -> None:
        self.heard.append(n)
        self.noted.append(n)

    @workflow.update
    async def add(self, n: int) -> int:
        self.heard.append(n)
        result = await work(Step(n, "act", 5))
        self.added.append(n)
        return result

    @add.validator
    def _(self, n: int) -> None:
        if n < 0:
            raise ApplicationError("negative")

    @workflow.query
    def progress(self) -> Report:
        return Report(self.results, self.noted, self.added, self.heard)


FAMILIES: Final[dict[str, Callable[[Step], Awaitable[int]]]] = {
    "leave": leave, "recall": recall, "saga": saga, "later": later,
}  # fmt: skip
"""Steps that are of more than one workflow or activity."""


def expected(step: Step) -> int:
    """What a step gives."""
    match step.kind:
        case "fan" | "near":
            return sum(step.key * 1000 + i for i in range(step.n))
        case "sleep" | "signals" | "again" | "retry" | "parcel":
            return 1
        case "leave":
            return LEFT
        case "recall":
            return RECALLED
        case "saga":
            return KEPT if step.ms == 1 else UNDONE
        case "cancel":
            return CANCELLED
        case "hopeless":
            return GAVE_UP
        case "deadline":
            return TIMED
        case "child":
            return step.key + 700_000
        case _:
            return step.key


KINDS = ("act", "act", "act", "fan", "sleep", "signals", "cancel", "hopeless", "guarded", "race", "child", "deadline")


def make_plan(random: Random, first_key: int, kinds: Sequence[str] = KINDS) -> list[Step]:
    """A script from a seed."""
    plan: list[Step] = []
    for i in range(random.randint(1, 6)):
        kind = random.choice(kinds)
        step = Step(first_key + i, kind, ms=random.choice((0, 1, 20, 300)))
        if kind in ("act", "fan", "child"):
            step.fails = random.choice((0, 0, 0, 1, 3))
        if kind == "act":
            step.holds = random.choice((0, 0, 1))
        if kind == "fan":
            step.n = random.choice((2, 5, 12))
        if kind == "sleep":
            step.ms = random.choice((1, 100, 5_000, 3_600_000))
        if kind == "signals":
            step.n = random.randint(1, 3)
        if kind == "cancel":
            step.ms = 3_600_000
        if kind == "hopeless":
            step.fails = 1_000_000
        if kind == "guarded":
            step.hangs = random.choice((0, 1, 2))
        if kind == "deadline":
            step.ms = random.choice((10, 500))
        plan.append(step)
    return plan
