"""Perdure, embedded: a library over a SQLite file in WAL mode, `synchronous=FULL`, or on PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bench import database, library, machine
from bench.marks import mark
from bench.options import Options
from bench.workloads import Kind
from perdure import Client, WorkflowHandle, activity, embedded, workflow

FILE = "perdure.db"

Small = dict[str, int]


@activity
async def step(number: int) -> Small:
    """A step: what an activity costs that does nothing."""
    return {"i": number, "ok": 1}


@activity
async def slow_step(workflow_id: str, number: int) -> Small:
    """A step of 50 ms that leaves marks."""
    mark(f"S {workflow_id} {number}")
    await asyncio.sleep(0.05)
    mark(f"E {workflow_id} {number}")
    return {"i": number, "ok": 1}


@workflow
async def one() -> Small:
    """One step."""
    return await step(0)


@workflow
async def ten() -> Small:
    """Ten steps in sequence."""
    last: Small = {}
    for number in range(10):
        last = await step(number)
    return last


@workflow
async def slow10() -> Small:
    """Ten steps of 50 ms in sequence."""
    last: Small = {}
    for number in range(10):
        last = await slow_step(workflow.info().workflow_id, number)
    return last


@workflow
async def fan(n: int) -> int:
    """n parallel steps."""
    return len(await asyncio.gather(*(step(number) for number in range(n))))


@workflow
async def wait() -> Small:
    """Wait for a signal."""
    return await workflow.receive("go", Small)


@workflow
async def sleep() -> Small:
    """Sleep for an hour."""
    mark(f"Z {workflow.info().workflow_id}")
    await asyncio.sleep(3600)
    return {}


WORKFLOWS = {"one": one, "ten": ten, "slow10": slow10, "wait": wait, "sleep": sleep}

Handle = WorkflowHandle[Small] | WorkflowHandle[int]


class Peer:
    """Perdure in this process."""

    name = "perdure"

    def __init__(self, client: Client, folder: Path) -> None:
        self._client, self._folder = client, folder

    def roots(self) -> machine.Roots:
        return {"app": [os.getpid()], **database.roots()}

    def data_paths(self) -> list[Path]:
        return database.data_paths() if database.roots() else [self._folder / FILE]

    async def start(self, kind: Kind, workflow_id: str, argument: int | None = None) -> Handle:
        if argument is not None:
            return await self._client.start(fan(argument), id=workflow_id)
        return await self._client.start(WORKFLOWS[kind](), id=workflow_id)

    async def result(self, handle: Handle) -> object:
        return await handle.result()

    async def signal(self, handle: Handle, value: dict[str, int]) -> None:
        await handle.signal("go", value)

    async def run(self, kind: Kind, workflow_id: str) -> object:
        return await self._client.run(WORKFLOWS[kind](), id=workflow_id)

    async def recovered(self, workflow_ids: Sequence[str]) -> int:
        handles = [self._client.get(workflow_id, slow10) for workflow_id in workflow_ids]
        return len(await asyncio.gather(*(handle.result() for handle in handles)))


@asynccontextmanager
async def open_peer(folder: Path, chosen: Options) -> AsyncGenerator[Peer]:
    """Perdure over the file in a folder, or on the server that was started for it."""
    location = database.dsn() if chosen.variant == database.POSTGRESQL else folder / FILE
    async with embedded(location, max_concurrent_activities=200) as client:
        yield Peer(client, folder)


if __name__ == "__main__":
    logging.getLogger("perdure").setLevel(logging.ERROR)  # W7 loses attempts on purpose, and counts them itself
    library.main("bench.peers.perdure", Peer.name, ["sqlite", database.POSTGRESQL], open_peer)
