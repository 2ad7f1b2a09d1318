"""A network between clients, worker and node: every message is encoded, and takes its time.

Messages of one connection stay in order, as on a socket; those of different ones overtake each other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Generic, TypeVar

from perdure.model.requests import Reply, Request, Service, WorkerLink
from perdure.model.tasks import FromWorker, ToWorker, WorkerHello
from perdure.testing.transport import InProcessTransport

Message = TypeVar("Message")


class SlowNetwork:
    """A Service some way off.

    Args:
        service: the node.
        random: decides each delay.
        delay: the longest, in seconds.
    """

    def __init__(self, service: Service, random: Random, delay: float) -> None:
        self._service = InProcessTransport(service)
        self._random, self._delay = random, delay

    async def call(self, request: Request[Reply], /) -> Reply:
        await asyncio.sleep(self._random.random() * self._delay)
        reply = await self._service.call(request)
        await asyncio.sleep(self._random.random() * self._delay)
        return reply

    async def attach(self, hello: WorkerHello, receive: Callable[[ToWorker], None], /) -> WorkerLink:
        incoming = _Wire(receive, self._random, self._delay)
        link = await self._service.attach(hello, incoming.send)
        return _SlowLink(link, self._random, self._delay)


class _Wire(Generic[Message]):
    """One direction of one connection."""

    def __init__(self, deliver: Callable[[Message], None], random: Random, delay: float) -> None:
        self._deliver, self._random, self._delay = deliver, random, delay
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Message] = deque()
        self._last = 0.0
        self._empty = asyncio.Event()
        self._empty.set()

    def send(self, message: Message, /) -> None:
        self._last = max(self._last, self._loop.time() + self._random.random() * self._delay)
        self._queue.append(message)
        self._empty.clear()
        self._loop.call_at(self._last, self._arrive)

    def _arrive(self) -> None:
        self._deliver(self._queue.popleft())
        if not self._queue:
            self._empty.set()

    async def empty(self) -> None:
        """Wait until all that was sent has arrived."""
        await self._empty.wait()


class _SlowLink:
    def __init__(self, link: WorkerLink, random: Random, delay: float) -> None:
        self._link = link
        self._wire: _Wire[FromWorker] = _Wire(link.send, random, delay)
        self.send = self._wire.send

    async def detach(self) -> None:
        await self._wire.empty()  # a connection that is closed in good order loses nothing
        await self._link.detach()
