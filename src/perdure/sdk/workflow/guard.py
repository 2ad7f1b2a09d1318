"""Stops what workflow code can't repeat: files, sockets, processes, threads, real sleep and waiting for others.

It is there only while this thread executes a workflow. Python itself tells of most of it (an audit hook); for the
rest there are dispatchers. Imports pass, and what is done to write a log line or a traceback, or to read a time zone or
the facts about an installed package.

Not caught: files and sockets that were opened outside and are used inside, the environment, whether a file is there
(`os.stat`: Python tells nobody of it, and other modules compare that function by identity), and what extension modules
do by themselves. `scanning` refuses what can be seen in the code, `stuck` ends what never yields.
"""

from __future__ import annotations

import asyncio
import functools
import linecache
import logging
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any, Final, cast

from perdure.errors import GuardError
from perdure.sdk.workflow.context import thread
from perdure.sdk.workflow.dispatchers import dispatcher, replace
from perdure.sdk.workflow.plain import block
from perdure.sdk.workflow.source import LOOP, is_library, is_ours

_log: Final = logging.getLogger("perdure.workflow")

ACTIVITY: Final = "Do it in an activity, and use its result"
PROCESS: Final = "Do it in an activity: activity.run_process ends it with its attempt"
THREAD: Final = "Use asyncio tasks for what waits, and activities for what computes"
WAIT: Final = "Use asyncio's Event, Condition, Lock or Queue, or workflow.wait_until"
LOCK: Final = "Use asyncio's Lock, Event, Condition, Semaphore or Queue"
_SLEEP: Final = (
    "Use asyncio.sleep, which is a durable timer; in a plain `def` workflow, but not in what can't wait there, as its "
    "queries, time.sleep is one"
)
_CHANCE: Final = "Use random, workflow.random() or uuid.uuid4(), which repeat; real secrets are for activities"
_IN_PLAIN: Final = {
    THREAD: "Begin several calls at once by `.start(…)` or `.map(…)`, and compute in activities",
    WAIT: "Use workflow.block(workflow.wait_until(…)) or workflow.block(workflow.receive(…))",
    LOCK: "None is needed, since nothing else runs until the code waits; for a message or a change of state wait by "
    "workflow.block(workflow.receive(…)) or workflow.block(workflow.wait_until(…))",
}
"""What to do instead in a plain `def` workflow, where that is something else."""

_EVENTS: Final[dict[str, tuple[str, str]]] = {
    "open": ("opening {}", ACTIVITY),
    "builtins.input": ("asking at the terminal", "Wait for a signal or an update"),
    "_thread.start_new_thread": ("starting a thread", THREAD),
    "sqlite3.connect": ("opening the database {}", ACTIVITY),
    "os.putenv": ("setting an environment variable", ACTIVITY),
    "os.unsetenv": ("removing an environment variable", ACTIVITY),
    "os.kill": ("sending a signal to a process", ACTIVITY),
    "mmap.__new__": ("mapping a file", ACTIVITY),
}
"""What is done, and what to do instead, by the audit event; the event's first argument goes into the braces."""

for _name in [
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "os.system",
    "pty.spawn",
    "subprocess.Popen",
]:
    _EVENTS[_name] = ("starting a process", PROCESS)
for _name in [
    "chdir",
    "chflags",
    "chmod",
    "chown",
    "link",
    "listdir",
    "mkdir",
    "remove",
    "rename",
    "rmdir",
    "scandir",
    "symlink",
    "truncate",
    "utime",
    "walk",
    "fwalk",
]:
    _EVENTS[f"os.{_name}"] = (f"os.{_name}()", ACTIVITY)

_NETWORK: Final = ("socket.", "ftplib.", "http.client.", "imaplib.", "poplib.", "smtplib.", "telnetlib.", "urllib.")

_LOGGING: Final = frozenset({logging.Logger._log.__code__, logging.Logger.handle.__code__})
"""What makes a log line and hands it to the handlers; what else `logging` does, such as opening files, is not it."""

_READERS: Final = ("zoneinfo.", "importlib.metadata")
"""Modules that may read files. The latter takes what stops it for an empty folder, and keeps that for the process."""


stopped: Final[dict[str, str]] = {}
"""What to do instead, by the "module.name" of what is stopped whoever calls it."""


