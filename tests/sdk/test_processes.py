"""Programs that activities run: real ones, whose groups are looked at by pid."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import select
import selectors
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from perdure import ProcessFailed, ProcessResult, activity, workflow
from perdure.clock import SECOND
from perdure.errors import ApplicationError
from perdure.limits import PROCESS_ERROR_OUTPUT, PROCESS_LINE, PROCESS_OUTPUT, PROCESS_POLL
from perdure.model.tasks import (
    ActivityCancellation,
    ActivityCompletion,
    ActivityEvicted,
    ActivityFailure,
    ActivityHeartbeat,
    CancelActivity,
)
from perdure.sdk.activity import groups, processes
from perdure.sdk.failures import exception_of, failure_of
from tests.sdk.attempts import Bench
from tests.sdk.harness import Scenario, fresh_registry

__all__ = ["fresh_registry"]

ENDLESS = """
import os, signal, subprocess, sys, threading
mode, fifo = sys.argv[1:3]
def end(*_):
    print("ending", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "deaf" else end)
if len(sys.argv) == 3:
    child = subprocess.Popen([sys.executable, __file__, mode, fifo, "child"])
    print(os.getpid(), child.pid, flush=True)
    child.wait()
    signal.pause()
else:
    with open(fifo, "w") as ready:
        ready.write("ready")
    while True:
        signal.pause()
"""
"""Starts a child that is like itself, and never ends. Says both pids; the fifo tells when both are set up."""

LEADER = "import os, subprocess, sys; os.setpgid(0, 0); sys.exit(subprocess.call(sys.argv[1:]))"
"""Runs a program in a group of its own, as coreutils' `timeout` does."""


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.executor.stop(grace=30)


class Endless:
    """A program that never ends by itself, and what it has written."""

    def __init__(self, folder: Path, mode: str = "polite", *, apart: bool = False) -> None:
        script = folder / "endless.py"
        script.write_text(ENDLESS)
        self.fifo = folder / "fifo"
        os.mkfifo(self.fifo)
        self.args = (*(python(LEADER) if apart else ()), sys.executable, str(script), mode, str(self.fifo))

    async def ready(self) -> None:
        """Wait until it and its child are set up."""
        await asyncio.to_thread(self.fifo.read_text)


class Lines(logging.Handler):
    """The lines that were logged, with what they carry."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    def pids(self) -> list[int]:
        """The first line of an endless program."""
        (found,) = (match for text in self.texts if (match := re.search(r": (\d+) (\d+)$", text)))
        return [int(pid) for pid in found.groups()]


@pytest.fixture
def lines() -> object:
    logger, lines = logging.getLogger("perdure.activity"), Lines()
    before = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    yield lines
    logger.setLevel(before)
    logger.removeHandler(lines)


def assert_gone(*pids: int) -> None:
    """Wait for the end of processes that are nobody's children here."""
    for pid in pids:
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            assert select.select([process], [], [], 30)[0], f"process {pid} goes on"
        finally:
            os.close(process)


def python(code: str) -> tuple[str, str, str]:
    return sys.executable, "-c", code


# --- Results --------------------------------------------------------------------------------------------
async def test_a_program_gives_its_output_and_logs_it(bench: Bench, lines: Lines) -> None:
    code = "import sys; print('a'); print('b\\r'); print(input(), end=''); print('oops', file=sys.stderr); sys.exit(3)"

    async def run() -> ProcessResult:
        return await activity.run_process(*python(code), input="typed\n", check=False, log_level=logging.WARNING)

    bench.start(run)
    message = await bench.node.message(ActivityCompletion)
    for said in (b'"returncode":3', b'"stdout":"a\\nb\\r\\ntyped"', b'"stderr":"oops\\n"', b'"truncated":false'):
        assert said in message.result.data
    name = Path(sys.executable).name
    assert [text for text in lines.texts if "oops" not in text] == [f"{name}: a", f"{name}: b", f"{name}: typed"]
    (oops,) = (record for record in lines.records if "oops" in record.getMessage())
    facts = oops.__dict__
    assert (facts["stream"], facts["activity_type"], facts["workflow_id"], oops.levelname) == (
        "stderr", "run", "wf", "WARNING"
    )  # fmt: skip


