"""Many at once: activities in one workflow, sleepers in one file."""

from __future__ import annotations

import asyncio
from pathlib import Path

from perdure import activity, embedded, workflow
from perdure.clock import DAY
from tests.integration.engines import ShiftedClock

SLEEPERS = 100_000
WAKING = 1_000
AT_ONCE = 2_000


async def test_ten_thousand_activities_in_flight(tmp_path: Path) -> None:
    count = 10_000
    arrived, release = 0, asyncio.Event()

    @activity(name="scale.waits")
    async def waits(n: int) -> int:
        nonlocal arrived
        arrived += 1
        if arrived == count:
            release.set()
        await release.wait()
        return n

    @workflow(name="scale.wide")
    async def wide() -> int:
        return sum(await waits.map(range(count)))

    async with embedded(tmp_path / "wide.db", max_concurrent_activities=count) as client:
        handle = await client.start(wide())
        assert await handle.result() == sum(range(count))
        assert (await handle.describe()).history_length > 3 * count


async def test_a_hundred_thousand_sleepers_in_one_file(tmp_path: Path) -> None:
    """All are started, some of them wake in a later process, and the others sleep on."""

    @workflow(name="scale.sleeps")
    async def sleeps(n: int) -> int:
        await asyncio.sleep(86_400 if n < WAKING else 365 * 86_400)
        return n

    path, clock = tmp_path / "sleepers.db", ShiftedClock()
    async with embedded(path, clock=clock) as client:
        for first in range(0, SLEEPERS, AT_ONCE):
            await asyncio.gather(*(client.start(sleeps(n), id=f"s-{n}") for n in range(first, first + AT_ONCE)))
    clock.ahead = 2 * DAY
    async with embedded(path, clock=clock) as client:
        results = await asyncio.gather(*(client.get(f"s-{n}", sleeps).result() for n in range(WAKING)))
        assert results == list(range(WAKING))
        last = await client.get(f"s-{SLEEPERS - 1}", sleeps).describe()
        assert last.status == "Running"
        assert len(last.timers) == 1
