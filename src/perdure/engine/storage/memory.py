"""A store in plain dictionaries: the oracle that the others are held to, and what simulations run on.

It survives the nodes that use it, as a disk would: a crash is a node that goes away without `close`. Several nodes
share what is in it when each has a store of its own over it, made by `another`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from heapq import heappop, heappush, nsmallest

from perdure.clock import Clock, SystemClock
from perdure.engine.storage import admission, listing
from perdure.engine.storage.api import (
    BacklogItem,
    ChainKey,
    Due,
    JournalPage,
    Membership,
    Notice,
    Question,
    QueueKey,
    RunKey,
    Scope,
    StoredRun,
    Verdict,
    Visibility,
    Write,
)
from perdure.engine.storage.filter import Row, predicate
from perdure.engine.storage.memory_nodes import Nodes
from perdure.errors import StoreCorrupt
from perdure.ids import shard_of
from perdure.model.requests import ListedWorkflow, Status


class _Run:
    """The rows of one run."""

    __slots__ = (
        "blobs",
        "commits",
        "home",
        "journal",
        "key",
        "run_id",
        "running",
        "snapshot",
        "snapshot_version",
        "status",
        "version",
        "visibility",
        "wake_at",
    )

    def __init__(self, key: RunKey, run_id: str) -> None:
        self.key = key
        self.run_id = run_id
        self.version = 0
        self.blobs: set[bytes] = set()
        self.commits: dict[int, str] = {}  # the attempt to commit that led to each version
        self.home = 0
        self.status: Status = "Running"
        self.wake_at = 0
        self.running = 0
        self.snapshot: bytes | None = None
        self.snapshot_version = 0
        self.journal: list[tuple[int, bytes, bytes]] = []
        self.visibility: Visibility | None = None


class MemoryStore:
    """Keeps executions in memory, for as long as the object lives.

    Args:
        clock: by which nodes and claims are alive.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.opening = 0
        self._openings = [0]
        self._in_use = False
        self._joined: set[int] = set()  # the nodes that use this very object
        self._nodes = Nodes(clock or SystemClock())
        self._chains: dict[ChainKey, dict[int, _Run]] = {}
        self._dedup: dict[ChainKey, dict[str, int]] = {}
        self._backlog: dict[QueueKey, list[BacklogItem]] = {}
        self._running: set[RunKey] = set()
        self._blobs: dict[bytes, tuple[bytes, int]] = {}  # → (data, kept until)
        # Entries whose run has another wake_at by now are dropped when they come up.
        self._wakes: list[tuple[int, RunKey]] = []

    def another(self) -> MemoryStore:
        """A store over the same memory, for another node."""
        other = copy(self)
        other._in_use, other._joined = False, set()
        return other

    async def open(self, now: int) -> bool:
        self._openings[0] += 1
        self.opening = self._openings[0]
        unclean, self._in_use = self._in_use, True
        return unclean

    async def close(self) -> None:
        self._in_use = False
        self._nodes.leave(self._joined)
        self._joined.clear()

    def damaged(self, what: str) -> StoreCorrupt:
        return StoreCorrupt(f"what is kept in memory is damaged: {what}")

    # --- Writing ----------------------------------------------------------------------------------------
    async def commit(self, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        views = admission.views_of(group)
        for (namespace, workflow_id), view in views.items():
            chain = ChainKey(namespace, workflow_id)
            runs = self._chains.get(chain, {})
            dedup = self._dedup.get(chain, {})
            view.latest = max(runs, default=0)
            view.open = view.latest > 0 and runs[view.latest].status == "Running"
            for position in view.writes:
                write = group[position]
                run = runs.get(write.key.run_no)
                if run is not None:
                    view.versions[run.key.run_no] = run.version
                view.taken.update(request_id for request_id, _ in write.dedup if dedup.get(request_id, 0) > now)
        verdicts = admission.verdicts(group, views)
        for write, verdict in zip(group, verdicts, strict=True):
            if verdict == "taken":
                self._apply(write)
        taken = [write for write, verdict in zip(group, verdicts, strict=True) if verdict == "taken"]
        self._nodes.committed(taken, self._joined)
        return verdicts

    def _apply(self, write: Write) -> None:
        key = write.key
        if write.dedup:
            self._dedup.setdefault(key.chain, {}).update(write.dedup)
        for item in write.backlog_added:
            self._drop_from_backlog(item)
            insort(self._backlog.setdefault(item.queue, []), item)
        for item in write.backlog_removed:
            self._drop_from_backlog(item)
        runs = self._chains.setdefault(key.chain, {})
        if write.delete:
            runs.pop(key.run_no, None)
            self._running.discard(key)
            if not runs:
                del self._chains[key.chain]
            return
        run = runs.get(key.run_no)
        if run is None:
            run = runs[key.run_no] = _Run(key, write.run_id)
        self._update(run, write)

    def _update(self, run: _Run, write: Write) -> None:
        run.version = write.version
        run.blobs.update(write.blobs)
        run.commits[write.version] = write.commit_id
        run.home = write.home
        run.status = write.status
        run.running = write.running
        if write.running:
            self._running.add(run.key)
        else:
            self._running.discard(run.key)
        if write.wake_at is not None and write.wake_at != run.wake_at:
            run.wake_at = write.wake_at
            if write.wake_at:
                heappush(self._wakes, (write.wake_at, run.key))
        run.journal.append((write.version, write.history, write.private))
        if write.snapshot is not None:
            run.journal[:] = [(version, history, b"") for version, history, _ in run.journal]
            run.snapshot, run.snapshot_version = write.snapshot, write.version
        if write.visibility is not None:
            run.visibility = write.visibility

    def _drop_from_backlog(self, item: BacklogItem) -> None:
        self._nodes.forget_claim(item)
        items = self._backlog.get(item.queue)
        if items is None:
            return
        place = bisect_left(items, item[:4])
        if place < len(items) and items[place][:4] == item[:4]:
            del items[place]
        if not items:
            del self._backlog[item.queue]

    async def forget(self, now: int, limit: int) -> int:
        expired = [
            (chain, request_id)
            for chain, dedup in self._dedup.items()
            for request_id, expiry in dedup.items()
            if expiry <= now
        ][:limit]
        for chain, request_id in expired:
            del self._dedup[chain][request_id]
            if not self._dedup[chain]:
                del self._dedup[chain]
        return len(expired)

    # --- Blobs ------------------------------------------------------------------------------------------
    async def put_blob(self, digest: bytes, data: bytes, kept_until: int) -> None:
        stored, until = self._blobs.get(digest, (data, 0))
        self._blobs[digest] = stored, max(until, kept_until)

    async def get_blob(self, digest: bytes) -> bytes | None:
        return self._blobs.get(digest, (None, 0))[0]

    async def forget_blobs(self, now: int, kept_until: int, limit: int) -> int:
        due = [digest for digest, (_, until) in self._blobs.items() if until <= now][:limit]
        named = (
            {digest for runs in self._chains.values() for run in runs.values() for digest in run.blobs} if due else ()
        )
        for digest in due:
            if digest in named:
                self._blobs[digest] = self._blobs[digest][0], kept_until
            else:
                del self._blobs[digest]
        return len(due)

    # --- Reading ----------------------------------------------------------------------------------------
    async def load(self, chains: Sequence[ChainKey]) -> Sequence[StoredRun | None]:
        found: list[StoredRun | None] = []
        for chain in chains:
            runs = self._chains.get(chain)
            found.append(_stored(runs[max(runs)]) if runs else None)
        return found

    async def load_run(self, chain: ChainKey, run_id: str) -> StoredRun | None:
        for run in self._chains.get(chain, {}).values():
            if run.run_id == run_id:
                return _stored(run)
        return None

    async def versions(self, runs: Sequence[RunKey]) -> Sequence[int]:
        found = (self._run(key) for key in runs)
        return [0 if run is None else run.version for run in found]

    async def committed(self, group: Sequence[Write]) -> Sequence[bool]:
        return admission.settled(group, [self._shows(write) for write in group])

    def _shows(self, write: Write) -> bool:
        """Whether what this write would have left is there."""
        run = self._run(write.key)
        if write.delete:
            return run is None
        return run is not None and run.commits.get(write.version) == write.commit_id

    async def journal(self, run: RunKey, after: int, limit_bytes: int) -> JournalPage:
        stored = self._run(run)
        rows: list[tuple[int, bytes]] = []
        size = 0
        for version, history, _ in [] if stored is None else stored.journal:
            if version <= after:
                continue
            if rows and size >= limit_bytes:
                return JournalPage(rows, rows[-1][0])
            rows.append((version, history))
            size += len(history)
        return JournalPage(rows, 0)

    async def taken(self, chain: ChainKey, request_ids: Sequence[str], now: int) -> set[str]:
        dedup = self._dedup.get(chain, {})
        return {request_id for request_id in request_ids if dedup.get(request_id, 0) > now}

    async def due(self, now: int, limit: int) -> Sequence[Due]:
        due: list[tuple[int, RunKey]] = []
        while self._wakes and self._wakes[0][0] <= now and len(due) < limit:
            entry = heappop(self._wakes)
            if self._current(entry) and (not due or due[-1] != entry):
                due.append(entry)
        for entry in due:
            heappush(self._wakes, entry)
        return [Due(key, self._chains[key.chain][key.run_no].run_id, wake_at) for wake_at, key in due]

    async def running(self, after: RunKey | None, limit: int) -> Sequence[RunKey]:
        keys = self._running if after is None else [k for k in self._running if _place(k) > _place(after)]
        return nsmallest(limit, keys, key=_place)

    async def backlog(self, queue: QueueKey, after: BacklogItem | None, limit: int) -> Sequence[BacklogItem]:
        items = self._backlog.get(queue, [])
        first = 0 if after is None else bisect_right(items, after[:4], key=_order)
        return items[first : first + limit]

    async def backlogged_queues(self) -> Sequence[QueueKey]:
        return sorted(self._backlog)

    async def drop_backlog(self, items: Sequence[BacklogItem]) -> None:
        for item in items:
            self._drop_from_backlog(item)

    async def list(self, namespace: str, query: str, page: str, limit: int) -> tuple[Sequence[ListedWorkflow], str]:
        matches: Callable[[Row], bool] = predicate(query)
        start = listing.position(page)
        rows: list[tuple[listing.Position, ListedWorkflow]] = []
        for chain, runs in self._chains.items():
            for run in runs.values() if chain.namespace == namespace else ():
                seen = run.visibility
                if seen is None:
                    continue
                place = (seen.start_time, chain.workflow_id, run.key.run_no)
                if (start is None or place < start) and matches(Row(run.key, run.run_id, seen)):
                    rows.append((place, listing.listed(run.key, run.run_id, seen)))
        rows.sort(key=lambda row: row[0], reverse=True)
        more = len(rows) > limit
        return [row for _, row in rows[:limit]], listing.token(rows[limit - 1][0]) if more else ""

    # --- Several nodes ----------------------------------------------------------------------------------
    async def join(self) -> int:
        node = self._nodes.join()
        self._joined.add(node)
        return node

    async def renew(self, node: int, workers: Sequence[str], grace: int) -> Membership:
        return self._nodes.renew(node, workers, grace)

    async def listen(self, node: int, heard: Callable[[Notice], None]) -> None:
        self._nodes.listen(node, heard)

    async def watch(self, node: int, chain: ChainKey) -> None:
        self._nodes.watch(node, chain)

    async def unwatch(self, node: int, chains: Sequence[ChainKey]) -> None:
        self._nodes.unwatch(node, chains)

    async def claim(
        self, node: int, queues: Sequence[QueueKey], limit: int, alive: frozenset[int], lease: int
    ) -> Sequence[BacklogItem]:
        waiting = (item for queue in queues for item in self._backlog.get(queue, ()))
        return self._nodes.claim(node, waiting, limit, alive, lease)

    async def unclaim(self, node: int, items: Sequence[BacklogItem]) -> None:
        self._nodes.unclaim(node, items)

    async def ask(self, question: Question, lasts: int) -> None:
        self._nodes.ask(question, lasts)

    async def asked(self, queues: Sequence[QueueKey], known: Sequence[str], lease: int) -> Sequence[Question]:
        return self._nodes.asked(queues, known, lease)

    async def answer(self, question: Question, answer: bytes) -> None:
        self._nodes.answer(question, answer)

    async def answers(self, node: int) -> Sequence[tuple[str, bytes]]:
        return self._nodes.answers(node)

    async def due_in(self, scope: Scope, now: int, limit: int) -> Sequence[Due]:
        due = [run for run in self._runs_in(scope) if 0 < run.wake_at <= now]
        return [Due(run.key, run.run_id, run.wake_at) for run in nsmallest(limit, due, key=lambda run: run.wake_at)]

    async def running_in(self, scope: Scope, after: RunKey | None, limit: int) -> Sequence[RunKey]:
        keys = (run.key for run in self._runs_in(scope) if run.running)
        return nsmallest(limit, (key for key in keys if after is None or _place(key) > _place(after)), key=_place)

    def holder(self, item: BacklogItem) -> int:
        """The node that has claimed a task; 0: none has. For those who look on."""
        return self._nodes.holder(item)

    def in_use(self) -> set[int]:
        """The nodes that watch something, or have claimed something. For those who look on."""
        return self._nodes.in_use()

    def _runs_in(self, scope: Scope) -> Iterator[_Run]:
        return (run for runs in self._chains.values() for run in runs.values() if _is_in(scope, run))

    def _run(self, key: RunKey) -> _Run | None:
        return self._chains.get(key.chain, {}).get(key.run_no)

    def _current(self, entry: tuple[int, RunKey]) -> bool:
        run = self._run(entry[1])
        return run is not None and run.wake_at == entry[0]


def _stored(run: _Run) -> StoredRun:
    return StoredRun(
        run.key,
        run.run_id,
        run.version,
        run.status,
        run.wake_at,
        run.running,
        run.snapshot,
        run.snapshot_version,
        [(history, private) for version, history, private in run.journal if version > run.snapshot_version],
        run.home,
    )


def _is_in(scope: Scope, run: _Run) -> bool:
    if run.home == scope.node or 0 < run.wake_at <= scope.abandoned:
        return True
    left = run.home not in scope.alive or 0 < run.wake_at <= scope.overdue
    return left and shard_of(run.key.namespace, run.key.workflow_id) in scope.shards


def _place(key: RunKey) -> tuple[int, RunKey]:
    return shard_of(key.namespace, key.workflow_id), key


def _order(item: BacklogItem) -> tuple[QueueKey, int, int, int]:
    return item[:4]
