"""Ends workflow code that never comes to its next `await`.

A thread looks again and again at which step each thread is executing of which workflow. Where that is still the same
one after `limits.BLOCKED_WORKFLOW`, it says so with the stack, and raises `Stuck` there. What waits inside an extension
module, as for a lock, can't be interrupted: then it is only said.

::

    begin → (step → step → …) → end
              │ the same for too long: warn, and raise Stuck in that thread
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
import traceback
from typing import Final

from perdure.limits import BLOCKED_WORKFLOW, SECOND
from perdure.sdk.workflow.loop import DeterministicLoop

_log: Final = logging.getLogger("perdure.workflow")
_LOOKS: Final = 8
"""Looks in the time that is tolerated. They are counted, so that a process that was suspended is not struck."""

_lock: Final = threading.Lock()
_executing: Final[dict[int, DeterministicLoop]] = {}
"""The loops whose code is being executed, by thread."""


class Stuck(BaseException):
    """Raised in workflow code that does not yield. No `Exception`, so that `except Exception` in an endless loop
    doesn't swallow it."""

    def __init__(self) -> None:
        super().__init__(
            f"the workflow's code did not come to its next await within {BLOCKED_WORKFLOW // SECOND} s "
            "(limits.BLOCKED_WORKFLOW); what computes this long, or may wait for somebody, belongs in an activity"
        )


def begin(loop: DeterministicLoop) -> None:
    """This thread executes code of a run from now on."""
    loop.steps += 1
    _executing[threading.get_ident()] = loop


def end(loop: DeterministicLoop, error: BaseException | None) -> None:
    """It does so no more, and has raised an error, or none. Raises Stuck where the code was struck and hid it."""
    thread = threading.get_ident()
    with _lock:  # from here on nothing strikes
        _executing.pop(thread, None)
    if loop.struck:
        loop.struck = False
        _raise_in(thread, None)  # what has not been raised yet must not be raised elsewhere
        if not isinstance(error, Stuck):
            raise Stuck


class Watcher:
    """Looks after all threads of this process, from `start` to `stop`.

    Args:
        tolerated: microseconds that one step may take.
    """

    def __init__(self, tolerated: int = BLOCKED_WORKFLOW) -> None:
        self._tolerated = tolerated
        self._seen: dict[int, tuple[DeterministicLoop, int, int]] = {}  # by thread: a loop, its step, and how often
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin, in a thread."""
        threading.Thread(target=self._run, name="perdure-workflow-watch", daemon=True).start()

    def stop(self) -> None:
        """End. The thread goes within moments."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._tolerated / SECOND / _LOOKS):
            self.look()

    def look(self) -> None:
        """Look once; strike what is seen at the same step for too many times in a row."""
        seen: dict[int, tuple[DeterministicLoop, int, int]] = {}
        for thread, loop in list(_executing.items()):
            before = self._seen.get(thread)
            step = loop.steps
            count = before[2] + 1 if before is not None and before[0] is loop and before[1] == step else 1
            if count > _LOOKS:
                self._strike(thread, loop, step)
                count = 1
            seen[thread] = loop, step, count
        self._seen = seen

    def _strike(self, thread: int, loop: DeterministicLoop, step: int) -> None:
        frame = sys._current_frames().get(thread)  # pyright: ignore[reportPrivateUsage]
        if frame is None or frame.f_trace is not None:  # somebody looks at it with a debugger
            return
        stack = "".join(traceback.format_list(traceback.extract_stack(frame))).rstrip()
        with _lock:
            if _executing.get(thread) is not loop or loop.steps != step:
                return
            loop.struck = True
            _raise_in(thread, Stuck)
        _log.warning(
            "workflow %r has not come to its next await for %.1f s; it is interrupted\n%s",
            (loop.logger.extra or {}).get("workflow_id"), self._tolerated / SECOND, stack,
        )  # fmt: skip


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Have a thread raise an exception as soon as it executes Python code again; None: not any more."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), None if error is None else ctypes.py_object(error)
    )
