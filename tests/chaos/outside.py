"""The world outside of the engine, shared by all processes: a log, and counts in small files.

A line of the log is one write, flushed before anything else is done. A process that is killed in the middle of it
leaves a piece of a line, and the next line begins with an end of it.
"""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path

from msgspec import json

from perdure import Hold, activity
from tests.crash import ledger
from tests.crash.ledger import AnyLine, Asked, End, Mark, MarkKind, Told, What, now
from tests.crash.outside import began, ended
from tests.crash.workload import Flaky, Step

_encoder = json.Encoder()
COUNTS = "counts"
"""The folder of the small files."""


class Log:
    """The log of all processes, open for one of them.

    Args:
        folder: where it is, or is made.
        process: the number of this process.
        told: what is not asked again, since this or an earlier process in its slot was told.
    """

    def __init__(self, folder: Path, process: int, told: Container[tuple[What, str, str]] = ()) -> None:
        self.folder, self.process = folder, process
        self._told = told
        self._file = os.open(folder / ledger.FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_DSYNC, 0o600)

    def write(self, line: AnyLine) -> None:
        """Write a line. May be called from any thread."""
        os.write(self._file, b"\n" + _encoder.encode(line) + b"\n")

    def mark(self, kind: MarkKind) -> None:
        """A moment in the life of this process."""
        self.write(Mark(process=self.process, at=now(), kind=kind))

    def ask(self, what: What, workflow: str, about: str = "") -> bool:
        """A client is about to ask for something. False if the answer is known already."""
        if (what, workflow, about) in self._told:
            return False
        self.write(Asked(process=self.process, at=now(), what=what, workflow=workflow, about=about))
        return True

    def tell(self, what: What, workflow: str, about: str = "", value: object = None) -> None:
        """A client was given an answer."""
        self.write(Told(process=self.process, at=now(), what=what, workflow=workflow, about=about, value=value))


class Outside:
    """What activities act on. How often a step has failed or held is the size of a file."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._counts = log.folder / COUNTS
        self._counts.mkdir(exist_ok=True)

    def begin(self, step: Step) -> bool:
        """The running attempt begins. True if it is to hang: none is."""
        self._log.write(began(self._log.process, step))
        return False

    def end(self, step: Step) -> int:
        """The running attempt has its effect: it returns, or raises Flaky or Hold."""
        attempt = activity.info().attempt
        if self._once_more(step, "held", step.holds):
            raise Hold(f"attempt {attempt} wants somebody to look")
        if self._once_more(step, "raised", step.fails):
            raise Flaky(f"attempt {attempt} failed")
        self._end(step, "returned")
        return step.key

    def cancelled(self, step: Step) -> None:
        """The running attempt was told to stop."""
        self._end(step, "cancelled")

    def _once_more(self, step: Step, how: End, times: int) -> bool:
        """Whether a step is to end so once more; then it is counted, and written down."""
        if not times:
            return False
        with (self._counts / f"{how} {step.key}").open("ab", buffering=0) as count:
            if count.tell() >= times:
                return False
            count.write(b".")
        self._end(step, how)
        return True

    def _end(self, step: Step, how: End) -> None:
        self._log.write(ended(self._log.process, step, how))
