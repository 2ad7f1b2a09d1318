"""How far attempts came is on disk some seconds after they told it, also where they tell no more.

A heartbeat is journaled at most now and then; what comes in between is in memory only, until the next one, or until the
alarm that is set here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perdure.engine.core.inputs import KeepBeats
from perdure.engine.node.live import Live, Work
from perdure.engine.storage.api import ChainKey
from perdure.limits import HEARTBEAT_JOURNAL_INTERVAL, SECOND

if TYPE_CHECKING:
    from perdure.engine.node.serving import Serving


class Beats:
    """The alarms, one for each run that has something to journal."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._alarms: dict[tuple[ChainKey, str], asyncio.TimerHandle] = {}

    def soon(self, live: Live) -> None:
        """Something of a run is to be journaled in time."""
        run = live.chain, live.run.ref.run_id
        if run not in self._alarms:
            self._alarms[run] = self._serving.loop.call_later(HEARTBEAT_JOURNAL_INTERVAL / SECOND, self._ring, *run)

    def _ring(self, chain: ChainKey, run_id: str) -> None:
        del self._alarms[chain, run_id]
        self._serving.submit(chain, Work(KeepBeats(), None, run_id))

    def stop(self) -> None:
        """Leave no timer behind."""
        for alarm in self._alarms.values():
            alarm.cancel()
