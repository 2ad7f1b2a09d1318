"""An event loop with simulated time: nothing waits, and every step can be the last.

It runs one callback at a time, in order. When nothing is ready, time jumps to the next timer. A process that
is killed is a loop that is never run again.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from typing import Any

from perdure.clock import SECOND


class Killed(BaseException):
    """The process ends here, between two steps, without another instruction."""


class Stuck(Exception):
    """Nothing is ready and no timer is set, but the work is not done; or it takes too long."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """One simulated process.

    Args:
        start: seconds since the simulation began.
        kill_at: the step after which it is killed; 0: never.
        max_steps: bounds a run that never ends.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, start: float, kill_at: int = 0, max_steps: int = 200_000) -> None:
        super().__init__()
        self._time = start
        self._kill_at = kill_at
        self._max_steps = max_steps
        self.steps = 0
        self.failed: Callable[[], BaseException | None] = lambda: None
        """Asked after each step; what it gives ends the run."""
        self.dead = False
        self.set_exception_handler(self._ignore)

    def time(self) -> float:
        return self._time

    def _ignore(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not self.dead and "exception" in context:
            raise context["exception"]

    def _run_once(self) -> None:
        scheduled, ready = self._scheduled, self._ready
        while scheduled and (scheduled[0].when() <= self._time or not ready):
            timer = heapq.heappop(scheduled)
            timer._scheduled = False  # type: ignore[attr-defined]
            if not timer.cancelled():
                self._time = max(self._time, timer.when())
                ready.append(timer)
        if not ready:
            raise Stuck("nothing is ready, and no timer is set")
        handle = ready.popleft()
        if not handle.cancelled():
            handle._run()
        self.steps += 1
        failure = self.failed()
        if failure is not None:
            raise failure
        if self.steps == self._kill_at:
            self.dead = True
            raise Killed
        if self.steps > self._max_steps:
            raise Stuck(f"not done after {self.steps} steps")

    def _process_events(self, event_list: list[Any]) -> None:
        raise NotImplementedError("a simulated process has no I/O")

    def _write_to_self(self) -> None:
        """Called by call_soon_threadsafe; there is no other thread to wake."""


class SimulatedClock:
    """The wall clock of a simulated process: the loop's time since an epoch, and a skew."""

    def __init__(self, loop: SimulatedLoop, epoch: int, skew: int = 0) -> None:
        self._loop, self._epoch, self._skew = loop, epoch, skew

    def now(self) -> int:
        return self._epoch + int(self._loop.time() * SECOND) + self._skew
