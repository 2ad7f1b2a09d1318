"""What a worker and the processes of its pool say to each other: structs, each after its length, on a socket.

No pickles: arguments and results cross as the payloads that they are, and a function by the place where the worker's
own definition has it.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final, cast

from msgspec import Struct, msgpack

from perdure.model.tasks import ActivityHeartbeat, ActivityTask
from perdure.sdk.activity.outcomes import Outcome

_LENGTH: Final = 4


class RunAttempt(Struct, frozen=True, array_like=True, tag=1):
    """Run an attempt of the activity at `module`.`qualname`.

    room: how large its result may be, encoded.
    main_name, main_file: of the worker's `__main__`, its name as `python -m` takes it, or else its file.
    """

    module: str
    qualname: str
    main_name: str
    main_file: str
    log_level: int
    task: ActivityTask
    room: int


class StopAttempt(Struct, frozen=True, array_like=True, tag=2):
    """The attempt that runs is not wanted any more."""

    reason: str


class Said(Struct, frozen=True, array_like=True, tag=100):
    """A line that an attempt has logged."""

    level: int
    text: str
    file: str
    line: int
    function: str
    extra: dict[str, str | int | float | bool]
    traceback: str = ""


ToProcess = RunAttempt | StopAttempt
FromProcess = Outcome | ActivityHeartbeat | Said

_encode: Final = msgpack.Encoder().encode
_to_process: Final = cast("msgpack.Decoder[ToProcess]", msgpack.Decoder(ToProcess))
_from_process: Final = cast("msgpack.Decoder[FromProcess]", msgpack.Decoder(FromProcess))


def frame(message: ToProcess | FromProcess) -> bytes:
    """A message as it travels."""
    data = _encode(message)
    return len(data).to_bytes(_LENGTH, "big") + data


def read_to_process(connection: socket.socket) -> ToProcess | None:
    """The next message from the worker; None where there is none any more."""
    length = _exactly(connection, _LENGTH)
    data = None if length is None else _exactly(connection, int.from_bytes(length, "big"))
    return None if data is None else _to_process.decode(data)


async def read_from_process(reader: asyncio.StreamReader) -> FromProcess | None:
    """The next message from a process; None where it has ended."""
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH), "big")
        return _from_process.decode(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, OSError):
        return None


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        try:
            part = connection.recv(size - len(data))
        except OSError:  # closed, or reset by the other side's end
            return None
        if not part:
            return None
        data += part
    return bytes(data)
