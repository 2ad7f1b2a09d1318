"""A loop that is blocked is noticed, named, and held against nobody."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path

import pytest

from perdure.clock import MILLISECOND, SystemClock
from perdure.embedded import embedded
from perdure.engine.node.watchdog import Watchdog
from perdure.limits import BLOCKED_LOOP_WARNING


class Heard(logging.Handler):
    """Sets an event when something is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.event = threading.Event()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()
        self.event.set()


@pytest.fixture
def heard() -> Heard:
    return Heard()


def hold_up_the_loop(heard: Heard) -> None:
    """Block until somebody has complained about it."""
    assert heard.event.wait(60)


async def test_what_blocks_the_loop_is_named_and_is_a_stall(heard: Heard) -> None:
    logger = logging.getLogger("perdure.engine")
    logger.addHandler(heard)
    stalled: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
    clock = SystemClock()
    watchdog = Watchdog(clock, lambda begin, end: stalled.set_result((begin, end)), tolerated=20 * MILLISECOND)
    before = clock.now()
    watchdog.start()
    try:
        hold_up_the_loop(heard)
        begin, end = await stalled
    finally:
        watchdog.stop()
        logger.removeHandler(heard)
    assert "the event loop has been blocked" in heard.text
    first, *stack = heard.text.splitlines()
    assert "hold_up_the_loop" in first or "threading.py" in first  # where that waits
    assert any("hold_up_the_loop" in line for line in stack)
    assert not any(str(Path(asyncio.__file__).parent) in line for line in stack)  # nor what is around the loop's step
    assert before <= begin
    assert end - begin > 20 * MILLISECOND


@pytest.mark.parametrize(("pause", "is_stall"), [(BLOCKED_LOOP_WARNING, False), (BLOCKED_LOOP_WARNING + 1, True)])
def test_what_a_loop_may_do_at_once(pause: int, *, is_stall: bool) -> None:
    """Without its thread: only the loop's signs of life, at the times that a clock tells."""
    stalls: list[tuple[int, int]] = []
    clock = SetClock()
    watchdog = Watchdog(clock, lambda begin, end: stalls.append((begin, end)))
    watchdog._seen = clock.time
    clock.time += pause
    watchdog._sign_of_life()
    assert stalls == ([(clock.time - pause, clock.time)] if is_stall else [])


class SetClock:
    """Shows the time that it was set to."""

    time = 1_800_000_000_000_000

    def now(self) -> int:
        return self.time


async def test_the_embedded_engine_is_watched_and_leaves_nothing_behind() -> None:
    async with embedded(":memory:"):
        watching = [thread for thread in threading.enumerate() if thread.name == "perdure-watchdog"]
        assert watching
    for thread in watching:
        await asyncio.to_thread(thread.join)
    assert not [thread for thread in threading.enumerate() if thread.name == "perdure-watchdog"]
