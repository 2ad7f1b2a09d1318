"""The clients of the workload. They go on where those of the last process were: what they were not told, they ask
again, in the same words and under the same request id."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Protocol

from perdure import Client, EngineStopped, NotFound, WorkflowHandle
from perdure.model.requests import SignalWorkflow, UpdateWorkflow
from perdure.sdk.client.requests import send
from perdure.sdk.converter import encode
from perdure.sdk.workflow.api import WorkflowFunction
from tests.crash.ledger import What
from tests.crash.outside import ActivityKey, Outside
from tests.crash.workload import SENDERS, AnyDesk, Desk, Order, Report, Step, errand

OPERATOR_PAUSE = 0.02
"""Seconds after which a person who waits for an activity to be held looks again."""

REFUSED = "refused"
"""What is told of an update that the validator refused."""


class Record(Protocol):
    """What is known of what was asked, and of the answers."""

    def ask(self, what: What, workflow: str, about: str = "") -> bool:
        """Somebody is about to ask for something. False if the answer is known already."""
        ...

    def tell(self, what: What, workflow: str, about: str = "", value: object = None) -> None:
        """Somebody was given an answer."""
        ...


class Wishes:
    """What may be wanted of an engine.

    Args:
        client: the engine's.
        record: where it is written down.
        errand, desk: the workflows.
    """

    def __init__(
        self,
        client: Client,
        record: Record,
        errand: WorkflowFunction[[list[Step], list[int]], Report],
        desk: type[AnyDesk],
    ) -> None:
        self._client, self._record, self._errand, self._desk = client, record, errand, desk

    async def start(self, order: Order) -> WorkflowHandle[Report]:
        """Have a workflow begun."""
        id, request_id = order.workflow_id, f"start {order.workflow_id}"
        if not self._record.ask("start", id):
            return self._client.get(id, self._errand) if order.notes is None else self._client.get(id, self._desk)
        if order.notes is None:
            handle = await self._client.start(self._errand(order.plan, []), id=id, request_id=request_id)
        else:
            desk = self._desk(order.plan, order.notes * len(SENDERS), sum(number > 0 for number in order.bookings))
            handle = await self._client.start(desk, id=id, request_id=request_id)
        self._record.tell("start", id)
        return handle

    async def send_notes(self, order: Order, sender: str) -> None:
        """Send all notes of a sender, one after another."""
        client, id = self._client, order.workflow_id
        for number in range(order.notes or 0):
            text = f"{sender} {number}"
            if self._record.ask("signal", id, text):
                note = (encode(text, "text"),)
                request = SignalWorkflow(client.namespace, id, "", "note", note, f"{id} {text}")
                await send(client.service, request, client.ids)
                self._record.tell("signal", id, text)

    async def book(self, workflow_id: str, number: int) -> None:
        """Make a booking."""
        client, about = self._client, str(number)
        if self._record.ask("update", workflow_id, about):
            input = (encode(number, "number"),)
            request = UpdateWorkflow(client.namespace, workflow_id, "", f"book {about}", "book", input)
            try:
                outcome = await send(client.service, request, client.ids)
            except NotFound:
                if number > 0:
                    raise
                # A refused update leaves nothing that the workflow would wait for; so it may have ended before.
                self._record.tell("update", workflow_id, about, REFUSED)
                return
            value = REFUSED if outcome.result is None else int(outcome.result.data)
            self._record.tell("update", workflow_id, about, value)

    async def result(self, handle: WorkflowHandle[Report]) -> None:
        """Wait for a workflow's end."""
        if self._record.ask("result", handle.id):
            self._record.tell("result", handle.id, "", await handle.result())


class Clients:
    """All who want something of the engine.

    Args:
        client: the engine's.
        outside: what is known.
        orders: the workflows that are wanted, in order.
        crowd: how many of them are served at once.
    """

    def __init__(self, client: Client, outside: Outside, orders: list[Order], crowd: int) -> None:
        self._client, self._outside = client, outside
        self._wishes = Wishes(client, outside, errand, Desk)
        self._orders: Iterator[Order] = iter(orders)
        self._crowd = crowd
        self._people = asyncio.TaskGroup()

    async def run(self) -> None:
        """Want all that is ordered; ends when all of it was told, or when the engine stops."""
        self._outside.on_hold = self._held
        try:
            async with self._people as people:
                for key in list(self._outside.holds):
                    self._held(key)
                for _ in range(self._crowd):
                    people.create_task(self._serve())
        except* EngineStopped:
            pass

    async def _serve(self) -> None:
        wishes = self._wishes
        for order in self._orders:
            async with asyncio.TaskGroup() as people:
                handle = await wishes.start(order)
                for sender in SENDERS:
                    people.create_task(wishes.send_notes(order, sender))
                for number in order.bookings:
                    people.create_task(wishes.book(order.workflow_id, number))
                people.create_task(wishes.result(handle))

    # --- The operator -----------------------------------------------------------------------------------
    def _held(self, key: ActivityKey) -> None:
        self._people.create_task(self._release(key))

    async def _release(self, key: ActivityKey) -> None:
        """Wait until an activity is held, and let it go on; unless its next attempt began without."""
        workflow_id, run_id, activity_id = key
        handle = self._client.get(workflow_id, run_id=run_id)
        while (attempt := self._outside.holds.get(key)) is not None:
            held = [each.activity_id for each in (await handle.describe()).activities if each.status == "held"]
            if activity_id in held:
                about = f"{run_id} {activity_id} {attempt}"
                if self._outside.ask("release", workflow_id, about):
                    await handle.release(activity_id, note="looked at by the crash test")
                    self._outside.tell("release", workflow_id, about)
                return
            await asyncio.wait([asyncio.Future[None]()], timeout=OPERATOR_PAUSE)
