"""Processes for CPU-bound activities, as the worker sees them.

::

    worker ──socket── child (runs one attempt at a time, is kept for the next) ── in a group with its watcher

Each is started when there is none to be had, and a fresh interpreter: nothing is forked that threads might hold. An
attempt that does not stop when it is told to ends with its process, and all that this has started; whatever ends the
worker ends them all.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Final, Protocol

from perdure.clock import SECOND
from perdure.errors import ProcessFailed
from perdure.limits import PROCESS_GRACE, PROCESS_LAST_WORDS
from perdure.model.payloads import Payloads
from perdure.model.tasks import ActivityFailure, ActivityHeartbeat, ActivityTask
from perdure.sdk.activity.definition import ActivityDefinition
from perdure.sdk.activity.groups import WATCHER, end_group, how_it_ended, signal_group, watch
from perdure.sdk.activity.outcomes import Outcome
from perdure.sdk.activity.pipe import RunAttempt, Said, StopAttempt, ToProcess, frame, read_from_process
from perdure.sdk.converter import room
from perdure.sdk.failures import failure_of
from perdure.sdk.names import main_place

_LOGGER: Final = logging.getLogger("perdure.activity")
_BOOT: Final = (
    "import json, sys; sys.path[:], sys.argv[:] = json.loads(sys.argv[2]), json.loads(sys.argv[3]) + sys.argv[1:2]; "
    "from perdure.sdk.activity.child import main; main(int(sys.argv.pop()))"
)


class RunningAttempt(Protocol):
    """What the pool needs of an attempt."""

    task: ActivityTask
    reason: str
    begun: bool

    def report(self, details: Payloads) -> None:
        """Send a heartbeat, soon or with later ones."""
        ...


class ProcessPool:
    """Up to `size` processes, started when they are needed. Used on one loop."""

    def __init__(self, size: int) -> None:
        self._places = asyncio.Semaphore(size)
        self._idle: list[_Child] = []
        self._all: set[_Child] = set()

    async def run(self, attempt: RunningAttempt, definition: ActivityDefinition) -> Outcome:
        """Run an attempt in a process. Cancelled, it asks the attempt to stop, and ends the process after a grace; then
        raises CancelledError, unless the attempt has an outcome all the same."""
        async with self._places:
            child = self._free()
            try:
                await child.connect()
                attempt.begun = True
                outcome = await child.run(attempt, definition)
                if outcome is None:
                    error = await child.how_it_ended(definition.name)
                    return ActivityFailure(attempt.task.token, failure_of(error))
            except (Exception, asyncio.CancelledError):
                if not child.gone:  # nobody knows what it is at
                    child.kill()
                raise
            finally:
                if child.gone:
                    self._all.discard(child)
                    child.ended()
            self._idle.append(child)
            return outcome

    async def stop(self) -> None:
        """End all of them."""
        for child in self._all:
            child.kill()
        await asyncio.gather(*[child.ended() for child in self._all])
        self._all.clear()
        self._idle.clear()

    def _free(self) -> _Child:
        while self._idle:
            child = self._idle.pop()
            if child.alive():
                return child
            self._all.discard(child)
            child.ended()
        child = _Child()
        self._all.add(child)
        return child


class _Child:
    """One process, and the watcher that ends it with this one."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._watcher = watch(WATCHER, f"{PROCESS_GRACE / SECOND:.3f}")
                try:
                    self._process = subprocess.Popen(
                        [sys.executable, "-c", _BOOT, str(theirs.fileno()), json.dumps(sys.path), json.dumps(sys.argv)],
                        stdin=subprocess.DEVNULL,
                        pass_fds=(theirs.fileno(),),
                        process_group=self._watcher.pid,
                    )
                except BaseException:
                    end_group(self._watcher)
                    raise
            except BaseException:
                ours.close()
                raise
        self._socket = ours
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self._end: asyncio.Future[int] | None = None
        self.gone = False

    async def connect(self) -> None:
        """Be able to talk to it. Cancelled, it closes the socket, and `ended` is to be called."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(sock=self._socket)

    async def run(self, attempt: RunningAttempt, definition: ActivityDefinition) -> Outcome | None:
        """The outcome of an attempt; None where the process has ended without one."""
        self._send(_order(attempt, definition))
        talk = asyncio.get_running_loop().create_task(self._listen(attempt))
        cancelled: asyncio.CancelledError | None = None
        while not talk.done():
            try:
                done, _ = await asyncio.wait([talk], timeout=None if cancelled is None else PROCESS_GRACE / SECOND)
                if not done:
                    self.kill()
            except asyncio.CancelledError as error:
                if cancelled is None:
                    cancelled = error
                    self._send(StopAttempt(attempt.reason))
        outcome = talk.result()
        self.gone = outcome is None
        if outcome is None and cancelled is not None:
            raise cancelled
        return outcome

    async def how_it_ended(self, name: str) -> ProcessFailed:
        """Why it has ended, as an error of the attempt that it ran."""
        code = await self.ended()
        return ProcessFailed(f"the process of activity {name!r} {how_it_ended(code)}", code)

    def alive(self) -> bool:
        """Whether it can be given something to do."""
        return self._process.poll() is None and not self._reader.at_eof()

    def kill(self) -> None:
        """End it, with all that it has started."""
        self.gone = True
        signal_group(self._watcher.pid, signal.SIGKILL)

    def ended(self) -> asyncio.Future[int]:
        """See that nothing is left of it. Its exit code; negative: the signal that ended it."""
        if self._end is None:
            if self._writer is not None:
                self._writer.close()
            self._end = asyncio.get_running_loop().run_in_executor(None, self._reap)
        return self._end

    def _reap(self) -> int:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PROCESS_LAST_WORDS / SECOND)
        end_group(self._watcher)
        return self._process.wait()

    def _send(self, message: ToProcess) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frame(message))

    async def _listen(self, attempt: RunningAttempt) -> Outcome | None:
        """Hear what it says until the attempt has an outcome; None where it has ended."""
        while (message := await read_from_process(self._reader)) is not None:
            if isinstance(message, Said):
                _log(message)
            elif message.token == attempt.task.token:
                if not isinstance(message, ActivityHeartbeat):
                    return message
                attempt.report(message.details)
        return None


def _order(attempt: RunningAttempt, definition: ActivityDefinition) -> RunAttempt:
    function = definition.function
    name, file = main_place() or ("", "")
    level = _LOGGER.getEffectiveLevel()
    return RunAttempt(function.__module__, function.__qualname__, name, file, level, attempt.task, room())


def _log(said: Said) -> None:
    if _LOGGER.isEnabledFor(said.level):
        record = _LOGGER.makeRecord(
            _LOGGER.name, said.level, said.file, said.line, said.text, (), None, said.function, said.extra
        )
        record.exc_text = said.traceback or None
        _LOGGER.handle(record)
