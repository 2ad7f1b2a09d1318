"""The workflows that are run, their activities, and orders for them, as many as are wanted.

An errand does steps, one after another; a desk does so and takes messages meanwhile. Activities are quick or slow,
fail, hold, beat, run in threads, or belong to some processes alone. How each ends is said by the world outside.
"""

from __future__ import annotations

import asyncio
from random import Random
from threading import Event

from perdure import activity, workflow
from tests.crash.workload import RACED, AnyDesk, Order, Report, Step, child_of, fan, go_on, retried, sleep, world

OWN_QUEUE = "own"
"""The task queue that one process serves alone."""

WEEK = 7 * 24 * 3_600_000
"""Milliseconds that a workflow sleeps which is asleep at the end."""

HELD_FOR_EVER = 1_000_000
"""How often a step holds which is held at the end."""

BEAT = 0.1
"""Seconds between two heartbeats."""


# --- Activities -----------------------------------------------------------------------------------------
async def _perform(step: Step) -> int:
    world().begin(step)
    try:
        for _ in range(int(step.ms / 1000 / BEAT)):
            await asyncio.wait([asyncio.Future[None]()], timeout=BEAT)
            activity.heartbeat(activity.info().attempt)
        return world().end(step)
    except asyncio.CancelledError:
        world().cancelled(step)
        raise


@activity(name="chaos.work", retry_policy=retried)
async def work(step: Step) -> int:
    """Take as long, fail and hold as often as the step says; return its key."""
    return await _perform(step)


@activity(retry_policy=retried, heartbeat_timeout="10s")
async def beating(step: Step) -> int:
    """The same, watched by its heartbeats."""
    return await _perform(step)


@activity(retry_policy=retried)
async def rare(step: Step) -> int:
    """The same, where not every process has the code."""
    return await _perform(step)


@activity(retry_policy=retried)
def plain(step: Step) -> int:
    """The same in a thread."""
    world().begin(step)
    Event().wait(step.ms / 1000)
    return world().end(step)


# --- Workflows ------------------------------------------------------------------------------------------
@workflow
async def chaos_errand(plan: list[Step], done: list[int]) -> Report:
    """Does the steps of a plan."""
    return await go_on(chaos_errand, plan, done, _do)


@workflow
class ChaosDesk(AnyDesk):
    """Does the steps of a plan, and takes messages."""

    async def do(self, step: Step) -> int:
        return await _do(step)


async def _do(step: Step) -> int:
    match step.kind:
        case "plain":
            return await plain.start(step)
        case "beat":
            return await beating(step)
        case "rare":
            return await rare(step)
        case "away":
            return await work.options(task_queue=OWN_QUEUE)(step)
        case "fan":
            return await fan(work, step)
        case "sleep":
            return await sleep(step)
        case "race":
            slow = work.start(Step(step.key + 1, ms=60_000))
            first = await work(step)
            slow.cancel()
            return RACED if first == step.key else 0
        case "child":
            report = await chaos_errand.options(id=child_of(step))([Step(step.key + 1, ms=step.ms)], [])
            return report.results[0]
        case _:
            return await work(step)


WORKFLOWS = (chaos_errand, ChaosDesk)
ACTIVITIES = (work, beating, rare, plain)


# --- Orders ---------------------------------------------------------------------------------------------
_KINDS = (
    "act", "act", "act", "plain", "beat", "rare", "away", "fan", "sleep", "sleep", "race", "child", "again",
)  # fmt: skip


def waits_for_ever(order: Order) -> bool:
    """Whether an order is for a workflow that sleeps, or is held, at the end."""
    return order.workflow_id.startswith("waiter-")


def make_order(seed: int, number: int) -> Order:
    """The order of a number, from a seed."""
    random = Random(f"{seed}/order {number}")
    first_key = (number + 1) * 10_000
    kind = random.choices(("errand", "desk", "waiter"), (10, 10, 1))[0]
    if kind == "errand":
        return Order(f"errand-{number}", _plan(random, first_key, random.randint(2, 6), _KINDS))
    if kind == "desk":
        plan = _plan(random, first_key, random.randint(0, 3), _KINDS[:-1])
        bookings = [first_key + 9_000 + n for n in range(random.randint(0, 3))] + [-1] * random.choice((0, 0, 1))
        return Order(f"desk-{number}", plan, random.randint(0, 5), bookings)
    last = random.choice((Step(first_key + 9_000, "sleep", ms=WEEK), Step(first_key + 9_000, holds=HELD_FOR_EVER)))
    return Order(f"waiter-{number}", [*_plan(random, first_key, 1, ("plain", "sleep")), last])


def _plan(random: Random, first_key: int, length: int, kinds: tuple[str, ...]) -> list[Step]:
    return [_step(random, first_key + 100 * place, kinds) for place in range(length)]


def _step(random: Random, key: int, kinds: tuple[str, ...]) -> Step:
    kind = random.choice(kinds)
    ms = random.choice((0, 0, 0, 200, 1_000))
    fails = random.choice((0, 0, 0, 1, 3))
    match kind:
        case "act":
            return Step(key, kind, ms=ms, fails=fails, holds=random.choice((0, 0, 0, 0, 1)))
        case "fan":
            return Step(key, kind, width=random.choice((3, 10, 40)), fails=fails)
        case "sleep":
            return Step(key, kind, ms=random.choice((10, 300, 2_000)))
        case "beat":
            return Step(key, kind, ms=random.choice((500, 2_000)), fails=fails)
        case "race" | "child":
            return Step(key, kind, ms=ms)
        case _:
            return Step(key, kind, ms=ms, fails=fails)
