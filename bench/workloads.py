"""W1 to W6, against any peer. (W7 kills processes, so it depends on what they are: see library.py, remote.py.)

A step is an async function that returns a small dict; its result is recorded before the next step starts.
Nothing is batched here: each workflow is started, and its result awaited, by a call of its own.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from bench import database, machine
from bench.marks import VARIABLE, Marks
from bench.options import Options
from bench.results import Results

Kind = Literal["one", "ten", "slow10", "fan", "wait", "sleep"]
"""The workflows: 1 step; 10 steps; 10 steps of 50 ms that leave marks; n parallel steps, whose number is the
result; wait for one signal, whose value is the result; leave a mark and sleep for an hour."""

Handle = TypeVar("Handle")


class Peer(Protocol[Handle]):
    """A system under test. Started and connected to when the workloads get it."""

    name: str

    def roots(self) -> machine.Roots:
        """Its processes, by role."""
        ...

    def data_paths(self) -> list[Path]:
        """The files and folders that hold its durable state."""
        ...

    async def start(self, kind: Kind, workflow_id: str, argument: int | None = None) -> Handle:
        """Start a workflow; returns when the start is durable."""
        ...

    async def result(self, handle: Handle) -> object:
        """Wait for a workflow's result."""
        ...

    async def signal(self, handle: Handle, value: dict[str, int]) -> None:
        """Send a waiting workflow its signal; returns when the signal is durable."""
        ...

    async def run(self, kind: Kind, workflow_id: str) -> object:
        """Start a workflow and wait for its result, in the shortest way that the client has."""
        ...


Workload = Callable[[Peer[Handle], Results, Options], Awaitable[None]]


def _id(options: Options, workload: str, number: int) -> str:
    return f"{workload}-{options.repetition}-{os.getpid()}-{number}"


async def _all(peer: Peer[Handle], kind: Kind, n: int, concurrency: int, options: Options, workload: str) -> None:
    """Run n workflows, `concurrency` at a time."""
    numbers: Iterator[int] = iter(range(n))

    async def runner() -> None:
        for number in numbers:
            await peer.run(kind, _id(options, workload, number))

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, n)):
            group.create_task(runner())


def percentile(values: list[float], share: float) -> float:
    """The value below which that share of the values lies."""
    return sorted(values)[round(share * (len(values) - 1))]


def _latencies(seconds: list[float]) -> dict[str, float]:
    milliseconds = [1000 * s for s in seconds]
    return {"p50_ms": percentile(milliseconds, 0.5), "p99_ms": percentile(milliseconds, 0.99)}


async def w1(peer: Peer[Handle], results: Results, options: Options) -> None:
    """Workflows of one step, many at a time."""
    await _all(peer, "one", 200, 100, options, "warm")
    counted = database.read()
    before = machine.read(peer.roots())
    await _all(peer, "one", options.n1, options.concurrency, options, "w1")
    seconds, figures = machine.cost(before, machine.read(peer.roots()), options.n1)
    figures |= database.cost(counted, database.read(), options.n1)
    memory = machine.memory_of(peer.roots()) / 1024
    results.put("W1", {"per_s": options.n1 / seconds, "seconds": seconds, "memory_mib": memory, **figures})


async def w2(peer: Peer[Handle], results: Results, options: Options) -> None:
    """Workflows of ten steps in sequence, 50 at a time. Costs are for each step."""
    await _all(peer, "ten", 20, 20, options, "warm2")
    counted = database.read()
    before = machine.read(peer.roots())
    await _all(peer, "ten", options.n2, 50, options, "w2")
    seconds, figures = machine.cost(before, machine.read(peer.roots()), 10 * options.n2)
    figures |= database.cost(counted, database.read(), 10 * options.n2)
    results.put("W2", {"per_s": 10 * options.n2 / seconds, "seconds": seconds, **figures})


async def w3(peer: Peer[Handle], results: Results, options: Options) -> None:
    """Workflows of one step, one at a time."""
    for number in range(10):
        await peer.run("one", _id(options, "warm3", number))
    before = machine.read(peer.roots())
    seconds: list[float] = []
    for number in range(options.n3):
        began = time.perf_counter()
        await peer.run("one", _id(options, "w3", number))
        seconds.append(time.perf_counter() - began)
    _, figures = machine.cost(before, machine.read(peer.roots()), options.n3)
    results.put("W3", {**_latencies(seconds), **figures})


