"""Starts everything, makes the faults, ends them, and waits until all work is done.

Processes are killed, suspended and made again while the database has its own faults; those are made one after
another, and each is over before the next thing happens.
"""

from __future__ import annotations

import asyncio
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

from msgspec import json

from perdure.engine.storage.postgres import PostgresStore
from tests.chaos.clients import CLIENT_SLOTS, SLOTS
from tests.chaos.database import Pair, wait
from tests.chaos.faults import Fault, Kind, Plan, plan
from tests.chaos.worker import GUEST, Task
from tests.crash import disk, ledger
from tests.crash.checks import Finding
from tests.crash.disk import EMPTY, Disk
from tests.crash.ledger import AnyLine, Asked, Mark, Told, now

ROOT = Path(__file__).resolve().parents[2]
"""The repository: where `python -m tests.chaos.worker` works."""

SILENCE = 90.0
"""Seconds without a line after which the processes are stuck, once nothing goes wrong any more."""

SUSPENDED_GRACES = 2.5
"""How many graces a process is suspended at most."""

LEAVES_WITHIN = 90.0
"""Seconds that a process has to leave in good order: it waits up to 30 s for a database that takes no commits."""

_LEFT = """SELECT
    (SELECT count(*) FROM perdure.execution WHERE busy OR wake_at BETWEEN 1 AND 1000000 * (3600 + {now})),
    (SELECT count(*) FROM perdure.backlog),
    (SELECT count(*) FROM perdure.watch JOIN perdure.node ON node = number WHERE alive_until > 1000000 * {now})"""
WORK_LEFT = _LEFT.format(now="extract(epoch FROM clock_timestamp())")
"""Runs that do something, or will within an hour; tasks that wait; and who watches, of those who are alive."""

NOTHING = "0|0|0"

WATCHED_BY_NOBODY = "SELECT count(*) FROM perdure.watch WHERE node NOT IN (SELECT number FROM perdure.node)"
"""Whoever leaves in good order watches nothing any more."""