def install() -> None:
    """Begin to guard, in this process, for good: Python has no way to remove an audit hook."""
    sys.addaudithook(_hear)
    for owner, name in ((os, "urandom"), (os, "getrandom"), (random, "_urandom")):
        _stop(owner, name, "reading the machine's randomness", _CHANCE)
    replace(time, "sleep", _sleeping(time.sleep))
    _stop(uuid, "uuid1", "uuid1()", "Use uuid.uuid4(), which repeats")
    _stop(subprocess.Popen, "__init__", "starting a process", PROCESS)  # before it opens the pipes to it
    _stop(ThreadPoolExecutor, "submit", "running something in a thread", THREAD)  # before it looks for an idle one
    _stop(threading.Thread, "start", "starting a thread", THREAD)
    _stop(threading.Thread, "join", "waiting for a thread", THREAD)
    for owner, names, what in (
        (signal, ("alarm", "pause", "set_wakeup_fd", "setitimer", "sigwait", "signal"), "the process's signals"),
        (os, ("wait", "wait3", "wait4", "waitid", "waitpid"), "waiting for a process"),
        (select, ("poll", "select"), "waiting for files and sockets"),
    ):
        for name in names:
            _stop(owner, name, what, ACTIVITY)
    # What waits for other threads in Python's own code, such as queue.Queue.get and concurrent futures, does so by it.
    _stop(threading.Condition, "wait", "waiting for another thread", WAIT)


def _stop(owner: object, name: str, what: str, instead: str) -> None:
    """Stop a function of a module or a class, where there is one: some systems lack some."""
    original = getattr(owner, name, None)
    if original is not None:
        stopped[replace(owner, name, _refusing(original, what, instead))] = instead


def _hear(event: str, args: tuple[Any, ...]) -> None:
    """Python is about to do something. Raises GuardError where a workflow may not."""
    if thread.context is None:  # Python tells of much, and often
        return
    known = _EVENTS.get(event)
    if known is not None:
        if event == "open" and _is_time_zone(args[0]):
            return
        what, instead = known
        refuse(what.format(repr(args[0])) if "{}" in what and args else what, instead)
    elif event.startswith(_NETWORK):
        refuse("using the network", ACTIVITY)


def _is_time_zone(path: object) -> bool:
    """Whether a file is of the system's time zones, which `zoneinfo` reads from C, without a frame of its own."""
    zones = sys.modules.get("zoneinfo")
    return zones is not None and isinstance(path, str) and path.startswith(zones.TZPATH)


def _sleeping(original: Any) -> Any:
    """`time.sleep`: a durable timer in the code of a plain workflow."""
    real = _refusing(original, "sleeping in real time", _SLEEP)

    @functools.wraps(original)
    def sleep(seconds: Any, /) -> None:
        if thread.plain:
            if seconds < 0:
                raise ValueError("sleep length must be non-negative")
            block(asyncio.sleep(seconds))
        else:
            real(seconds)

    return sleep


def _refusing(original: Any, what: str, instead: str) -> Any:
    def refuse_or_pass(*args: Any, **kwargs: Any) -> Any:
        refuse(what, instead)
        return original(*args, **kwargs)

    return dispatcher(original, refuse_or_pass)


def refuse(what: str, instead: str) -> None:
    """Raise GuardError for what workflow code does, unless an import or a log line does it."""
    place = _place(sys._getframe(1))  # pyright: ignore[reportPrivateUsage]
    if place:
        raise stop(place, what, instead)


def stop(place: str, what: str, instead: str) -> GuardError:
    """The error for what this thread does at a place. Where it is a workflow's code, `tell_hidden` is to follow."""
    error = refusal(place, what, instead, plain=thread.plain)
    if thread.context is not None:
        thread.stopped[place] = str(error)
    return error


def tell_hidden(error: BaseException | None) -> None:
    """An activation has ended with an error, or none: tell of what was stopped in it, but is not in that error."""
    told, thread.stopped = thread.stopped, {}
    for each in _leaves(error):
        if isinstance(each, GuardError):
            told.pop(each.line, None)
    for text in told.values():
        _warn_once(text)


def _leaves(error: BaseException | None) -> Iterator[BaseException | None]:
    """An error, or what is in a group of them."""
    if isinstance(error, BaseExceptionGroup):
        for each in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(each)
    else:
        yield error


@functools.lru_cache(maxsize=1_000)
def _warn_once(text: str) -> None:
    """Tell of it; not again for each run and each replay."""
    _log.warning("%s. The workflow's code went on all the same: where it catches this, let GuardError through", text)


def refusal(place: str, what: str, instead: str, *, plain: bool) -> GuardError:
    """The error for what is done, or would be, at a place ("file:line"). plain: in a plain `def` workflow."""
    instead = _IN_PLAIN.get(instead, instead) if plain else instead
    return GuardError(f"{place}: {what} can't be repeated when the workflow is replayed. {instead}", place)


def _place(frame: FrameType | None) -> str:
    """The innermost line of the user's own code, or else of a library, as "file:line"; "" where it may pass."""
    own = library = ""
    while frame is not None:
        code = frame.f_code
        file = code.co_filename
        if code in _LOGGING or file == linecache.__file__ or file.startswith("<frozen importlib"):
            return ""
        if frame.f_globals.get("__name__", "").startswith(_READERS):
            return ""
        if is_ours(code):
            if code.co_name == LOOP:
                break  # what is further out is the program around the workflow
        elif is_library(code):
            library = library or f"{file}:{frame.f_lineno}"
        else:
            own = own or f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return own or library
