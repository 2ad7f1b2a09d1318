"""Notices that the event loop does not run, says which line blocks it, and sees that nothing times out by it.

A thread asks the loop for a sign of life twice a second. A process that was suspended looks the same from
inside, and is treated the same.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

from perdure.clock import Clock
from perdure.limits import BLOCKED_LOOP_WARNING, SECOND

logger = logging.getLogger("perdure.engine")

_STEP: Final = asyncio.events.__file__
_OURS: Final = (f"{Path(__file__).resolve().parents[2]}{os.sep}", os.path.dirname(_STEP) + os.sep)


class Watchdog:
    """Watches the running loop, from `start` to `stop`.

    Args:
        clock: tells when a stall began and ended.
        stalled: called on the loop, when it runs again, with the beginning and the end of a stall.
        tolerated: microseconds for which the loop may be blocked.
    """

    def __init__(
        self, clock: Clock, stalled: Callable[[int, int], None], *, tolerated: int = BLOCKED_LOOP_WARNING
    ) -> None:
        self._clock, self._stalled, self._tolerated = clock, stalled, tolerated
        self._alive = threading.Event()
        self._stopped = threading.Event()
        self._seen = 0
        self._loop: asyncio.AbstractEventLoop
        self._watched = 0

    def start(self) -> None:
        """Begin, on the loop that is to be watched."""
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._seen = self._clock.now()
        threading.Thread(target=self._watch, name="perdure-watchdog", daemon=True).start()

    def stop(self) -> None:
        """End. The thread goes within moments."""
        self._stopped.set()
        self._alive.set()

    def _watch(self) -> None:
        """In a thread of its own."""
        tolerated = self._tolerated / SECOND
        while not self._stopped.wait(tolerated / 2):
            self._alive.clear()
            try:
                self._loop.call_soon_threadsafe(self._sign_of_life)
            except RuntimeError:  # the loop is closed
                return
            if not self._alive.wait(tolerated) and not self._stopped.is_set():
                self._warn(tolerated)
            while not (self._alive.wait(tolerated) or self._stopped.is_set()):
                pass

    def _sign_of_life(self) -> None:
        """On the loop."""
        now = self._clock.now()
        begin, self._seen = self._seen, now
        self._alive.set()
        if now - begin > self._tolerated and not self._stopped.is_set():
            self._stalled(begin, now)

    def _warn(self, seconds: float) -> None:
        frame = sys._current_frames().get(self._watched)  # pyright: ignore[reportPrivateUsage]
        stack = _own(traceback.extract_stack(frame)) if frame is not None else []
        where = f"{stack[-1].filename}:{stack[-1].lineno}, in {stack[-1].name}" if stack else "?"
        logger.warning(
            "the event loop has been blocked for %.1f s, at %s; nothing else runs meanwhile. Make it `await`, or an "
            "activity that is a plain `def`, which runs in a thread.\n%s",
            seconds,
            where,
            "".join(traceback.format_list(stack)).rstrip(),
        )


def _own(stack: list[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """The part of a stack that tells people something: inside the loop's step, and not Perdure's own; or all of it."""
    steps = [place for place, frame in enumerate(stack) if frame.filename == _STEP]
    inside = stack[steps[-1] + 1 :] if steps else stack
    return [frame for frame in inside if not frame.filename.startswith(_OURS)] or stack
