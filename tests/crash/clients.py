"""The clients of the workload. They go on where those of the last process were: what they were not told, they ask
again, in the same words and under the same request id."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from perdure import Client, EngineStopped, NotFound, WorkflowHandle
from perdure.model.requests import SignalWorkflow, UpdateWorkflow
from perdure.sdk.client.requests import send
from perdure.sdk.converter import encode
from tests.crash.outside import ActivityKey, Outside
from tests.crash.workload import SENDERS, Desk, Order, Report, errand

OPERATOR_PAUSE = 0.02
"""Seconds after which a person who waits for an activity to be held looks again."""

REFUSED = "refused"
"""What is told of an update that the validator refused."""


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
        for order in self._orders:
            async with asyncio.TaskGroup() as wishes:
                handle = await self._start(order)
                if order.notes is not None:
                    for sender in SENDERS:
                        wishes.create_task(self._send_notes(order.workflow_id, sender, order.notes))
                for number in order.bookings:
                    wishes.create_task(self._book(order.workflow_id, number))
                wishes.create_task(self._result(handle))

    async def _start(self, order: Order) -> WorkflowHandle[Report]:
        id, request_id = order.workflow_id, f"start {order.workflow_id}"
        if not self._outside.ask("start", id):
            return self._client.get(id, errand if order.notes is None else Desk)
        if order.notes is None:
            handle = await self._client.start(errand(order.plan, []), id=id, request_id=request_id)
        else:
            desk = Desk(order.plan, order.notes * len(SENDERS), sum(number > 0 for number in order.bookings))
            handle = await self._client.start(desk, id=id, request_id=request_id)
        self._outside.tell("start", id)
        return handle

    async def _send_notes(self, workflow_id: str, sender: str, count: int) -> None:
        client = self._client
        for number in range(count):
            text = f"{sender} {number}"
            if self._outside.ask("signal", workflow_id, text):
                note = (encode(text, "text"),)
                request = SignalWorkflow(client.namespace, workflow_id, "", "note", note, f"{workflow_id} {text}")
                await send(client.service, request, client.ids)
                self._outside.tell("signal", workflow_id, text)

    async def _book(self, workflow_id: str, number: int) -> None:
        client, about = self._client, str(number)
        if self._outside.ask("update", workflow_id, about):
            request = UpdateWorkflow(
                client.namespace, workflow_id, "", f"book {about}", "book", (encode(number, "number"),)
            )
            try:
                outcome = await send(client.service, request, client.ids)
            except NotFound:
                if number > 0:
                    raise
                # A refused update leaves nothing that the workflow would wait for; so it may have ended before.
                self._outside.tell("update", workflow_id, about, REFUSED)
                return
            value = REFUSED if outcome.result is None else int(outcome.result.data)
            self._outside.tell("update", workflow_id, about, value)

    async def _result(self, handle: WorkflowHandle[Report]) -> None:
        if self._outside.ask("result", handle.id):
            report = await handle.result()
            self._outside.tell("result", handle.id, "", report)

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
