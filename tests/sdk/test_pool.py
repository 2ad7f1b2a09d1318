"""CPU-bound activities in processes: real ones."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest

from perdure import activity, embedded
from perdure.clock import SECOND
from perdure.embedded import Embedded
from perdure.limits import MAX_ACTIVITY_PROCESSES, PROCESS_LAST_WORDS
from perdure.model.payloads import Payload
from perdure.model.tasks import (
    ActivityCancellation,
    ActivityCompletion,
    ActivityDetached,
    ActivityEvicted,
    ActivityFailure,
    ActivityHeartbeat,
    ActivityToken,
    CancelActivity,
)
from perdure.sdk.activity import pool
from perdure.sdk.activity.api import definition_of
from perdure.sdk.activity.executor import ActivityExecutor
from perdure.sdk.failures import exception_of
from perdure.sdk.registry import REGISTRY
from tests.sdk import crunching
from tests.sdk.attempts import RUN, Bench
from tests.sdk.test_processes import Lines, assert_gone, lines

__all__ = ["lines"]


class PoolBench(Bench):
    """With a pool of processes, and the activities of `crunching`."""

    def __init__(self, processes: int | None) -> None:
        super().__init__()
        self.executor = ActivityExecutor(self.definitions, self.node.send, slots=10, processes=processes)
        self.definitions.update({k: v for k, v in REGISTRY.activities.items() if k.startswith("crunching.")})

    def run(self, function: object, *args: object) -> ActivityToken:
        return self.start(definition_of(function).name, *args)


@pytest.fixture
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[PoolBench]:
    bench = PoolBench(getattr(request, "param", None))
    yield bench
    await bench.executor.stop(grace=30)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


async def test_it_runs_in_another_process_which_is_kept(bench: PoolBench) -> None:
    for number in (1, 2):
        bench.run(crunching.pid)
        await bench.node.count(number)
    first, second = bench.node.messages
    assert isinstance(first, ActivityCompletion) and isinstance(second, ActivityCompletion)
    assert first.result == second.result != Payload(str(os.getpid()).encode())
    await bench.executor.stop(grace=0)
    assert_gone(int(first.result.data))


@pytest.mark.parametrize("bench", [1], indirect=True)
async def test_there_are_no_more_processes_than_the_pool_has(bench: PoolBench) -> None:
    for _ in range(3):
        bench.run(crunching.pid)
    await bench.node.count(3)
    pids = {message.result for message in bench.node.messages if isinstance(message, ActivityCompletion)}
    assert len(pids) == 1


async def test_it_is_told_of_its_attempt_and_tells_of_it(bench: PoolBench, lines: Lines) -> None:
    bench.executor.start(bench.task("crunching.tells", "x", heartbeat_timeout=3600 * SECOND))
    message = await bench.node.message(ActivityCompletion)
    assert message.result == Payload(b'"crunching.tells 1 x"')
    beats = [each for each in bench.node.messages if isinstance(each, ActivityHeartbeat)]
    assert beats[0].details == (Payload(b"0"),)
    (record,) = lines.records
    assert (record.getMessage(), record.funcName, record.levelname) == ("about x", "tells", "INFO")
    assert Path(record.pathname).name == "crunching.py"
    facts = record.__dict__
    assert (facts["activity_type"], facts["workflow_id"], facts["shade"]) == ("crunching.tells", "wf", "blue")
    assert "odd" not in facts


async def test_what_it_raises_is_its_failure_after_its_last_heartbeat(bench: PoolBench) -> None:
    bench.run(crunching.fails)
    failure = (await bench.node.message(ActivityFailure)).failure
    assert (failure.types[0], failure.message) == ("builtins.LookupError", "no luck")
    assert "crunching.py" in failure.location
    *_, last, _ = bench.node.messages
    assert isinstance(last, ActivityHeartbeat) and last.details == (Payload(b'"last"'),)


@pytest.mark.parametrize(
    ("how", "words"), [(3, "exited with code 3"), (-9, "was ended by SIGKILL"), (-11, "was ended by SIGSEGV")]
)
async def test_a_process_that_dies_is_a_failure_of_its_attempt_only(bench: PoolBench, how: int, words: str) -> None:
    bench.run(crunching.dies, how)
    bench.run(crunching.square, 12)
    error = exception_of((await bench.node.message(ActivityFailure)).failure)
    assert str(error) == f"the process of activity 'crunching.dies' {words}"
    assert vars(error)["returncode"] == how
    assert (await bench.node.message(ActivityCompletion)).result == Payload(b"144")


async def test_one_that_closes_its_end_and_goes_on_is_ended(
    bench: PoolBench, fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float | None] = []
    wait = subprocess.Popen[bytes].wait

    def waited(self: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        waits.append(timeout)
        return wait(self, timeout and timeout / 20)

    monkeypatch.setattr(subprocess.Popen, "wait", waited)
    bench.run(crunching.falls_silent, str(fifo))
    pid = int(await asyncio.to_thread(fifo.read_text))
    try:
        async with asyncio.timeout(30):
            failure = (await bench.node.message(ActivityFailure)).failure
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)  # since nothing else does
        raise
    assert failure.message.endswith("was ended by SIGKILL")
    assert waits[0] == PROCESS_LAST_WORDS / SECOND


async def test_an_idle_process_that_has_died_is_replaced(bench: PoolBench) -> None:
    bench.run(crunching.pid)
    pid = int((await bench.node.message(ActivityCompletion)).result.data)
    os.kill(pid, 9)
    assert_gone(pid)
    bench.run(crunching.square, 3)
    await bench.node.count(2)
    assert bench.node.messages[1] == ActivityCompletion(ActivityToken(RUN, 2, 1), Payload(b"9"))


async def test_leaving_python_is_a_failure(bench: PoolBench) -> None:
    bench.run(crunching.exits)
    assert (await bench.node.message(ActivityFailure)).failure.types[0] == "builtins.SystemExit"


@pytest.mark.parametrize(
    ("how", "kind"),
    [("raises", ActivityCancellation), ("beats", ActivityCancellation), ("returns", ActivityCompletion)],
)
async def test_it_is_asked_to_stop(
    bench: PoolBench, fifo: Path, how: str, kind: type[ActivityCancellation | ActivityCompletion]
) -> None:
    token = bench.run(crunching.until_cancelled, how, str(fifo))
    await asyncio.to_thread(fifo.read_text)
    bench.executor.cancel(CancelActivity(token, "cancel_requested"))
    assert (await bench.node.message(kind)).token == token
    bench.run(crunching.square, 3)  # in the same process, which is not told again
    await bench.node.count(len(bench.node.messages) + 1)
    assert isinstance(bench.node.messages[-1], ActivityCompletion)


@pytest.mark.parametrize("reason", ["cancel_requested", "timed_out", "stop"])
async def test_one_that_does_not_stop_is_ended_with_its_group(
    bench: PoolBench, fifo: Path, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "PROCESS_GRACE", SECOND // 20)
    token = bench.run(crunching.deaf, str(fifo))
    pids = [int(pid) for pid in (await asyncio.to_thread(fifo.read_text)).split()]
    if reason == "stop":
        await bench.executor.stop(grace=30)
    else:
        bench.executor.cancel(CancelActivity(token, reason))
    kind = ActivityCancellation if reason == "cancel_requested" else ActivityEvicted
    assert (await bench.node.message(kind)).token == token
    assert_gone(*pids)


async def test_one_that_has_not_begun_is_cancelled_at_once(bench: PoolBench) -> None:
    token = bench.run(crunching.square, 1)
    bench.executor.cancel(CancelActivity(token, "cancel_requested"))
    assert bench.node.messages == [ActivityCancellation(token)]


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Those of the processes that are started."""
    groups: list[int] = []

    def watch(script: str, argument: str) -> subprocess.Popen[bytes]:
        watcher = watched(script, argument)
        groups.append(watcher.pid)
        return watcher

    watched = pool.watch
    monkeypatch.setattr(pool, "watch", watch)
    return groups


