"""Programs that activities run: `activity.run_process`. Whatever ends an attempt, ends all of what it has started.

A program runs in a process group of its own, which it shares with a watcher (see `groups`). ::

    worker ──pipe──▶ watcher (leads the group)
       └───────────▶ program (is in the group, or leads one of its own) ──▶ its own children
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Final, cast

from perdure.clock import SECOND
from perdure.errors import ProcessFailed
from perdure.limits import (
    HEARTBEAT_INTERVAL_MINIMUM,
    PROCESS_ERROR_OUTPUT,
    PROCESS_GRACE,
    PROCESS_LINE,
    PROCESS_OUTPUT,
    PROCESS_POLL,
)
from perdure.sdk.activity.context import ActivityContext, current
from perdure.sdk.activity.groups import (
    SECOND_WATCHER,
    WATCHER,
    end_group,
    how_it_ended,
    reap,
    signal_group,
    tell,
    watch,
)
from perdure.sdk.activity.logs import OUTSIDE, ActivityLogger

_READ: Final = 64 * 1024
_LAST_READS: Final = 64  # after the end: more than any pipe holds


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """How a program ended.

    args: what was run. returncode: its exit code; negative: the signal that ended it. stdout, stderr: what it wrote,
    of each the end (`limits.PROCESS_OUTPUT`). truncated: whether that is less than all.
    """

    args: list[str]
    returncode: int
    stdout: str
    stderr: str
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Program:
    """What is to be run, and how. grace: seconds between SIGTERM and SIGKILL."""

    args: list[str]
    cwd: str | os.PathLike[str] | None = None
    env: Mapping[str, str] | None = None
    input: bytes | None = None
    check: bool = True
    grace: float = PROCESS_GRACE / SECOND
    log_level: int = logging.INFO


def program(
    args: Sequence[object],
    cwd: str | os.PathLike[str] | None,
    env: Mapping[str, str] | None,
    input: str | bytes | None,
    check: bool,
    grace: int | None,
    log_level: int,
) -> Program:
    """What users say, looked at. Raises TypeError, ValueError."""
    if not args:
        raise ValueError("run_process needs a program to run, as in run_process('terraform', 'apply')")
    words: list[str] = []
    for number, each in enumerate(args, 1):
        if isinstance(each, str | os.PathLike):
            words.append(os.fsdecode(cast("str | os.PathLike[str]", each)))
        else:
            kind = type(each).__name__
            raise TypeError(f"argument {number} of run_process must be text or a path, not {kind}: one for each word")
    for name, value in (env or {}).items():
        if not (isinstance(cast(object, name), str) and isinstance(cast(object, value), str)):
            raise TypeError(f"env of run_process must map text to text, not {name!r} to {type(value).__name__}")
    if not isinstance(cast(object, input), str | bytes | None):
        raise TypeError(f"input of run_process must be text or bytes, not {type(input).__name__}")
    return Program(
        words,
        cwd,
        env,
        input.encode() if isinstance(input, str) else input,
        check,
        (PROCESS_GRACE if grace is None else grace) / SECOND,
        log_level,
    )


def run_blocking(program: Program) -> ProcessResult:
    """Run a program from a thread, until it ends or the attempt is cancelled."""
    attempt = current()
    if attempt is not None and not attempt.in_thread(threading.get_ident()):
        raise RuntimeError(
            "run_process_sync would block the worker's event loop: in an `async def`, `await activity.run_process(…)`"
        )
    running = _Running(program, attempt, lambda: attempt is not None and (attempt.cancelled or attempt.ended))
    result = running.run()
    if running.stopping:
        raise asyncio.CancelledError(f"{_name(program)} was stopped, since its activity is not wanted any more")
    return _checked(program, result)


async def run(program: Program) -> ProcessResult:
    """Run a program from a task, until it ends, the task is cancelled, or its activity has ended without it; its end is
    waited for in all cases."""
    loop, attempt = asyncio.get_running_loop(), current()
    ended: asyncio.Future[ProcessResult] = loop.create_future()
    stop = threading.Event()
    running = _Running(program, attempt, lambda: stop.is_set() or (attempt is not None and attempt.ended))

    def work() -> None:
        try:
            settle = partial(ended.set_result, running.run())
        except BaseException as error:
            settle = partial(ended.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle)

    # A daemon: a program that can't be ended must not keep this process from ending. Then the watcher sees to it.
    context = contextvars.copy_context()
    name = f"perdure-process-{_name(program)}"
    threading.Thread(target=lambda: context.run(work), name=name, daemon=True).start()
    cancelled: asyncio.CancelledError | None = None
    while not ended.done():
        try:
            await asyncio.wait([ended])
        except asyncio.CancelledError as error:
            cancelled = error
            stop.set()
    if cancelled is not None:
        ended.exception()  # it is looked at, so that nobody complains
        raise cancelled
    if running.stopping:
        raise asyncio.CancelledError(f"{_name(program)} was stopped, since its activity has ended")
    return _checked(program, ended.result())


def _name(program: Program) -> str:
    return Path(program.args[0]).name


def _checked(program: Program, result: ProcessResult) -> ProcessResult:
    if program.check and result.returncode:
        # Not the arguments: secrets stand there.
        code = result.returncode
        how = how_it_ended(code)
        output = (result.stderr.strip() or result.stdout.strip())[-PROCESS_ERROR_OUTPUT:]
        raise ProcessFailed(f"{_name(program)} {how}" + (f": {output}" if output else ""), code, output)
    return result


class _Output:
    """One of a program's outputs: its lines go to a log, its end is kept."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._kept = bytearray()
        self._line = b""
        self.truncated = False

    def feed(self, data: bytes) -> None:
        """More of it; b"": that was all."""
        self._kept += data
        if len(self._kept) > 2 * PROCESS_OUTPUT:  # not each time, since it copies
            self._cut()
        *lines, self._line = (self._line + data).split(b"\n")
        if self._line and (not data or len(self._line) > PROCESS_LINE):
            lines.append(self._line)
            self._line = b""
        for line in lines:
            self._log(line.rstrip(b"\r").decode(errors="replace"))

    def text(self) -> str:
        """The end of it."""
        self._cut()
        return self._kept.decode(errors="replace")

    def _cut(self) -> None:
        if len(self._kept) > PROCESS_OUTPUT:
            del self._kept[:-PROCESS_OUTPUT]
            self.truncated = True


