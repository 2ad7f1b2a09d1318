"""The garbage collector rests in turns, and between them while much is on its way to the disk; but never for long."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure import activity, embedded, workflow
from perdure.engine.node import resting as resting_module
from perdure.engine.node.resting import Collector, wake
from perdure.limits import COLLECTOR_REST, COLLECTOR_RESTS_ABOVE, HOUR, SECOND
from perdure.testing.simulation.loop import SimulatedLoop
from tests.sdk.harness import fresh_registry as fresh_registry

MANY = COLLECTOR_RESTS_ABOVE


@pytest.fixture
def loop() -> Iterator[SimulatedLoop]:
    loop = SimulatedLoop()
    yield loop
    loop.close()
    gc.enable()


def later(loop: SimulatedLoop, seconds: float) -> None:
    passed = loop.create_future()
    loop.call_later(seconds, passed.set_result, None)
    loop.run_until_complete(passed)


def test_it_rests_in_a_turn(loop: SimulatedLoop) -> None:
    collector = Collector(loop)
    collector.turn_begins()
    assert not gc.isenabled()
    collector.turn_ends(MANY - 1)
    assert gc.isenabled()


def test_it_rests_on_while_much_is_on_its_way_to_the_disk_but_not_for_long(loop: SimulatedLoop) -> None:
    collector = Collector(loop)
    for _ in range(3):
        collector.turn_begins()
        collector.turn_ends(MANY)
        later(loop, COLLECTOR_REST / SECOND / 4)
        assert not gc.isenabled()
    later(loop, COLLECTOR_REST / SECOND / 2)
    assert gc.isenabled()
    collector.turn_begins()
    collector.turn_ends(MANY)
    assert not gc.isenabled()


def test_the_end_of_the_engine_wakes_it(loop: SimulatedLoop) -> None:
    collector = Collector(loop)
    collector.turn_begins()
    collector.turn_ends(MANY)
    collector.stop()
    assert gc.isenabled()


def test_what_the_program_has_stopped_stays_stopped(loop: SimulatedLoop) -> None:
    gc.disable()
    collector = Collector(loop)
    collector.turn_begins()
    collector.turn_ends(0)
    collector.stop()
    assert not gc.isenabled()


def test_an_engine_that_was_dropped_leaves_it_to_the_next(loop: SimulatedLoop) -> None:
    dropped = Collector(loop)
    dropped.turn_begins()
    dropped.turn_ends(MANY)
    following = Collector(loop)
    following.turn_begins()
    following.turn_ends(0)
    assert gc.isenabled()
    wake()
    assert gc.isenabled()


async def test_a_busy_engine_leaves_it_awake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resting_module, "COLLECTOR_REST", HOUR)  # however slow the disk is
    resting: list[bool] = []

    @activity
    async def look() -> None:
        resting.append(not gc.isenabled())

    @workflow
    async def fan() -> None:
        await asyncio.gather(*(look() for _ in range(5)))

    async with embedded(tmp_path / "perdure.db") as client:
        await asyncio.gather(*(client.run(fan()) for _ in range(20)))
    assert any(resting)
    assert gc.isenabled()
