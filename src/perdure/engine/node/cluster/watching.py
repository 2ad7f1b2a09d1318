"""Callers who wait for what a run does, which another node may do at any time.

The store tells this node of commits to what another node serves. Since notices may be lost, and a home may change, it
also compares versions now and then, and looks at what has moved on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from perdure.engine.node.cluster.validation import Sight, saw
from perdure.engine.node.live import Live
from perdure.engine.node.patience import patiently
from perdure.engine.storage.api import ChainKey, Shared
from perdure.limits import MAX_GROUP, SECOND, WATCH_INTERVAL

if TYPE_CHECKING:
    from perdure.engine.node.node import Node


class Watching:
    """What is watched for those who wait at a node."""

    def __init__(self, store: Shared, node: Node) -> None:
        self._store, self._node = store, node
        self._runs: dict[ChainKey, dict[str, tuple[Sight, ...]]] = {}  # by run, what those who wait were told of last
        self._told: set[ChainKey] = set()  # of whose commits the store tells this node

    def watch(self, live: Live, *, elsewhere: bool) -> None:
        """Somebody waits for this run, too. elsewhere: another node serves it."""
        chain, sight = live.chain, _sight(live)
        if self._runs.setdefault(chain, {}).setdefault(live.run.ref.run_id, sight) != sight:
            self.moved(chain)  # those who have waited were told of less than is in memory by now
        if elsewhere and chain not in self._told:
            self._told.add(chain)
            self._node.spawn(self._watch(chain))

    def told(self, live: Live) -> None:
        """Those who wait for this run hear all that is in memory."""
        self._runs.setdefault(live.chain, {})[live.run.ref.run_id] = _sight(live)

    def watch_again(self) -> None:
        """The store may have forgotten what this node watches."""
        for chain in sorted(self._told):
            self._node.spawn(self._watch(chain))

    async def _watch(self, chain: ChainKey) -> None:
        node = self._node.peers.node
        await patiently("what to watch", partial(self._store.watch, node, chain))
        if chain in self._told:
            self.moved(chain)  # what happened before it was watched
        else:  # nobody waits any more, and that was told first
            await patiently("what was watched", partial(self._store.unwatch, node, [chain]))

    def moved(self, chain: ChainKey) -> None:
        """Another node has written to this workflow id."""
        for run_id in sorted(self._runs.get(chain, ())):
            if self._node.serving.waits_for(chain, run_id):
                self._node.serving.look(chain, run_id)

    async def run(self) -> None:
        """Look at everything now and then, and forget what nobody waits for. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL / SECOND)
            await self._forget()
            chains = list(self._runs)
            for first in range(0, len(chains), MAX_GROUP):
                await self.compare(chains[first : first + MAX_GROUP])

    async def _forget(self) -> None:
        for chain, runs in self._runs.items():
            for run_id in [run_id for run_id in runs if not self._node.serving.waits_for(chain, run_id)]:
                del runs[run_id]
        self._runs = {chain: runs for chain, runs in self._runs.items() if runs}
        done = sorted(self._told - self._runs.keys())
        self._told.difference_update(done)
        if done:
            await patiently("what was watched", partial(self._store.unwatch, self._node.peers.node, done))

    async def compare(self, chains: Sequence[ChainKey]) -> None:
        """Look at what is stored otherwise than those who wait were told, and otherwise than it is in memory."""
        serving = self._node.serving
        told = {chain: tuple(self._runs.get(chain, {}).values()) for chain in chains}
        memory = {chain: saw(live) for chain in chains if (live := serving.lives.get(chain)) and live.execution}
        seen = (*memory.values(), *(sight for sights in told.values() for sight in sights))
        keys = list({key: None for sight in seen for key, _ in sight})
        versions = await patiently("versions", partial(self._store.versions, keys))
        stored = dict(zip(keys, versions, strict=True))
        for chain in chains:
            live, sight = serving.lives.get(chain), memory.get(chain, ())
            if live is not None and any(stored[key] > version for key, version in sight) and saw(live) == sight:
                serving.moved(chain)
            if any(not sight or any(stored[key] > version for key, version in sight) for sight in told[chain]):
                self.moved(chain)


def _sight(live: Live) -> tuple[Sight, ...]:
    return () if live.older else saw(live)
