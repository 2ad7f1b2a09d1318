"""Activities in processes, as workflows see them."""

from __future__ import annotations

import asyncio

import pytest

from perdure import ProcessFailed, RetryPolicy, workflow
from perdure.clock import SECOND
from perdure.sdk.activity import pool
from perdure.sdk.client.client import Client
from tests.integration.engines import Engine
from tests.sdk.crunching import dies, endless, pid, square

ONCE = RetryPolicy(maximum_attempts=1)


@workflow(name="cpu_bound.squares")
async def squares(n: int) -> int:
    return sum(await asyncio.gather(square.start(n), *[square.start(each) for each in range(n)]))


@workflow(name="cpu_bound.dying")
async def dying() -> str:
    try:
        await dies.options(retry_policy=ONCE).start(-11)
    except ProcessFailed as error:
        return f"{error.returncode}: {error}"
    return "alive"


@workflow(name="cpu_bound.too_slow")
async def too_slow() -> str:
    try:
        await endless.options(start_to_close_timeout="300ms", retry_policy=ONCE).start()
    except TimeoutError:
        return "too slow"
    return "done"


@workflow(name="cpu_bound.plain")
def plain() -> int:
    return square(5)


async def test_a_workflow_gets_what_processes_compute(client: Client) -> None:
    assert await client.run(squares(4)) == 30
    assert await client.run(plain()) == 25


async def test_a_process_that_dies_raises_in_the_workflow(client: Client) -> None:
    assert await client.run(dying()) == "-11: the process of activity 'crunching.dies' was ended by SIGSEGV"


async def test_what_is_out_of_time_is_ended(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "PROCESS_GRACE", SECOND // 20)
    assert await client.run(too_slow()) == "too slow"


async def test_each_engine_has_a_pool_of_its_own(engine: Engine) -> None:
    @workflow(name="cpu_bound.where")
    async def where() -> int:
        return await pid.start()

    pids = set[int]()
    for _ in range(2):
        async with engine.open() as client:
            pids.add(await client.run(where()))
    assert len(pids) == 2
