"""The tables of an SQLite file, and how a file of an earlier version becomes one of today's.

A run has a number of its own, given in the order of starts. The other tables are keyed by it, so that what is
being worked on lies together at the end of each table, and a commit touches few pages (keyed by shard and
workflow id, as DESIGN 4.2 has it for databases that are spread, a group of 100 writes touched five times as
many). For the same reason the journal is appended to, and has its key beside it: rows of one run, kept together,
would touch a page for each run of a group. The shard leads the key by which a run is found.
"""

from __future__ import annotations

from typing import Final

from perdure.engine.storage.api import TaskKind
from perdure.model.requests import Status

APPLICATION_ID: Final = int.from_bytes(b"PERD", "big")
"""Marks a file as Perdure's, in the header that every SQLite file has."""

STATUS_CODES: Final[dict[Status, int]] = {
    "Running": 0,
    "Completed": 1,
    "Failed": 2,
    "Canceled": 3,
    "Terminated": 4,
    "ContinuedAsNew": 5,
    "TimedOut": 6,
}
"""A status is stored as a number; these never change."""

STATUSES: Final = tuple(STATUS_CODES)

KIND_CODES: Final[dict[TaskKind, int]] = {"activity": 0, "workflow": 1}
"""In alphabetical order, so that queues are listed in the order of their names."""

KINDS: Final = tuple(KIND_CODES)

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID""",
        """INSERT INTO meta VALUES ('clean', 1)""",
        """CREATE TABLE execution (
            run INTEGER PRIMARY KEY,
            shard INTEGER NOT NULL, namespace TEXT NOT NULL, workflow_id TEXT NOT NULL, run_no INTEGER NOT NULL,
            run_id TEXT NOT NULL, version INTEGER NOT NULL, commit_id TEXT NOT NULL, status INTEGER NOT NULL,
            wake_at INTEGER NOT NULL, running INTEGER NOT NULL)""",
        """CREATE UNIQUE INDEX execution_key ON execution (shard, namespace, workflow_id, run_no)""",
        """CREATE INDEX execution_wake ON execution (wake_at) WHERE wake_at > 0""",
        """CREATE INDEX execution_running ON execution (shard) WHERE running > 0""",
        """CREATE TABLE journal (
            run INTEGER NOT NULL, version INTEGER NOT NULL, history BLOB NOT NULL, private BLOB NOT NULL)""",
        """CREATE UNIQUE INDEX journal_key ON journal (run, version)""",
        """CREATE TABLE snapshot (run INTEGER PRIMARY KEY, version INTEGER NOT NULL, state BLOB NOT NULL)""",
        """CREATE TABLE visibility (
            run INTEGER PRIMARY KEY, namespace TEXT NOT NULL, start_time INTEGER NOT NULL,
            close_time INTEGER NOT NULL, status INTEGER NOT NULL, workflow_type TEXT NOT NULL,
            task_queue TEXT NOT NULL, memo BLOB)""",
        """CREATE INDEX visibility_start ON visibility (namespace, start_time)""",
        """CREATE INDEX visibility_open ON visibility (namespace, start_time) WHERE status = 0""",
        """CREATE TABLE attribute (
            run INTEGER NOT NULL, name TEXT NOT NULL, kind INTEGER NOT NULL, value NOT NULL,
            namespace TEXT NOT NULL, start_time INTEGER NOT NULL,
            PRIMARY KEY (run, name, kind, value)) WITHOUT ROWID""",
        """CREATE INDEX attribute_value ON attribute (namespace, name, kind, value, start_time)""",
        # The key is a digest of namespace, workflow id and request id: short, however long those are.
        """CREATE TABLE dedup (key BLOB PRIMARY KEY, expires INTEGER NOT NULL) WITHOUT ROWID""",
        """CREATE INDEX dedup_expires ON dedup (expires)""",
        """CREATE TABLE backlog (
            namespace TEXT NOT NULL, kind INTEGER NOT NULL, task_queue TEXT NOT NULL, type TEXT NOT NULL,
            priority INTEGER NOT NULL, fairness_pass INTEGER NOT NULL, sequence INTEGER NOT NULL,
            workflow_id TEXT NOT NULL, run_no INTEGER NOT NULL, run_id TEXT NOT NULL,
            scheduled_event_id INTEGER NOT NULL, attempt INTEGER NOT NULL,
            PRIMARY KEY (namespace, kind, task_queue, type, priority, fairness_pass, sequence)) WITHOUT ROWID""",
    ),
    (
        # The data comes last, so that looking at the rest doesn't read it.
        """CREATE TABLE blob (digest BLOB NOT NULL, kept_until INTEGER NOT NULL, data BLOB NOT NULL)""",
        """CREATE UNIQUE INDEX blob_key ON blob (digest)""",
        """CREATE INDEX blob_kept ON blob (kept_until, digest)""",
        """CREATE TABLE blob_reference (
            run INTEGER NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (run, digest)) WITHOUT ROWID""",
        """CREATE INDEX blob_reference_digest ON blob_reference (digest)""",
    ),
    (
        # Without the shard, which would scatter ids that are alike over all of the tree.
        """DROP INDEX execution_key""",
        """CREATE UNIQUE INDEX execution_key ON execution (namespace, workflow_id, run_no)""",
    ),
    ("""INSERT INTO meta VALUES ('openings', 0)""",),
)
"""What makes each version from the one before it. They are only ever added to."""

VERSION: Final = len(MIGRATIONS)
