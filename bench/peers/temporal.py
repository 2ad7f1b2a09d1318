"""Temporal's dev server, with its state in memory (`memory`, not durable) or in a SQLite file (`sqlite`).

Three processes: server, worker, client. Tuned in its favour: limits of the server raised, 200 workflow tasks
and activities at a time, ten pollers each, workflows outside the sandbox.
"""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import PollerBehaviorSimpleMaximum, UnsandboxedWorkflowRunner, Worker

from bench import machine, remote
from bench.marks import mark
from bench.options import Options, run_loop
from bench.workloads import Kind

QUEUE = "bench"
ADDRESS = "BENCH_TEMPORAL_ADDRESS"
# After a worker's crash the steps that ran are tried again only when this has passed.
TIMEOUT = timedelta(seconds=10)
LIMITS = (
    "frontend.rps",
    "frontend.namespaceRPS",
    "frontend.namespaceCount",
    "frontend.persistenceMaxQPS",
    "history.rps",
    "history.persistenceMaxQPS",
    "matching.rps",
    "matching.persistenceMaxQPS",
)


@activity.defn
async def step(number: int) -> dict:
    return {"i": number, "ok": True}


@activity.defn
async def slow_step(workflow_id: str, number: int) -> dict:
    mark(f"S {workflow_id} {number}")
    await asyncio.sleep(0.05)
    mark(f"E {workflow_id} {number}")
    return {"i": number, "ok": True}


def call(function: object, *args: object) -> object:
    return workflow.execute_activity(function, args=args, start_to_close_timeout=TIMEOUT)


@workflow.defn
class One:
    @workflow.run
    async def run(self) -> dict:
        return await call(step, 0)


@workflow.defn
class Ten:
    @workflow.run
    async def run(self) -> dict:
        for number in range(10):
            last = await call(step, number)
        return last


@workflow.defn
class Slow10:
    @workflow.run
    async def run(self) -> dict:
        for number in range(10):
            last = await call(slow_step, workflow.info().workflow_id, number)
        return last


@workflow.defn
class Fan:
    @workflow.run
    async def run(self, n: int) -> int:
        return len(await asyncio.gather(*(call(step, number) for number in range(n))))


@workflow.defn
class Wait:
    def __init__(self) -> None:
        self.value: dict | None = None

    @workflow.run
    async def run(self) -> dict:
        await workflow.wait_condition(lambda: self.value is not None)
        return self.value

    @workflow.signal
    def go(self, value: dict) -> None:
        self.value = value


@workflow.defn
class Sleep:
    @workflow.run
    async def run(self) -> dict:
        mark(f"Z {workflow.info().workflow_id}")
        await asyncio.sleep(3600)
        return {}


WORKFLOWS = {"one": One, "ten": Ten, "slow10": Slow10, "fan": Fan, "wait": Wait, "sleep": Sleep}


async def connected(address: str) -> Client:
    """A client, as soon as the server answers."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await Client.connect(address)
            except RuntimeError:
                await asyncio.sleep(0.02)


async def work() -> None:
    pollers = PollerBehaviorSimpleMaximum(10)
    worker = Worker(
        await connected(os.environ[ADDRESS]),
        task_queue=QUEUE,
        workflows=list(WORKFLOWS.values()),
        activities=[step, slow_step],
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_concurrent_workflow_tasks=200,
        max_concurrent_activities=200,
        workflow_task_poller_behavior=pollers,
        activity_task_poller_behavior=pollers,
    )
    await worker.run()


class Peer:
    name = "temporal"

    def __init__(self, folder: Path, chosen: Options) -> None:
        self._folder, self._durable = folder, chosen.variant == "sqlite"
        self._port, self._http_port = machine.free_port(), machine.free_port()
        self._server = self._worker = None

    @property
    def _address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start_server(self) -> None:
        beside = Path(sys.executable).with_name("temporal")
        command = [str(beside) if beside.exists() else "temporal", "server", "start-dev", "--ip", "127.0.0.1"]
        command += ["--port", str(self._port), "--http-port", str(self._http_port)]
        command += ["--headless", "--log-level", "error"]
        if self._durable:
            command += ["--db-filename", str(self._folder / "temporal.db")]
        for limit in LIMITS:
            command += ["--dynamic-config-value", f"{limit}=100000"]
        self._server = machine.spawn(command, self._folder / "server.log")

    def start_worker(self) -> None:
        command = [sys.executable, "-m", "bench.peers.temporal", "--role", "worker"]
        self._worker = machine.spawn(command, self._folder / "worker.log", {ADDRESS: self._address})

    def kill_server(self) -> None:
        machine.kill(self._server)

    def kill_worker(self) -> None:
        machine.kill(self._worker)

    async def connect(self) -> None:
        self._client = await connected(self._address)

    async def down(self) -> None:
        machine.stop(self._worker, 3)
        machine.stop(self._server)

    def roots(self) -> machine.Roots:
        return {"server": [self._server.pid], "worker": [self._worker.pid], "client": [os.getpid()]}

    def data_paths(self) -> list[Path]:
        return [self._folder / "temporal.db"]

    async def start(self, kind: Kind, workflow_id: str, argument: int | None = None) -> object:
        args = [] if argument is None else [argument]
        return await self._client.start_workflow(WORKFLOWS[kind].run, args=args, id=workflow_id, task_queue=QUEUE)

    async def result(self, handle: object) -> object:
        return await handle.result()

    async def signal(self, handle: object, value: dict[str, int]) -> None:
        await handle.signal(Wait.go, value)

    async def run(self, kind: Kind, workflow_id: str) -> object:
        return await self.result(await self.start(kind, workflow_id))


if __name__ == "__main__":
    remote.main(["memory", "sqlite"], Peer, lambda: run_loop("uvloop", work()))
