"""A Service that answers as it was told to, and keeps what it was asked: for clients and workers by themselves."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeVar, cast

from perdure.model.requests import Reply, Request, WorkerLink
from perdure.model.tasks import FromWorker, ToWorker, WorkerHello

M = TypeVar("M", bound=FromWorker)


class ScriptedService:
    """Answers requests with the replies that it was given, in their order; an exception is raised."""

    def __init__(self, *replies: object) -> None:
        self.replies = deque(replies)
        self.requests: list[Request[object]] = []
        self.workers: list[AttachedWorker] = []
        self.at_once: list[ToWorker] = []
        """What a worker is sent before its `attach` returns, as a node does that has a backlog."""

    async def call(self, request: Request[Reply], /) -> Reply:
        self.requests.append(cast("Request[object]", request))
        reply = self.replies.popleft()
        if isinstance(reply, BaseException):
            raise reply
        return cast("Reply", reply)

    async def attach(self, hello: WorkerHello, receive: Callable[[ToWorker], None], /) -> WorkerLink:
        worker = AttachedWorker(hello, receive)
        self.workers.append(worker)
        for message in self.at_once:
            receive(message)
        return worker


class AttachedWorker:
    """The node's end of a worker: keeps what it says."""

    def __init__(self, hello: WorkerHello, receive: Callable[[ToWorker], None]) -> None:
        self.hello = hello
        self.receive = receive
        self.messages: list[FromWorker] = []
        self.detached = False
        self._arrived = asyncio.Event()

    def send(self, message: FromWorker, /) -> None:
        self.messages.append(message)
        self._arrived.set()

    async def detach(self) -> None:
        self.detached = True

    async def message(self, type: type[M]) -> M:
        """The first message of a type; waits for it."""
        while True:
            for message in self.messages:
                if isinstance(message, type):
                    return message
            self._arrived.clear()
            await self._arrived.wait()
