"""Workflow code that never yields is interrupted, and its task fails; what merely takes many steps is not."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
from collections.abc import Iterator

import pytest

from perdure import workflow
from perdure.limits import MILLISECOND
from perdure.sdk.workflow import stuck
from tests.sdk.harness import Scenario, result
from tests.sdk.harness import fresh_registry as fresh_registry


@pytest.fixture
def impatient() -> Iterator[stuck.Watcher]:
    watcher = stuck.Watcher(tolerated=40 * MILLISECOND, restless=100 * MILLISECOND)
    watcher.start()
    yield watcher
    watcher.stop()


def test_a_loop_that_never_yields_fails_its_task(impatient: stuck.Watcher, caplog: pytest.LogCaptureFixture) -> None:
    @workflow
    async def endless() -> None:
        while True:
            pass

    scenario = Scenario(endless)
    failure = scenario.broken()
    assert failure.types[0].endswith("Stuck")
    assert "did not come to its next await" in failure.message
    assert "while True:" in failure.traceback or "pass" in failure.traceback
    impatient.stop()  # the code may be struck before it is said
    (line,) = [line for line in caplog.text.splitlines() if line.startswith("  File ")]  # not the program around it
    assert line.endswith("in test_a_loop_that_never_yields_fails_its_task.<locals>.endless")


@pytest.mark.usefixtures("impatient")
def test_it_counts_also_where_the_code_swallows_it() -> None:
    @workflow
    async def stubborn() -> str:
        async def forever() -> None:
            while True:
                pass

        await asyncio.gather(forever(), return_exceptions=True)
        return "nothing happened"

    assert Scenario(stubborn).broken().types[0].endswith("Stuck")


def test_a_loop_of_awaits_that_never_wait_fails_its_task(
    impatient: stuck.Watcher, caplog: pytest.LogCaptureFixture
) -> None:
    @workflow
    async def restless() -> None:
        for _ in itertools.count():
            await asyncio.sleep(0)

    assert Scenario(restless).broken().types[0].endswith("Stuck")
    impatient.stop()
    lines = [line for line in caplog.text.splitlines() if line.startswith("  File ")]
    assert len(lines) == 1 and "restless" in lines[0]


def test_many_short_steps_are_not_one_long_one() -> None:
    watcher = stuck.Watcher()

    @workflow
    async def busy() -> int:
        for _ in range(30):
            await asyncio.sleep(0)
            watcher.look()  # as if as much time had passed as goes by between two looks
        return 30

    scenario = Scenario(busy)
    scenario.do()
    assert result(scenario) == 30


def test_a_step_that_is_struck_leaves_nothing_to_the_next_run() -> None:
    watcher = stuck.Watcher()

    @workflow
    async def slow() -> None:
        for _ in range(30):
            watcher.look()

    failure = Scenario(slow).broken()
    assert failure.types[0].endswith("Stuck")

    @workflow
    async def quick() -> str:
        return "fine"

    scenario = Scenario(quick)
    scenario.do()
    assert result(scenario) == "fine"


def test_nothing_is_raised_when_the_activation_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """There it would leave the thread with the workflow's loop and guard, for good."""
    watcher = stuck.Watcher()
    began, looked = threading.Lock(), threading.Lock()  # the guard would stop all else that threads wait with
    began.acquire()
    looked.acquire()

    def look() -> None:
        began.acquire()
        for _ in range(30):
            watcher.look()
        looked.release()

    other = threading.Thread(target=look)
    other.start()
    this, ident = threading.get_ident(), threading.get_ident
    ends: list[bool] = []

    def slow_ident() -> int:
        """The first thing that the end of an activation does."""
        if ident() == this and sys._getframe(1).f_code is stuck.end.__code__ and not ends:
            ends.append(True)
            began.release()
            looked.acquire()
        return ident()

    @workflow
    async def quick() -> str:
        return "fine"

    monkeypatch.setattr(threading, "get_ident", slow_ident)
    scenario = Scenario(quick)
    scenario.do()
    other.join()
    assert ends
    assert result(scenario) == "fine"


@pytest.mark.usefixtures("impatient")
def test_a_clean_up_that_never_waits_is_ended_by_an_eviction() -> None:
    @workflow
    async def messy() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            while True:
                pass

    scenario = Scenario(messy)
    scenario.do()
    run = scenario.run
    run.evict()
    assert run.broken

    @workflow
    async def quick() -> str:
        return "fine"

    after = Scenario(quick)
    after.do()
    assert result(after) == "fine"
