"""What is known outside of the engine: lines that survive the process that wrote them.

A line is one `write` to a file opened with O_APPEND. It needs no flush: what the kernel took survives `kill -9`.
A kill may cut a line off; then it counts as not written, and the next process starts a new one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from msgspec import DecodeError, Struct, json

FILE = "ledger"
"""Its name in the folder of a round."""

MarkKind = Literal["opening", "open", "checkpoint", "closing", "closed", "done"]
What = Literal["start", "signal", "update", "query", "release", "result"]
End = Literal["returned", "raised", "held", "hung", "cancelled"]


class Line(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="line"):
    """Base of all lines. `process` counts the victims of a file from 0; `at` is microseconds since the epoch."""

    process: int
    at: int


class Mark(Line, frozen=True, kw_only=True, omit_defaults=True, tag="mark"):
    """A moment in the life of the process."""

    kind: MarkKind


class Asked(Line, frozen=True, kw_only=True, omit_defaults=True, tag="asked"):
    """A client is about to ask for something. `about` says which one of its kind."""

    what: What
    workflow: str
    about: str = ""


class Told(Line, frozen=True, kw_only=True, omit_defaults=True, tag="told"):
    """A client was told that it was done; `value` is what it was told."""

    what: What
    workflow: str
    about: str = ""
    value: object = None


class Began(Line, frozen=True, kw_only=True, omit_defaults=True, tag="began"):
    """An attempt of an activity began. `started` is when, as the engine says; `failure` is what it was told of the
    attempt before, `beat` the last heartbeat's details that it found."""

    workflow: str
    run: str
    activity: str
    step: int
    attempt: int
    started: int
    failure: str = ""
    beat: int = 0


class Ended(Line, frozen=True, kw_only=True, omit_defaults=True, tag="ended"):
    """An attempt is about to end; or, for "hung", never will by itself."""

    workflow: str
    run: str
    activity: str
    step: int
    attempt: int
    how: End


AnyLine = Mark | Asked | Told | Began | Ended

SIGNS: dict[str, bytes] = {"opening": b"o", "open": b"O", "checkpoint": b"c", "closing": b"x"}
"""What the runner gets to see of a line; a dot for any other."""

_encoder = json.Encoder()
_decoder = json.Decoder(AnyLine)


class Ledger:
    """The file, open for one process.

    Args:
        folder: where it is, or is made.
        process: the number of this process.
        signs: a file descriptor that gets one byte for each line, for the runner to count.
    """

    def __init__(self, folder: Path, process: int, signs: int) -> None:
        path = folder / FILE
        self.process = process
        self.lines = read(folder)
        self.on_line: Callable[[], None] | None = None
        self._signs = signs
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            os.write(self._file, b"\n")

    def write(self, line: AnyLine) -> None:
        """Write a line. May be called from any thread."""
        os.write(self._file, _encoder.encode(line) + b"\n")
        os.write(self._signs, SIGNS.get(line.kind, b".") if isinstance(line, Mark) else b".")
        if self.on_line is not None:
            self.on_line()

    def mark(self, kind: MarkKind) -> None:
        """Write down a moment in the life of this process."""
        self.write(Mark(process=self.process, at=now(), kind=kind))


def now() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1_000


def read(folder: Path) -> list[AnyLine]:
    """All lines of a ledger, but those that a kill cut off."""
    path = folder / FILE
    if not path.exists():
        return []
    lines: list[AnyLine] = []
    for raw in path.read_bytes().split(b"\n"):
        try:
            lines.append(_decoder.decode(raw))
        except DecodeError:
            continue
    return lines
