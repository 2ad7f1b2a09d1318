"""A process of a worker's pool: runs attempts, one at a time, on its main thread.

It imports the module that the worker's own definition names, and runs what `@activity` made of the function there, and
nothing else. It ends with the worker: when the socket does, and with its group (see `groups`).
"""

from __future__ import annotations

import importlib
import logging
import os
import queue
import runpy
import socket
import sys
import threading
import time
from collections.abc import Mapping
from types import ModuleType
from typing import Final

from perdure.clock import SECOND
from perdure.errors import CodecError, InvalidRequest
from perdure.limits import HEARTBEAT_INTERVAL_MINIMUM
from perdure.model.payloads import Payloads
from perdure.model.tasks import ActivityFailure, ActivityHeartbeat, ActivityTask
from perdure.sdk.activity import spawned
from perdure.sdk.activity.context import ActivityContext, current_context
from perdure.sdk.activity.definition import ActivityDefinition
from perdure.sdk.activity.outcomes import Outcome, encoding_failure, raised, returned, unread_failure
from perdure.sdk.activity.pipe import FromProcess, RunAttempt, Said, StopAttempt, frame, read_to_process
from perdure.sdk.calls import Activity
from perdure.sdk.converter import roomy
from perdure.sdk.failures import failure_of
from perdure.sdk.names import SPAWNED_MAIN

_INTERVAL: Final = HEARTBEAT_INTERVAL_MINIMUM / SECOND
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


def main(fd: int) -> None:
    """Serve the worker at the other end of a socket, until it is gone."""
    connection = socket.socket(fileno=fd)
    link = _Link(connection)
    logger = logging.getLogger("perdure.activity")
    logger.addHandler(_Forward(link))
    logger.propagate = False  # the worker's handlers have it
    inbox: queue.SimpleQueue[RunAttempt] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, link, inbox), name="perdure-worker-link", daemon=True).start()
    while True:
        order = inbox.get()
        logger.setLevel(order.log_level)
        link.send(_run(link, order))


def _listen(connection: socket.socket, link: _Link, inbox: queue.SimpleQueue[RunAttempt]) -> None:
    while (message := read_to_process(connection)) is not None:
        if isinstance(message, StopAttempt):
            link.stop(message.reason)
        else:
            link.begin(_Attempt(link, message.task))
            inbox.put(message)
    os._exit(1)  # the worker has ended, or has no use for this process any more


class _Link:
    """The end of the socket that threads of this process share, and the attempt that it is about."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self.attempt: _Attempt | None = None

    def send(self, message: FromProcess) -> None:
        with self._lock:
            self._connection.sendall(frame(message))

    def begin(self, attempt: _Attempt) -> None:
        self.attempt = attempt

    def stop(self, reason: str) -> None:
        if self.attempt is not None:
            self.attempt.reason, self.attempt.cancelled = reason, True


class _Attempt(ActivityContext):
    """The attempt that runs, as its function sees it. Heartbeats are few, and the latest one always arrives."""

    __slots__ = ("_latest", "_link", "_lock", "_next", "_timer", "reason")

    def __init__(self, link: _Link, task: ActivityTask) -> None:
        super().__init__(task)
        self.reason = ""
        self._link = link
        self._lock = threading.Lock()
        self._latest: Payloads = task.heartbeat_details
        self._timer: threading.Timer | None = None
        self._next = 0.0

    def alive(self) -> None:
        with self._lock:
            self._send_soon()

    def in_thread(self, thread: int) -> bool:
        return True

    def report(self, details: Payloads) -> None:
        with self._lock:
            self._latest = details
            self._send_soon()

    def _send_soon(self) -> None:
        wait = self._next - time.monotonic()
        if self._timer is None and wait > 0:
            self._timer = threading.Timer(wait, self.flush)
            self._timer.daemon = True
            self._timer.start()
        elif wait <= 0:
            self._send()

    def flush(self) -> None:
        """Send the latest details, if they wait."""
        with self._lock:
            if self._timer is not None:
                self._send()

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._next = None, time.monotonic() + _INTERVAL
        self._link.send(ActivityHeartbeat(self.task.token, self._latest))


def _run(link: _Link, order: RunAttempt) -> Outcome:
    attempt, task = link.attempt, order.task
    assert attempt is not None
    try:
        definition = _definition(order)
        args, kwargs = definition.signature.decode(task.input)
    except InvalidRequest as error:
        return ActivityFailure(task.token, encoding_failure(error))
    except CodecError as error:
        return ActivityFailure(task.token, unread_failure(error))
    except BaseException as error:  # the module can't be imported, or has no such activity
        return ActivityFailure(task.token, failure_of(error))
    token = current_context.set(attempt)
    try:
        with roomy(order.room):
            outcome = returned(task, definition, definition.function(*args, **kwargs))
    except BaseException as error:  # SystemExit, too: it is one attempt's end
        outcome = raised(task, error, asked=attempt.cancelled, reason=attempt.reason)
    finally:
        attempt.ended = True
        current_context.reset(token)
    attempt.flush()
    sys.stdout.flush()
    return outcome


# --- Finding the function -------------------------------------------------------------------------------
def _definition(order: RunAttempt) -> ActivityDefinition:
    """The definition that the worker has, in this process. Raises ImportError where it isn't there."""
    found: object = _main(order) if order.module == "__main__" else importlib.import_module(order.module)
    for part in order.qualname.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Activity) or found.definition.name != order.task.activity_type:
        raise ImportError(
            f"a process of the pool finds no activity {order.task.activity_type!r} as {order.qualname} of module "
            f"{order.module}: what runs in a process must be there by that name when the module is imported"
        )
    return found.definition


def _main(order: RunAttempt) -> ModuleType:
    """The worker's `__main__`, imported by another name: what is under `if __name__ == "__main__"` doesn't run."""
    if SPAWNED_MAIN not in sys.modules:
        spawned.importing = True
        try:
            if order.main_name:
                content = runpy.run_module(order.main_name, run_name=SPAWNED_MAIN, alter_sys=True)
            else:
                content = runpy.run_path(order.main_file, run_name=SPAWNED_MAIN)
        finally:
            spawned.importing = False
        module = ModuleType(SPAWNED_MAIN)
        module.__dict__.update(content)
        sys.modules["__main__"] = sys.modules[SPAWNED_MAIN] = module
    return sys.modules[SPAWNED_MAIN]


# --- Logging --------------------------------------------------------------------------------------------
class _Forward(logging.Handler):
    """Hands what an attempt logs to the worker, where the program has set up logging."""

    def __init__(self, link: _Link) -> None:
        super().__init__()
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._link.send(
                Said(
                    record.levelno,
                    record.getMessage(),
                    record.pathname,
                    record.lineno,
                    record.funcName,
                    _extra(record.__dict__),
                    logging.Formatter().formatException(record.exc_info) if record.exc_info else "",
                )
            )
        except Exception:
            self.handleError(record)


def _extra(values: Mapping[str, object]) -> dict[str, str | int | float | bool]:
    return {
        name: value
        for name, value in values.items()
        if name not in _STANDARD and isinstance(value, str | int | float | bool)
    }
