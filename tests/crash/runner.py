"""Starts a victim, kills it at a chosen moment, looks at what it left, starts it again, until the work is done.

A moment is reached when the victim has written so many lines, or a certain one, and then a tiny random time is
over. The seed decides the moments and the work; what the machine does meanwhile, it doesn't decide.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from msgspec import json

from tests.crash import disk, ledger
from tests.crash.attempts import check_attempts
from tests.crash.checks import Finding, check_disk, check_end
from tests.crash.disk import EMPTY, Disk
from tests.crash.ledger import SIGNS, AnyLine
from tests.crash.victim import DATABASE, STOPPED, Task
from tests.crash.workload import make_orders

ROOT = Path(__file__).resolve().parents[2]
"""The repository: where `python -m tests.crash.victim` works."""

SILENCE = 60.0
"""Seconds without a line after which a victim is stuck: its longest pause is a backoff of a fraction of one."""

KILLED = -9
PIPE_SIZE = 65536
ERRORS = "errors"
"""Its name in the folder: what the victims write to their standard error."""


@dataclass(frozen=True)
class Moment:
    """When to kill: after so many signs ("" for any), and a delay in seconds. stop_after: lines after which the
    victim is told to stop; it is killed while it does."""

    name: str
    sign: bytes
    count: int
    delay: float
    stop_after: int = 0

    def __str__(self) -> str:
        return f"{self.name}: {self.count} × {self.sign.decode() or 'line'} + {self.delay * 1000:.2f} ms"


def make_moment(random: Random) -> Moment:
    """A moment from a seed."""
    lines = random.choice((random.randint(1, 20), random.randint(1, 150)))
    match random.choices(("running", "opening", "recovery", "checkpoint", "closing"), (10, 2, 3, 3, 4))[0]:
        case "opening":
            return Moment("opening", SIGNS["opening"], 1, random.random() * 0.03)
        case "recovery":
            return Moment("recovery", SIGNS["open"], 1, random.random() * 0.02)
        case "checkpoint":
            return Moment("checkpoint", SIGNS["checkpoint"], random.randint(1, 3), random.random() * 0.003)
        case "closing":  # often it ends before it is killed, and what it had must be there all the more
            delay = random.random() * random.choice((0.01, 1.0))
            return Moment("closing", SIGNS["closing"], 1, delay, stop_after=lines)
        case _:
            return Moment("running", b"", lines, random.random() * 0.004)


class Broken(AssertionError):
    """A guarantee was broken, or a victim ended or stood still when it should not."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("\n".join(map(str, findings)))
        self.findings = findings


@dataclass
class Round:
    """One file: its victims, one after another.

    Args:
        folder: where it is kept; made, if it isn't there.
        seed: decides the work and the moments.
        kills: how many; fewer, if the work is done before.
    """

    folder: Path
    seed: str
    kills: int
    made: list[tuple[int, Moment]] = field(default_factory=list[tuple[int, Moment]])
    """The kills that were made: process and moment."""
    process: int = -1
    """The number of the last victim."""
    lines: list[AnyLine] = field(default_factory=list[AnyLine])
    disk: Disk = EMPTY
    """The ledger and the file, as the last victim left them."""

    def __post_init__(self) -> None:
        random = Random(self.seed)
        self._moments = [make_moment(random) for _ in range(self.kills)]
        self.orders = make_orders(self.seed, 4 + random.randint(1, 3) * self.kills)
        self._crowd = random.choice((3, 12))
        self._slots = self._crowd + random.choice((1, 8, 200))
        self._checkpoint_pages = random.choice((10, 30, 100))

    def run(self) -> None:
        """Kill and restart until all is done. Raises Broken."""
        self.folder.mkdir(parents=True)
        for moment in self._moments:
            if self._live(moment):
                break
        else:
            self._live(None)
        findings = check_end(self.lines, self.disk, self.orders)
        if findings:
            raise Broken(findings)

    def _live(self, moment: Moment | None) -> bool:
        """One victim, from its start to its death, and a look at what it left. True if the work is done."""
        self.process += 1
        command = [sys.executable, "-m", "tests.crash.victim", json.encode(self._task(moment)).decode()]
        pipe = subprocess.PIPE
        with (
            (self.folder / ERRORS).open("ab") as errors,
            subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=errors) as victim,
        ):
            try:
                stuck = not self._wait(victim, moment)
            finally:
                victim.kill()
                code = victim.wait()
        if code == KILLED and moment is not None and not stuck:
            self.made.append((self.process, moment))
        self.look()
        if stuck:
            raise Broken([Finding("", f"process {self.process} did nothing for {SILENCE:.0f} s"), *self._unfinished()])
        if code not in (KILLED, STOPPED, 0):
            raise Broken([Finding("", f"process {self.process} ended with {code}")])
        return code == 0

    def _task(self, moment: Moment | None) -> Task:
        stop_after = moment.stop_after if moment is not None else 0
        return Task(
            str(self.folder),
            self.process,
            self.seed,
            len(self.orders),
            self._crowd,
            self._slots,
            self._checkpoint_pages,
            stop_after,
        )

    def _wait(self, victim: subprocess.Popen[bytes], moment: Moment | None) -> bool:
        """Until the moment has come, or the victim ends. False if it is stuck."""
        assert victim.stdout is not None
        signs = victim.stdout.fileno()
        seen = 0
        last = time.monotonic()
        while moment is None or seen < moment.count:
            if not select.select([signs], [], [], SILENCE)[0] or time.monotonic() > last + SILENCE:
                return False
            written = os.read(signs, PIPE_SIZE)
            if not written:
                victim.wait()
                return True
            if written.strip(SIGNS["checkpoint"]):  # work without end would be no progress
                last = time.monotonic()
            if moment is not None:
                seen += written.count(moment.sign) if moment.sign else len(written)
        with suppress(subprocess.TimeoutExpired):
            victim.wait(moment.delay)
        return True

    def look(self) -> Disk:
        """Hold what the last victim left against the guarantees that hold at any moment. Raises Broken."""
        self.lines = ledger.read(self.folder)
        self.disk = disk.read(self.folder / DATABASE)
        findings = check_disk(self.lines, self.disk) + check_attempts(self.lines, self.orders)
        errors = (self.folder / ERRORS).read_text()
        if "ERROR" in errors or "CRITICAL" in errors or "Traceback" in errors:
            findings.append(Finding("", f"a victim wrote down errors:\n{errors[-4_000:]}"))
        if findings:
            raise Broken(findings)
        return self.disk

    def _unfinished(self) -> list[Finding]:
        """What still runs."""
        return [
            Finding(run.listed.workflow_id, "it isn't done")
            for run in self.disk.every_run()
            if run.state.status == "Running"
        ]
