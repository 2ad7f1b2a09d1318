"""Ends workflow code that never comes to its next `await`, or never to one that waits.

A thread looks again and again at which step each thread is executing of which workflow. Where that is still the same
one after `limits.BLOCKED_WORKFLOW`, or where the code has gone from step to step without ever waiting for
`limits.RESTLESS_WORKFLOW`, it says so with the stack, and raises `Stuck` there, again and again until the code ends.
What the activation raises in the end, and people see, is a GuardError.

A thread that waits inside C, as for another thread's lock, runs no Python code in which anything could be raised. The
main thread is woken by a signal, whose handler is such code; other threads can't be, nor can one long computation in C:
then it is only said. Not even that where the computation keeps the interpreter's lock, since no other thread runs then.

::

    begin → (step → step → …) → end
              │ the same, or without a pause, for too long: warn, and raise Stuck in that thread
"""

from __future__ import annotations

import ctypes
import logging
import signal
import sys
import threading
import weakref
from types import FrameType
from typing import Final, NamedTuple

from perdure.errors import GuardError
from perdure.limits import BLOCKED_WORKFLOW, RESTLESS_WORKFLOW, SECOND
from perdure.sdk.workflow.loop import DeterministicLoop
from perdure.sdk.workflow.source import Line, place_of, user_stack

_log: Final = logging.getLogger("perdure.workflow")
LOOKS: Final = 8
"""Looks in the time that is tolerated. They are counted, so that a process that was suspended is not struck."""

_lock: Final = threading.Lock()
_executing: Final[dict[int, DeterministicLoop]] = {}
"""The loops whose code is being executed, by thread."""

_GOES_ON: Final = (
    "it was interrupted and goes on: it waits or computes inside C, as for a thread's lock, or catches BaseException. "
    "Nothing else runs on its event loop, and if it does not end by itself, this process must be restarted"
)


_TOO_LONG: Final = (
    f"the workflow's code did not come to its next await within {BLOCKED_WORKFLOW // SECOND} s, or to one that waits "
    f"within {RESTLESS_WORKFLOW // SECOND} s (limits.BLOCKED_WORKFLOW, RESTLESS_WORKFLOW); what computes this long, or "
    "may wait for somebody, belongs in an activity"
)


class Stuck(BaseException):
    """Raised in workflow code that does not wait. No `Exception`, so that `except Exception` in an endless loop
    doesn't swallow it. Python makes it, without arguments."""

    def __init__(self) -> None:
        super().__init__(_TOO_LONG)


class _Seen(NamedTuple):
    """What a thread was seen to execute, and for how many looks already. It keeps nothing that has been evicted."""

    loop: weakref.ref[DeterministicLoop]
    step: int
    round: int
    at_step: int = 1
    in_round: int = 1
    strikes: int = 0


def let_signals_wake() -> None:
    """From now on what waits inside C in the main thread can be interrupted: called there, else it does nothing.

    SIGURG is what Go's runtime takes for the same: nobody sends it by accident, and it is ignored by default. Who has a
    handler of his own for it keeps it.
    """
    if (
        sys.platform != "win32"
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGURG) is signal.SIG_DFL
    ):
        signal.signal(signal.SIGURG, _awake)


def _awake(_: int, __: FrameType | None) -> None:
    """Python runs this where it waited; what `_raise_in` has left there is raised in its first instruction. Where that
    was taken back meanwhile, nothing is."""


def begin(loop: DeterministicLoop) -> None:
    """This thread executes code of a run from now on."""
    loop.steps += 1
    _executing[threading.get_ident()] = loop


def end(loop: DeterministicLoop, error: BaseException | None) -> None:
    """It does so no more, and has raised an error, or none. Raises GuardError where it was struck, even if hidden."""
    thread = threading.get_ident()
    try:
        _executing.pop(thread, None)  # from here on nothing strikes
        if _lock.locked():  # but it may just be doing so
            with _lock:
                pass
        if loop.struck is None:
            return
        _raise_in(thread, None)  # what has not been raised yet must not be raised elsewhere
    except Stuck as late:  # but here it was
        error = late
    line, loop.struck = loop.struck or "", None
    seen = GuardError(f"{line}: {_TOO_LONG}" if line else _TOO_LONG, line)
    if isinstance(error, Stuck):
        raise seen.with_traceback(error.__traceback__) from None
    raise seen


