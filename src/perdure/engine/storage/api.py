"""What the node asks of a store. A store appends, claims and lists; it holds no business logic.

Tables, each key led by the shard (`ids.shard_of`) where executions can be spread (a file holds all shards, and
keys what belongs to a run by a number):

=============  ===================================================  =======================================
execution      (shard, namespace, workflow_id, run_no)              the hot row: version, status, wake_at, running, home
journal        (… run_no, version)                                  `history` and `private`, one row a commit
snapshot       (… run_no)                                           the folded state, as of a version
visibility     (… run_no)                                           written at start, close and upsert
attribute      (… run_no, name, value)                              search attributes, one row a value
dedup          (shard, namespace, workflow_id, request_id)          request ids that were taken
backlog        (shard, queue, priority, fairness_pass, sequence)    tasks that found no free slot
blob           (digest)                                             large payloads, by their content
blob_reference (… run_no, digest)                                   which runs name which blobs
=============  ===================================================  =======================================

A store that several nodes share (`Shared`) has also: node and worker (who is alive, by the store's own clock), watch
(which node wants to hear of a workflow id's commits) and question (what one node asks of the others). The last two need
not survive a crash.

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

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

from perdure.errors import StoreCorrupt, StoreError
from perdure.model.events import SearchValue
from perdure.model.payloads import Payload
from perdure.model.requests import ListedWorkflow, Status


class CommitUnknown(StoreError):
    """The store did not say whether the group was committed: read the versions back."""


class ChainKey(NamedTuple):
    """All runs of one workflow id."""

    namespace: str
    workflow_id: str

    def __str__(self) -> str:
        return f"workflow {self.workflow_id!r}"


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
    """Tasks of one workflow or activity type in a task queue: whoever serves the queue need not have every type."""

    namespace: str
    kind: TaskKind
    task_queue: str
    type: str


class BacklogItem(NamedTuple):
    """A task that waits for a free slot; ordered by (priority, fairness_pass, sequence), lowest first.

    Its place in its queue names it: an item that is added there replaces another of the same workflow id. No two
    workflow ids are ever given the same place; stores that are spread by shard could not tell. The run is of the
    queue's namespace.
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
    backlog_added, backlog_removed: tasks of the workflow id's own runs.
    home: the number of the node that serves the run by preference. Only `Shared` stores keep it.
    blobs: digests of the blobs that what is written names; they are kept at least as long as the run.
    notify: numbers of nodes that are to hear of this write when it is taken, beside those that watch. Only
    `Shared` stores do.
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
    home: int = 0
    notify: Sequence[int] = ()
    blobs: Sequence[bytes] = ()


Verdict = Literal["taken", "stale", "duplicate"]
"""What became of a write: taken; refused because the version has moved on; refused because one of its
request ids was taken before."""


class StoredRun(NamedTuple):
    """A run as it is stored: enough to fold its state."""

    key: RunKey
    run_id: str
    version: int
    status: Status
    wake_at: int
    running: int
    snapshot: bytes | None
    snapshot_version: int
    journal: Sequence[tuple[bytes, bytes]]
    """(history, private) of the rows after the snapshot, in order."""
    home: int = 0


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

    @property
    def opening(self) -> int:
        """The number of this opening, once it is open: no other has it, at any time."""
        ...

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

    async def versions(self, runs: Sequence[RunKey]) -> Sequence[int]:
        """The version of each run; 0 where there is none."""
        ...

    async def committed(self, group: Sequence[Write]) -> Sequence[bool]:
        """Whether each of these very writes was taken, where `commit` did not say. Definite: what it finds
        missing can't appear later. Asked before anything else is written to those runs by this node; other nodes
        may have gone on from there."""
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

    async def running(self, after: RunKey | None, limit: int) -> Sequence[RunKey]:
        """Runs with running > 0, in key order (shard first), after one of them."""
        ...

    async def backlog(self, queue: QueueKey, after: BacklogItem | None, limit: int) -> Sequence[BacklogItem]:
        """The waiting tasks of a queue in their order, after one of them."""
        ...

    async def backlogged_queues(self) -> Sequence[QueueKey]:
        """The queues that have a backlog."""
        ...

    async def drop_backlog(self, items: Sequence[BacklogItem]) -> None:
        """Delete tasks whose runs are not stored any more, so that no write can remove them."""
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

    async def put_blob(self, digest: bytes, data: bytes, kept_until: int) -> None:
        """Store a blob, durably, at least until then. One that is there is only kept for longer."""
        ...

    async def get_blob(self, digest: bytes) -> bytes | None:
        """A blob; None where there is none."""
        ...

    async def forget_blobs(self, now: int, kept_until: int, limit: int) -> int:
        """Delete blobs that were to be kept until now and that no stored run names; the others are looked at again at
        `kept_until`. How many were looked at, at most `limit`."""
        ...

    def damaged(self, what: str) -> StoreCorrupt:
        """The error to raise where something that it gave can't be read: it names the place, and says what to do."""
        ...


