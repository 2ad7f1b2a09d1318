"""A group of writes as SQLite statements: reads what it is judged by, then writes what is taken.

All of it happens inside one transaction, begun for writing, so that what was read stays true. What is being worked on
is not read at all: see `Warm`.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import msgspec

from perdure.engine.storage import admission, statements
from perdure.engine.storage.admission import ChainTuple, ChainView
from perdure.engine.storage.api import BacklogItem, RunKey, Verdict, Visibility, Write
from perdure.engine.storage.listing import attribute_values, kind_of
from perdure.engine.storage.schema import KIND_CODES, STATUS_CODES
from perdure.ids import shard_of
from perdure.limits import WARM_RUNS

_encode = msgspec.msgpack.encode
_blob = bytearray
"""How bytes go to SQLite: Python asks for each `bytes` whether it has an adapter, which takes longer than a copy."""


class Warm:
    """The open runs that were written last, which need not be read before they are written again.

    Nobody else writes to the file, so it is as the last commit left it. While a commit is under way its runs are not
    warm: whatever becomes of it, they are known again when it has succeeded, or read.
    """

    def __init__(self) -> None:
        self._runs: dict[RunKey, tuple[int, int, int]] = {}  # number, version and `running`

    def take(self, group: Sequence[Write]) -> tuple[dict[RunKey, int], set[RunKey], list[int]]:
        """Take the group's runs out.

        Returns:
            The numbers of those whose writes are taken without a look at anything else: the version is right, no
            other write has their workflow id, and no request id may be taken. Those among them whose `running` stays
            as it is. And the positions of the other writes.
        """
        runs: dict[RunKey, int] = {}
        steady: set[RunKey] = set()
        others: list[int] = []
        often: set[ChainTuple] = set()
        if len({write.key[:2] for write in group}) < len(group):
            often = {chain for chain, count in Counter(write.key[:2] for write in group).items() if count > 1}
        for position, write in enumerate(group):
            key = write.key
            known = self._runs.pop(key, None)
            if known is not None and known[1] == write.expected and not write.dedup and key[:2] not in often:
                runs[key] = known[0]
                if known[2] == write.running:
                    steady.add(key)
            else:
                others.append(position)
        return runs, steady, others

    def committed(self, group: Sequence[Write], verdicts: Sequence[Verdict], numbers: Mapping[RunKey, int]) -> None:
        """A group is on disk."""
        runs = self._runs
        for write, verdict in zip(group, verdicts, strict=True):
            if verdict == "taken" and write.status == "Running" and not write.delete:
                runs[write.key] = numbers[write.key], write.version, write.running
        while len(runs) > WARM_RUNS:
            del runs[next(iter(runs))]


def write(
    connection: sqlite3.Connection, group: Sequence[Write], now: int, next_run: int, warm: Warm
) -> tuple[list[Verdict], dict[RunKey, int], int]:
    """Write what can be taken of a group.

    Args:
        connection: in a transaction begun for writing.
        group: the writes.
        now: microseconds since the epoch.
        next_run: the number that the next new run gets.
        warm: what need not be read.

    Returns:
        A verdict for each write, the numbers of their runs, and the next number.
    """
    verdicts: list[Verdict] = ["taken"] * len(group)
    runs, steady, others = warm.take(group)
    if others:
        judged = [group[position] for position in others]
        views = admission.views_of(judged)
        runs |= _read(connection, judged, now, views)
        for position, verdict in zip(others, admission.verdicts(judged, views), strict=True):
            verdicts[position] = verdict
    batch = Batch(runs, steady, next_run)
    for one, verdict in zip(group, verdicts, strict=True):
        if verdict == "taken":
            if one.key in batch.keys:
                batch.flush(connection)  # statements over many rows need each run once
            batch.add(one)
    batch.flush(connection)
    return verdicts, runs, batch.next_run


def dedup_key(chain: ChainTuple, request_id: str) -> bytes:
    """Stands for a request id of a chain."""
    namespace, workflow_id = chain
    text = f"{len(namespace)}:{len(workflow_id)}:{namespace}{workflow_id}{request_id}"
    return blake2b(text.encode(), digest_size=16).digest()


def _read(
    connection: sqlite3.Connection,
    group: Sequence[Write],
    now: int,
    views: dict[ChainTuple, ChainView],
) -> dict[RunKey, int]:
    """Fill the views; the numbers of the runs that exist."""
    existing: list[tuple[int, str, str, int]] = []
    new: list[tuple[int, str, str]] = []
    dedup: list[tuple[int, bytes, int]] = []
    request_ids: list[tuple[ChainTuple, str]] = []
    for position, write in enumerate(group):
        key = write.key
        chain = key[:2]
        if write.expected:
            existing.append((position, *chain, key.run_no))
        else:
            new.append((position, *chain))
        for request_id, _ in write.dedup:
            dedup.append((len(request_ids), dedup_key(chain, request_id), now))
            request_ids.append((chain, request_id))
    runs: dict[RunKey, int] = {}
    for position, run, version in statements.FIND_RUNS.fetch(connection, existing):
        key = group[position].key
        runs[key] = run
        views[key[:2]].versions[key.run_no] = version
    for position, latest, status in statements.FIND_LATEST.fetch(connection, new):
        view = views[group[position].key[:2]]
        view.latest, view.open = latest, status == STATUS_CODES["Running"]
    for (position,) in statements.FIND_TAKEN.fetch(connection, dedup):
        chain, request_id = request_ids[position]
        views[chain].taken.add(request_id)
    return runs


class Batch:
    """Rows to be written, by table; each run occurs once.

    keys: the runs in it.
    next_run: the number that the next new run gets.
    """

    def __init__(self, runs: dict[RunKey, int], steady: set[RunKey], next_run: int) -> None:
        self._runs, self._steady = runs, steady
        self.next_run = next_run
        self._clear()

    def _clear(self) -> None:
        self.keys: set[RunKey] = set()
        self._inserts: list[tuple[object, ...]] = []
        self._steps: list[tuple[object, ...]] = []
        self._updates: list[tuple[object, ...]] = []
        self._wakes: list[tuple[object, ...]] = []
        self._journal: list[tuple[object, ...]] = []
        self._snapshots: list[tuple[int, int, bytes]] = []
        self._visibility: list[tuple[object, ...]] = []
        self._attributes_of: list[tuple[int]] = []
        self._attributes: list[tuple[object, ...]] = []
        self._dedup: dict[bytes, int] = {}
        self._backlog: dict[tuple[object, ...], BacklogItem | None] = {}  # None: the item goes
        self._deleted: list[tuple[int]] = []
        self._blobs: list[tuple[int, bytes]] = []

    def add(self, write: Write) -> None:
        """Take the rows of a write that was taken."""
        key = write.key
        self.keys.add(key)
        chain = key[:2]
        for request_id, expires in write.dedup:
            self._dedup[dedup_key(chain, request_id)] = expires
        for item in write.backlog_added:
            self._backlog[backlog_key(item)] = item
        for item in write.backlog_removed:
            self._backlog[backlog_key(item)] = None
        run = self._runs.get(key)
        if write.delete:
            if run is not None:
                self._deleted.append((run,))
            return
        status = STATUS_CODES[write.status]
        if run is None:
            run = self._runs[key] = self.next_run
            self.next_run += 1
            ids = (run, shard_of(*chain), *key, write.run_id)
            self._inserts.append((*ids, write.version, write.commit_id, status, write.wake_at or 0, write.running))
        elif write.wake_at is not None:
            self._wakes.append((run, write.version, write.commit_id, status, write.running, write.wake_at))
        elif key in self._steady:
            self._steps.append((run, write.version, write.commit_id, status))
        else:
            self._updates.append((run, write.version, write.commit_id, status, write.running))
        if write.snapshot is None:
            self._journal.append((run, write.version, _blob(write.history), _blob(write.private)))
        else:
            self._journal.append((run, write.version, _blob(write.history), _blob()))
            self._snapshots.append((run, write.version, write.snapshot))
        if write.blobs:
            self._blobs += [(run, digest) for digest in write.blobs]
        if write.visibility is not None:
            self._see(run, key.namespace, write.visibility, new=not write.expected)

    def _see(self, run: int, namespace: str, seen: Visibility, *, new: bool) -> None:
        _, workflow_type, task_queue, status, start, close, attributes, memo = seen
        row = (run, namespace, start, close, STATUS_CODES[status], workflow_type, task_queue)
        self._visibility.append((*row, None if memo is None else _encode(memo)))
        if not new:
            self._attributes_of.append((run,))
        for name, value in (attributes or {}).items():
            for one in attribute_values(value):
                self._attributes.append((run, name, kind_of(one), one, namespace, start))

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write the rows, and start anew."""
        statements.INSERT_EXECUTION.run(connection, self._inserts)
        statements.ADVANCE_EXECUTION.run(connection, self._steps)
        statements.UPDATE_EXECUTION.run(connection, self._updates)
        statements.UPDATE_EXECUTION_AND_WAKE.run(connection, self._wakes)
        statements.INSERT_JOURNAL.run(connection, self._journal)
        if self._snapshots:
            # What a snapshot covers is not needed again, but for the history.
            connection.executemany(statements.CLEAR_PRIVATE, [(run,) for run, _, _ in self._snapshots])
            connection.executemany(statements.REPLACE_SNAPSHOT, self._snapshots)
        statements.REPLACE_VISIBILITY.run(connection, self._visibility)
        statements.DELETE_ATTRIBUTES.run(connection, self._attributes_of)
        statements.INSERT_ATTRIBUTE.run(connection, self._attributes)
        statements.REPLACE_DEDUP.run(connection, list(self._dedup.items()))
        statements.INSERT_BLOB_REFERENCE.run(connection, self._blobs)
        self._flush_backlog(connection)
        for statement in statements.DELETE_RUN:
            statement.run(connection, self._deleted)
        self._clear()

    def _flush_backlog(self, connection: sqlite3.Connection) -> None:
        added = [(*key, *_backlog_values(item)) for key, item in self._backlog.items() if item is not None]
        statements.REPLACE_BACKLOG.run(connection, added)
        statements.DELETE_BACKLOG.run(connection, [key for key, item in self._backlog.items() if item is None])


def backlog_key(item: BacklogItem) -> tuple[object, ...]:
    """What names a task in the table."""
    (namespace, kind, task_queue, task_type), priority, fairness_pass, sequence, *_ = item
    return namespace, KIND_CODES[kind], task_queue, task_type, priority, fairness_pass, sequence


def _backlog_values(item: BacklogItem) -> tuple[object, ...]:
    return item.run.workflow_id, item.run.run_no, item.run_id, item.scheduled_event_id, item.attempt
