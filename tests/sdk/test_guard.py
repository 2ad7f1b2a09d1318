# ruff: noqa: ASYNC230, ASYNC240, PLW0108 - what is tested here is code that should not be written
"""What workflow code can't repeat is stopped, with the line and the way out; what is harmless passes."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import json
import logging
import os
import queue
import random
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from operator import methodcaller
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from perdure import workflow
from perdure.errors import GuardError
from tests.sdk.harness import (
    Scenario,
    check_replay,
    fetch,
    result,
)
from tests.sdk.harness import (
    fresh_registry as fresh_registry,
)

HERE = Path(__file__)


def refusal(do: Callable[[], object]) -> str:
    """What a workflow that does something is told."""

    @workflow
    async def careless() -> None:
        do()

    failure = Scenario(careless).broken()
    assert failure.types[0] == "perdure.errors.GuardError"
    return failure.message


REFUSED: list[tuple[Callable[[], object], str, str]] = [
    (lambda: open(HERE), "opening", "activity"),  # noqa: SIM115
    (HERE.read_text, "opening", "activity"),
    (lambda: os.listdir("."), "os.listdir()", "activity"),
    (lambda: HERE.unlink(), "os.remove()", "activity"),
    (lambda: socket.getaddrinfo("localhost", 1), "network", "activity"),
    (socket.socket, "network", "activity"),
    (lambda: subprocess.run(["true"], check=False), "starting a process", "activity"),
    (lambda: os.posix_spawn("/bin/true", ["true"], {}), "starting a process", "activity"),
    (lambda: subprocess.run(["true"], check=False, capture_output=True), "starting a process", "activity"),
    (lambda: ThreadPoolExecutor().submit(print), "running something in a thread", "asyncio"),
    (lambda: threading.Thread(target=print).start(), "starting a thread", "asyncio"),
    (lambda: threading.Event().wait(), "waiting for another thread", "asyncio"),
    (lambda: queue.Queue[int]().get(), "waiting for another thread", "asyncio"),
    (lambda: Future[int]().result(), "waiting for another thread", "asyncio"),
    (lambda: methodcaller("sleep", 1)(time), "sleeping in real time", "asyncio.sleep"),
    (lambda: os.urandom(4), "randomness", "uuid.uuid4()"),
    (lambda: os.getrandom(4), "randomness", "uuid.uuid4()"),
    (lambda: logging.FileHandler(HERE), "opening", "activity"),
    (lambda: secrets.token_hex(), "randomness", "uuid.uuid4()"),
    (lambda: random.SystemRandom().random(), "randomness", "uuid.uuid4()"),
    (lambda: uuid.uuid1(), "uuid1()", "uuid.uuid4()"),
    (lambda: os.putenv("A", "b"), "environment", "activity"),
    (lambda: select.select([], [], [], 0), "waiting for files and sockets", "activity"),
    (lambda: select.poll(), "waiting for files and sockets", "activity"),
    (lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN), "the process's signals", "activity"),
    (lambda: signal.setitimer(signal.ITIMER_REAL, 0), "the process's signals", "activity"),
    (lambda: os.waitpid(-1, os.WNOHANG), "waiting for a process", "activity"),
    (lambda: os.wait(), "waiting for a process", "activity"),
]  # fmt: skip


IN_PLAIN: list[tuple[Callable[[], object], str]] = [
    (lambda: threading.Thread(target=print).start(), "`.map(…)`"),
    (lambda: ThreadPoolExecutor().submit(print), "`.map(…)`"),
    (lambda: threading.Event().wait(), "workflow.block(workflow.wait_until(…))"),
    (lambda: queue.Queue[int]().get(), "workflow.block(workflow.receive(…))"),
    (lambda: open(HERE), "activity"),  # noqa: SIM115
]


@pytest.mark.parametrize(("do", "instead"), IN_PLAIN)
def test_a_plain_workflow_is_told_what_it_can_use(do: Callable[[], object], instead: str) -> None:
    @workflow
    def careless() -> None:
        do()

    said = Scenario(careless).broken().message
    assert said.startswith(f"{HERE}:")
    assert instead in said
    assert "asyncio" not in said


@pytest.mark.parametrize(("do", "what", "instead"), REFUSED)
def test_it_is_stopped_and_says_where_and_what_to_do(do: Callable[[], object], what: str, instead: str) -> None:
    said = refusal(do)
    place, _, told = said.partition(": ")
    file, line = place.rsplit(":", 1)
    assert Path(file) == HERE, said
    assert int(line) > 0
    assert what in told
    assert instead in told


IN_AN_ACTIVITY = "Do it in an activity"
REFUSED_LOOP: list[tuple[Callable[[asyncio.AbstractEventLoop], object], str, str]] = [
    (lambda loop: loop.run_in_executor(None, print), "in a thread", "activities for what computes"),
    (lambda loop: loop.create_connection(asyncio.Protocol), "the network", IN_AN_ACTIVITY),
    (lambda loop: loop.subprocess_shell(asyncio.SubprocessProtocol, "ls"), "starting a process", "run_process"),
    (lambda loop: loop.add_reader(0, print), "waiting for files and sockets", IN_AN_ACTIVITY),
    (lambda loop: loop.getaddrinfo("example.org", 80), "the network", IN_AN_ACTIVITY),
    (lambda loop: loop.add_signal_handler(2, print), "signals", IN_AN_ACTIVITY),
    (lambda loop: loop.call_soon_threadsafe(print), "being called by a thread", "Send the workflow a signal"),
    (lambda _: asyncio.to_thread(print), "in a thread", "activities for what computes"),
    (lambda _: asyncio.gather(asyncio.to_thread(print)), "in a thread", "activities for what computes"),
    (lambda _: asyncio.open_connection("example.org", 80), "the network", IN_AN_ACTIVITY),
    (lambda _: asyncio.start_server(print, "localhost", 80), "the network", IN_AN_ACTIVITY),
    (lambda _: asyncio.create_subprocess_exec("ls"), "starting a process", "run_process"),
]  # fmt: skip


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("call", "what", "instead"), REFUSED_LOOP)
def test_what_a_replay_could_not_repeat_is_refused_with_the_line(
    call: Callable[[asyncio.AbstractEventLoop], Any], what: str, instead: str, plain: bool
) -> None:
    @workflow
    async def wrong() -> None:
        await call(asyncio.get_running_loop())  # this line

    @workflow
    def plainly_wrong() -> None:
        workflow.block(call(asyncio.get_running_loop()))  # this line

    failure = Scenario(plainly_wrong if plain else wrong).broken()
    assert failure.types[0] == "perdure.errors.GuardError"
    place, _, said = failure.message.partition(": ")
    file, line = place.rsplit(":", 1)
    source = Path(file).read_text().splitlines()[int(line) - 1]
    assert Path(file) == HERE
    assert "# this line" in source or "lambda loop" in source
    assert what in said
    assert instead in said or (plain and "`.start(…)`" in said)


def place(comment: str) -> str:
    """The line of this file that ends with a comment, as "file:line"."""
    (line,) = (n for n, text in enumerate(HERE.read_text().splitlines(), 1) if text.endswith(f"  # {comment}"))
    return f"{HERE}:{line}"


@pytest.mark.parametrize("make", [asyncio.Lock, asyncio.Semaphore])
def test_a_lock_that_workflows_share_is_refused(make: Callable[[], asyncio.Lock | asyncio.Semaphore]) -> None:
    """Whoever lets it go would set off another workflow's code, while that has no turn."""
    lock = make()

    @workflow
    async def careful() -> None:
        async with lock:  # the lock's line
            await fetch("a")

    first, second = Scenario(careful), Scenario(careful)
    first.do()
    second.do()
    first.complete()
    said = first.broken().message
    line = place("the lock's line")
    assert said.startswith(f"{line}: waking workflow 'flow', which waits at {line}, from outside of it")
    assert "inside the workflow" in said
    again = first.broken().message  # the lock is the other's now, which asyncio says
    assert "different event loop. Make asyncio's locks" in again


