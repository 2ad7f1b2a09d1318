"""Queries that arrive at a process without the workflow's code: another one answers them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from typing import cast

import pytest

from perdure import workflow
from perdure.engine.node.cluster import questions
from perdure.engine.node.node import Node
from perdure.engine.storage.memory import MemoryStore
from perdure.engine.storage.postgres import PostgresStore
from perdure.errors import NotFound, QueryFailed
from perdure.limits import SECOND
from perdure.model.requests import QueryWorkflow, Request
from perdure.sdk.client.client import Client
from tests.integration.test_processes import Processes, processes
from tools.postgres import shared_server

_numbers = count(1)


@workflow(name="questions.counter")
class Counter:
    def __init__(self) -> None:
        self.sum = 0

    async def run(self) -> int:
        await workflow.wait_until(lambda: self.sum >= 100)
        return self.sum

    @workflow.signal
    def add(self, n: int) -> None:
        self.sum += n

    @workflow.update
    async def added(self, n: int) -> int:
        self.sum += n
        return self.sum

    @workflow.query
    def total(self, factor: int) -> int:
        if not factor:
            raise ValueError("by nothing")
        return self.sum * factor


@pytest.fixture(params=["nodes", "postgres"])
async def started(request: pytest.FixtureRequest) -> AsyncIterator[Processes]:
    """Processes that share a memory, or a database."""
    schema, memory = f"questions_{next(_numbers)}", MemoryStore()

    def database() -> PostgresStore:
        return PostgresStore(shared_server("postgres").dsn(), schema=schema)

    async with processes(database if request.param == "postgres" else memory.another) as some:
        yield some


async def test_a_process_that_is_only_a_client_is_answered(started: Processes) -> None:
    client, _ = await started.join([], [])
    handle = await client.start(Counter())
    await started.join([Counter], [])
    for n in range(1, 6):
        await handle.signal(Counter.add, 1)
        assert await handle.query(Counter.total, 10) == 10 * n, "what was acknowledged is known"
    assert await handle.update(Counter.added, 2) == 7
    events = [type(event).__name__ async for event in handle.history()]
    with pytest.raises(QueryFailed, match="by nothing"):
        await handle.query(Counter.total, 0)
    assert [type(event).__name__ async for event in handle.history()] == events, "a query leaves no trace"
    assert await asyncio.gather(*(handle.query(Counter.total, n) for n in range(1, 30))) == [
        7 * n for n in range(1, 30)
    ]
    await handle.update(Counter.added, 100)
    assert await handle.result() == 107
    assert await handle.query(Counter.total, 1) == 107, "it can be asked when it is over"


async def test_it_is_said_what_nobody_has(started: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "QUERY_ELSEWHERE", SECOND // 5)
    client, _ = await started.join([], [])
    await started.join([], [])
    handle = await client.start(Counter())
    with pytest.raises(NotFound, match=r"no workflow 'questions\.counter' on the task queue 'default'; start one"):
        await handle.query(Counter.total, 1)


async def test_another_answers_when_one_dies(started: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "ANSWER_LEASE", SECOND // 5)
    client, _ = await started.join([], [])
    handle = await client.start(Counter())
    dying, _ = await started.join([Counter], [])
    asked = _never_answers(dying, monkeypatch)
    query = asyncio.ensure_future(handle.query(Counter.total, 1))
    await asked.wait()
    await started.join([Counter], [])
    assert await query == 0


def _never_answers(client: Client, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Let a process be as dead as soon as it is given a query; tells when."""
    node, asked = cast("Node", client.service), asyncio.Event()
    call = node.call

    async def silent(request: Request[object], /) -> object:
        if isinstance(request, QueryWorkflow):
            asked.set()
            await asyncio.Event().wait()
        return await call(request)

    monkeypatch.setattr(node, "call", silent)
    return asked
