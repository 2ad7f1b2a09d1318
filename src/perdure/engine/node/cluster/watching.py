"""Callers who wait here for what a run does, whoever does it.

The store tells this node of commits by others, to runs whose home it is and to what it watches. Since notices may be
lost, it also compares versions now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from perdure.engine.node.patience import patiently
from perdure.engine.node.waiting import Waiting
from perdure.engine.storage.api import ChainKey, RunKey, Shared
from perdure.limits import MAX_GROUP, SECOND, WATCH_INTERVAL


class Watched:
    """A workflow id of which somebody waits for something.

    runs: the ids of the runs they wait for. told: whether the store tells this node of commits to it.
    saw: the latest run that was read for them, and its version.
    """

    __slots__ = ("runs", "saw", "told")

    def __init__(self) -> None:
        self.runs: dict[str, None] = {}
        self.told = False
        self.saw: tuple[RunKey, int] | None = None


class Watching:
    """What is watched for the callers in `waiting`.

    Args:
        node: the number of this node.
        moved: called with what another node has written to; it comes back through `moved`.
        look: has a run read again, and its callers told.
    """

    def __init__(
        self,
        store: Shared,
        node: Callable[[], int],
        waiting: Callable[[], Waiting],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        moved: Callable[[ChainKey], None],
        look: Callable[[ChainKey, str], None],
    ) -> None:
        self._store, self._node, self._waiting = store, node, waiting
        self._spawn, self._moved, self._look = spawn, moved, look
        self._chains: dict[ChainKey, Watched] = {}

    def watch(self, run: RunKey, run_id: str, version: int, *, home: bool) -> None:
        """Somebody waits for this run, which was seen at a version. home: this node hears of it anyway."""
        watched = self._chains.setdefault(run.chain, Watched())
        watched.runs[run_id] = None
        watched.saw = run, version
        if not home and not watched.told:
            watched.told = True
            self._spawn(self._watch(run.chain))

    async def _watch(self, chain: ChainKey) -> None:
        await patiently("what to watch", partial(self._store.watch, self._node(), chain))
        self._moved(chain)  # what happened before it was watched

    def moved(self, chain: ChainKey) -> None:
        """Another node has written to this workflow id."""
        watched = self._chains.get(chain)
        if watched is not None:
            for run_id in list(watched.runs):
                if self._waiting().waits_for(run_id):
                    self._look(chain, run_id)

    async def run(self) -> None:
        """Look for what was not told, and forget what nobody waits for. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL / SECOND)
            await self._forget()
            chains = list(self._chains.items())
            for first in range(0, len(chains), MAX_GROUP):
                await self._compare(chains[first : first + MAX_GROUP])

    async def _forget(self) -> None:
        waiting, told = self._waiting(), list[ChainKey]()
        for chain, watched in list(self._chains.items()):
            watched.runs = {run_id: None for run_id in watched.runs if waiting.waits_for(run_id)}
            if not watched.runs:
                del self._chains[chain]
                if watched.told:
                    told.append(chain)
        if told:
            await patiently("what was watched", partial(self._store.unwatch, self._node(), told))

    async def _compare(self, chains: list[tuple[ChainKey, Watched]]) -> None:
        saw = [watched.saw for _, watched in chains if watched.saw is not None]
        keys = [key for key, _ in saw] + [key._replace(run_no=key.run_no + 1) for key, _ in saw]
        versions = dict(zip(keys, await patiently("versions", partial(self._store.versions, keys)), strict=True))
        for chain, watched in chains:
            if watched.saw is None:
                continue
            key, version = watched.saw
            if versions[key] != version or versions[key._replace(run_no=key.run_no + 1)]:
                self._moved(chain)
