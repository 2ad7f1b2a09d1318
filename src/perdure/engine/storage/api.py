"""What the node asks of a store. A store appends, claims and lists; it holds no business logic.

Tables, whatever holds them, each key led by the shard (`ids.shard_of`):

=============  ===================================================  =======================================
execution      (shard, namespace, workflow_id, run_no)              the hot row: version, status, wake_at, running
journal        (… run_no, version)                                  `history` and `private`, one row a commit
snapshot       (… run_no)                                           the folded state, as of a version
visibility     (… run_no)                                           written at start, close and upsert
attribute      (name, value, … run_no)                              search attributes, one row a value
dedup          (shard, namespace, workflow_id, request_id)          request ids that were taken
backlog        (namespace, kind, task_queue, priority, pass, sequence)   tasks that found no free slot
=============  ===================================================  =======================================

A write names the version that it was built on. The store takes it only if that is the stored version (0: no
such run yet, and run_no is the next) and if none of its request ids was taken before; otherwise it refuses
that write, whole, and takes the others of the group. A group is one transaction.

A new run is taken only if the run before it is closed, by an earlier commit or by an earlier write of the same
group. The writes of one workflow id in a group stand or fall together: where one is refused, the others are
"stale". So the commit that ends a run and begins the next is one step.

All methods are coroutines, so that a store may wait; those over SQLite and memory mostly don't.
Raises: `Unavailable` where nothing was done and a retry is safe; `CommitUnknown` where it can't be told
whether a group was committed; `StoreError` where a person is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from perdure.errors import StoreError
from perdure.model.events import SearchValue
from perdure.model.payloads import Payload
from perdure.model.requests import ListedWorkflow, Status


class CommitUnknown(StoreError):
    """The store did not say whether the group was committed: read the versions back."""


class ChainKey(NamedTuple):
    """All runs of one workflow id."""

    namespace: str
    workflow_id: str


class RunKey(NamedTuple):
    """One run. `run_no` counts the runs of the workflow id from 1."""

    namespace: str
    workflow_id: str
    run_no: int

    @property
    def chain(self) -> ChainKey:
        return ChainKey(self.namespace, self.workflow_id)


class Visibility(NamedTuple):
    """A run as listings see it."""

    run_id: str
    workflow_type: str
    task_queue: str
    status: Status
    start_time: int
    close_time: int
    attributes: dict[str, SearchValue] | None = None
    memo: dict[str, Payload] | None = None


TaskKind = Literal["workflow", "activity"]


class QueueKey(NamedTuple):
    namespace: str
    kind: TaskKind
    task_queue: str


class BacklogItem(NamedTuple):
    """A task that waits for a free slot; ordered by (priority, fairness_pass, sequence), lowest first.

    Its place in its queue names it: an item that is added there replaces another. The run is of the queue's
    namespace.
    scheduled_event_id and attempt name the activity attempt; both are 0 for a workflow task.
    """

    queue: QueueKey
    priority: int
    fairness_pass: int
    sequence: int
    run: RunKey
    run_id: str
    scheduled_event_id: int
    attempt: int


class Write(NamedTuple):
    """One run's part of a group: from `expected` to `version`.

    commit_id identifies this very attempt to commit, so that an unknown outcome can be settled.
    wake_at: when the run next needs attention; 0: never. `None` leaves the stored value as it is.
    running: activities that are started, plus one if its workflow task is open, and in no backlog.
    delete: the run's retention is over; all of its rows go.
    dedup: request ids that this write takes, and until when they are remembered.
    """

    key: RunKey
    run_id: str
    expected: int
    version: int
    commit_id: str
    status: Status
    wake_at: int | None
    running: int
    history: bytes
    private: bytes
    snapshot: bytes | None = None
    visibility: Visibility | None = None
    dedup: Sequence[tuple[str, int]] = ()
    backlog_added: Sequence[BacklogItem] = ()
    backlog_removed: Sequence[BacklogItem] = ()
    delete: bool = False


Verdict = Literal["taken", "stale", "duplicate"]
"""What became of a write: taken; refused because the version has moved on; refused because one of its
request ids was taken before."""


class StoredRun(NamedTuple):
    """A run as it is stored: enough to fold its state."""

    key: RunKey
    run_id: str
    version: int
    commit_id: str
    status: Status
    wake_at: int
    running: int
    snapshot: bytes | None
    snapshot_version: int
    journal: Sequence[tuple[bytes, bytes]]
    """(history, private) of the rows after the snapshot, in order."""


class JournalPage(NamedTuple):
    """Rows of a history, in order. `next` is the version to go on after; 0: that was all."""

    rows: Sequence[tuple[int, bytes]]
    next: int


class Due(NamedTuple):
    """A run whose time has come."""

    key: RunKey
    run_id: str
    wake_at: int


class Store(Protocol):
    """A place to keep executions."""

    async def open(self, now: int) -> bool:
        """Get ready; make or migrate the tables. True if the last user did not close it (an unclean end)."""
        ...

    async def close(self) -> None:
        """Note that the end is clean, and let go."""
        ...

    async def commit(self, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        """Store a group, durably, in one transaction; a verdict for each write, in order."""
        ...

    async def load(self, chains: Sequence[ChainKey]) -> Sequence[StoredRun | None]:
        """The latest run of each workflow id; None where there is none."""
        ...

    async def load_run(self, chain: ChainKey, run_id: str) -> StoredRun | None:
        """One run, by its id."""
        ...

    async def versions(self, runs: Sequence[RunKey]) -> Sequence[tuple[int, str]]:
        """(version, commit_id) of each run; (0, "") where there is none."""
        ...

    async def journal(self, run: RunKey, after: int, limit_bytes: int) -> JournalPage:
        """Rows with a version above `after`: at least one if there is any, then up to about limit_bytes."""
        ...

    async def taken(self, chain: ChainKey, request_ids: Sequence[str], now: int) -> set[str]:
        """Which of the request ids were taken by any run of the chain, and are not forgotten yet."""
        ...

    async def due(self, now: int, limit: int) -> Sequence[Due]:
        """Runs whose wake_at is not 0 and not after `now`, the longest due first (those of one time in any order)."""
        ...

    async def next_due(self) -> int:
        """The earliest wake_at of all; 0: none."""
        ...

    async def running(self, after: RunKey | None, limit: int) -> Sequence[RunKey]:
        """Runs with running > 0, in key order (shard first), after one of them."""
        ...

    async def backlog(self, queue: QueueKey, after: BacklogItem | None, limit: int) -> Sequence[BacklogItem]:
        """The waiting tasks of a queue in their order, after one of them."""
        ...

    async def backlogged_queues(self) -> Sequence[QueueKey]:
        """The queues that have a backlog."""
        ...

    async def list(self, namespace: str, query: str, page: str, limit: int) -> tuple[Sequence[ListedWorkflow], str]:
        """A page of runs that have a visibility, and the token of the next page ("": none).

        The highest (start_time, workflow_id, run_no) comes first. Raises InvalidRequest for a query or a page
        token that isn't understood.
        """
        ...

    async def forget(self, now: int, limit: int) -> int:
        """Delete request ids that have expired; how many were deleted."""
        ...