class _Running:
    """A program that runs. Used by one thread.

    stop: whether it is to be ended. stopping: whether it was.
    """

    def __init__(self, program: Program, attempt: ActivityContext | None, stop: Callable[[], bool]) -> None:
        self.stopping = False
        self._program = program
        self._attempt = attempt
        self._stop = stop
        self._groups: list[int] = []  # the one that the program leads if it makes one, and the watcher's
        self._deadline = 0.0
        self._next_beat = 0.0
        logger = OUTSIDE if attempt is None else ActivityLogger(attempt)
        self._outputs = [_Output(_to_log(logger, program, name)) for name in ("stdout", "stderr")]

    def run(self) -> ProcessResult:
        """Run it to its end. Raises OSError where it can't be started."""
        program = self._program
        watcher = watch(WATCHER, f"{program.grace:.3f}")
        try:
            process = subprocess.Popen(
                program.args,
                cwd=program.cwd,
                env=program.env,
                stdin=subprocess.DEVNULL if program.input is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=watcher.pid,
            )
        except BaseException:
            end_group(watcher)
            raise
        self._groups = [process.pid, watcher.pid]
        with process, selectors.DefaultSelector() as selector:
            try:
                tell(watcher, process.pid)
                self._pump(process, selector)
                self._groups = self._signal(0)  # a number without a group may be somebody else's soon
                if self.stopping:
                    self._await_groups(watcher, selector)
                self._read_rest(selector)
            finally:
                self._signal(signal.SIGKILL)
                reap(watcher)
                process.kill()
        out, err = self._outputs
        stdout, stderr = out.text(), err.text()
        return ProcessResult(program.args, process.returncode, stdout, stderr, out.truncated or err.truncated)

    def _pump(self, process: subprocess.Popen[bytes], selector: selectors.BaseSelector) -> None:
        """Take what it writes, give it what it reads, beat, and look whether it is wanted; until it ends."""
        assert process.stdout is not None
        assert process.stderr is not None
        for stream, output in zip((process.stdout, process.stderr), self._outputs, strict=True):
            selector.register(stream, selectors.EVENT_READ, output)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE, memoryview(self._program.input or b""))
        while process.poll() is None:
            if selector.get_map():
                _serve(selector, PROCESS_POLL / SECOND)
            else:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(PROCESS_POLL / SECOND)
            self._beat()
            self._see_to_end(process)
        for key in list(selector.get_map().values()):
            if key.fileobj is process.stdin:  # nobody reads the rest
                selector.unregister(key.fileobj)

    def _read_rest(self, selector: selectors.BaseSelector) -> None:
        """What was written last; others may go on writing."""
        for _ in range(_LAST_READS):
            if not _serve(selector, 0):
                break
        for output in self._outputs:
            output.feed(b"")

    def _beat(self) -> None:
        attempt = self._attempt
        if attempt is not None and attempt.task.heartbeat_timeout and time.monotonic() >= self._next_beat:
            self._next_beat = (
                time.monotonic() + max(HEARTBEAT_INTERVAL_MINIMUM, attempt.task.heartbeat_timeout // 4) / SECOND
            )
            attempt.alive()

    def _see_to_end(self, process: subprocess.Popen[bytes]) -> None:
        if not self.stopping and self._stop():
            self.stopping = True
            self._deadline = time.monotonic() + self._program.grace
            self._signal(signal.SIGTERM)
        elif self.stopping and time.monotonic() >= self._deadline:
            process.kill()

    def _signal(self, number: int) -> list[int]:
        """To all that the program has started; the groups that are there."""
        return [group for group in self._groups if signal_group(group, number)]

    def _await_groups(self, watcher: subprocess.Popen[bytes], selector: selectors.BaseSelector) -> None:
        """The program was told to end, and has: what it had started is given the rest of the grace, and is read."""
        second = watch(SECOND_WATCHER, *(str(-group) for group in self._groups))
        try:
            watcher.kill()
            watcher.wait()  # now its group is empty when all others have ended
            pause = 0.001
            while (left := self._signal(0)) and time.monotonic() < self._deadline:
                self._groups = left
                if selector.get_map():
                    _serve(selector, pause)
                else:
                    time.sleep(pause)
                pause = min(2 * pause, PROCESS_POLL / SECOND)
            self._groups = left
        finally:
            self._signal(signal.SIGKILL)
            second.kill()
            reap(second)


def _to_log(logger: logging.LoggerAdapter[logging.Logger], program: Program, stream: str) -> Callable[[str], None]:
    name = _name(program)
    return lambda line: logger.log(program.log_level, "%s: %s", name, line, extra={"stream": stream})


def _serve(selector: selectors.BaseSelector, timeout: float) -> bool:
    """Read and write what can be. Whether something was read."""
    read = False
    for key, _ in selector.select(timeout):
        stream = cast("IO[bytes]", key.fileobj)
        if isinstance(key.data, _Output):
            data = os.read(key.fd, _READ)
            key.data.feed(data)
            read = read or bool(data)
            if not data:
                selector.unregister(stream)
        else:
            _write(selector, key, stream)
    return read


def _write(selector: selectors.BaseSelector, key: selectors.SelectorKey, stream: IO[bytes]) -> None:
    rest = key.data
    try:
        rest = rest[os.write(key.fd, rest[:_READ]) :]
    except BlockingIOError:
        return
    except BrokenPipeError:  # it doesn't read all of it, which is its own affair
        rest = rest[:0]
    if rest:
        selector.modify(stream, selectors.EVENT_WRITE, rest)
    else:
        selector.unregister(stream)
        with suppress(BrokenPipeError):
            stream.close()
