"""Workers that come late, fall silent and die, while the node and the clients live on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from perdure.ids import IdSource
from perdure.model.requests import Reply, Request, Service, WorkerLink
from perdure.model.tasks import ActivityTask, FromWorker, ToWorker, WorkerHello
from perdure.sdk.client.client import Client
from perdure.sdk.worker.worker import Worker
from perdure.testing.simulation.ledger import Ledger
from perdure.testing.simulation.script import Script, guarded, hopeless, work


class Line:
    """A worker's connection, which may be cut: then nothing comes through, and some time later the node notices."""

    def __init__(self, service: Service, ledger: Ledger) -> None:
        self._service, self._ledger = service, ledger
        self._link: WorkerLink
        self._name = ""
        self._unnoticed: float | None = None

    def cut(self, unnoticed: float) -> None:
        """From now on nothing comes through. unnoticed: seconds until the node knows."""
        self._unnoticed = unnoticed

    async def call(self, request: Request[Reply], /) -> Reply:
        return await self._service.call(request)

    async def attach(self, hello: WorkerHello, receive: Callable[[ToWorker], None], /) -> WorkerLink:
        def hear(message: ToWorker) -> None:
            if type(message) is ActivityTask:
                self._ledger.given(message, self._name if self._unnoticed is None else "")
            if self._unnoticed is None:
                receive(message)

        self._name = hello.instance
        self._link = await self._service.attach(hello, hear)
        return self

    def send(self, message: FromWorker, /) -> None:
        if self._unnoticed is None:
            self._link.send(message)

    async def detach(self) -> None:
        if self._unnoticed is not None:
            self._ledger.worker_died(self._name)
            await asyncio.sleep(self._unnoticed)
        await self._link.detach()


class Crew:
    """The workers of one process.

    Args:
        service: what they attach to.
        random: decides who dies, and how.
        slots: activities that each runs at once.
        watch: is told of each worker.
    """

    def __init__(
        self,
        service: Service,
        ledger: Ledger,
        ids: IdSource,
        random: Random,
        slots: int,
        watch: Callable[[Worker], None],
    ) -> None:
        self._service, self._ledger, self._ids = service, ledger, ids
        self._random, self._slots, self._watch = random, slots, watch
        self._there: list[tuple[Worker, Line]] = []
        self._dying: set[asyncio.Task[None]] = set()

    async def come(self, number: int) -> None:
        """So many more workers attach."""
        for _ in range(number):
            await self._hire()

    async def _hire(self) -> None:
        line = Line(self._service, self._ledger)
        worker = Worker(
            Client(line, ids=self._ids, identity="simulated"),
            max_concurrent_activities=self._slots,
            workflows=[Script],
            activities=[work, hopeless, guarded],
            ids=self._ids,
        )
        self._watch(worker)
        await worker.start()
        self._there.append((worker, line))

    async def lose(self, pauses: list[float]) -> None:
        """After each pause one dies, and sooner or later another comes."""
        for pause in pauses:
            await asyncio.sleep(pause)
            worker, line = self._there.pop(self._random.randrange(len(self._there)))
            self._ledger.say(f"worker {worker.instance} dies")
            line.cut(self._random.choice((0.0, 0.5, 25.0)))
            death = asyncio.ensure_future(worker.stop())
            self._dying.add(death)
            if not self._there:
                await asyncio.sleep(self._random.choice((0.0, 0.1, 3.0)))
                await self._hire()

    async def stop(self) -> None:
        """Send all of them home."""
        for worker, _ in self._there:
            await worker.stop()
        await asyncio.gather(*self._dying)