# --- Several nodes --------------------------------------------------------------------------------------
class Scope(NamedTuple):
    """Which runs a node looks after: those whose home it is; in its shards, those whose home is not alive, and those
    that have been due since `overdue`; and any that have been due since `abandoned`, an earlier time (0: none).

    So what a home leaves due is first one other node's, and anybody's only if that, too, does nothing.
    """

    node: int
    alive: frozenset[int]
    shards: frozenset[int]
    overdue: int = 0
    abandoned: int = 0


class Membership(NamedTuple):
    """Who is alive, by the store's clock.

    now: that clock, microseconds since the epoch.
    workers: the instances of all living workers, and the node that each is attached to.
    newest: the highest number of all that have ever said that they are alive, as far as it is remembered.
    """

    now: int
    nodes: frozenset[int]
    workers: dict[str, int]
    newest: int


class Question(NamedTuple):
    """What a node wants to know from whichever has the code for a queue's tasks.

    id: names it; no two are alike. asker: the node. request, and what is answered: bytes that the nodes understand.
    """

    id: str
    asker: int
    queue: QueueKey
    request: bytes


class RunMoved(NamedTuple):
    """Some run of a workflow id was written by another node, which said so or was watched."""

    chain: ChainKey


class BacklogGrew(NamedTuple):
    """A task waits in a queue."""

    queue: QueueKey


class MembersChanged(NamedTuple):
    """A node has come or gone in good order."""


class QuestionsMoved(NamedTuple):
    """A question was put or answered."""


class NoticesLost(NamedTuple):
    """The connection that notices come through was interrupted: look at everything, and watch again what is watched."""


Notice = RunMoved | BacklogGrew | MembersChanged | QuestionsMoved | NoticesLost
"""What a node hears from the others. A notice may be lost, and is never needed: whoever waits also looks now and
then. It is given after the commit that it is about is on disk."""


class Shared(Store, Protocol):
    """A store that several nodes use at once."""

    async def join(self) -> int:
        """Become a node: a number that no other node has had. Called once, after `open`; `close` leaves."""
        ...

    async def renew(self, node: int, workers: Sequence[str], grace: int) -> Membership:
        """Say that a node and the workers attached to it are alive, and hear who else is.

        Whoever was not renewed for `grace` microseconds of the store's clock is not alive; neither is a worker that
        its node no longer names. What has been gone for long is forgotten.
        """
        ...

    async def listen(self, node: int, heard: Callable[[Notice], None]) -> None:
        """From now on call `heard`, on the event loop, for each notice to this node."""
        ...

    async def watch(self, node: int, chain: ChainKey) -> None:
        """This node wants to hear of every commit to the workflow id by other nodes, until `unwatch`."""
        ...

    async def unwatch(self, node: int, chains: Sequence[ChainKey]) -> None:
        """It has heard enough."""
        ...

    async def claim(
        self, node: int, queues: Sequence[QueueKey], limit: int, alive: frozenset[int], lease: int
    ) -> Sequence[BacklogItem]:
        """Take the first tasks of several queues together for this node, so that no other takes them meanwhile.

        They come in the order (priority, fairness_pass, sequence), whatever queue they are of.

        A claim ends when the task is removed by a commit, by `unclaim`, when its node is not among `alive`, or
        `lease` microseconds of the store's clock later.
        """
        ...

    async def unclaim(self, node: int, items: Sequence[BacklogItem]) -> None:
        """Let others have them."""
        ...

    async def ask(self, question: Question, lasts: int) -> None:
        """Put a question to the other nodes, which hear of it. It is forgotten after `lasts` microseconds of the
        store's clock, or by chance; to put it again changes nothing."""
        ...

    async def asked(self, queues: Sequence[QueueKey], known: Sequence[str], lease: int) -> Sequence[Question]:
        """Questions to these queues without an answer, so that no other node is given them for `lease` microseconds;
        without those that are known by their ids."""
        ...

    async def answer(self, question: Question, answer: bytes) -> None:
        """Answer a question, whose asker hears of it. If it was forgotten or has an answer, this changes nothing."""
        ...

    async def answers(self, node: int) -> Sequence[tuple[str, bytes]]:
        """What this node's questions were answered, by their ids; told once."""
        ...

    async def due_in(self, scope: Scope, now: int, limit: int) -> Sequence[Due]:
        """As `due`, of the runs in a scope. May have to look at all that are due by then, whoever looks after them: so
        `now` is no time far away."""
        ...

    async def running_in(self, scope: Scope, after: RunKey | None, limit: int) -> Sequence[RunKey]:
        """As `running`, of the runs in a scope."""
        ...