async def w4(peer: Peer[Handle], results: Results, options: Options) -> None:
    """One workflow with many parallel steps. Costs are for each step."""
    before = machine.read(peer.roots())
    answer = await peer.result(await peer.start("fan", _id(options, "w4", 0), options.n4))
    seconds, figures = machine.cost(before, machine.read(peer.roots()), options.n4)
    if answer != options.n4:
        raise RuntimeError(f"W4 gave {answer!r} for {options.n4} steps")
    results.put("W4", {"seconds": seconds, **figures})


async def w5(peer: Peer[Handle], results: Results, options: Options) -> None:
    """From a signal to the result that it brings about, where the client already waits for it."""
    before = machine.read(peer.roots())
    seconds: list[float] = []
    for number in range(options.n5):
        handle = await peer.start("wait", _id(options, "w5", number))
        waiting = asyncio.ensure_future(peer.result(handle))
        await asyncio.sleep(0.03)  # until the workflow waits: no peer tells
        began = time.perf_counter()
        await peer.signal(handle, {"v": number})
        answer = await waiting
        seconds.append(time.perf_counter() - began)
        if answer != {"v": number}:
            raise RuntimeError(f"W5 gave {answer!r} for signal {number}")
    _, figures = machine.cost(before, machine.read(peer.roots()), options.n5)
    results.put("W5", {**_latencies(seconds), **figures})


async def _sleepers(peer: Peer[Handle], n: int, end: float, options: Options, workload: str) -> int:
    """Start up to n sleepers until `end`; how many there were."""
    numbers = iter(range(n))
    started = 0

    async def starter() -> None:
        nonlocal started
        while time.perf_counter() < end and (number := next(numbers, None)) is not None:
            await peer.start("sleep", _id(options, workload, number))
            started += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(options.concurrency):
            group.create_task(starter())
    return started


async def w6(peer: Peer[Handle], results: Results, options: Options) -> None:
    """Sleepers: how fast they are taken and parked, and what each further one costs while it sleeps.

    As many before them fill the caches, whose size has nothing to do with the number of sleepers.
    """
    marks = Marks(Path(os.environ[VARIABLE]))
    roots = peer.roots()
    await _sleepers(peer, options.n6, time.perf_counter() + options.sleep_limit, options, "warm6")
    await asyncio.sleep(options.settle)
    memory, disk = machine.memory_of(roots), machine.disk_bytes(peer.data_paths())
    before = machine.read(roots)
    end = before.at + options.sleep_limit
    started = await _sleepers(peer, options.n6, end, options, "w6")
    taken = time.perf_counter() - before.at
    while (parked := marks.count("Z w6-")) < started and time.perf_counter() < end + 30:  # noqa: ASYNC110 - a file
        await asyncio.sleep(0.1)
    seconds, figures = machine.cost(before, machine.read(roots), started)
    await asyncio.sleep(options.settle)
    figures["memory_bytes_each"] = 1024 * (machine.memory_of(roots) - memory) / started
    figures["disk_bytes_each"] = (machine.disk_bytes(peer.data_paths()) - disk) / started
    resting = machine.read(roots)
    await asyncio.sleep(options.settle)
    idle = machine.read(roots)
    figures["idle_cpu_percent"] = 100 * sum(idle.cpu[r] - resting.cpu[r] for r in roots) / (idle.at - resting.at)
    figures |= {"per_s": started / taken, "parked_per_s": parked / seconds}
    results.put("W6", {"started": started, "parked": parked, **figures})


async def run(peer: Peer[Handle], names: Sequence[str], results: Results, options: Options) -> None:
    """Run those of W1 to W6 that are named. One that fails doesn't keep the others from running."""
    workloads: dict[str, Workload[Handle]] = {"w1": w1, "w2": w2, "w3": w3, "w4": w4, "w5": w5, "w6": w6}
    for name, workload in workloads.items():
        if name in names:
            try:
                await workload(peer, results, options)
            except Exception as error:
                results.failed(name.upper(), error)
