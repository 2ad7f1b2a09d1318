"""Provision an environment through throttling, failures, kill -9 and an exhausted quota; prove that all is right.

    python -m examples.provision.demo [--specification my.yaml]

Exit status: 0 if the proof holds, 1 if it doesn't, 2 if the specification can't be used.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from examples.provision.cloud import ADDRESS, Cloud
from examples.provision.messages import Failed, Finished, Progress, Release, messages
from examples.provision.processes import Child, ChildFailed
from examples.provision.progress import Step, planned
from examples.provision.proof import Kill, prove
from examples.provision.screen import Screen
from examples.provision.spec import Specification, SpecificationError, read

SHARE_BEFORE_KILL = 0.4
"""The process is killed when this share of the resources exists, and calls are in flight."""

SEED = 6
"""Of the cloud's failures: it has some of each kind early on."""

READING_TIME = 3.0
"""Seconds that a person gets to read why something is held."""

PATIENCE = 90.0
"""Seconds after which the demo gives up: it takes about twenty."""


class Demo:
    """One showing.

    Args:
        spec: what to provision.
        path: the file that it was read from.
        folder: where both processes keep their state.
        seed: of the cloud's failures.
        screen: where it is shown.
    """

    def __init__(self, spec: Specification, path: Path, folder: Path, seed: int, screen: Screen) -> None:
        self._spec = spec
        self._path = path
        self._folder = folder
        self._seed = seed
        self._screen = screen
        self._children = AsyncExitStack()
        self._started: list[Child] = []
        self._cloud = Cloud("")

    async def run(self) -> bool:
        """Show it. Returns whether the proof holds; raises ChildFailed where a process doesn't do what it should."""
        async with self._children:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._start_cloud()
                    kill = await self._provision_until_killed()
                    finished = await self._go_on()
                    return await self._account_for(finished, kill)
            except TimeoutError:
                errors = "\n".join(child.errors() for child in self._started)
                raise ChildFailed(f"not finished after {PATIENCE:.0f} s\n{errors}") from None

    async def _start(self, module: str, *args: str) -> Child:
        log = self._folder / f"{module.rpartition('.')[2]}.log"
        child = await Child.start(module, *args, log=log, environment={ADDRESS: self._cloud.url})
        self._children.push_async_callback(child.kill)
        self._started.append(child)
        return child

    async def _start_cloud(self) -> None:
        self._screen.chapter("1. A small cloud")
        state = str(self._folder / "cloud")
        child = await self._start("examples.cloud", "--state", state, "--seed", str(self._seed), "--stop-on-eof")
        self._cloud = Cloud((await child.line()).split()[-1])
        self._screen.say(
            f"runs as process {child.pid}. It is slow, limits the rate of calls, has quotas, and fails at random: "
            "sometimes after it did its work, so that only the answer is lost."
        )

    async def _start_provisioner(self) -> Child:
        arguments = ("--file", str(self._folder / "platform.db"), "--specification", str(self._path))
        return await self._start("examples.provision.provisioner", *arguments)

    async def _provision_until_killed(self) -> Kill:
        """Let a first process work until enough exists, then kill it."""
        self._screen.chapter("2. Provisioning")
        wanted = len(planned(self._spec))
        first = await self._start_provisioner()
        self._screen.say(
            f"runs as process {first.pid}. {self._path.name} asks for {wanted} resources. All that the process "
            "knows is in one file, platform.db."
        )
        watching = asyncio.create_task(self._watch(first))
        while True:
            if watching.done():
                raise ChildFailed(watching.result() or await first.epitaph())
            stats = await self._cloud.stats()
            if stats.resources >= math.ceil(wanted * SHARE_BEFORE_KILL) and stats.open_calls:
                break
            await asyncio.sleep(0.02)
        await first.kill()
        killed_at = time.time()
        await watching
        self._screen.chapter(f"3. kill -9 {first.pid}")
        self._screen.say(
            f"in the middle: {stats.resources} of {wanted} resources exist; calls in flight: {stats.open_calls}. "
            "The cloud goes on with those, and nobody is there to hear of it."
        )
        return Kill(killed_at, str(first.pid))

    async def _watch(self, child: Child) -> str:
        """Show progress while a process lives. Returns why it ended, if it said so."""
        async for line in child.lines():
            match messages.decode(line):
                case Progress(steps):
                    self._screen.progress(steps)
                case Finished():
                    return "it was finished before it could be killed; try a larger specification"
                case Failed(problem):
                    return f"the workflow failed: {problem}"
        return ""

    async def _go_on(self) -> Finished:
        """Start a second process on the same file, and play the person whom it waits for."""
        second = await self._start_provisioner()
        self._screen.say(f"Now process {second.pid} opens the same file, and the workflow goes on where it was.")
        explained: set[str] = set()
        async with asyncio.TaskGroup() as tasks:
            async for line in second.lines():
                match messages.decode(line):
                    case Progress(steps):
                        self._screen.progress(steps)
                        held = [s for s in steps if s.state == "held" and s.activity_id not in explained]
                        if held:
                            explained.update(step.activity_id for step in held)
                            tasks.create_task(self._release(second, held))
                    case Finished() as finished:
                        self._screen.progress(finished.steps)
                        return finished
                    case Failed(problem):
                        raise ChildFailed(f"the workflow failed: {problem}")
        raise ChildFailed(await second.epitaph())

    async def _release(self, provisioner: Child, held: list[Step]) -> None:
        """Explain a hold, remove its cause, and let the work go on."""
        databases = 1 + self._spec.database.replicas
        self._screen.chapter("4. Held")
        for step in held:
            self._screen.say(f"{step.kind} {step.name} waits for a person. This is what describe() says of it:")
            self._screen.quote(f"activity {step.activity_id}, attempt {step.attempt}, held: {step.problem}")
        self._screen.say(
            "To try again would be of no use, and to fail would throw away what is done. So it waits, at no cost, "
            "for a minute or a month. Let us be the person."
        )
        await asyncio.sleep(READING_TIME if self._screen.is_live else 0)
        note = f"the quota is now {databases}"
        await self._cloud.raise_quota("databases", databases)
        await provisioner.send(msgspec.json.encode(Release(note)))
        self._screen.say(f'The quota is raised, and what was held is released with the note "{note}".')

    async def _account_for(self, finished: Finished, kill: Kill) -> bool:
        """Show what was made and how, and prove that it is right."""
        report = await self._cloud.report()
        checks = prove(planned(self._spec), finished, report, kill)
        self._screen.end_progress()
        self._screen.chapter("5. What was made, and what it took")
        self._screen.results(report, kill)
        self._screen.chapter("6. The proof")
        self._screen.proof(checks)
        return all(check.holds for check in checks)


async def show(spec: Specification, path: Path, seed: int) -> bool:
    """Run the demo in a temporary folder, which is gone afterwards. Returns whether the proof holds."""
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    with tempfile.TemporaryDirectory(prefix="perdure-demo-") as folder, Screen(planned(spec)) as screen:
        return await Demo(spec, path, Path(folder), seed, screen).run()


def main() -> int:
    """The command line. Returns the exit status."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(prog="python -m examples.provision.demo", description="Provision an environment.")
    parser.add_argument("--specification", type=Path, default=here / "spec.yaml", help="a YAML file (default: ours)")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the cloud's failures (default: {SEED})")
    options = parser.parse_args()
    try:
        path = options.specification.absolute()
        return 0 if asyncio.run(show(read(path), path, options.seed)) else 1
    except SpecificationError as error:
        print(error, file=sys.stderr)
        return 2
    except ChildFailed as error:
        print(f"\n{error}", file=sys.stderr)
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\ninterrupted; both processes are ended", file=sys.stderr)
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
