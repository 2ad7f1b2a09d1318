"""Runs a peer whose client and worker are one process.

The measured process is always a child of this one: it starts empty, and can be killed. An adapter calls
`main`; the same program, started with another role, is the child.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from bench import machine, workloads
from bench.database import database
from bench.marks import VARIABLE, Marks
from bench.options import Options, options, parser, run_loop
from bench.results import Results, Value
from bench.workloads import Handle, Peer

_STEPS, _MARKS_A_STEP = 10, 2


class LibraryPeer(Peer[Handle], Protocol[Handle]):
    """A peer that runs in this process."""

    async def recovered(self, workflow_ids: Sequence[str]) -> int:
        """Wait until workflows that an earlier process started have ended; how many completed."""
        ...


Open = Callable[[Path, Options], AbstractAsyncContextManager[LibraryPeer[Handle]]]
"""Opens the peer on the state in a folder, which may be empty."""


def main(program: str, name: str, variants: Sequence[str], open_peer: Open[Handle]) -> None:
    """The command line of an adapter that runs as `python -m program`. Variants "postgresql…" are given a server."""
    arguments = parser(variants)
    arguments.add_argument("--role", choices=("parent", "app", "start", "recover"), default="parent")
    arguments.add_argument("--folder", type=Path, default=None, help="where the state is; for children")
    namespace = arguments.parse_args()
    chosen = options(namespace)
    if namespace.role == "parent":
        _Parent(program, name, chosen).run()
    else:
        machine.prioritise(os.getpid())
        child = {"app": _app, "start": _start, "recover": _recover}[namespace.role]
        run_loop(chosen.loop, child(name, open_peer, namespace.folder, chosen))


# --- The child ------------------------------------------------------------------------------------------
def _say(*words: object) -> None:
    print(*words, flush=True)


async def _app(name: str, open_peer: Open[Handle], folder: Path, chosen: Options) -> None:
    async with open_peer(folder, chosen) as peer:
        await peer.run("one", "first")
        _say("FIRST")
        results = Results(chosen.out, name, chosen.label, chosen.repetition)
        await workloads.run(peer, chosen.workloads, results, chosen)


def _crash_ids(chosen: Options) -> list[str]:
    return [f"w7-{number}" for number in range(chosen.n7)]


async def _start(name: str, open_peer: Open[Handle], folder: Path, chosen: Options) -> None:
    async with open_peer(folder, chosen) as peer:
        handles = await asyncio.gather(*(peer.start("slow10", i) for i in _crash_ids(chosen)))
        _say("STARTED")
        await asyncio.gather(*(peer.result(handle) for handle in handles))


async def _recover(name: str, open_peer: Open[Handle], folder: Path, chosen: Options) -> None:
    async with open_peer(folder, chosen) as peer:
        _say("DONE", await peer.recovered(_crash_ids(chosen)))


# --- The parent -----------------------------------------------------------------------------------------
class _Parent:
    def __init__(self, program: str, name: str, chosen: Options) -> None:
        self._program, self._options = program, chosen
        self._results = Results(chosen.out, name, chosen.label, chosen.repetition)
        self._environment: Mapping[str, str] = {}

    def run(self) -> None:
        """Run all workloads, each group on a state and in a process of its own."""
        together = tuple(w for w in self._options.workloads if w in ("w1", "w2", "w3", "w4", "w5"))
        groups = (("cold",), together, ("w6",), ("w7",))
        for group, measure in zip(groups, (self._cold, self._measure, self._measure, self._crash), strict=True):
            if not group or group[0] not in self._options.workloads:
                continue
            with work_folder(self._options) as folder, database(folder, self._options) as self._environment:
                try:
                    measure(folder, group)
                except Exception as error:
                    self._results.failed("+".join(group).upper(), error)

    @contextmanager
    def _child(
        self, role: str, folder: Path, names: Sequence[str] = ()
    ) -> Generator[subprocess.Popen[str], None, None]:
        command = [sys.executable, "-m", self._program, "--role", role, "--folder", str(folder)]
        child = subprocess.Popen(
            command + self._options.arguments(workloads=tuple(names)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **self._environment, VARIABLE: str(folder / "marks")},
            start_new_session=True,
        )
        try:
            yield child
        finally:
            machine.kill(child)
            if child.stdout:
                child.stdout.close()

    def _cold(self, folder: Path, _names: Sequence[str]) -> None:
        busy = machine.other_cores()
        began = time.perf_counter()
        with self._child("app", folder) as child:
            _wait_for("FIRST", child, self._options)
            seconds = time.perf_counter() - began
            memory = machine.memory_kib([child.pid]) / 1024
        self._results.put("cold", {"seconds": seconds, "memory_mib": memory, "other_cores": busy})

    def _measure(self, folder: Path, names: Sequence[str]) -> None:
        with self._child("app", folder, names) as child:
            _wait_for("FIRST", child, self._options)
            for line in child.stdout or ():
                print(line, end="", flush=True)
            if child.wait():
                raise RuntimeError(f"the measured process ended with {child.returncode}")

    def _crash(self, folder: Path, _names: Sequence[str]) -> None:
        """W7: `kill -9` in the middle, restart at once."""
        chosen, marks = self._options, Marks(folder / "marks")
        busy = machine.other_cores()
        with self._child("start", folder) as child:
            _wait_for("STARTED", child, self._options)
            wait_for_marks(marks, int(chosen.n7 * _STEPS * _MARKS_A_STEP * chosen.kill_at), child, chosen)
            machine.kill(child)
        at_kill, in_flight = marks.count(), marks.in_flight()
        began = time.perf_counter()
        with self._child("recover", folder) as child:
            wait_for_marks(marks, at_kill + 1, child, chosen)
            goes_on = time.perf_counter() - began
            completed = int(_wait_for("DONE", child, self._options)[1])
            seconds = time.perf_counter() - began
        figures: dict[str, Value] = {"goes_on_after_s": goes_on, "all_done_after_s": seconds, "other_cores": busy}
        figures |= {"n": chosen.n7, "completed": completed, "in_flight_at_kill": in_flight, **marks.steps()}
        self._results.put("W7", figures)


@contextmanager
def work_folder(chosen: Options) -> Generator[Path, None, None]:
    """A new folder for one run's state, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=chosen.data))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_marks(marks: Marks, count: int, child: subprocess.Popen[str] | None, chosen: Options) -> None:
    """Wait until there are so many marks, or the child has ended."""
    end = time.perf_counter() + chosen.crash_limit
    while marks.count() < count and (child is None or child.poll() is None):
        if time.perf_counter() > end:
            raise TimeoutError(f"{marks.count()} marks of {count} after {chosen.crash_limit} s")
        time.sleep(0.005)


def _wait_for(word: str, child: subprocess.Popen[str], chosen: Options) -> list[str]:
    """The words of the child's line that begins with `word`; a child that doesn't get there is killed."""
    limit = threading.Timer(chosen.crash_limit, machine.kill, [child])
    limit.start()
    try:
        for line in child.stdout or ():
            if line.startswith(word):
                return line.split()
            print(line, end="", flush=True)
    finally:
        limit.cancel()
    raise RuntimeError(f"the measured process ended with {child.wait()} before it said {word}")
