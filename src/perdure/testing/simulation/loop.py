"""Simulated time, and event loops on it: nothing waits, and every step of a process can be its last.

A `Timeline` runs the loops of all simulated processes, one callback at a time: which of those that have something
ready goes on is left to the seed. When none has, time jumps to the next timer of all. A process that is killed is
a loop that is never run again; one that is suspended is not run for a while, and its timers fire late.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Final, Protocol

from perdure.clock import SECOND

MAX_STEPS: Final = 1_000_000
"""Bounds a seed that never ends."""


class Stuck(Exception):
    """Nothing is ready and no timer is set, but the work is not done; or it takes too long."""


class Timeline:
    """What all simulated processes have in common: the time, and that one step is made at once.

    Args:
        random: decides who goes on.
        start: seconds since the simulation began.
        max_steps: bounds a run that never ends.
    """

    def __init__(self, random: Random, start: float = 0.0, max_steps: int = MAX_STEPS) -> None:
        self.loops: list[SimulatedLoop] = []
        self.stepping: Callable[[SimulatedLoop], None] = lambda loop: None
        """Called before each step, with the loop that makes it."""
        self.failed: Callable[[], BaseException | None] = lambda: None
        """Asked after each step; what it gives ends the run."""
        self._random, self._time = random, start
        self._steps_left = max_steps
        self._alarms: list[tuple[float, int, Callable[[], None]]] = []
        self._set = 0

    def time(self) -> float:
        """Seconds since the simulation began."""
        return self._time

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Let something happen that is no step of a process."""
        self._set += 1
        heapq.heappush(self._alarms, (self._time + seconds, self._set, act))

    def run(self, done: Callable[[], bool]) -> None:
        """Make steps until it is done. Raises Stuck, and whatever `failed` gives."""
        while not done():
            self.step()

    def step(self) -> None:
        """One step of one process; or time passes."""
        if self._alarms and self._alarms[0][0] <= self._time:
            heapq.heappop(self._alarms)[2]()
        elif ready := [loop for loop in self.loops if loop.ready()]:
            loop = ready[0] if len(ready) == 1 else self._random.choice(ready)
            self.stepping(loop)
            loop.step()
        else:
            self._pass_time()
        if (failure := self.failed()) is not None:
            raise failure
        self._steps_left -= 1
        if self._steps_left < 0:
            raise Stuck("not done after so many steps")

    def _pass_time(self) -> None:
        times = [when for loop in self.loops if (when := loop.next_timer()) is not None]
        if self._alarms:
            times.append(self._alarms[0][0])
        if not times:
            raise Stuck("nothing is ready, and no timer is set")
        self._time = max(self._time, min(times))


class SimulatedLoop(asyncio.BaseEventLoop):
    """One simulated process.

    Args:
        start, max_steps: as those of `Timeline`, for a loop that has one of its own.
        timeline: the one that it shares with others.
        process: its number.
        mishaps: what happens to it, by the number of the step after which it does.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(
        self,
        start: float = 0.0,
        max_steps: int = MAX_STEPS,
        *,
        timeline: Timeline | None = None,
        process: int = 0,
        mishaps: dict[int, Callable[[], None]] | None = None,
    ) -> None:
        super().__init__()
        self._timeline = timeline or Timeline(Random(0), start, max_steps)
        self._timeline.loops.append(self)
        self._mishaps = mishaps or {}
        self.process = process
        self.steps = 0
        self.dead = False
        self.suspended = False
        self.set_exception_handler(self._ignore)

    def kill(self) -> None:
        """It ends here, between two steps, without another instruction."""
        self.dead = True
        self._timeline.loops.remove(self)

    def time(self) -> float:
        return self._timeline.time()

    def _ignore(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not self.dead and "exception" in context:
            raise context["exception"]

    def ready(self) -> bool:
        """Whether it can make a step now."""
        if self.suspended:
            return False
        return bool(self._ready) or (bool(self._scheduled) and self._scheduled[0].when() <= self.time())

    def next_timer(self) -> float | None:
        """When it has something to do next."""
        return self._scheduled[0].when() if self._scheduled and not self.suspended else None

    def step(self) -> None:
        """Run one callback."""
        scheduled, ready, now = self._scheduled, self._ready, self.time()
        while scheduled and scheduled[0].when() <= now:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False  # type: ignore[attr-defined]
            if not timer.cancelled():
                ready.append(timer)
        if not ready:
            return
        handle = ready.popleft()
        if not handle.cancelled():
            outer = asyncio._get_running_loop()
            asyncio._set_running_loop(self)
            try:
                handle._run()
            finally:
                asyncio._set_running_loop(outer)
        self.steps += 1
        mishap = self._mishaps.pop(self.steps, None)
        if mishap is not None:
            mishap()

    def _run_once(self) -> None:
        """Called by `run_forever`: for one process on its own."""
        self._timeline.step()

    def _process_events(self, event_list: list[Any]) -> None:
        raise NotImplementedError("a simulated process has no I/O")

    def _write_to_self(self) -> None:
        """Called by call_soon_threadsafe; there is no other thread to wake."""


class Time(Protocol):
    """A loop or a timeline."""

    def time(self) -> float: ...


class SimulatedClock:
    """The wall clock of a simulated process: the time since an epoch, and a skew."""

    def __init__(self, source: Time, epoch: int, skew: int = 0) -> None:
        self._source, self._epoch, self._skew = source, epoch, skew

    def now(self) -> int:
        return self._epoch + int(self._source.time() * SECOND) + self._skew