@pytest.fixture
def connecting(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """A process is being connected."""
    connecting = asyncio.Event()

    async def open_connection(*, sock: socket.socket) -> object:
        connecting.set()
        return await connected(sock=sock)

    connected = asyncio.open_connection
    monkeypatch.setattr(asyncio, "open_connection", open_connection)
    return connecting


@pytest.mark.parametrize("stops", [False, True])
async def test_one_that_is_not_wanted_while_its_process_is_connected_leaves_nothing(
    bench: PoolBench, groups: list[int], connecting: asyncio.Event, stops: bool
) -> None:
    token = bench.run(crunching.square, 1)
    await connecting.wait()
    if not stops:
        bench.executor.cancel(CancelActivity(token, "cancel_requested"))
        assert await bench.node.message(ActivityCancellation) == ActivityCancellation(token)
    await bench.executor.stop(grace=0)
    (group,) = groups
    assert_gone(group)


async def test_a_process_that_could_not_be_told_of_its_attempt_is_ended(
    bench: PoolBench, groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def frame(message: object) -> bytes:
        raise OverflowError("too large")

    with monkeypatch.context() as patched:
        patched.setattr(pool, "frame", frame)
        bench.run(crunching.square, 1)
        assert (await bench.node.message(ActivityFailure)).failure.message == "too large"
    assert_gone(*groups)


@pytest.mark.parametrize("bench", [1], indirect=True)
async def test_one_that_waits_for_a_process_at_the_end_has_not_begun(
    bench: PoolBench, fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "PROCESS_GRACE", SECOND // 20)
    begun = bench.run(crunching.deaf, str(fifo))
    await asyncio.to_thread(fifo.read_text)
    waits = bench.run(crunching.square, 3)
    await asyncio.sleep(0)
    await bench.executor.stop(grace=30)
    assert bench.node.messages == [ActivityEvicted(waits, begun=False), ActivityEvicted(begun)]


async def test_it_may_be_completed_later(bench: PoolBench) -> None:
    token = bench.run(crunching.later)
    assert await bench.node.message(ActivityDetached) == ActivityDetached(token)


async def test_wrong_arguments_and_results_are_not_tried_again(bench: PoolBench) -> None:
    bench.run(crunching.square, "three")
    failure = (await bench.node.message(ActivityFailure)).failure
    assert failure.kind == "encoding" and failure.non_retryable and "argument 'n'" in failure.message
    bench.node.messages.clear()
    bench.run(crunching.no_result)
    assert (await bench.node.message(ActivityFailure)).failure.kind == "encoding"


async def test_only_what_is_decorated_is_run_and_only_where_it_is(bench: PoolBench) -> None:
    bench.start("crunching.hidden")
    failure = (await bench.node.message(ActivityFailure)).failure
    assert failure.types[0] == "builtins.ImportError"
    assert "finds no activity 'crunching.hidden' as pid of module tests.sdk.crunching" in failure.message


# --- Definitions ----------------------------------------------------------------------------------------
def test_what_can_not_run_in_a_process_is_refused() -> None:
    async def coroutine() -> None: ...

    def local() -> None: ...

    decorate = cast(Callable[..., Callable[[object], object]], activity)
    with pytest.raises(TypeError, match=r"coroutine: executor is for plain functions; an `async def` runs on the"):
        decorate(executor="process")(coroutine)
    with pytest.raises(TypeError, match="move it out of the function that it is in"):
        decorate(executor="process")(local)
    with pytest.raises(ValueError, match='executor must be "thread" or "process", not \'fiber\''):
        decorate(executor="fiber")(local)


async def test_the_size_of_the_pool_is_looked_at() -> None:
    for wrong in (0, MAX_ACTIVITY_PROCESSES + 1):
        with pytest.raises(ValueError, match="max_activity_processes must be between 1 and"):
            embedded(":memory:", max_activity_processes=wrong)
    with pytest.raises(TypeError, match="max_activity_processes must be a whole number, not str"):
        embedded(":memory:", max_activity_processes=cast(int, "3"))
    assert isinstance(embedded(":memory:", max_activity_processes=3), Embedded)


PROGRAM = """
import asyncio, os, sys
from perdure import activity, embedded, workflow

@activity(executor="process")
def crunch(fifo: str) -> int:
    if fifo:
        with open(fifo, "w") as ready:
            ready.write(str(os.getpid()))
        import signal; signal.pause()
    return 42

@workflow
async def crunching(fifo: str) -> int:
    return await crunch.start(fifo)

async def main() -> None:
    async with embedded(":memory:") as client:
        print(await client.run(crunching(sys.argv[1] if len(sys.argv) > 1 else "")))
"""
GUARDED = PROGRAM + '\nif __name__ == "__main__":\n    asyncio.run(main())\n'
ONCE = "(retry_policy=__import__('perdure').RetryPolicy(maximum_attempts=1), executor"
UNGUARDED = PROGRAM.replace("(executor", ONCE) + "\nasyncio.run(main())\n"


def run_program(text: str, folder: Path, *how: str) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(text)
    return subprocess.run([sys.executable, *how], cwd=folder, input=text, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("how", [("program.py",), ("-m", "program")])
def test_an_activity_may_be_in_the_program_itself(tmp_path: Path, how: tuple[str, ...]) -> None:
    done = run_program(GUARDED, tmp_path, *how)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


def test_a_program_that_would_run_again_says_so(tmp_path: Path) -> None:
    done = run_program(UNGUARDED, tmp_path, "program.py")
    assert done.returncode == 1
    assert 'put what the program runs under `if __name__ == "__main__":`' in done.stderr


@pytest.mark.parametrize("how", [("-c", GUARDED), ("-",), ("/dev/stdin",)])
def test_a_program_without_a_file_can_not_have_one(tmp_path: Path, how: tuple[str, ...]) -> None:
    done = run_program(GUARDED, tmp_path, *how)
    assert "there is none of this program: put the function into a module" in done.stderr


def test_the_death_of_the_worker_leaves_no_orphan(tmp_path: Path, fifo: Path) -> None:
    (tmp_path / "program.py").write_text(GUARDED)
    worker = subprocess.Popen([sys.executable, "program.py", str(fifo)], cwd=tmp_path, stderr=subprocess.DEVNULL)
    pid = int(fifo.read_text())
    worker.kill()
    worker.wait()
    assert_gone(pid)
