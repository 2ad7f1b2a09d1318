"""Where the time goes:  python -m bench.profile w1 [--n1 20000] [--calls] [--stacks FILE]

Runs one workload of Perdure in this process. By default its stack is sampled at the kernel's ticks of CPU time, a
few hundred times a second, which hardly disturbs it. `--calls` counts every call instead, by cProfile: exact, but
small functions look dearer than they are.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from bench.marks import VARIABLE
from bench.options import Options, options, parser, run_loop

INTERVAL = 0.001
"""Seconds; the kernel rounds it up to its tick."""
Stack = tuple[str, ...]


def place(frame: FrameType) -> str:
    """A function as "path:line name", its path shortened to the last two parts."""
    code = frame.f_code
    return f"{'/'.join(Path(code.co_filename).parts[-2:])}:{code.co_firstlineno} {code.co_qualname}"


class Sampler:
    """Collects the main thread's stacks, innermost function first, while it is entered."""

    def __init__(self) -> None:
        self.stacks: Counter[Stack] = Counter()

    def _sample(self, _signal: int, frame: FrameType | None) -> None:
        stack: list[str] = []
        while frame:
            stack.append(place(frame))
            frame = frame.f_back
        self.stacks[tuple(stack)] += 1

    def __enter__(self) -> Sampler:
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def table(self, title: str, count: Callable[[Stack], set[str]], rows: int = 40) -> str:
        """The functions that are in most samples, by what `count` takes of a stack."""
        functions: Counter[str] = Counter()
        for stack, n in self.stacks.items():
            for name in count(stack):
                functions[name] += n
        total = self.stacks.total() or 1
        lines = [f"{100 * n / total:5.1f} %  {name}" for name, n in functions.most_common(rows)]
        return "\n".join([f"{title}, {total} samples", *lines])

    def write(self, path: Path) -> None:
        """One line a stack, outermost first, as flame graph programs read it."""
        path.write_text("".join(f"{';'.join(reversed(stack))} {n}\n" for stack, n in self.stacks.items()))


async def workload(name: str, folder: Path, chosen: Options, sampler: Sampler | cProfile.Profile) -> None:
    """Run one workload of Perdure under a profiler; opening and a first workflow are left out."""
    from bench import workloads
    from bench.peers.perdure import open_peer
    from bench.results import Results

    async with open_peer(folder, chosen) as peer:
        await peer.run("one", "first")
        with sampler:
            await workloads.run(peer, [name], Results(None, "perdure", chosen.label, 0), chosen)


def main() -> None:
    """The command line."""
    arguments: argparse.ArgumentParser = parser(["sqlite"])
    arguments.add_argument("workload", choices=("w1", "w2", "w3", "w4", "w5", "w6"))
    arguments.add_argument("--calls", action="store_true", help="count calls instead of sampling")
    arguments.add_argument("--stacks", type=Path, default=None, help="file for the sampled stacks")
    namespace = arguments.parse_args()
    chosen = options(namespace)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=chosen.data) as name:
        folder = Path(name)
        os.environ[VARIABLE] = str(folder / "marks")  # before the workloads are imported, which open it
        if namespace.calls:
            profile = cProfile.Profile()
            run_loop(chosen.loop, workload(namespace.workload, folder, chosen, profile))
            pstats.Stats(profile).sort_stats("tottime").print_stats(50)
            return
        sampler = Sampler()
        run_loop(chosen.loop, workload(namespace.workload, folder, chosen, sampler))
    print(sampler.table("\nTime in the function itself", lambda stack: {stack[0]}))
    print(sampler.table("\nTime in the function and what it calls", set))
    if namespace.stacks:
        sampler.write(namespace.stacks)


if __name__ == "__main__":
    main()
