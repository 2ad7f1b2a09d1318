"""Those who want something. Each slot has its orders, and some orders belong to two: both ask for the same, under
the same request ids, and neither knows of the other. What a process was not told before it died, the next one in its
slot asks again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from random import Random

from perdure import Client, EngineStopped, NotFound
from tests.chaos.outside import Log
from tests.chaos.workload import ChaosDesk, chaos_errand, make_order, waits_for_ever
from tests.crash.clients import Wishes
from tests.crash.ledger import AnyLine, Asked, Told, What
from tests.crash.workload import SENDERS, Order

SLOTS = 8
"""A process's number, modulo this, is its slot: so it is known from each of its lines."""

CLIENT_SLOTS = 4
"""The slots that have clients."""

OPERATOR_PAUSE = 0.5
"""Seconds after which a person who looks for held activities looks again."""


def slots_of(seed: int, number: int) -> tuple[int, ...]:
    """The slots that an order belongs to."""
    twice = Random(f"{seed}/slots {number}").random() < 0.25
    return (number % CLIENT_SLOTS, (number + 1) % CLIENT_SLOTS)[: 2 if twice else 1]


class Orders:
    """The orders of a slot: first what earlier processes have left undone, then new ones until it is enough.

    Args:
        seed: decides what they are.
        slot: whose.
        lines: what is known.
    """

    def __init__(self, seed: int, slot: int, lines: Iterable[AnyLine]) -> None:
        self._seed, self._slot = seed, slot
        self._begun: set[str] = set()
        self.told: set[tuple[What, str, str]] = set()
        self.enough = False
        for line in lines:
            if line.process % SLOTS == slot:
                if isinstance(line, Asked) and line.what == "start":
                    self._begun.add(line.workflow)
                elif isinstance(line, Told):
                    self.told.add((line.what, line.workflow, line.about))

    def __iter__(self) -> Iterator[Order]:
        number = left = 0
        while left < len(self._begun) or not self.enough:
            if self._slot in slots_of(self._seed, number):
                order = make_order(self._seed, number)
                begun = order.workflow_id in self._begun
                left += begun
                if (begun and not self._is_done(order)) or not (begun or self.enough):
                    yield order
            number += 1

    def _is_done(self, order: Order) -> bool:
        last: What = "start" if waits_for_ever(order) else "result"
        asked = order.notes is None or all(
            ("signal", order.workflow_id, f"{sender} {number}") in self.told
            for sender in SENDERS
            for number in range(order.notes)
        )
        booked = all(("update", order.workflow_id, str(number)) in self.told for number in order.bookings)
        return asked and booked and (last, order.workflow_id, "") in self.told


class Clients:
    """All who want something of the engine in this process.

    Args:
        client: the engine's.
        log: where it is written down.
        orders: what they want.
        crowd: how many workflows are served at once.
    """

    def __init__(self, client: Client, log: Log, orders: Orders, crowd: int) -> None:
        self._client, self._log, self._crowd = client, log, crowd
        self._wishes = Wishes(client, log, chaos_errand, ChaosDesk)
        self._next = iter(orders)

    async def run(self) -> None:
        """Want all that is ordered; ends when all of it was told, or when the engine stops."""
        try:
            async with asyncio.TaskGroup() as people:
                for _ in range(self._crowd):
                    people.create_task(self._serve())
        except* EngineStopped:
            pass

    async def _serve(self) -> None:
        wishes = self._wishes
        for order in self._next:
            handle = await wishes.start(order)
            if waits_for_ever(order):
                continue
            async with asyncio.TaskGroup() as people:
                for sender in SENDERS if order.notes else ():
                    people.create_task(self._send_notes(order, sender))
                for number in order.bookings:
                    people.create_task(wishes.book(order.workflow_id, number))
                result = people.create_task(wishes.result(handle))
                if any(step.holds for step in order.plan):
                    people.create_task(self._release_what_is_held(order, result))

    async def _send_notes(self, order: Order, sender: str) -> None:
        """Send all notes of a sender, and look for them there."""
        await self._wishes.send_notes(order, sender)
        self._log.ask("query", order.workflow_id, sender)
        try:
            seen = await self._client.get(order.workflow_id, ChaosDesk).query(ChaosDesk.seen, sender)
        except NotFound:
            return  # no worker of this process serves its task queue
        self._log.tell("query", order.workflow_id, f"{sender} {order.notes}", seen)

    async def _release_what_is_held(self, order: Order, result: asyncio.Task[None]) -> None:
        """An operator's work, until the result is there."""
        handle = self._client.get(order.workflow_id)
        while not (await asyncio.wait([result], timeout=OPERATOR_PAUSE))[0]:
            description = await handle.describe()
            for held in [each for each in description.activities if each.status == "held"]:
                about = f"{description.run_id} {held.activity_id} {held.attempt}"
                self._log.ask("release", order.workflow_id, about)
                try:
                    await handle.release(held.activity_id, note="looked at by the chaos test")
                except NotFound:
                    continue  # the other slot's operator was faster
                self._log.tell("release", order.workflow_id, about)
