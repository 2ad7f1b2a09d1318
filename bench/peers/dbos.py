"""DBOS as a library, over a SQLite file as it comes (`sqlite`), switched once to WAL mode (`sqlite-wal`), or on
PostgreSQL (`postgresql`).

Workflows are started in this process, not through a queue, which is DBOS' fast path. BENCH_DBOS_POLL is the
interval in seconds at which it looks for notifications (default 1).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from dbos import DBOS, SetWorkflowID

from bench import database, library, machine
from bench.marks import mark
from bench.options import Options
from bench.workloads import Kind

FILE = "dbos.sqlite"


@DBOS.step()
async def step(number: int) -> dict:
    return {"i": number, "ok": True}


@DBOS.step()
async def slow_step(workflow_id: str, number: int) -> dict:
    mark(f"S {workflow_id} {number}")
    await asyncio.sleep(0.05)
    mark(f"E {workflow_id} {number}")
    return {"i": number, "ok": True}


@DBOS.workflow()
async def one() -> dict:
    return await step(0)


@DBOS.workflow()
async def ten() -> dict:
    for number in range(10):
        last = await step(number)
    return last


@DBOS.workflow()
async def slow10() -> dict:
    for number in range(10):
        last = await slow_step(DBOS.workflow_id, number)
    return last


@DBOS.workflow()
async def fan(n: int) -> int:
    return len(await asyncio.gather(*(step(number) for number in range(n))))


@DBOS.workflow()
async def wait() -> dict:
    return await DBOS.recv_async("go", timeout_seconds=3600)


@DBOS.workflow()
async def sleep() -> dict:
    mark(f"Z {DBOS.workflow_id}")
    await DBOS.sleep_async(3600)
    return {}


WORKFLOWS = {"one": one, "ten": ten, "slow10": slow10, "fan": fan, "wait": wait, "sleep": sleep}


class Peer:
    name = "dbos"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def roots(self) -> machine.Roots:
        return {"app": [os.getpid()], **database.roots()}

    def data_paths(self) -> list[Path]:
        return database.data_paths() if database.roots() else [self._folder / FILE]

    async def start(self, kind: Kind, workflow_id: str, argument: int | None = None) -> object:
        with SetWorkflowID(workflow_id):
            return await DBOS.start_workflow_async(WORKFLOWS[kind], *([] if argument is None else [argument]))

    async def result(self, handle: object) -> object:
        return await handle.get_result()

    async def signal(self, handle: object, value: dict[str, int]) -> None:
        await DBOS.send_async(handle.get_workflow_id(), value, topic="go")

    async def run(self, kind: Kind, workflow_id: str) -> object:
        return await self.result(await self.start(kind, workflow_id))

    async def recovered(self, workflow_ids: Sequence[str]) -> int:
        while await self._count(["PENDING", "ENQUEUED"]):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.05)
        return await self._count(["SUCCESS"])

    async def _count(self, status: list[str]) -> int:
        rows = await DBOS.list_workflows_async(status=status, name="slow10", load_input=False, load_output=False)
        return len(rows)


@asynccontextmanager
async def open_peer(folder: Path, chosen: Options) -> AsyncGenerator[Peer]:
    if chosen.variant == "sqlite-wal":
        connection = sqlite3.connect(folder / FILE)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    # A fixed executor and version: otherwise a restarted process does not take up what it left.
    config = {
        "name": "bench",
        "system_database_url": database.dsn() if database.roots() else f"sqlite:///{folder / FILE}",
        "log_level": "ERROR",
        "executor_id": "bench-1",
        "application_version": "bench",
    }
    if poll := os.environ.get("BENCH_DBOS_POLL"):
        config["notification_listener_polling_interval_sec"] = float(poll)
    DBOS(config=config)
    DBOS.launch()
    yield Peer(folder)
    # Its threads outlive the loop; what they hold is on disk.
    os._exit(0)


if __name__ == "__main__":
    library.main("bench.peers.dbos", Peer.name, ["sqlite", "sqlite-wal", database.POSTGRESQL], open_peer)