def test_waking_a_workflow_from_outside_is_refused_there() -> None:
    event, queue, futures = asyncio.Event(), asyncio.Queue[int](), list[asyncio.Future[int]]()
    tasks: list[asyncio.Task[object]] = []

    @workflow
    async def waits() -> None:
        tasks.append(asyncio.create_task(event.wait()))
        futures.append(asyncio.get_running_loop().create_future())
        await asyncio.gather(futures[0], queue.get(), tasks[0])

    scenario = Scenario(waits)
    scenario.do()
    (future,), (task,) = futures, tasks
    for wake in (
        event.set,
        lambda: queue.put_nowait(1),
        lambda: future.set_result(1),
        lambda: future.set_exception(ValueError),
        future.cancel,
        task.cancel,
        lambda: future.get_loop().call_soon(print),
    ):
        with pytest.raises(GuardError, match=r"test_guard.py:\d+: waking workflow 'flow', which waits at .*signal"):
            wake()
    assert not future.done()
    assert not task.cancelling()


def test_the_line_is_that_of_the_workflow_not_of_the_library() -> None:
    @workflow
    async def careless() -> str:
        return HERE.read_text()  # this line

    line = int(Scenario(careless).broken().message.split(":", 2)[1])
    assert "# this line" in HERE.read_text().splitlines()[line - 1]


