"""Absurd on PostgreSQL: its SDK in a worker process and in this client; the server is a process of its own.

The worker has CONNECTIONS connections, each of which claims tasks in batches and looks for more every POLL seconds.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from absurd_sdk import AsyncAbsurd

from bench import database, machine, remote
from bench.marks import mark
from bench.options import Options
from bench.workloads import Kind

CONNECTIONS, POLL, SLOTS = 4, 0.01, 200
QUEUE = "bench"
CLAIM_SECONDS = 10
"""After which a dead worker's task is taken by another."""


async def step() -> dict:
    return {"i": 0, "ok": True}


def define(absurd: AsyncAbsurd) -> None:
    """The workloads' tasks."""

    @absurd.register_task("one")
    async def one(_parameters: dict, context: object) -> dict:
        return await context.step("s", step)

    @absurd.register_task("ten")
    async def ten(_parameters: dict, context: object) -> dict:
        for number in range(10):
            last = await context.step(f"s{number}", step)
        return last

    @absurd.register_task("slow10")
    async def slow10(parameters: dict, context: object) -> dict:
        for number in range(10):

            async def slow(number: int = number) -> dict:
                mark(f"S {parameters['id']} {number}")
                await asyncio.sleep(0.05)
                mark(f"E {parameters['id']} {number}")
                return {"i": number, "ok": True}

            last = await context.step(f"s{number}", slow)
        return last

    @absurd.register_task("fan")
    async def fan(parameters: dict, context: object) -> int:
        return len(await asyncio.gather(*(context.step(f"s{n}", step) for n in range(parameters["n"]))))

    @absurd.register_task("wait")
    async def wait(parameters: dict, context: object) -> dict:
        return await context.await_event(f"go-{parameters['id']}")

    @absurd.register_task("sleep")
    async def sleep(parameters: dict, context: object) -> dict:
        mark(f"Z {parameters['id']}")
        await context.sleep_for("z", 3600)
        return {}


def worker() -> None:
    """The worker process."""

    async def serve() -> None:
        clients = [AsyncAbsurd(database.dsn(), queue_name=QUEUE) for _ in range(CONNECTIONS)]
        for client in clients:
            define(client)
        await asyncio.gather(
            *(
                client.start_worker(
                    worker_id=f"w{os.getpid()}-{number}",
                    claim_timeout=CLAIM_SECONDS,
                    concurrency=SLOTS // CONNECTIONS,
                    poll_interval=POLL,
                )
                for number, client in enumerate(clients)
            )
        )

    asyncio.run(serve())


class Peer:
    name = "absurd"

    def __init__(self, folder: Path, chosen: Options) -> None:
        self._folder = folder
        self._stack = ExitStack()
        os.environ.update(self._stack.enter_context(database.database(folder, chosen)))
        environment = {**os.environ, "ABSURD_DATABASE_URL": database.dsn(), "PGDATABASE": database.dsn()}
        for command in (["init"], ["create-queue", QUEUE]):
            program = Path(sys.executable).with_name("absurdctl")
            subprocess.run([program, *command], env=environment, check=True, stdout=subprocess.DEVNULL)
        self._calls = 0

    def start_server(self) -> None:
        """It runs already: its tables had to be made."""

    def start_worker(self) -> None:
        command = [sys.executable, "-m", "bench.peers.absurd", "--role", "worker"]
        self._worker = machine.spawn(command, self._folder / "worker.log")

    def kill_server(self) -> None:
        raise NotImplementedError

    def kill_worker(self) -> None:
        machine.kill(self._worker)

    async def connect(self) -> None:
        self._clients = [AsyncAbsurd(database.dsn(), queue_name=QUEUE) for _ in range(CONNECTIONS)]

    async def down(self) -> None:
        for client in self._clients:
            await client.close()
        machine.kill(self._worker)
        self._stack.close()

    def roots(self) -> machine.Roots:
        return {**database.roots(), "worker": [self._worker.pid], "client": [os.getpid()]}

    def data_paths(self) -> list[Path]:
        return database.data_paths()

    def _client(self) -> AsyncAbsurd:
        self._calls += 1
        return self._clients[self._calls % CONNECTIONS]

    async def start(self, kind: Kind, workflow_id: str, argument: int | None = None) -> tuple[str, str]:
        parameters = {"id": workflow_id, "n": argument}
        spawned = await self._client().spawn(kind, parameters, idempotency_key=workflow_id, queue=QUEUE)
        return spawned["task_id"], workflow_id

    async def result(self, handle: tuple[str, str]) -> object:
        return getattr(await self._client().await_task_result(handle[0]), "result", None)

    async def signal(self, handle: tuple[str, str], value: dict[str, int]) -> None:
        await self._client().emit_event(f"go-{handle[1]}", value)

    async def run(self, kind: Kind, workflow_id: str) -> object:
        return await self.result(await self.start(kind, workflow_id))


if __name__ == "__main__":
    remote.main([database.POSTGRESQL], Peer, worker)