async def test_a_plain_function_runs_one_from_its_thread(bench: Bench) -> None:
    def run(folder: str) -> str:
        env = {"GREETING": "hello"}
        code = "import os; print(os.environ['GREETING'], os.getcwd())"
        return activity.run_process_sync(*python(code), cwd=folder, env=env).stdout

    bench.start(run, "/")
    assert (await bench.node.message(ActivityCompletion)).result.data == b'"hello /\\n"'


async def test_outside_an_activity_it_works_as_well() -> None:
    assert (await activity.run_process("echo", Path("x"))).stdout == "x\n"
    assert activity.run_process_sync("true").returncode == 0
    activity.logger.info("outside")


async def test_a_failure_tells_the_end_of_the_output_and_no_arguments(bench: Bench) -> None:
    code = "import sys; print('fine'); print('no such region', file=sys.stderr); sys.exit(3)"

    async def run() -> None:
        await activity.run_process(*python(code), "secret")

    bench.start(run)
    failure = (await bench.node.message(ActivityFailure)).failure
    assert failure.message == f"{Path(sys.executable).name} exited with code 3: no such region"
    error = exception_of(failure)
    assert isinstance(error, ProcessFailed)
    assert (error.returncode, error.output) == (3, "no such region")


@pytest.mark.parametrize("beyond", [0, 1])
async def test_the_end_of_the_output_stands_in_the_error(beyond: int) -> None:
    code = f"import sys; sys.stderr.write('<' + 'x' * {PROCESS_ERROR_OUTPUT + beyond - 2} + '>'); sys.exit(3)"
    with pytest.raises(ProcessFailed) as caught:
        await activity.run_process(*python(code))
    output = caught.value.output
    assert len(output) == PROCESS_ERROR_OUTPUT
    assert (output[0], output[-1]) == ("x" if beyond else "<", ">")
    assert str(caught.value).endswith(f": {output}")


