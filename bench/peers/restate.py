"""Restate: its server (npm @restatedev/restate-server) and a service process of its Python SDK, on granian.

Every kind is a Restate workflow, keyed by the workflow's id; start and result are one ingress call where a
workload allows it. RESTATE_SERVER names the server program. This module is the service's application, too.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import timedelta
from pathlib import Path

import aiohttp
import restate
from restate import RunOptions, Workflow, WorkflowContext, WorkflowSharedContext

from bench import machine, remote
from bench.marks import mark
from bench.options import Options
from bench.workloads import Kind

PLAIN = RunOptions()
MANY = "100000"


async def step(number: int) -> dict:
    return {"i": number, "ok": True}


async def slow_step(workflow_id: str, number: int) -> dict:
    mark(f"S {workflow_id} {number}")
    await asyncio.sleep(0.05)
    mark(f"E {workflow_id} {number}")
    return {"i": number, "ok": True}


async def one(context: WorkflowContext, _argument: object) -> object:
    return await context.run_typed("step", step, PLAIN, number=0)


async def ten(context: WorkflowContext, _argument: object) -> object:
    for number in range(10):
        last = await context.run_typed("step", step, PLAIN, number=number)
    return last


async def slow10(context: WorkflowContext, _argument: object) -> object:
    for number in range(10):
        last = await context.run_typed("step", slow_step, PLAIN, workflow_id=context.key(), number=number)
    return last


async def fan(context: WorkflowContext, argument: object) -> object:
    steps = [context.run_typed("step", step, PLAIN, number=number) for number in range(argument)]
    return len(await restate.gather(*steps))


async def wait(context: WorkflowContext, _argument: object) -> object:
    return await context.promise("go").value()


async def sleep(context: WorkflowContext, _argument: object) -> object:
    mark(f"Z {context.key()}")
    await context.sleep(timedelta(hours=1))
    return {}


async def go(context: WorkflowSharedContext, value: object) -> object:
    await context.promise("go").resolve(value)
    return {}


def service(function: object) -> Workflow:
    """A Restate workflow named after its function; its handlers must be called `run` and `go`."""

    async def run(ctx: WorkflowContext, arg: object) -> object:
        return await function(ctx, arg)

    it = Workflow(function.__name__)
    it.main()(run)
    if function is wait:
        it.handler()(go)
    return it


app = restate.app(services=[service(f) for f in (one, ten, slow10, fan, wait, sleep)])


class Peer:
    name = "restate"

    def __init__(self, folder: Path, _chosen: Options) -> None:
        self._folder = folder
        self._ingress, self._admin, self._node, self._service = (machine.free_port() for _ in range(4))
        self._server = self._worker = self._http = None

    def start_server(self) -> None:
        variables = {
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{self._ingress}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{self._admin}",
            "RESTATE_BIND_ADDRESS": f"127.0.0.1:{self._node}",
            "RESTATE_ADVERTISED_ADDRESS": f"http://127.0.0.1:{self._node}/",
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_LOG_FILTER": "warn",
            "RESTATE_NODE_NAME": "bench",
            "DO_NOT_TRACK": "1",
        }
        program = os.environ.get("RESTATE_SERVER", "restate-server")
        command = [program, "--base-dir", str(self._folder / "data"), "--no-logo"]
        self._server = machine.spawn(command, self._folder / "server.log", variables)

    def start_worker(self) -> None:
        command = [sys.executable, "-m", "granian", "--interface", "asginl", "--host", "127.0.0.1"]
        command += ["--port", str(self._service), "--http", "auto", "--no-ws", "--loop", "uvloop", "--workers", "1"]
        command += ["--backlog", "8192", "--backpressure", MANY, "--http2-max-concurrent-streams", MANY]
        command += ["--log-level", "warning", "bench.peers.restate:app"]
        self._worker = machine.spawn(command, self._folder / "worker.log")

    def kill_server(self) -> None:
        machine.kill(self._server)

    def kill_worker(self) -> None:
        machine.kill(self._worker)

    async def connect(self) -> None:
        no_limit = aiohttp.TCPConnector(limit=0)
        self._http = aiohttp.ClientSession(connector=no_limit, timeout=aiohttp.ClientTimeout(total=900))
        deployment = {"uri": f"http://127.0.0.1:{self._service}", "force": True}
        async with asyncio.timeout(60):
            await self._until_it_answers(f"http://127.0.0.1:{self._admin}/deployments", deployment)
            await self._until_it_answers(f"http://127.0.0.1:{self._ingress}/one/probe/run", None)

    async def _until_it_answers(self, url: str, body: object) -> None:
        while True:
            try:
                headers = {"content-type": "application/json"}
                async with self._http.post(url, data=json.dumps(body), headers=headers) as response:
                    if response.status < 300:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.02)

    async def down(self) -> None:
        if self._http:
            await self._http.close()
        machine.stop(self._worker, 2)
        machine.stop(self._server, 3)

    def roots(self) -> machine.Roots:
        return {"server": [self._server.pid], "worker": [self._worker.pid], "client": [os.getpid()]}

    def data_paths(self) -> list[Path]:
        return [self._folder / "data"]

    async def _call(self, method: str, path: str, body: object = None) -> object:
        url = f"http://127.0.0.1:{self._ingress}/{path}"
        given = {"data": json.dumps(body), "headers": {"content-type": "application/json"}} if method == "POST" else {}
        async with self._http.request(method, url, **given) as response:
            text = await response.text()
            if response.status >= 300:
                raise RuntimeError(f"{path}: HTTP {response.status}: {text[:200]}")
            return json.loads(text) if text else None

    async def start(self, kind: Kind, workflow_id: str, argument: int | None = None) -> str:
        await self._call("POST", f"{kind}/{workflow_id}/run/send", argument)
        return f"{kind}/{workflow_id}"

    async def result(self, handle: str) -> object:
        return await self._call("GET", f"restate/workflow/{handle}/attach")

    async def signal(self, handle: str, value: dict[str, int]) -> None:
        await self._call("POST", f"{handle}/go", value)

    async def run(self, kind: Kind, workflow_id: str) -> object:
        return await self._call("POST", f"{kind}/{workflow_id}/run")


if __name__ == "__main__":
    remote.main(["workflow"], Peer, lambda: None)
