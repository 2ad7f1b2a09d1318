"""A transport without a network: another Service, with every message encoded and decoded on its way.

Each request, reply, error and worker message crosses as MessagePack bytes, in order, and worker messages are
delivered by the loop in a later turn, as they would be from a socket. So what passes here passes between
processes, and tests written for embedded mode hold for remote mode too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar, cast, get_args

import msgspec
from typing_extensions import get_original_bases

import perdure.errors
from perdure.errors import PerdureError
from perdure.model.requests import AnyRequest, Reply, Request, Service, WorkerLink
from perdure.model.schedules import ScheduleRequest
from perdure.model.shapes import check_quickly
from perdure.model.tasks import FromWorker, ToWorker, WorkerHello

Message = TypeVar("Message")

_encode = msgspec.msgpack.Encoder().encode
_request = msgspec.msgpack.Decoder(AnyRequest | ScheduleRequest)
_hello = msgspec.msgpack.Decoder(WorkerHello)
_to_worker = cast("msgspec.msgpack.Decoder[ToWorker]", msgspec.msgpack.Decoder(ToWorker))
_from_worker = cast("msgspec.msgpack.Decoder[FromWorker]", msgspec.msgpack.Decoder(FromWorker))


# Each request class derives from Request[its reply].
_replies = {
    request: msgspec.msgpack.Decoder(get_args(get_original_bases(request)[0])[0])
    for request in (*get_args(AnyRequest), *get_args(ScheduleRequest))
}


class ErrorMessage(msgspec.Struct, frozen=True, gc=False):
    """An error of `perdure.errors` on its way: its class's name, its message, and its fields."""

    type: str
    message: str
    fields: dict[str, str | int]


_error = msgspec.msgpack.Decoder(ErrorMessage)


def encode_error(error: PerdureError) -> bytes:
    """The bytes of an error."""
    fields = {name: value for name, value in vars(error).items() if isinstance(value, str | int)}
    return _encode(ErrorMessage(type(error).__name__, str(error), fields))


def decode_error(data: bytes) -> PerdureError:
    """The error that the bytes stand for; one of a class that isn't known here becomes a PerdureError."""
    message = _error.decode(data)
    known = vars(perdure.errors).get(message.type)
    if not (isinstance(known, type) and issubclass(known, PerdureError)):
        return PerdureError(f"{message.type}: {message.message}")
    error = known.__new__(known, message.message)
    error.__dict__.update(message.fields)
    return error


class InProcessTransport:
    """A Service that passes everything to another one, as bytes.

    Args:
        service: the one that is called; what it raises, other than `perdure.errors`, is raised as it is, so
            that a test fails with the engine's own traceback.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def call(self, request: Request[Reply], /) -> Reply:
        check_quickly(request)  # or the other side could not even read it
        arrived = cast("Request[Reply]", _request.decode(_encode(request)))
        try:
            reply = await self._service.call(arrived)
        except PerdureError as error:
            raise decode_error(encode_error(error)) from error
        return cast("Reply", _replies[type(request)].decode(_encode(reply)))

    async def attach(self, hello: WorkerHello, receive: Callable[[ToWorker], None], /) -> WorkerLink:
        incoming = _Stream(_to_worker, receive)
        link = await self._service.attach(_hello.decode(_encode(hello)), incoming.send)
        return _Link(link, incoming)


class _Stream(Generic[Message]):
    """One direction of a connection: bytes go in, messages come out in the same order, in a later turn."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[Message], deliver: Callable[[Message], None]) -> None:
        self._decode = decoder.decode
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def send(self, message: Message, /) -> None:
        self._loop.call_soon(self._arrive, _encode(message))

    def _arrive(self, data: bytes) -> None:
        if not self._closed:
            self._deliver(self._decode(data))

    def close(self) -> None:
        """Drop what is on its way, and what is still sent."""
        self._closed = True


class _Link:
    """The worker's end of a connection. What is sent after the detachment is lost, as on a closed socket."""

    def __init__(self, link: WorkerLink, incoming: _Stream[ToWorker]) -> None:
        self._link = link
        self._incoming = incoming
        self._outgoing = _Stream(_from_worker, link.send)
        self.send = self._outgoing.send

    async def detach(self) -> None:
        await asyncio.sleep(0)  # what was sent before arrives first
        self._incoming.close()
        await asyncio.sleep(0)  # and so do the answers
        self._outgoing.close()
        await self._link.detach()
