"""From one process to several on one PostgreSQL:  python -m bench.processes [--most 4] [--n 4000]

Each process is a node, a worker and a client, and runs its share of workflows of one step, 200 at a time. All begin
together; the rate counts until the last is done. On few cores the processes and the database compete: read the CPU
for each workflow, and how much of it is the database's, beside the rate.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from bench import database, machine, report
from bench.options import options, parser, run_loop
from bench.peers.perdure import open_peer

AT_A_TIME = 200


async def _share(number: int, n: int) -> None:
    """One of the processes."""
    chosen = options(parser([database.POSTGRESQL]).parse_args([]))
    async with open_peer(Path(), chosen) as peer:
        await asyncio.gather(*(peer.run("one", f"warm-{number}-{i}") for i in range(AT_A_TIME)))
        print("READY", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        numbers: Iterator[int] = iter(range(n))

        async def runner() -> None:
            for i in numbers:
                await peer.run("one", f"{number}-{i}")

        await asyncio.gather(*(runner() for _ in range(AT_A_TIME)))
        print("DONE", flush=True)
        await asyncio.to_thread(sys.stdin.readline)


def _measure(processes: int, n: int) -> list[str]:
    """Run n workflows on so many processes; a row of the table."""
    chosen = options(parser([database.POSTGRESQL]).parse_args([]))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        environment = {**os.environ, **stack.enter_context(database.database(folder, chosen))}
        os.environ.update(environment)
        command = [sys.executable, "-m", "bench.processes", "--share", str(n // processes)]
        children = [
            subprocess.Popen(
                [*command, "--number", str(i)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for i in range(processes)
        ]
        for child in children:
            stack.callback(machine.kill, child)
        _hear(children, "READY")
        roots = {"processes": [child.pid for child in children], **database.roots()}
        counted, before = database.read(), machine.read(roots)
        _tell(children)
        _hear(children, "DONE")
        seconds, figures = machine.cost(before, machine.read(roots), n)
        figures |= database.cost(counted, database.read(), n)
        _tell(children)
        for child in children:
            child.wait()
    return [
        str(processes),
        f"{n / seconds:,.0f}",
        f"{figures['cpu_processes_ms']:.3f}",
        f"{figures['cpu_database_ms']:.3f}",
        f"{figures['db_statements_per']:.3f}",
        f"{figures['db_wal_bytes_per']:,.0f}",
        f"{figures['flushes_per']:.3f}",
        f"{figures['other_cores']:.1f}",
    ]


def _tell(children: list[subprocess.Popen[str]]) -> None:
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()


def _hear(children: list[subprocess.Popen[str]], word: str) -> None:
    for child in children:
        assert child.stdout is not None
        heard = child.stdout.readline().strip()
        if heard != word:
            raise RuntimeError(f"a process said {heard!r} instead of {word!r}")


def main() -> None:
    """The command line."""
    arguments = argparse.ArgumentParser(prog="python -m bench.processes", description=__doc__)
    arguments.add_argument("--most", type=int, default=4, help="processes")
    arguments.add_argument("--n", type=int, default=8000, help="workflows")
    arguments.add_argument("--share", type=int, default=0, help=argparse.SUPPRESS)
    arguments.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.share:
        run_loop("uvloop", _share(chosen.number, chosen.share))
        return
    header = [
        "processes", "W1 workflows/s", "their CPU ms/workflow", "the database's", "statements/workflow",
        "log bytes/workflow", "flushes/workflow", "foreign load",
    ]  # fmt: skip
    print(report.table(header, [_measure(processes, chosen.n) for processes in range(1, chosen.most + 1)]))


if __name__ == "__main__":
    main()
