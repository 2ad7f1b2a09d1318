"""Callers who wait for what a run does, while another node serves it.

The store tells this node of commits to what it watches. Since notices may be lost, it also looks now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from perdure.engine.node.patience import patiently
from perdure.engine.node.waiting import Waiting
from perdure.engine.storage.api import ChainKey, Shared
from perdure.limits import SECOND, WATCH_INTERVAL


class Watching:
    """What is watched for the callers in `waiting`. `look` has a run read again, and its callers told."""

    def __init__(
        self,
        store: Shared,
        node: Callable[[], int],
        waiting: Callable[[], Waiting],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        look: Callable[[ChainKey, str], None],
    ) -> None:
        self._store, self._node, self._waiting, self._spawn, self._look = store, node, waiting, spawn, look
        self._runs: dict[ChainKey, set[str]] = {}

    def watch(self, chain: ChainKey, run_id: str) -> None:
        """Somebody waits for this run."""
        runs = self._runs.get(chain)
        if runs is not None:
            runs.add(run_id)
            return
        self._runs[chain] = {run_id}
        self._spawn(self._watch(chain))

    async def _watch(self, chain: ChainKey) -> None:
        await patiently("what to watch", partial(self._store.watch, self._node(), chain))
        self.moved(chain)  # what happened before it was watched

    def moved(self, chain: ChainKey) -> None:
        """Another node has written to this workflow id."""
        for run_id in sorted(self._runs.get(chain, ())):
            if self._waiting().waits_for(run_id):
                self._look(chain, run_id)

    async def run(self) -> None:
        """Look at everything now and then, and forget what nobody waits for. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL / SECOND)
            for runs in self._runs.values():
                runs &= {run_id for run_id in runs if self._waiting().waits_for(run_id)}
            done = [chain for chain, runs in self._runs.items() if not runs]
            for chain in done:
                del self._runs[chain]
            if done:
                await patiently("what was watched", partial(self._store.unwatch, self._node(), done))
            for chain in list(self._runs):
                self.moved(chain)
