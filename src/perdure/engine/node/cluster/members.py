"""Who is alive, by the store's clock, and which runs are this node's to look after.

::

    join → renew, a few times a grace → (the store is closed) gone

Nobody leads and nothing hangs on it: two nodes that see different members do some work twice, and the store
refuses one of them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from hashlib import shake_128

from perdure.clock import Clock
from perdure.engine.storage.api import Membership, Scope, Shared
from perdure.limits import SECOND, SHARDS


class StoreClock:
    """The store's clock, as far as this machine's can tell it, so that all nodes mean the same by `now`."""

    def __init__(self, own: Clock) -> None:
        self._own = own
        self._ahead = 0

    def now(self) -> int:
        """The time now, in microseconds since the epoch."""
        return self._own.now() + self._ahead

    def follow(self, store: int, asked: int, answered: int) -> None:
        """The store said what time it was, between two times of this machine's own clock."""
        if 0 <= answered - asked < SECOND:  # else it can't be told what it means
            self._ahead = store - (asked + answered) // 2

    @property
    def own(self) -> Clock:
        """This machine's clock."""
        return self._own


class Members:
    """The nodes and workers that are alive.

    Args:
        store: what they share.
        clock: follows the store's.
        grace: microseconds for which one that says nothing counts as alive.
        own: names the workers that are attached here.
    """

    def __init__(self, store: Shared, clock: StoreClock, grace: int, own: Callable[[], Iterable[str]]) -> None:
        self._store, self._clock, self._grace, self._own = store, clock, grace, own
        self.node = 0
        self.silences = 0  # how often it had said nothing for the grace, and was heard of again
        self.alive: frozenset[int] = frozenset()
        self.workers: dict[str, int] = {}
        self._gone: dict[str, int] = {}  # workers that were seen before, and when they weren't any more
        self._came: dict[int, int] = {}  # when nodes that are alive were seen first
        self._settled: frozenset[int] = frozenset()  # those that have been there for the grace
        self._shards: frozenset[int] = frozenset()
        self._newest = 0  # nodes with a higher number have come since the last look
        self._said_at = 0  # when this node said that it is alive, and the store took it
        self._heard_at = 0
        self._known_until = 0  # of a worker that was there by then, this node has heard
        self._patient_until = 0

    async def join(self) -> None:
        """Become a member."""
        self.node = await self._store.join()
        await self.renew()

    async def renew(self) -> bool:
        """Say that this node is alive, and hear who else is. True if it is known of more nodes that they are lost."""
        asked = self._clock.own.now()
        seen = await self._store.renew(self.node, tuple(self._own()), self._grace)
        answered = self._clock.own.now()
        if self._said_at and answered - self._said_at >= self._grace:
            self.silences += 1
        self._said_at = asked
        self._clock.follow(seen.now, asked, answered)
        return self._take(seen, answered)

    def _take(self, seen: Membership, now: int) -> bool:
        before = self.alive
        if not before or now - self._heard_at > self._grace // 2:
            # This node could not reach the store, or has just come; perhaps nobody could. The others get the time to
            # say that they are alive.
            self._patient_until = now + self._grace
        over = self._heard_at < self._patient_until <= now
        self._heard_at = now
        alive, workers = seen.nodes | {self.node}, dict(seen.workers)
        missing = before - alive
        if missing and now < self._patient_until:
            alive |= missing
            workers |= {worker: node for worker, node in self.workers.items() if node in missing}
        store_now = seen.now
        self._gone |= dict.fromkeys(self.workers.keys() - workers.keys(), store_now)
        self._gone = {worker: at for worker, at in self._gone.items() if store_now - at < 2 * self._grace}
        if now >= self._patient_until:
            self._known_until = store_now - self._grace
        self.alive, self.workers, self._newest = alive, workers, max(self._newest, seen.newest)
        self._share(now, first=not before)
        return over or not before <= alive

    def _share(self, now: int, first: bool) -> None:
        """Tell whose shards are whose. One that has just come takes nobody for dead yet; so meanwhile its shards are
        looked after by those who had them, too, or what they were about to find would wait for it."""
        came = now - self._grace if first else now
        self._came = {node: self._came.get(node, came) for node in self.alive}
        settled = frozenset(node for node, at in self._came.items() if node == self.node or now - at >= self._grace)
        if settled != self._settled:
            self._settled, self._shards = settled, shards_of(self.node, settled)

    @property
    def patience(self) -> int:
        """Microseconds for which this node still takes nobody for dead whom it has known."""
        return max(0, self._patient_until - self._clock.own.now())

    @property
    def silent(self) -> bool:
        """Whether this node has said nothing for the grace: others may take it for dead."""
        return self._clock.own.now() - self._said_at >= self._grace

    def is_alive(self, node: int) -> bool:
        """Whether a node is, or may be."""
        return node in self.alive or node > self._newest

    def may_live(self, worker: str, since: int) -> bool:
        """Whether a worker is at another node that was given something at a time; it may be too new to be known."""
        node = self.workers.get(worker)
        if node is None:
            return since > max(self._known_until, self._gone.get(worker, 0))
        return node != self.node

    def scope(self, overdue: int = 0, abandoned: int = 0) -> Scope:
        """What this node looks after; with `overdue` and `abandoned`, also what others have left due since then."""
        return Scope(self.node, self.alive, self._shards, overdue, abandoned)


def shards_of(node: int, alive: Iterable[int]) -> frozenset[int]:
    """The shards whose highest bidder a node is: when one comes or goes, only its own change hands."""
    bids = [(_bids(each), each) for each in sorted(alive)]
    return frozenset(shard for shard in range(SHARDS) if max((bid[shard], each) for bid, each in bids)[1] == node)


def _bids(node: int) -> Sequence[int]:
    return struct.unpack(f"{SHARDS}Q", shake_128(str(node).encode()).digest(8 * SHARDS))