class Broken(AssertionError):
    """A guarantee was broken, or something did not end as it should."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("\n".join(map(str, findings)))
        self.findings = findings


class Process:
    """A process in a slot."""

    def __init__(self, number: int, popen: subprocess.Popen[bytes]) -> None:
        self.number, self.popen = number, popen
        self.suspended = self.leaving = False

    @property
    def sound(self) -> bool:
        """Whether it works, and nothing is done to it."""
        return not self.suspended and not self.leaving

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        self.popen.kill()
        with suppress(BrokenPipeError):
            self.popen.communicate()

    def say(self, what: bytes) -> None:
        """Tell it something: b"" to leave."""
        assert self.popen.stdin is not None
        if what:
            self.popen.stdin.write(what)
            self.popen.stdin.flush()
        else:
            self.leaving = True
            self.popen.stdin.close()


@dataclass
class Chaos:
    """One run.

    Args:
        folder: where everything is kept.
        seed: decides the work and the faults.
        seconds: for how long there are faults.
        grace: seconds after which a silent process is given up.
        crowd: workflows that the clients of each process want at once.
    """

    folder: Path
    seed: int
    seconds: float
    grace: float
    crowd: int = 6
    faults: list[Fault] = field(default_factory=list[Fault])
    skipped: int = 0
    lines: list[AnyLine] = field(default_factory=list[AnyLine])
    disk: Disk = EMPTY

    def __post_init__(self) -> None:
        self._longest = SUSPENDED_GRACES * self.grace
        self._processes: dict[int, Process] = {}
        self._serial = 0
        self._later: list[tuple[float, int, Callable[[], None]]] = []

    def run(self) -> None:
        """Make the faults, and wait until all is done. Raises Broken."""
        self.database = Pair()
        try:
            self.database.start()
            for slot in range(CLIENT_SLOTS):
                self._start(slot)
            self._make_faults()
            self._finish()
            self.lines = ledger.read(self.folder)
            self.disk = asyncio.run(disk.contents(PostgresStore(self.database.dsn)))
        except AssertionError:
            self.database.dump(self.folder / "dump.sql")
            raise
        finally:
            for process in self._processes.values():
                process.kill()
            self.database.remove()

    # --- Processes --------------------------------------------------------------------------------------
    def _start(self, slot: int) -> None:
        self._serial += 1
        number = self._serial * SLOTS + slot
        task = Task(self.database.dsn, str(self.folder), number, self.seed, self.grace, self.crowd)
        with self.errors(number).open("ab") as errors:
            command = [sys.executable, "-m", "tests.chaos.worker", json.encode(task).decode()]
            popen = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=errors)
        self._processes[slot] = Process(number, popen)

    def errors(self, number: int) -> Path:
        """What a process writes to its standard error."""
        return self.folder / f"errors-{number}"

    def _end(self, slot: int) -> None:
        """A process is over."""
        del self._processes[slot]

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self._serial += 1
        heappush(self._later, (time.monotonic() + seconds, self._serial, action))

    def _look_at_processes(self) -> None:
        for slot, process in list(self._processes.items()):
            code = process.popen.poll()
            if code is None:
                continue
            self._end(slot)
            if code or not process.leaving:
                raise Broken([Finding("", f"process {process.number} ended with {code}: {self._last_words(process)}")])

    def _last_words(self, process: Process) -> str:
        return self.errors(process.number).read_text()[-3_000:]

    # --- Faults -----------------------------------------------------------------------------------------
    def _make_faults(self) -> None:
        began = time.monotonic()
        for planned in plan(self.seed, self.seconds, self._longest):
            self._after(began + planned.at - time.monotonic(), lambda planned=planned: self._make(planned))
        self._wait(lambda: time.monotonic() > began + self.seconds, self.seconds + SILENCE)

    def _wait(self, done: Callable[[], bool], patience: float) -> None:
        """Do what is to be done later, until something is so."""
        deadline = time.monotonic() + patience
        while not done():
            if time.monotonic() > deadline:
                raise Broken([Finding("", f"something did not end within {patience:.0f} s"), *self._unfinished()])
            while self._later and self._later[0][0] <= time.monotonic():
                heappop(self._later)[2]()
            self._look_at_processes()
            soon = self._later[0][0] - time.monotonic() if self._later else 1.0
            select.select([], [], [], min(max(soon, 0.0), 0.1))

    def _make(self, planned: Plan) -> None:
        database, before = self.database, now()
        match planned.kind:
            case "kill" | "suspend" | "leave" | "guest":
                self._disturb(planned)
                return
            case "end backends":
                database.end_backends(planned.count)
            case "suspend database":
                database.suspend()
                self._pause(planned.length)
                database.resume()
            case "restart database":
                database.restart_primary()
            case "fail over":
                database.fail_over()
            case "kill standby":
                database.kill_standby()
                self._pause(planned.length)
                database.start_standby()
                database.wait_in_step()
        self._made(planned.kind, 0, before)

    def _pause(self, seconds: float) -> None:
        select.select([], [], [], seconds)

    def _made(self, kind: Kind, process: int, began: int) -> None:
        self.faults.append(Fault(kind, process, began, now()))

    def _disturb(self, planned: Plan) -> None:
        slot = GUEST if planned.kind == "guest" else planned.slot
        process = self._processes.get(slot)
        if slot == GUEST and process is None:
            self._start(GUEST)
            return
        if process is None or not process.sound:
            self.skipped += 1
            return
        before = now()
        match planned.kind:
            case "kill":
                process.kill()
                self._end(slot)
                self._made("kill", process.number, before)
                self._after(planned.length, lambda: self._start(slot))
            case "suspend":
                process.suspended = True
                process.popen.send_signal(SIGSTOP)
                self._after(planned.length, lambda: self._go_on(process, before))
            case _:
                process.say(b"")
                self._after(0, lambda: self._until_gone(slot, process, before, planned))

    def _go_on(self, process: Process, since: int) -> None:
        process.popen.send_signal(SIGCONT)
        process.suspended = False
        self._made("suspend", process.number, since)

    def _until_gone(self, slot: int, process: Process, since: int, planned: Plan) -> None:
        """Look whether a process that leaves is gone, and put another in its place."""
        if process.popen.poll() is None:
            if now() - since > LEAVES_WITHIN * 1_000_000:
                process.popen.send_signal(SIGKILL)
                raise Broken([Finding("", f"process {process.number} does not leave: {self._last_words(process)}")])
            self._after(0.1, lambda: self._until_gone(slot, process, since, planned))
            return
        self._look_at_processes()
        self._made(planned.kind, process.number, since)
        if slot != GUEST:
            self._after(planned.length, lambda: self._start(slot))

    # --- The end ----------------------------------------------------------------------------------------
    def _finish(self) -> None:
        """No more faults: everything must come to its end."""
        self._wait(lambda: not self._later, self._longest + LEAVES_WITHIN)
        for slot, process in self._processes.items():
            if slot != GUEST:
                process.say(b"enough\n")
        self._wait_for_work()
        self._wait_for(NOTHING, WORK_LEFT)
        for process in self._processes.values():
            process.say(b"")
        self._wait(lambda: not self._processes, LEAVES_WITHIN)
        self._wait_for("0", WATCHED_BY_NOBODY)

    def _wait_for_work(self) -> None:
        """Until all clients are done; as long as there is a line now and then."""
        size, since = -1, time.monotonic()
        wanted = {process.number for slot, process in self._processes.items() if slot != GUEST}

        def done() -> bool:
            nonlocal size, since
            self.lines = ledger.read(self.folder)
            if len(self.lines) != size:
                size, since = len(self.lines), time.monotonic()
            if time.monotonic() > since + SILENCE:
                raise Broken([Finding("", f"nothing happens any more; left: {self._left()}"), *self._unfinished()])
            return wanted <= {line.process for line in self.lines if isinstance(line, Mark) and line.kind == "done"}

        self._wait(done, 10 * SILENCE)

    def _wait_for(self, result: str, statement: str) -> None:
        wait(f"it isn't {result}: {statement}", lambda: self.database.query(statement) == result)

    def _left(self) -> str:
        return self.database.query(WORK_LEFT)

    def _unfinished(self) -> list[Finding]:
        """What still runs, and who still waits."""
        self.lines = ledger.read(self.folder)
        self.disk = asyncio.run(disk.contents(PostgresStore(self.database.dsn)))
        alive = {process.number for process in self._processes.values()}
        told = {(each.process, each.what, each.workflow, each.about) for each in self.lines if isinstance(each, Told)}
        running = [
            Finding(run.listed.workflow_id, "it isn't done")
            for run in self.disk.every_run()
            if run.state.status == "Running" and not run.listed.workflow_id.startswith("waiter-")
        ]
        return running + [
            Finding(each.workflow, f"process {each.process} waits for the answer to {each.what} {each.about}")
            for each in self.lines
            if isinstance(each, Asked) and each.process in alive and each.what not in ("query", "release")
            if (each.process, each.what, each.workflow, each.about) not in told
        ]