async def test_a_program_ended_by_a_signal() -> None:
    with pytest.raises(ProcessFailed, match="was ended by SIGKILL") as caught:
        await activity.run_process(*python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    assert caught.value.returncode == -signal.SIGKILL
    assert failure_of(caught.value).types[0] == "perdure.errors.ProcessFailed"


async def test_the_end_of_a_long_output_is_kept_and_long_lines_are_logged_in_pieces(lines: Lines) -> None:
    code = f"import sys; sys.stdout.write('x' * {3 * PROCESS_OUTPUT} + 'end')"
    result = await activity.run_process(*python(code))
    assert result.truncated
    assert len(result.stdout) == PROCESS_OUTPUT
    assert result.stdout.endswith("xend")
    assert len(lines.texts) > 10
    assert all(len(text) < PROCESS_LINE + 100_000 for text in lines.texts)


async def test_input_that_nobody_reads_is_no_error() -> None:
    assert (await activity.run_process("true", input=b"x" * 1_000_000)).returncode == 0
    assert len((await activity.run_process("cat", input=b"x" * 1_000_000)).stdout) == 1_000_000


async def test_a_program_that_closes_its_output_is_waited_for() -> None:
    code = "import os; os.close(1); os.close(2); os.read(0, 1)"
    assert (await activity.run_process(*python(code))).stdout == ""


async def test_it_beats_while_it_runs(bench: Bench, tmp_path: Path, lines: Lines) -> None:
    program = Endless(tmp_path)

    async def run() -> None:
        activity.heartbeat("how far")
        await activity.run_process(*program.args)

    task = bench.task(run, heartbeat_timeout=SECOND)
    bench.executor.start(task)
    await program.ready()
    while sum(isinstance(message, ActivityHeartbeat) for message in bench.node.messages) < 3:
        await bench.node.count(len(bench.node.messages) + 1)
    assert all(m.details[0].data == b'"how far"' for m in bench.node.messages if isinstance(m, ActivityHeartbeat))
    bench.executor.cancel(CancelActivity(task.token, "cancel_requested"))
    await bench.node.message(ActivityCancellation)


@pytest.mark.parametrize("closed", ["", "os.close(1); os.close(2); "])
def test_whether_it_is_still_wanted_is_looked_at_again_and_again(closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while it says nothing: nothing that is waited for takes longer."""
    waits: list[float] = []
    looks: list[int] = []
    select, wait = selectors.DefaultSelector.select, subprocess.Popen[bytes].wait

    def selected(self: selectors.DefaultSelector, timeout: float | None = None) -> object:
        waits.append(timeout or 0)
        return select(self, timeout)

    def waited(self: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        waits.append(timeout or 0)
        return wait(self, timeout)

    def is_unwanted() -> bool:
        looks.append(sum(waited > 0 for waited in waits))
        return len(looks) == 5

    monkeypatch.setattr(selectors.DefaultSelector, "select", selected)
    monkeypatch.setattr(subprocess.Popen, "wait", waited)
    silent = processes.Program([*python(f"import os, signal; {closed}signal.pause()")])
    result = processes._Running(silent, None, is_unwanted).run()
    assert result.returncode == -signal.SIGTERM
    assert looks == [1, 2, 3, 4, 5], "once each time"
    assert {waited for waited in waits if waited} == {PROCESS_POLL / SECOND}


# --- Ends -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["polite", "deaf"])
@pytest.mark.parametrize("kind", ["async", "plain"])
@pytest.mark.parametrize("apart", [False, True])
async def test_a_cancelled_attempt_ends_the_whole_group(
    bench: Bench, tmp_path: Path, lines: Lines, mode: str, kind: str, apart: bool
) -> None:
    program = Endless(tmp_path, mode, apart=apart)
    grace = 0.3 if mode == "deaf" else 60

    async def run() -> None:
        await activity.run_process(*program.args, grace=grace)

    def run_plain() -> None:
        activity.run_process_sync(*program.args, grace=grace)

    function: Callable[[], object] = run if kind == "async" else run_plain
    token = bench.start(function)
    await program.ready()
    bench.executor.cancel(CancelActivity(token, "cancel_requested"))
    assert await bench.node.message(ActivityCancellation) == ActivityCancellation(token)
    assert_gone(*lines.pids())
    assert "".join(lines.texts).count("ending") == (2 if mode == "polite" else 0)


async def test_what_an_activity_leaves_running_ends_with_it(bench: Bench, tmp_path: Path, lines: Lines) -> None:
    """As where one of several programs has failed."""
    program = Endless(tmp_path)
    left: list[asyncio.Task[object]] = []
    go = asyncio.Event()

    async def fail() -> None:
        await go.wait()
        raise ValueError("the other program")

    async def run() -> None:
        left.append(asyncio.create_task(activity.run_process(*program.args)))
        await asyncio.gather(left[0], fail())

    bench.start(run)
    await program.ready()
    go.set()
    assert (await bench.node.message(ActivityFailure)).failure.message == "the other program"
    with pytest.raises(asyncio.CancelledError, match="its activity has ended"):
        await left[0]
    assert_gone(*lines.pids())


@pytest.mark.parametrize("reason", ["timed_out", "stop"])
@pytest.mark.parametrize("apart", [False, True])
async def test_timeouts_and_a_stop_of_the_worker_end_it(
    bench: Bench, tmp_path: Path, lines: Lines, reason: str, apart: bool
) -> None:
    program = Endless(tmp_path, apart=apart)

    async def run() -> None:
        await activity.run_process(*program.args)

    token = bench.start(run)
    await program.ready()
    if reason == "stop":
        await bench.executor.stop()
    else:
        bench.executor.cancel(CancelActivity(token, reason))
    assert await bench.node.message(ActivityEvicted) == ActivityEvicted(token)
    assert_gone(*lines.pids())


@pytest.mark.parametrize("leader", [(), python(LEADER)])
async def test_what_a_program_leaves_behind_is_ended_with_it(lines: Lines, leader: tuple[str, ...]) -> None:
    result = await activity.run_process(*leader, "sh", "-c", "sleep 1000 & echo $!")
    assert_gone(int(result.stdout))


async def test_a_program_that_can_not_be_started_leaves_nothing(bench: Bench) -> None:
    async def run() -> None:
        await activity.run_process("no-such-program")

    bench.start(run)
    failure = (await bench.node.message(ActivityFailure)).failure
    assert failure.types[0] == "builtins.FileNotFoundError"
    assert "no-such-program" in failure.message


WORKER = """
import asyncio, sys
from perdure import activity
if sys.argv[1] == "async":
    asyncio.run(activity.run_process(*sys.argv[2:], grace=0.3))
else:
    activity.run_process_sync(*sys.argv[2:], grace=0.3)
"""


@pytest.mark.parametrize("mode", ["polite", "deaf"])
@pytest.mark.parametrize("kind", ["async", "plain"])
@pytest.mark.parametrize("apart", [False, True])
def test_the_death_of_the_worker_leaves_no_orphan(tmp_path: Path, mode: str, kind: str, apart: bool) -> None:
    program = Endless(tmp_path, mode, apart=apart)
    worker = subprocess.Popen(
        [sys.executable, "-c", "import logging; logging.basicConfig(level='INFO')\n" + WORKER, kind, *program.args],
        stderr=subprocess.PIPE,
        text=True,
    )
    program.fifo.read_text()
    worker.send_signal(signal.SIGKILL)
    _, logged = worker.communicate()
    found = re.search(r": (\d+) (\d+)$", logged, re.MULTILINE)
    assert found is not None
    assert_gone(*(int(pid) for pid in found.groups()))


def test_the_death_of_a_worker_that_waits_for_the_end_of_groups_ends_them() -> None:
    programs = [subprocess.Popen(["sleep", "1000"], process_group=0) for _ in range(2)]
    gone = subprocess.Popen(["true"], process_group=0)
    gone.wait()
    second = groups.watch(groups.SECOND_WATCHER, *(str(-each.pid) for each in (gone, *programs)))
    assert second.stdin is not None
    second.stdin.close()  # as where the worker dies
    assert [each.wait() for each in programs] == [-signal.SIGKILL] * 2
    groups.reap(second)


# --- Cancelled plain functions --------------------------------------------------------------------------
async def test_a_heartbeat_tells_a_thread_once_that_it_is_cancelled(bench: Bench) -> None:
    begun, told = asyncio.Event(), asyncio.Event()
    said: list[str] = []

    def beat() -> None:
        bench.executor.call_soon_threadsafe(begun.set)
        try:
            while True:
                activity.heartbeat()
        except asyncio.CancelledError as error:
            activity.heartbeat("cleaning up")
            assert activity.is_cancelled()
            said.append(str(error))
            raise
        finally:
            bench.executor.call_soon_threadsafe(told.set)

    token = bench.start(beat)
    await begun.wait()
    bench.executor.cancel(CancelActivity(token, "cancel_requested"))
    await told.wait()
    assert await bench.node.message(ActivityCancellation) == ActivityCancellation(token)
    assert said == ["activity 'beat' is not wanted any more"]


async def test_a_thread_of_a_coroutine_is_told_and_the_coroutine_itself_is_not_told_twice(bench: Bench) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    def work() -> None:
        bench.executor.call_soon_threadsafe(begun.set)
        try:
            while True:
                activity.heartbeat()
        finally:
            bench.executor.call_soon_threadsafe(ended.set)

    async def run() -> None:
        try:
            await asyncio.to_thread(work)
        finally:
            activity.heartbeat("cleaning up")

    token = bench.start(run)
    await begun.wait()
    bench.executor.cancel(CancelActivity(token, "cancel_requested"))
    assert await bench.node.message(ActivityCancellation) == ActivityCancellation(token)
    await ended.wait()


# --- Bad input ------------------------------------------------------------------------------------------
async def test_what_can_not_be_run_is_refused() -> None:
    with pytest.raises(ValueError, match="run_process needs a program"):
        await activity.run_process()
    with pytest.raises(
        TypeError, match="argument 1 of run_process must be text or a path, not list: one for each word"
    ):
        await activity.run_process(["ls", "-l"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="argument 2 of run_process must be text or a path, not int"):
        activity.run_process_sync("sleep", 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="grace"):
        activity.run_process_sync("true", grace="soon")
    with pytest.raises(TypeError, match="env of run_process must map text to text, not 'DEPTH' to int"):
        await activity.run_process("env", env={"DEPTH": 1})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="input of run_process must be text or bytes, not int"):
        await activity.run_process("cat", input=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_what_would_block_the_loop_is_refused(bench: Bench) -> None:
    async def run() -> str:
        with pytest.raises(RuntimeError, match=r"in an `async def`, `await activity\.run_process\(…\)`"):
            activity.run_process_sync("true")
        in_a_thread = await asyncio.to_thread(activity.run_process_sync, "echo", "hi")
        return in_a_thread.stdout

    bench.start(run)
    assert (await bench.node.message(ActivityCompletion)).result.data == b'"hi\\n"'


def test_a_workflow_can_not_run_a_program() -> None:
    @workflow(failure_exceptions=(ApplicationError,))
    async def flow() -> None:
        await activity.run_process("true")

    assert "do it in an activity" in Scenario(flow).broken().message


def test_what_goes_on_writing_does_not_keep_a_program_that_has_ended() -> None:
    ended = activity.run_process_sync("sh", "-c", "echo up; yes & exit 3", check=False)
    assert ended.returncode == 3
