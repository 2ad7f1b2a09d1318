"""A store that misbehaves in every way that the protocol allows.

It wraps a real one. Each operation may be slow; a commit may fail before or after it took effect, and say so,
or not say which; once the process is dead, nothing it still tries has any effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from perdure.engine.storage.api import (
    BacklogItem,
    ChainKey,
    CommitUnknown,
    Due,
    JournalPage,
    QueueKey,
    RunKey,
    Store,
    StoredRun,
    Verdict,
    Write,
)
from perdure.errors import Unavailable
from perdure.model.requests import ListedWorkflow


@dataclass(slots=True)
class Faults:
    """How often (a probability for each operation) and how badly."""

    slow: float = 0.0
    delay: float = 0.05  # seconds, of a slow operation
    refuse: float = 0.0
    lose: float = 0.0
    conflict: float = 0.0  # of one write: refused as if another node had been there
    outage: float = 0.0
    outage_length: float = 3.0  # seconds


class FaultyStore:
    """See the module. `alive` tells whether the process that uses it still lives."""

    def __init__(self, inner: Store, faults: Faults, random: Random, alive: Callable[[], bool]) -> None:
        self.inner, self._faults, self._random, self._alive = inner, faults, random, alive
        self._down_until = 0.0

    async def _trouble(self) -> None:
        """Whatever may go wrong before an operation takes effect."""
        faults, random, loop = self._faults, self._random, asyncio.get_running_loop()
        await asyncio.sleep(random.random() * faults.delay if random.random() < faults.slow else 0.0002)
        if random.random() < faults.outage:
            self._down_until = loop.time() + random.random() * faults.outage_length
        if loop.time() < self._down_until or random.random() < faults.refuse:
            raise Unavailable("the simulated store refuses")
        if not self._alive():
            raise Unavailable("this process is dead")

    async def open(self, now: int) -> bool:
        await asyncio.sleep(0)
        return await self.inner.open(now)

    async def close(self) -> None:
        if self._alive():
            await self.inner.close()

    async def commit(self, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        await self._trouble()
        if self._random.random() < self._faults.lose:
            if self._random.random() < 0.5:
                await self.inner.commit(group, now)
            await asyncio.sleep(0.001)
            raise CommitUnknown("the simulated store did not answer")
        # The writes of one workflow id stand or fall together.
        refused = {write.key.chain for write in group if self._random.random() < self._faults.conflict}
        taken = iter(await self.inner.commit([write for write in group if write.key.chain not in refused], now))
        await asyncio.sleep(0)
        return ["stale" if write.key.chain in refused else next(taken) for write in group]

    async def load(self, chains: Sequence[ChainKey]) -> Sequence[StoredRun | None]:
        await self._trouble()
        return await self.inner.load(chains)

    async def load_run(self, chain: ChainKey, run_id: str) -> StoredRun | None:
        await self._trouble()
        return await self.inner.load_run(chain, run_id)

    async def versions(self, runs: Sequence[RunKey]) -> Sequence[int]:
        await self._trouble()
        return await self.inner.versions(runs)

    async def committed(self, group: Sequence[Write]) -> Sequence[bool]:
        await self._trouble()
        return await self.inner.committed(group)

    async def journal(self, run: RunKey, after: int, limit_bytes: int) -> JournalPage:
        await self._trouble()
        return await self.inner.journal(run, after, min(limit_bytes, self._random.choice((1, 500, limit_bytes))))

    async def taken(self, chain: ChainKey, request_ids: Sequence[str], now: int) -> set[str]:
        await self._trouble()
        return await self.inner.taken(chain, request_ids, now)

    async def due(self, now: int, limit: int) -> Sequence[Due]:
        await self._trouble()
        return await self.inner.due(now, limit)

    async def running(self, after: RunKey | None, limit: int) -> Sequence[RunKey]:
        return await self.inner.running(after, limit)

    async def backlog(self, queue: QueueKey, after: BacklogItem | None, limit: int) -> Sequence[BacklogItem]:
        await self._trouble()
        return await self.inner.backlog(queue, after, limit)

    async def backlogged_queues(self) -> Sequence[QueueKey]:
        return await self.inner.backlogged_queues()

    async def list(self, namespace: str, query: str, page: str, limit: int) -> tuple[Sequence[ListedWorkflow], str]:
        await self._trouble()
        return await self.inner.list(namespace, query, page, limit)

    async def forget(self, now: int, limit: int) -> int:
        await self._trouble()
        return await self.inner.forget(now, limit)