class Watcher:
    """Looks after all threads of this process, from `start` to `stop`.

    Args:
        tolerated: microseconds that one step may take.
        restless: microseconds for which there may always be another one.
    """

    def __init__(self, tolerated: int = BLOCKED_WORKFLOW, restless: int = RESTLESS_WORKFLOW) -> None:
        self._tolerated = tolerated
        self._restless = LOOKS * restless // tolerated
        self._seen: dict[int, _Seen] = {}  # by thread
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="perdure-workflow-watch", daemon=True)

    def start(self) -> None:
        """Begin, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """End; when this returns, all that it noticed was said."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        # Where nothing was being executed, it is enough to see once in a while whether something is: a process that
        # only waits should cost nothing.
        tolerated = self._tolerated / SECOND
        while not self._stopped.wait(tolerated / (LOOKS if self._seen else 2)):
            self.look()

    def look(self) -> None:
        """Look once; strike what was seen at the same for too many times in a row, and from then on each time."""
        seen: dict[int, _Seen] = {}
        for thread, loop in list(_executing.items()):
            now = _Seen(weakref.ref(loop), loop.steps, loop.rounds)
            before = self._seen.get(thread)
            if before is not None and before.loop() is loop and before.round == now.round:
                at_step = before.at_step + 1 if before.step == now.step else 1
                now = now._replace(at_step=at_step, in_round=before.in_round + 1, strikes=before.strikes)
                if before.strikes or at_step > LOOKS or now.in_round > self._restless:
                    now = now._replace(strikes=now.strikes + self._strike(thread, loop, now))
            seen[thread] = now
        self._seen = seen

    def _strike(self, thread: int, loop: DeterministicLoop, seen: _Seen) -> bool:
        """Whether it was struck."""
        frame = sys._current_frames().get(thread)  # pyright: ignore[reportPrivateUsage]
        if frame is None or frame.f_trace is not None:  # somebody looks at it with a debugger
            return False
        # Between two steps, there is no line: then those at which its tasks wait.
        stack = user_stack(frame) or loop.waiting_lines()
        line = place_of(stack) if loop.struck is None else loop.struck
        with _lock:
            if _executing.get(thread) is not loop or loop.rounds != seen.round:
                return False
            # The last thing before it is raised, in the line at which the thread stands: Python raises it where it had
            # taken the thread's turn away.
            if _is_leaving(sys._current_frames().get(thread)):  # pyright: ignore[reportPrivateUsage]
                return False
            loop.struck = line
            _raise_in(thread, Stuck)
            _wake(thread)
        self._tell(loop, seen, stack)
        return True

    def _tell(self, loop: DeterministicLoop, seen: _Seen, stack: list[Line]) -> None:
        if seen.strikes not in (0, LOOKS):
            return
        _log.warning(
            "workflow %r has been at work for %.1f s without waiting for anything; %s\n%s",
            (loop.logger.extra or {}).get("workflow_id"),
            seen.in_round * self._tolerated / LOOKS / SECOND,
            _GOES_ON if seen.strikes else "it is interrupted",
            "\n".join(map(str, stack)),
        )


def _wake(thread: int) -> None:
    """Let a thread that waits inside C run the handler of a signal, where that is possible."""
    if (
        sys.platform != "win32"
        and thread == threading.main_thread().ident  # handlers run in no other
        and signal.getsignal(signal.SIGURG) is _awake
    ):
        signal.pthread_kill(thread, signal.SIGURG)


def _is_leaving(frame: FrameType | None) -> bool:
    """Whether a thread is at the end of its activation: what is raised there would leave that half done."""
    while frame is not None:
        if frame.f_code is end.__code__ or frame.f_code.co_qualname == "Activation.__exit__":
            return True
        frame = frame.f_back
    return False


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Have a thread raise an exception as soon as it executes Python code again; None: not any more."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), None if error is None else ctypes.py_object(error)
    )
