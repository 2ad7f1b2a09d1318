"""Runs a peer that has a server and workers in processes of their own; this process is the client."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from bench import machine, workloads
from bench.library import wait_for_marks, work_folder
from bench.marks import VARIABLE, Marks
from bench.options import Options, options, parser, run_loop
from bench.results import Results, Value
from bench.workloads import Handle, Peer


class RemotePeer(Peer[Handle], Protocol[Handle]):
    """A peer of several processes. What is started logs into the folder that the peer was made with."""

    def start_server(self) -> None: ...

    def start_worker(self) -> None: ...

    def kill_server(self) -> None: ...

    def kill_worker(self) -> None: ...

    async def connect(self) -> None:
        """Make the client ready; waits for the server."""
        ...

    async def down(self) -> None:
        """Stop all that was started."""
        ...


Make = Callable[[Path, Options], RemotePeer[Handle]]
"""Prepares a peer whose state is in a folder; nothing is started yet."""


def main(variants: Sequence[str], make: Make[Handle], worker: Callable[[], None]) -> None:
    """The command line of an adapter. `worker` is what its worker process does, for `--role worker`."""
    arguments = parser(variants)
    arguments.add_argument("--role", choices=("client", "worker"), default="client")
    namespace = arguments.parse_args()
    chosen = options(namespace)
    if namespace.role == "worker":
        worker()
        return
    machine.prioritise(os.getpid())
    together = tuple(w for w in chosen.workloads if w in ("cold", "w1", "w2", "w3", "w4", "w5"))
    for group in (together, *((w,) for w in chosen.workloads if w in ("w6", "w7", "w7s"))):
        if group:
            run_loop(chosen.loop, _run_group(make, group, chosen))


async def _run_group(make: Make[Handle], group: Sequence[str], chosen: Options) -> None:
    with work_folder(chosen) as folder:
        os.environ[VARIABLE] = str(folder / "marks")
        peer = make(folder, chosen)
        results = Results(chosen.out, peer.name, chosen.label, chosen.repetition)
        try:
            busy = machine.other_cores()
            began = time.perf_counter()
            peer.start_server()
            peer.start_worker()
            await peer.connect()
            await peer.run("one", "first")
            if "cold" in group:
                seconds = time.perf_counter() - began
                memory = machine.memory_of(peer.roots()) / 1024
                results.put("cold", {"seconds": seconds, "memory_mib": memory, "other_cores": busy})
            if group[0] in ("w7", "w7s"):
                await _crash(peer, results, chosen, folder, group[0])
            else:
                await workloads.run(peer, group, results, chosen)
        except Exception as error:
            results.failed("+".join(group).upper(), error)
        finally:
            await peer.down()


async def _crash(peer: RemotePeer[Handle], results: Results, chosen: Options, folder: Path, workload: str) -> None:
    """W7: `kill -9` of the worker, or of the server, in the middle; restart at once."""
    marks = Marks(folder / "marks")
    handles = await asyncio.gather(*(peer.start("slow10", f"w7-{number}") for number in range(chosen.n7)))
    waiting = [asyncio.ensure_future(_result(peer, handle, chosen.crash_limit)) for handle in handles]
    await asyncio.to_thread(wait_for_marks, marks, int(chosen.n7 * 20 * chosen.kill_at), None, chosen)
    figures: dict[str, Value] = {"n": chosen.n7}
    if workload == "w7":
        await asyncio.to_thread(peer.kill_worker)
        at_kill, figures["in_flight_at_kill"] = marks.count(), marks.in_flight()
        began = time.perf_counter()
        peer.start_worker()
        await asyncio.to_thread(wait_for_marks, marks, at_kill + 1, None, chosen)
        figures["goes_on_after_s"] = time.perf_counter() - began
    else:  # the worker goes on with the steps that it has, so no mark tells that the server is back
        await asyncio.to_thread(peer.kill_server)
        began = time.perf_counter()
        peer.start_server()
    figures["completed"] = sum(await asyncio.gather(*waiting))
    figures["all_done_after_s"] = time.perf_counter() - began
    results.put(workload.upper(), figures | marks.steps())


async def _result(peer: RemotePeer[Handle], handle: Handle, limit: float) -> bool:
    """Whether a workflow completes within the limit. While the server is down the client asks again."""
    end = time.perf_counter() + limit
    while (left := end - time.perf_counter()) > 0:
        try:
            async with asyncio.timeout(left):
                await peer.result(handle)
            return True
        except Exception:
            await asyncio.sleep(0.1)
    return False
