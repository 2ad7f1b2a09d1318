"""Those who want something. Each slot has its orders, and some orders belong to two: both ask for the same, under
the same request ids, and neither knows of the other. What a process was not told before it died, the next one in its
slot asks again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from random import Random

from perdure import Client, EngineStopped, NotFound, WorkflowHandle
from perdure.model.requests import SignalWorkflow, UpdateWorkflow
from perdure.sdk.client.requests import send
from perdure.sdk.converter import encode
from tests.chaos.outside import Log
from tests.chaos.workload import ChaosDesk, chaos_errand, make_order, senders_of, waits_for_ever
from tests.crash.clients import REFUSED
from tests.crash.ledger import AnyLine, Asked, Told, What
from tests.crash.workload import SENDERS, Order, Report

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
        self._client, self._log, self._orders, self._crowd = client, log, orders, crowd
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
        for order in self._next:
            handle = await self._start(order)
            if waits_for_ever(order):
                continue
            async with asyncio.TaskGroup() as wishes:
                for sender in senders_of(order):
                    wishes.create_task(self._send_notes(order, sender))
                for number in order.bookings:
                    wishes.create_task(self._book(order.workflow_id, number))
                result = wishes.create_task(self._result(handle))
                if any(step.holds for step in order.plan):
                    wishes.create_task(self._release_what_is_held(order, result))

    def _ask(self, what: What, workflow: str, about: str = "") -> bool:
        """Somebody is about to ask for something. False if this slot knows the answer."""
        if (what, workflow, about) in self._orders.told:
            return False
        self._log.ask(what, workflow, about)
        return True

    async def _start(self, order: Order) -> WorkflowHandle[Report]:
        id, request_id = order.workflow_id, f"start {order.workflow_id}"
        if not self._ask("start", id):
            return self._client.get(id, chaos_errand if order.notes is None else ChaosDesk)
        if order.notes is None:
            handle = await self._client.start(chaos_errand(order.plan, []), id=id, request_id=request_id)
        else:
            bookings = sum(number > 0 for number in order.bookings)
            desk = ChaosDesk(order.plan, order.notes * len(SENDERS), bookings)
            handle = await self._client.start(desk, id=id, request_id=request_id)
        self._log.tell("start", id)
        return handle

    async def _send_notes(self, order: Order, sender: str) -> None:
        client, id = self._client, order.workflow_id
        for number in range(order.notes or 0):
            text = f"{sender} {number}"
            if self._ask("signal", id, text):
                note = (encode(text, "text"),)
                await send(
                    client.service,
                    SignalWorkflow(client.namespace, id, "", "note", note, f"{id} {text}"),
                    client.ids,
                )
                self._log.tell("signal", id, text)
        if order.notes:
            self._log.ask("query", id, sender)
            try:
                seen = await client.get(id, ChaosDesk).query(ChaosDesk.seen, sender)
            except NotFound:
                return  # no worker of this process serves its task queue
            self._log.tell("query", id, f"{sender} {order.notes}", seen)

    async def _book(self, workflow_id: str, number: int) -> None:
        client, about = self._client, str(number)
        if self._ask("update", workflow_id, about):
            input = (encode(number, "number"),)
            request = UpdateWorkflow(client.namespace, workflow_id, "", f"book {about}", "book", input)
            try:
                outcome = await send(client.service, request, client.ids)
            except NotFound:
                if number > 0:
                    raise
                # A refused update leaves nothing that the workflow would wait for; so it may have ended before.
                self._log.tell("update", workflow_id, about, REFUSED)
                return
            value = REFUSED if outcome.result is None else int(outcome.result.data)
            self._log.tell("update", workflow_id, about, value)

    async def _result(self, handle: WorkflowHandle[Report]) -> None:
        if self._ask("result", handle.id):
            self._log.tell("result", handle.id, "", await handle.result())

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
