"""Workflow code that never yields is interrupted, and its task fails; what merely takes many steps is not."""

from __future__ import annotations

import asyncio
import itertools
import operator
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure import GuardError, workflow
from perdure.limits import MILLISECOND
from perdure.model.failures import Failure
from perdure.sdk.worker.worker import Worker
from perdure.sdk.workflow import stuck
from tests.sdk.fake_service import ScriptedService
from tests.sdk.harness import Scenario, result
from tests.sdk.harness import fresh_registry as fresh_registry


@pytest.fixture
def impatient() -> Iterator[stuck.Watcher]:
    watcher = stuck.Watcher(tolerated=40 * MILLISECOND, restless=100 * MILLISECOND)
    watcher.start()
    yield watcher
    watcher.stop()


def others_run() -> None:
    """What was struck is no burden for the workflows that follow."""

    @workflow
    async def quick() -> str:
        return "fine"

    scenario = Scenario(quick)
    scenario.do()
    assert result(scenario) == "fine"


def test_a_loop_that_never_yields_fails_its_task(impatient: stuck.Watcher, caplog: pytest.LogCaptureFixture) -> None:
    @workflow
    async def endless() -> None:
        while True:
            pass

    scenario = Scenario(endless)
    failure = scenario.broken()
    assert failure.types[0].endswith(".GuardError")
    assert "did not come to its next await" in failure.message
    assert "while True:" in failure.traceback or "pass" in failure.traceback
    impatient.stop()  # the code may be struck before it is said
    (line,) = [line for line in caplog.text.splitlines() if line.startswith("  File ")]  # not the program around it
    assert line.endswith("in test_a_loop_that_never_yields_fails_its_task.<locals>.endless")


@pytest.fixture
def waking() -> Iterator[None]:
    """Signals wake this thread, which is the main one."""
    stuck.let_signals_wake()
    yield
    if sys.platform != "win32":
        signal.signal(signal.SIGURG, signal.SIG_DFL)


@pytest.mark.usefixtures("impatient")
def test_it_is_an_error_with_a_public_name() -> None:
    """As what else workflow code may not do; also where the program asks by a query."""

    @workflow
    class Asked:
        async def run(self) -> None:
            await asyncio.Event().wait()

        @workflow.query
        def forever(self) -> None:
            while True:
                pass

    scenario = Scenario(Asked)
    scenario.do()
    failure = scenario.query("forever").failure
    assert failure is not None
    assert failure.types[0] == f"{GuardError.__module__}.GuardError"
    assert failure.message.startswith(f"{__file__}:")
    assert failure.location == failure.message.partition(": ")[0]


@pytest.mark.usefixtures("impatient")
def test_it_counts_also_where_the_code_swallows_it() -> None:
    @workflow
    async def stubborn() -> str:
        async def forever() -> None:
            while True:
                pass

        await asyncio.gather(forever(), return_exceptions=True)
        return "nothing happened"

    assert Scenario(stubborn).broken().types[0].endswith(".GuardError")


def test_a_loop_of_awaits_that_never_wait_fails_its_task(
    impatient: stuck.Watcher, caplog: pytest.LogCaptureFixture
) -> None:
    @workflow
    async def restless() -> None:
        for _ in itertools.count():
            await asyncio.sleep(0)

    failure = Scenario(restless).broken()
    assert failure.types[0].endswith(".GuardError")
    assert failure.message.startswith(f"{__file__}:")
    impatient.stop()
    lines = [line for line in caplog.text.splitlines() if line.startswith("  File ")]
    assert len(lines) == 1 and "restless" in lines[0]


class Pool:
    """What takes a thread's lock that somebody else has."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()

    def take(self) -> str:
        with self.lock:  # this line
            return "taken"


def is_told(failure: Failure) -> None:
    """Whether a failure names the line at which a pool's lock is taken."""
    file, line, _ = failure.message.split(":", 2)
    assert failure.types[0].endswith(".GuardError")
    assert "# this line" in Path(file).read_text().splitlines()[int(line) - 1]
    assert failure.location == f"{file}:{line}"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signals that wake a thread")
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.usefixtures("impatient", "waking")
def test_what_waits_for_a_threads_lock_is_interrupted(plain: bool) -> None:
    pool = Pool()

    @workflow
    async def waits() -> str:
        return pool.take()

    @workflow
    def waits_plainly() -> str:
        return pool.take()

    is_told(Scenario(waits_plainly if plain else waits).broken())
    assert pool.lock.locked()

    others_run()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signals that wake a thread")
async def test_a_worker_sees_to_it_that_the_main_thread_can_be_woken() -> None:
    before = signal.signal(signal.SIGURG, signal.SIG_DFL)
    try:
        worker = Worker(ScriptedService(), workflows=[], activities=[])
        await worker.start()
        await worker.stop()
        assert signal.getsignal(signal.SIGURG) is stuck._awake
    finally:
        signal.signal(signal.SIGURG, before)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_a_signal_handler_of_the_programs_own_is_left_alone() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGURG, lambda signum, _: heard.append(signum))
    try:
        stuck.let_signals_wake()
        signal.raise_signal(signal.SIGURG)
        assert heard == [signal.SIGURG]
    finally:
        signal.signal(signal.SIGURG, before)


def test_what_cannot_be_interrupted_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """In another thread than the main one nothing ends the wait; it is interrupted as soon as it ends."""
    watcher, pool = stuck.Watcher(), Pool()
    begun, failures = threading.Lock(), list[Failure]()
    begun.acquire()

    @workflow
    async def waits() -> str:
        return str([*map(operator.call, (begun.release, pool.lock.acquire))])  # this line: one call into C

    thread = threading.Thread(target=lambda: failures.append(Scenario(waits).broken()))
    thread.start()
    begun.acquire()

    def told_after(looks: int) -> list[str]:
        for _ in range(looks):
            watcher.look()
        return [record.getMessage() for record in caplog.records if "without waiting" in record.getMessage()]

    assert told_after(stuck.LOOKS) == []
    (first,) = told_after(1)
    assert "it is interrupted" in first
    *_, second = told_after(stuck.LOOKS)
    assert "this process must be restarted" in second
    assert "waits" in second
    assert told_after(10 * stuck.LOOKS) == [first, second]
    pool.lock.release()
    thread.join()
    is_told(failures[0])


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
    assert failure.types[0].endswith(".GuardError")

    others_run()


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


def test_a_strike_that_comes_as_the_activation_ends_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    @workflow
    async def quick() -> str:
        return "fine"

    scenario = Scenario(quick)
    loop = scenario.run._loop

    class Striking:
        """The lock of a watcher that had looked before the end began."""

        def locked(self) -> bool:
            return True

        def __enter__(self) -> None:
            loop.struck = "flow.py:7"
            stuck._raise_in(threading.get_ident(), stuck.Stuck)

        def __exit__(self, *_: object) -> None: ...

    with monkeypatch.context() as patch:
        patch.setattr(stuck, "_lock", Striking())
        failure = scenario.broken()
    assert failure.message.startswith("flow.py:7: ")
    assert loop.struck is None
    after = Scenario(quick)
    after.do()
    assert result(after) == "fine"


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
