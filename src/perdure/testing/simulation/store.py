"""A store that misbehaves in every way that the protocol allows.

It wraps a real one. Each operation may be slow, before it takes effect or after; it may fail; a commit may fail
before or after it took effect, and not say which. It may be out of reach for a while, and what the nodes tell each
other through it may be lost, late or said twice. Once the process is dead, nothing it still tries has any effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, TypeVar

from perdure.engine.storage.api import (
    BacklogItem,
    ChainKey,
    CommitUnknown,
    Due,
    JournalPage,
    Membership,
    Notice,
    NoticesLost,
    Question,
    QueueKey,
    RunKey,
    Scope,
    Shared,
    StoredRun,
    Verdict,
    Write,
)
from perdure.errors import StoreCorrupt, StoreFull, Unavailable
from perdure.model.requests import ListedWorkflow

T = TypeVar("T")
Operation = Callable[[], Coroutine[Any, Any, T]]


@dataclass(slots=True)
class Faults:
    """How often (a probability for each operation) and how badly."""

    slow: float = 0.0
    delay: float = 0.05  # seconds, of a slow operation
    late: float = 0.0  # slow after it took effect
    refuse: float = 0.0
    lose: float = 0.0
    conflict: float = 0.0  # of one write: refused as if another node had been there
    outage: float = 0.0
    outage_length: float = 3.0  # seconds
    full: float = 0.0  # of one commit: there is no space, for a while
    full_length: float = 4.0  # seconds
    unheard: float = 0.0  # of one notice: it is lost
    unpunctual: float = 0.0  # of one notice: it is late, by two seconds at most
    repeated: float = 0.0  # of one notice: it is said twice


class FaultyStore:
    """See the module.

    Args:
        inner: the real one.
        alive: whether the process that uses it still lives.
        cut: whether that process can't reach it.
        full: whether there is no space in it.
        renewed: called when the process has said that it is alive.
    """

    def __init__(
        self,
        inner: Shared,
        faults: Faults,
        random: Random,
        alive: Callable[[], bool],
        cut: Callable[[], bool] = lambda: False,
        full: Callable[[], bool] = lambda: False,
        renewed: Callable[[], None] = lambda: None,
    ) -> None:
        self.inner, self._faults, self._random, self._alive = inner, faults, random, alive
        self._cut, self._full, self._renewed = cut, full, renewed
        self._down_until = self._full_until = 0.0
        self._heard: Callable[[Notice], None] | None = None
        self._missed = False  # notices, while it was cut off

    async def _trouble(self) -> None:
        """Whatever may go wrong before an operation takes effect."""
        faults, random, loop = self._faults, self._random, asyncio.get_running_loop()
        await asyncio.sleep(random.random() * faults.delay if random.random() < faults.slow else 0.0002)
        if random.random() < faults.outage:
            self._down_until = loop.time() + random.random() * faults.outage_length
        if self._cut() or loop.time() < self._down_until or random.random() < faults.refuse:
            raise Unavailable("the simulated store refuses")
        if not self._alive():
            raise Unavailable("this process is dead")
        if self._missed and self._heard is not None:
            self._missed = False
            self._heard(NoticesLost())

    def _needs_space(self) -> None:
        faults, now = self._faults, asyncio.get_running_loop().time()
        if faults.full and self._random.random() < faults.full:
            self._full_until = now + self._random.random() * faults.full_length
        if self._full() or now < self._full_until:
            raise StoreFull("the simulated store has no space")

    def damaged(self, what: str) -> StoreCorrupt:
        return self.inner.damaged(what)

    async def _answer(self) -> bool:
        """Whatever may go wrong on the way back; whether the answer arrives."""
        if self._faults.late and self._random.random() < self._faults.late:
            await asyncio.sleep(self._random.random() * self._faults.delay)
        return not self._cut()

    async def _do(self, operation: Operation[T]) -> T:
        await self._trouble()
        done = await operation()
        if not await self._answer():
            raise Unavailable("the simulated store's answer is lost")
        return done

    @property
    def opening(self) -> int:
        return self.inner.opening

    async def open(self, now: int) -> bool:
        await asyncio.sleep(0)
        return await self.inner.open(now)

    async def close(self) -> None:
        if self._alive():
            await self.inner.close()

    async def commit(self, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        await self._trouble()
        self._needs_space()
        if self._random.random() < self._faults.lose:
            if self._random.random() < 0.5:
                await self.inner.commit(group, now)
            await asyncio.sleep(0.001)
            await self._answer()
            raise CommitUnknown("the simulated store did not answer")
        # The writes of one workflow id stand or fall together.
        refused = {write.key.chain for write in group if self._random.random() < self._faults.conflict}
        taken = iter(await self.inner.commit([write for write in group if write.key.chain not in refused], now))
        await asyncio.sleep(0)
        if not await self._answer():
            raise CommitUnknown("the simulated store's answer is lost")
        return ["stale" if write.key.chain in refused else next(taken) for write in group]

    async def load(self, chains: Sequence[ChainKey]) -> Sequence[StoredRun | None]:
        return await self._do(partial(self.inner.load, chains))

    async def load_run(self, chain: ChainKey, run_id: str) -> StoredRun | None:
        return await self._do(partial(self.inner.load_run, chain, run_id))

    async def versions(self, runs: Sequence[RunKey]) -> Sequence[int]:
        return await self._do(partial(self.inner.versions, runs))

    async def committed(self, group: Sequence[Write]) -> Sequence[bool]:
        return await self._do(partial(self.inner.committed, group))

    async def journal(self, run: RunKey, after: int, limit_bytes: int) -> JournalPage:
        await self._trouble()
        return await self.inner.journal(run, after, min(limit_bytes, self._random.choice((1, 500, limit_bytes))))

    async def taken(self, chain: ChainKey, request_ids: Sequence[str], now: int) -> set[str]:
        return await self._do(partial(self.inner.taken, chain, request_ids, now))

    async def due(self, now: int, limit: int) -> Sequence[Due]:
        return await self._do(partial(self.inner.due, now, limit))

    async def running(self, after: RunKey | None, limit: int) -> Sequence[RunKey]:
        return await self.inner.running(after, limit)

    async def backlog(self, queue: QueueKey, after: BacklogItem | None, limit: int) -> Sequence[BacklogItem]:
        return await self._do(partial(self.inner.backlog, queue, after, limit))

    async def backlogged_queues(self) -> Sequence[QueueKey]:
        return await self.inner.backlogged_queues()

    async def drop_backlog(self, items: Sequence[BacklogItem]) -> None:
        await self._do(partial(self.inner.drop_backlog, items))

    async def list(self, namespace: str, query: str, page: str, limit: int) -> tuple[Sequence[ListedWorkflow], str]:
        return await self._do(partial(self.inner.list, namespace, query, page, limit))

    # Blobs are no part of what is simulated: they draw no faults.
    async def put_blob(self, digest: bytes, data: bytes, kept_until: int) -> None:
        await self.inner.put_blob(digest, data, kept_until)

    async def get_blob(self, digest: bytes) -> bytes | None:
        return await self.inner.get_blob(digest)

    async def forget_blobs(self, now: int, kept_until: int, limit: int) -> int:
        return await self.inner.forget_blobs(now, kept_until, limit)

    async def forget(self, now: int, limit: int) -> int:
        return await self._do(partial(self.inner.forget, now, limit))

    # --- Several nodes ----------------------------------------------------------------------------------
    async def join(self) -> int:
        await self._trouble()
        return await self.inner.join()

    async def renew(self, node: int, workers: Sequence[str], grace: int) -> Membership:
        await self._trouble()
        seen = await self.inner.renew(node, workers, grace)
        self._renewed()
        if not await self._answer():
            raise Unavailable("the simulated store's answer is lost")
        return seen

    async def listen(self, node: int, heard: Callable[[Notice], None]) -> None:
        self._heard = heard
        await self.inner.listen(node, self._hear)

    def _hear(self, notice: Notice) -> None:
        """A notice has come this far."""
        faults, random, loop, heard = self._faults, self._random, asyncio.get_running_loop(), self._heard
        assert heard is not None
        if self._cut():
            self._missed = True
            return
        if random.random() < faults.unheard:
            return
        if random.random() < faults.unpunctual:
            loop.call_later(random.random() * 2, heard, notice)
        else:
            heard(notice)
        if random.random() < faults.repeated:
            loop.call_later(random.random(), heard, notice)

    async def watch(self, node: int, chain: ChainKey) -> None:
        await self._do(partial(self.inner.watch, node, chain))

    async def unwatch(self, node: int, chains: Sequence[ChainKey]) -> None:
        await self._do(partial(self.inner.unwatch, node, chains))

    async def claim(
        self, node: int, queues: Sequence[QueueKey], limit: int, alive: frozenset[int], lease: int
    ) -> Sequence[BacklogItem]:
        return await self._do(partial(self.inner.claim, node, queues, limit, alive, lease))

    async def unclaim(self, node: int, items: Sequence[BacklogItem]) -> None:
        await self._do(partial(self.inner.unclaim, node, items))

    async def ask(self, question: Question, lasts: int) -> None:
        await self._do(partial(self.inner.ask, question, lasts))

    async def asked(self, queues: Sequence[QueueKey], known: Sequence[str], lease: int) -> Sequence[Question]:
        return await self._do(partial(self.inner.asked, queues, known, lease))

    async def answer(self, question: Question, answer: bytes) -> None:
        await self._do(partial(self.inner.answer, question, answer))

    async def answers(self, node: int) -> Sequence[tuple[str, bytes]]:
        return await self._do(partial(self.inner.answers, node))

    async def due_in(self, scope: Scope, now: int, limit: int) -> Sequence[Due]:
        return await self._do(partial(self.inner.due_in, scope, now, limit))

    async def running_in(self, scope: Scope, after: RunKey | None, limit: int) -> Sequence[RunKey]:
        return await self._do(partial(self.inner.running_in, scope, after, limit))
