"""The garbage collector rests while the engine is busy.

What a turn makes is mostly kept until its commit, and gone then, without a collection. One that begins meanwhile looks
at all of it, finds nothing, and does so again a few hundred objects later.

::

    awake ──a turn begins──▶ resting ──a turn ends, and little is on its way to the disk; or the engine does──▶ awake
                               ▲ │
           the next turn begins│ │limits.COLLECTOR_REST after such an end of a turn
                               │ ▼
                              awake

The collector is the process's, and so is whether it rests: an engine that was dropped with its event loop leaves it to
the next one.
"""

from __future__ import annotations

import asyncio
import gc

from perdure.limits import COLLECTOR_REST, COLLECTOR_RESTS_ABOVE, SECOND


class _Process:
    rests = False  # an engine has stopped the collector; else whoever did keeps it so


class Collector:
    """The garbage collector, as one engine sees it. Its methods never nest."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def turn_begins(self) -> None:
        """From now on it rests."""
        if gc.isenabled():
            gc.disable()
            _Process.rests = True

    def turn_ends(self, uncommitted: int) -> None:
        """Transitions that are on their way to the disk keep it resting for a while, if there are many."""
        if uncommitted < COLLECTOR_RESTS_ABOVE:
            wake()
        elif self._timer is None and _Process.rests:
            self._timer = self._loop.call_later(COLLECTOR_REST / SECOND, self._wake)

    def stop(self) -> None:
        """The engine ends."""
        if self._timer is not None:
            self._timer.cancel()
        self._wake()

    def _wake(self) -> None:
        self._timer = None
        wake()


def wake() -> None:
    """It rests no more, whichever engine has made it."""
    if _Process.rests:
        _Process.rests = False
        gc.enable()
