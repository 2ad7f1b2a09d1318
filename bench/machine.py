"""What a run cost the machine: CPU, memory, disk, and how busy it was with other things.

Figures are of process trees, so that a system's helpers count as its own. They come from Linux' /proc.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_TICK = os.sysconf("SC_CLK_TCK")

Roots = Mapping[str, Sequence[int]]
"""Process ids at the top of each role's trees, by role: server, worker, client, app."""


# --- Processes ------------------------------------------------------------------------------------------
def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def spawn(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own; what it says goes to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    prioritise(process.pid)
    return process


def prioritise(pid: int) -> None:
    """Give a process' session the niceness in BENCH_NICE (root may go below 0): for a machine that is shared.

    Linux weighs sessions against each other, and what counts between them is the session's own niceness.
    """
    if niceness := os.environ.get("BENCH_NICE"):
        Path(f"/proc/{pid}/autogroup").write_text(niceness)


def pace() -> float:
    """How fast the machine is just now: milliseconds for two million additions in Python, the best of three.

    A shared machine is not the same from hour to hour; figures are comparable where this is the same.
    """
    best = math.inf
    for _ in range(3):
        begin, total = time.perf_counter(), 0
        for number in range(2_000_000):
            total += number
        best = min(best, time.perf_counter() - begin)
    return 1000 * best


def _stat(pid: int | str) -> list[str]:
    """The fields of /proc/PID/stat after the command's name; [1] is the parent, [11] to [14] are CPU ticks."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


def tree(pid: int, without: Iterable[int] = ()) -> list[int]:
    """A process and all its living descendants, less the trees of some of them."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                children.setdefault(int(_stat(entry)[1]), []).append(int(entry))
            except OSError:
                continue  # it has just ended
    found, todo = list[int](), [pid]
    while todo:
        found.append(todo.pop())
        todo += [child for child in children.get(found[-1], []) if child not in without]
    return found


def trees(roots: Roots) -> dict[str, list[int]]:
    """All processes of each role. One that a role started for another (a client its server) is the other's."""
    tops = {pid for pids in roots.values() for pid in pids}
    return {role: [p for pid in pids for p in tree(pid, tops)] for role, pids in roots.items()}


def kill(process: subprocess.Popen[bytes] | subprocess.Popen[str] | None) -> None:
    """`kill -9` a process and its descendants, and wait until it is gone."""
    if process is None or process.poll() is not None:
        return
    for pid in reversed(tree(process.pid)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait(30)


def stop(process: subprocess.Popen[bytes] | None, grace: float = 5.0) -> None:
    """Ask a process to end; kill it after `grace` seconds."""
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        kill(process)


# --- Costs ----------------------------------------------------------------------------------------------
def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of processes, with that of their children that have ended. Our own ended children don't count:
    they are no part of what is measured."""
    ticks = 0
    for pid in pids:
        try:
            fields = _stat(pid)
        except OSError:
            continue
        ticks += sum(map(int, fields[11:13] if pid == os.getpid() else fields[11:15]))
    return ticks / _TICK


def memory_kib(pids: Iterable[int]) -> float:
    """Proportional set size of processes: a page shared by n of them counts 1/n in each."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return float(total)


def memory_of(roots: Roots) -> float:
    """Proportional set size of all roles together, in KiB."""
    return sum(memory_kib(pids) for pids in trees(roots).values())


def disk_bytes(paths: Iterable[Path]) -> int:
    """Allocated bytes of files (a database's with its journals) and folders."""
    total = 0
    for path in paths:
        files = path.rglob("*") if path.is_dir() else path.parent.glob(path.name + "*")
        for file in files:
            try:
                total += file.stat().st_blocks * 512
            except OSError:
                continue
    return total


def _machine_cpu_seconds() -> float:
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / _TICK


def _disk_counters() -> tuple[int, int]:
    """(flush requests, sectors written) of all whole disks, since the machine started."""
    flushes = sectors = 0
    for line in Path("/proc/diskstats").read_text().splitlines():
        fields = line.split()
        if len(fields) >= 20 and Path("/sys/block", fields[2]).is_dir():
            flushes += int(fields[18])
            sectors += int(fields[9])
    return flushes, sectors


class Reading(NamedTuple):
    """All counters at one moment."""

    at: float
    cpu: dict[str, float]
    flushes: int
    sectors: int
    machine_cpu: float


def read(roots: Roots) -> Reading:
    """The counters now. CPU seconds are by role."""
    cpu = {role: cpu_seconds(pids) for role, pids in trees(roots).items()}
    return Reading(time.perf_counter(), cpu, *_disk_counters(), _machine_cpu_seconds())


class Cost(NamedTuple):
    """What passed between two readings. `figures` are for each of the n things that were done."""

    seconds: float
    figures: dict[str, float]


def cost(before: Reading, after: Reading, n: int) -> Cost:
    """What n things cost.

    Flushes and KiB written are the whole machine's: they mean something where nothing else writes, and show
    whether "durable" is true. other_cores is how many cores something else kept busy: read it before
    believing a figure.
    """
    seconds = after.at - before.at
    used = {role: after.cpu[role] - before.cpu[role] for role in after.cpu}
    figures = {f"cpu_{role}_ms": 1000 * cpu / n for role, cpu in used.items()}
    figures["cpu_total_ms"] = sum(figures.values())
    figures["flushes_per"] = (after.flushes - before.flushes) / n
    figures["kib_written_per"] = (after.sectors - before.sectors) / 2 / n
    busy = after.machine_cpu - before.machine_cpu - sum(used.values())
    figures["other_cores"] = max(0.0, busy / seconds)
    return Cost(seconds, figures)


def other_cores(seconds: float = 0.5) -> float:
    """How many cores are busy with what is not ours."""
    own = {"own": [os.getpid()]}
    before = read(own)
    time.sleep(seconds)
    return cost(before, read(own), 1).figures["other_cores"]
