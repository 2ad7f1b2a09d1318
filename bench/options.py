"""Sizes and places of a run: the command line that all adapters share."""

from __future__ import annotations

import argparse
import asyncio
import importlib
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

WORKLOADS = ("cold", "w1", "w2", "w3", "w4", "w5", "w6", "w7", "w7s")
"""W7 kills the worker, W7s the server, where there is one."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to run, how large, and where. Times are seconds.

    n1 to n7 are the sizes of W1 to W7: workflows, workflows, workflows, steps, signals, sleepers, workflows.
    kill_at: the share of W7's steps after which it kills. sleep_limit: how long W6 starts sleepers at most.
    data: the folder to work in, by default a new one in the temporary folder: put it on the disk to measure.
    """

    variant: str
    label: str
    workloads: tuple[str, ...]
    repetition: int
    out: Path | None
    data: Path | None
    loop: str
    concurrency: int
    n1: int
    n2: int
    n3: int
    n4: int
    n5: int
    n6: int
    n7: int
    kill_at: float
    sleep_limit: float
    settle: float
    crash_limit: float

    def arguments(self, **changes: object) -> list[str]:
        """The command line that gives these options, with some changed."""
        found: list[str] = []
        for field in fields(self):
            value = changes.get(field.name, getattr(self, field.name))
            if value is not None:
                text = ",".join(map(str, cast("tuple[object, ...]", value))) if isinstance(value, tuple) else str(value)
                found += ["--" + field.name.replace("_", "-"), text]
        return found


def parser(variants: Sequence[str]) -> argparse.ArgumentParser:
    """The command line of an adapter with these variants, the first of which is the default."""
    it = argparse.ArgumentParser()
    it.add_argument("--variant", choices=variants, default=variants[0])
    it.add_argument("--label", default=None, help="name of the variant in the results")
    it.add_argument("--repetition", type=int, default=0, help="number of this repetition in the results")
    it.add_argument("--out", type=Path, default=None, help="file that results are added to")
    add_sizes(it)
    return it


def add_sizes(it: argparse.ArgumentParser) -> None:
    """The arguments that adapters share with `python -m bench`."""
    it.add_argument("--workloads", type=_workloads, default=WORKLOADS[:-1], help=f"some of {','.join(WORKLOADS)}")
    it.add_argument("--data", type=Path, default=None, help="folder to work in")
    it.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    it.add_argument("--concurrency", type=int, default=200, help="workflows at a time in W1, starts in W6")
    for name, size in (("n1", 8000), ("n2", 1500), ("n3", 300), ("n4", 1000), ("n5", 100), ("n6", 50000), ("n7", 200)):
        it.add_argument(f"--{name}", type=int, default=size, help=f"size of W{name[1]}")
    it.add_argument("--kill-at", type=float, default=0.43)
    it.add_argument("--sleep-limit", type=float, default=120)
    it.add_argument("--settle", type=float, default=5, help="seconds of rest before W6 reads memory and disk")
    it.add_argument("--crash-limit", type=float, default=120, help="seconds that a start, and W7's end, may take")


def options(namespace: argparse.Namespace) -> Options:
    """The options that a command line gave."""
    values = {field.name: getattr(namespace, field.name) for field in fields(Options)}
    return Options(**values | {"label": namespace.label or namespace.variant})


def run_loop(loop: str, work: Coroutine[object, object, None]) -> None:
    """Run a coroutine on "uvloop" or "asyncio"."""
    factory = importlib.import_module("uvloop").new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(work)


def _workloads(text: str) -> tuple[str, ...]:
    names = tuple(filter(None, text.lower().split(",")))
    unknown = set(names) - set(WORKLOADS)
    if unknown:
        raise argparse.ArgumentTypeError(f"no such workload: {', '.join(sorted(unknown))}")
    return names
