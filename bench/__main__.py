"""Runs the benchmark and prints its report:  python -m bench [--peers FOLDER] [--repetitions N] …

Systems take turns within each repetition, so that all see the same noise of the machine. Figures are added to
the results file as they come; the report is over the whole file, so an interrupted run can be gone on with.
"""

from __future__ import annotations

import argparse
import compileall
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import perdure
from bench import database, machine, report, results
from bench.options import add_sizes
from tools.postgres import binaries

SLOW = ("--n1", "1000", "--n2", "150", "--n3", "100", "--n5", "30", "--n6", "3000", "--sleep-limit", "30")
"""Sizes for peers that would take minutes otherwise."""


class Job(NamedTuple):
    """One variant of one system. `environment` is the virtual environment's folder, empty for ours."""

    module: str
    variant: str
    label: str
    environment: str = ""
    arguments: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


OURS = (
    Job("perdure", "sqlite", "sqlite"),
    Job("perdure", "sqlite", "sqlite on asyncio's loop", "", ("--loop", "asyncio", "--workloads", "w1,w2,w3")),
)
OURS_ON_POSTGRESQL = (Job("perdure", "postgresql", "postgresql"),)
PEERS_ON_POSTGRESQL = (
    Job("dbos", "postgresql", "postgresql", "v_dbos", SLOW),
    Job("absurd", "postgresql", "postgresql", "v_absurd", SLOW),
)
PEERS = (
    Job("restate", "workflow", "workflow", "v_restate", ("--n6", "10000")),
    Job("dbos", "sqlite", "sqlite", "v_dbos", SLOW),
    Job("dbos", "sqlite-wal", "sqlite-wal, polls every 10 ms", "v_dbos", SLOW, (("BENCH_DBOS_POLL", "0.01"),)),
    Job("temporal", "memory", "memory", "v_temporal", SLOW),
    Job("temporal", "sqlite", "sqlite", "v_temporal", (*SLOW, "--n1", "300", "--n2", "60", "--n3", "60")),
)


def arguments(*parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The command line, with the options of other parsers."""
    it = argparse.ArgumentParser(prog="python -m bench", description=__doc__, parents=parents)
    it.add_argument("--repetitions", type=int, default=3)
    it.add_argument("--peers", type=Path, default=None, help="folder of the peers' virtual environments")
    it.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    it.add_argument("--only", default="", help="systems to run, by the beginnings of 'name variant'")
    it.add_argument("--out", type=Path, default=Path("build/bench/results.jsonl"))
    it.add_argument("--append", action="store_true", help="go on with the results file instead of a new one")
    it.add_argument("--report", action="store_true", help="only print the report of the results file")
    return it


def machine_facts() -> str:
    """What the figures were measured on."""
    loads = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    return (
        f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {os.cpu_count()} cores, "
        f"load {loads}; cores busy with other things: {machine.other_cores():.2f}"
    )


def run(job: Job, repetition: int, chosen: argparse.Namespace, given: Sequence[str]) -> None:
    """Run one job; its figures go to the results file."""
    if job.environment and not (chosen.peers / job.environment).is_dir():
        print(f"--- {job.module} {job.label}: skipped, there is no {chosen.peers / job.environment}", file=sys.stderr)
        return
    python = str(chosen.peers.absolute() / job.environment / "bin" / "python") if job.environment else sys.executable
    command = [python, "-m", f"bench.peers.{job.module}", *job.arguments, *given]
    command += ["--variant", job.variant, "--label", job.label, "--repetition", str(repetition)]
    print(f"--- {job.module} {job.label}, repetition {repetition + 1}", file=sys.stderr, flush=True)
    try:
        subprocess.run(
            [*command, "--out", str(chosen.out.absolute())],
            cwd=Path(__file__).resolve().parents[1],
            env={**os.environ, **dict(job.variables)},
            stdin=subprocess.DEVNULL,
            timeout=1800,
            check=False,
        )
    except subprocess.TimeoutExpired:
        print(f"--- {job.module} {job.label} took more than half an hour", file=sys.stderr, flush=True)


def main() -> None:
    """Run what the command line asks for, and print the report."""
    sizes = argparse.ArgumentParser(add_help=False)
    add_sizes(sizes)
    chosen = arguments(sizes).parse_args()
    _, given = arguments().parse_known_args()  # the sizes, as they are to be handed on
    if not chosen.report:
        if not chosen.append:
            chosen.out.unlink(missing_ok=True)
        before = machine.pace()
        print(machine_facts(), flush=True)
        compileall.compile_dir(Path(perdure.__file__).parent, quiet=1)  # as pip does it for the peers
        if chosen.store == "postgresql":
            os.environ[database.PROGRAMS] = str(next(iter(binaries().values())))
            jobs = [*OURS_ON_POSTGRESQL, *(PEERS_ON_POSTGRESQL if chosen.peers else ())]
        else:
            jobs = [*OURS, *(PEERS if chosen.peers else ())]
        jobs = [job for job in jobs if f"{job.module} {job.label}".startswith(tuple(chosen.only.split(",")))]
        for repetition in range(chosen.repetitions):
            for job in jobs:
                run(job, repetition, chosen, given)
        print(f"two million additions: {before:.0f} ms before, {machine.pace():.0f} ms after")
    print(report.render(results.load(chosen.out)))


if __name__ == "__main__":
    main()