def test_outside_an_activation_nothing_is_changed(tmp_path: Path) -> None:
    Scenario(_quiet())  # the guard is there
    (tmp_path / "file").write_text("x")
    assert (tmp_path / "file").read_text() == "x"
    assert len(os.urandom(3)) == 3
    time.sleep(0)
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert random.Random(5).random() == random.Random(5).random()
    assert random.Random().random() != random.Random().random()
    assert time.strftime("%Y") == time.strftime("%Y", time.localtime())


def _quiet() -> Any:
    @workflow
    async def quiet() -> None:
        pass

    return quiet


def test_imports_logging_and_pure_code_pass(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "perdure_guarded_module.py").write_text(
        "import os, pathlib\nTEXT: str = str(os.listdir('.')) + pathlib.Path(__file__).read_text()\n"
    )
    handler = logging.FileHandler(tmp_path / "log", delay=True)  # it opens its file when the first line comes
    logger = logging.getLogger("tests.guard")
    logger.addHandler(handler)

    @workflow
    async def harmless() -> list[object]:
        text: str = importlib.import_module("perdure_guarded_module").TEXT

        try:
            raise ValueError("x")
        except ValueError:
            logger.exception("a line with the source of another")
        zone = ZoneInfo.no_cache("Europe/Zurich")
        noon = workflow.now().astimezone(zone).tzname() in ("CET", "CEST")
        return [bool(text), json.loads("[1]"), sorted([2, 1]), str(Path("a") / "b"), noon]

    sys.path.insert(0, str(tmp_path))
    try:
        scenario = Scenario(harmless)
        scenario.do()
        assert result(scenario) == [True, [1], [1, 2], "a/b", True]
    finally:
        sys.path.remove(str(tmp_path))
        logger.removeHandler(handler)
        handler.close()
    assert "a line with the source" in (tmp_path / "log").read_text()


def test_what_is_installed_can_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stopped that would be taken for an empty folder, in the whole process, too."""
    (tmp_path / "guarded-1.2.dist-info").mkdir()
    (tmp_path / "guarded-1.2.dist-info" / "METADATA").write_text("Name: guarded\nVersion: 1.2\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    @workflow
    async def asks() -> str:
        return importlib.metadata.version("guarded")

    scenario = Scenario(asks)
    scenario.do()
    assert result(scenario) == importlib.metadata.version("guarded") == "1.2"


def test_what_only_reads_the_time_repeats() -> None:
    @workflow
    async def times() -> list[object]:
        first = [
            time.perf_counter(), time.process_time_ns(), time.gmtime(), time.ctime(), time.asctime(),
            time.strftime("%H:%M:%S"), time.localtime(0)[0], random.Random().random(),
            time.clock_gettime(time.CLOCK_REALTIME), time.clock_gettime_ns(time.CLOCK_MONOTONIC),
        ]  # fmt: skip
        await asyncio.sleep(100)
        return [first, time.strftime("%H:%M:%S"), time.gmtime()]

    scenario = Scenario(times)
    scenario.do()
    scenario.fire()
    scenario.do()
    told = result(scenario)
    assert isinstance(told, list)
    check_replay(scenario)


def test_what_code_catches_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """It is an ordinary exception; code that catches everything goes on without what it wanted."""

    @workflow
    async def stubborn() -> str:
        caught: object = None
        for _ in range(2):
            try:
                HERE.read_bytes()  # the caught line
            except Exception as error:
                caught = error
        await fetch("a")
        return str(caught)

    told: object = None
    for _ in range(2):
        scenario = Scenario(stubborn, live=False)
        scenario.do()
        scenario.complete()
        scenario.do()
        told = result(scenario)
        assert isinstance(told, str)
        assert told.startswith(place("the caught line"))
    (warning,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert warning.getMessage().startswith(f"{told}. The workflow's code went on all the same")


@pytest.mark.parametrize("grouped", [False, True])
def test_what_fails_the_task_is_told_of_there_only(caplog: pytest.LogCaptureFixture, grouped: bool) -> None:
    async def careless() -> None:
        open(HERE)  # noqa: SIM115

    @workflow
    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(careless())

    @workflow
    async def alone() -> None:
        await careless()

    Scenario(group if grouped else alone).broken()
    assert not caplog.records


def test_what_code_catches_while_it_is_evicted_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    @workflow
    async def cleans() -> None:
        try:
            await fetch("a")
        finally:
            HERE.with_suffix(".lock").unlink()  # the last line

    scenario = Scenario(cleans)
    scenario.do()
    scenario.run.evict()
    assert caplog.records[0].getMessage().startswith(f"{place('the last line')}: os.remove() can't be repeated")
