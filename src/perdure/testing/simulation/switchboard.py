"""How clients outside of all processes reach one: any that lives, and another when that one dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any, Final, cast

from perdure.engine.node.live import settle
from perdure.errors import EngineStopped, Unavailable
from perdure.model.requests import Reply, Request, WorkerLink
from perdure.model.tasks import ToWorker, WorkerHello
from perdure.testing.simulation.process import Process

PATIENCE: Final = 7.0
"""Seconds after which some clients ask another process, whether the first is suspended or only slow."""

Answer = asyncio.Future[Any]


class Switchboard:
    """A Service on a loop of its own, which hands each request to a process that the seed picks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, random: Random, processes: list[Process]) -> None:
        self._loop, self._random, self._processes = loop, random, processes
        self._asked: dict[Answer, Process] = {}

    async def call(self, request: Request[Reply], /) -> Reply:
        serving = [process for process in self._processes if process.service is not None and not process.loop.dead]
        if not serving:
            raise Unavailable("no process is there")
        process = self._random.choice(serving)
        answer: Answer = self._loop.create_future()
        self._asked[answer] = process
        process.loop.call_soon(lambda: process.loop.create_task(self._ask(process, request, answer)))
        patience = PATIENCE if self._random.random() < 0.5 else None
        try:
            async with asyncio.timeout(patience):
                return cast("Reply", await answer)
        except TimeoutError:
            raise Unavailable("it takes too long") from None
        finally:
            del self._asked[answer]

    async def _ask(self, process: Process, request: Request[Any], answer: Answer) -> None:
        """In that process."""
        service = process.service
        try:
            if service is None:
                raise EngineStopped("it has just ended")
            reply: object = await service.call(request)
        except EngineStopped as error:
            reply = Unavailable(str(error))
        except Exception as error:
            reply = error
        self._loop.call_soon(settle, answer, reply)

    def gone(self, process: Process) -> None:
        """It answers no more."""
        for answer, asked in self._asked.items():
            if asked is process:
                self._loop.call_soon(settle, answer, Unavailable("the process is dead"))

    async def attach(self, hello: WorkerHello, receive: Callable[[ToWorker], None], /) -> WorkerLink:
        raise NotImplementedError("workers are in the processes")
