"""The process that provisions. Its state is one file: killed at any moment and started again, it goes on.

It tells on standard output how far it is, and takes orders on standard input: a JSON message a line each.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from examples.provision.cloud import BadRequest
from examples.provision.messages import Failed, Finished, Message, Progress, Release
from examples.provision.progress import Step, begun
from examples.provision.spec import Specification, read
from examples.provision.workflow import Environment, provision
from perdure import WorkflowHandle, embedded
from perdure.errors import WorkflowAlreadyStarted, WorkflowFailed

LOOK_EVERY = 0.1
"""Seconds between two looks at the run."""


async def main(file: Path, spec: Specification) -> None:
    """Start the run, or take it up again if the file has it already; ends with it, or with standard input."""
    async with embedded(file) as client:
        try:
            handle = await client.start(provision(spec), id=spec.environment, id_reuse_policy="reject_duplicate")
        except WorkflowAlreadyStarted:
            handle = client.get(spec.environment, provision)
        tasks = {asyncio.create_task(_report(handle)), asyncio.create_task(_obey(handle))}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()


async def _report(handle: WorkflowHandle[Environment]) -> None:
    """Tell whenever something has changed, and how it ends."""
    result = asyncio.create_task(handle.result())
    told: list[Step] = []
    while not result.done():
        steps = await _steps(handle)
        if steps != told:
            _tell(Progress(steps))
            told = steps
        await asyncio.wait({result}, timeout=LOOK_EVERY)
    try:
        _tell(Finished(result.result(), await _steps(handle)))
    except (BadRequest, WorkflowFailed) as error:
        _tell(Failed(str(error)))


async def _obey(handle: WorkflowHandle[Environment]) -> None:
    """Carry out orders until there are no more to come."""
    async for line in _lines():
        await handle.release(note=msgspec.json.decode(line, type=Release).note)


async def _steps(handle: WorkflowHandle[Environment]) -> list[Step]:
    description = await handle.describe()
    return begun([event async for event in handle.history()], description)


async def _lines() -> AsyncIterator[bytes]:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        yield line


def _tell(message: Message) -> None:
    print(msgspec.json.encode(message).decode(), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m examples.provision.provisioner", description=__doc__)
    parser.add_argument("--file", type=Path, required=True, help="where the state is kept")
    parser.add_argument("--specification", type=Path, required=True)
    options = parser.parse_args()
    asyncio.run(main(options.file, read(options.specification)))
