"""Workers that come late, fall silent and die, while the node and the clients live on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from perdure.ids import IdSource
from perdure.model.events import WorkflowExecutionStarted
from perdure.model.requests import Reply, Request, Service, WorkerLink
from perdure.model.tasks import ActivityTask, FromWorker, QueryTask, ToWorker, WorkerHello, WorkflowTask
from perdure.sdk.client.client import Client
from perdure.sdk.worker.worker import Worker
from perdure.testing.simulation.families import claim, clerk, do, later, near, tidy, tidy_never, undo
from perdure.testing.simulation.ledger import Ledger
from perdure.testing.simulation.pets import Pet
from perdure.testing.simulation.script import Script, errand, guarded, hopeless, work

WORKFLOWS: Final = {
    "simulated-script": Script, "simulated-errand": errand, "simulated-clerk": clerk, "simulated-pet": Pet,
}  # fmt: skip
ACTIVITIES: Final = {
    "simulated-work": work, "simulated-hopeless": hopeless, "simulated-guarded": guarded, "simulated-do": do,
    "simulated-undo": undo, "simulated-claim": claim, "simulated-tidy": tidy, "simulated-endless": tidy_never,
    "simulated-near": near, "simulated-later": later,
}  # fmt: skip


@dataclass
class Outfit:
    """What the workers of a process are like."""

    number: int = 1
    slots: int = 100
    queues: Sequence[str] = ("default",)
    lacks: Sequence[str] = ()  # types of workflows and activities that they don't have: the deploy is on its way


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
            if (unfit := _unfit(hello, message)) is not None:
                self._ledger.fail(f"worker {hello.instance} was given {unfit}, for which it has no code")
            if type(message) is ActivityTask:
                self._ledger.attempts.given(message, self._name if self._unnoticed is None else "")
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
            self._ledger.attempts.worker_died(self._name)
            await asyncio.sleep(self._unnoticed)
        await self._link.detach()


def _unfit(hello: WorkerHello, message: ToWorker) -> str | None:
    """The type of a task that the worker can't do, if it can be seen."""
    if isinstance(message, ActivityTask):
        fits = message.activity_type in hello.activities and message.task_queue in hello.task_queues
        return None if fits else f"{message.activity_type} of {message.task_queue}"
    if isinstance(message, WorkflowTask | QueryTask) and message.events:
        started = message.events[0]
        if isinstance(started, WorkflowExecutionStarted) and started.workflow_type not in hello.workflows:
            return started.workflow_type
    return None


class Crew:
    """The workers of one process.

    Args:
        service: what they attach to.
        random: decides who dies, and how.
        outfit: what they are like.
        watch: is told of each worker.
        silences: how many seconds it may take until the node notices that one is gone.
    """

    def __init__(
        self,
        service: Service,
        ledger: Ledger,
        ids: IdSource,
        random: Random,
        outfit: Outfit,
        watch: Callable[[Worker], None],
        silences: Sequence[float] = (0.0, 0.5, 25.0),
    ) -> None:
        self._service, self._ledger, self._ids = service, ledger, ids
        self._random, self._outfit, self._watch, self._silences = random, outfit, watch, silences
        self._there: list[tuple[Worker, Line, str]] = []
        self._dying: dict[asyncio.Task[None], None] = {}

    async def come(self) -> None:
        """They attach, as many for each queue."""
        for queue in self._outfit.queues:
            for _ in range(self._outfit.number):
                await self._hire(queue)

    async def _hire(self, queue: str) -> None:
        line, lacks = Line(self._service, self._ledger), self._outfit.lacks
        worker = Worker(
            Client(line, ids=self._ids, identity="simulated"),
            task_queue=queue,
            max_concurrent_activities=self._outfit.slots,
            workflows=[each for name, each in WORKFLOWS.items() if name not in lacks],
            activities=[each for name, each in ACTIVITIES.items() if name not in lacks],
            ids=self._ids,
        )
        self._watch(worker)
        await worker.start()
        self._there.append((worker, line, queue))

    async def lose(self, pauses: list[float]) -> None:
        """After each pause one dies, and sooner or later another comes."""
        for pause in pauses:
            await asyncio.sleep(pause)
            worker, line, queue = self._there.pop(self._random.randrange(len(self._there)))
            self._ledger.say(f"worker {worker.instance} dies")
            line.cut(self._random.choice(self._silences))
            death = asyncio.ensure_future(worker.stop())
            self._dying[death] = None
            if all(queue != other for _, _, other in self._there):
                await asyncio.sleep(self._random.choice((0.0, 0.1, 3.0)))
                await self._hire(queue)

    async def stop(self) -> None:
        """Send all of them home."""
        for worker, _, _ in self._there:
            await worker.stop()
        await asyncio.gather(*self._dying)
