"""The SQL that the SQLite store runs, but for listings: it appends, claims and reads, and decides nothing."""

from __future__ import annotations

from perdure.engine.storage.bulk import Bulk, BulkQuery, Query


def _marks(columns: int) -> str:
    return f"({', '.join('?' * columns)})"


# --- What a group is judged by --------------------------------------------------------------------------
FIND_RUNS = BulkQuery(
    list[tuple[int, int, int]],
    "w.column1, e.run, e.version",
    """FROM (VALUES {rows}) AS w CROSS JOIN execution AS e
        ON e.namespace = w.column2 AND e.workflow_id = w.column3 AND e.run_no = w.column4""",
    _marks(4),
)
FIND_LATEST = BulkQuery(
    list[tuple[int, int, int]],
    "w.column1, e.run_no, e.status",
    """FROM (VALUES {rows}) AS w CROSS JOIN execution AS e
        ON e.namespace = w.column2 AND e.workflow_id = w.column3 AND e.run_no = (
            SELECT max(l.run_no) FROM execution AS l WHERE l.namespace = w.column2 AND l.workflow_id = w.column3)""",
    _marks(3),
)
FIND_TAKEN = BulkQuery(
    list[tuple[int]],
    "w.column1",
    "FROM (VALUES {rows}) AS w CROSS JOIN dedup AS d ON d.key = w.column2 AND d.expires > w.column3",
    _marks(3),
)

# --- What a group writes --------------------------------------------------------------------------------
INSERT_EXECUTION = Bulk("INSERT INTO execution VALUES {rows}", _marks(11))
# An index is written wherever a column that it knows is set, even to what it was: half of an update's time.
ADVANCE_EXECUTION = Bulk(
    """UPDATE execution SET version = w.column2, commit_id = w.column3, status = w.column4
        FROM (VALUES {rows}) AS w WHERE run = w.column1""",
    _marks(4),
)
UPDATE_EXECUTION = Bulk(
    """UPDATE execution SET version = w.column2, commit_id = w.column3, status = w.column4, running = w.column5
        FROM (VALUES {rows}) AS w WHERE run = w.column1""",
    _marks(5),
)
UPDATE_EXECUTION_AND_WAKE = Bulk(
    """UPDATE execution SET version = w.column2, commit_id = w.column3, status = w.column4, running = w.column5,
        wake_at = w.column6 FROM (VALUES {rows}) AS w WHERE run = w.column1""",
    _marks(6),
)
INSERT_JOURNAL = Bulk("INSERT INTO journal VALUES {rows}", _marks(4))
REPLACE_VISIBILITY = Bulk("INSERT OR REPLACE INTO visibility VALUES {rows}", _marks(8))
DELETE_ATTRIBUTES = Bulk("DELETE FROM attribute WHERE run IN ({rows})", "?")
INSERT_ATTRIBUTE = Bulk("INSERT INTO attribute VALUES {rows}", _marks(6))
REPLACE_DEDUP = Bulk("INSERT OR REPLACE INTO dedup VALUES {rows}", _marks(2))
REPLACE_BACKLOG = Bulk("INSERT OR REPLACE INTO backlog VALUES {rows}", _marks(12))
DELETE_BACKLOG = Bulk(
    "DELETE FROM backlog WHERE {rows}",
    """(namespace = ? AND kind = ? AND task_queue = ? AND type = ?
        AND priority = ? AND fairness_pass = ? AND sequence = ?)""",
    " OR ",
)
INSERT_BLOB_REFERENCE = Bulk("INSERT OR IGNORE INTO blob_reference VALUES {rows}", _marks(2))
CLEAR_PRIVATE = """UPDATE journal SET private = x''
    WHERE run = ?1 AND version > coalesce((SELECT version FROM snapshot WHERE run = ?1), 0) AND private <> x''"""
REPLACE_SNAPSHOT = "INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?)"
DELETE_RUN = tuple(
    Bulk(f"DELETE FROM {table} WHERE run IN ({{rows}})", "?")
    for table in ("execution", "journal", "snapshot", "visibility", "attribute", "blob_reference")
)
FORGET = "DELETE FROM dedup WHERE key IN (SELECT key FROM dedup WHERE expires <= ? ORDER BY expires LIMIT ?)"

# --- Blobs ----------------------------------------------------------------------------------------------
PUT_BLOB = """INSERT INTO blob VALUES (?, ?, ?)
    ON CONFLICT (digest) DO UPDATE SET kept_until = max(kept_until, excluded.kept_until)"""
GET_BLOB = "SELECT data FROM blob WHERE digest = ?"
DUE_BLOBS = """SELECT digest, EXISTS (SELECT 1 FROM blob_reference AS r WHERE r.digest = b.digest)
    FROM blob AS b WHERE kept_until <= ? ORDER BY kept_until LIMIT ?"""
KEEP_BLOB = "UPDATE blob SET kept_until = ? WHERE digest = ?"
DELETE_BLOB = "DELETE FROM blob WHERE digest = ?"

# --- Reading --------------------------------------------------------------------------------------------
_STORED = """SELECT e.run, e.run_no, e.run_id, e.version, e.status, e.wake_at, e.running,
    s.state, coalesce(s.version, 0) FROM execution AS e LEFT JOIN snapshot AS s ON s.run = e.run
    WHERE e.namespace = ? AND e.workflow_id = ?"""
LATEST_RUN = f"{_STORED} ORDER BY e.run_no DESC LIMIT 1"
RUN_BY_ID = f"{_STORED} AND e.run_id = ? ORDER BY e.run_no DESC LIMIT 1"
JOURNAL_AFTER = "SELECT history, private FROM journal WHERE run = ? AND version > ? ORDER BY version"
HISTORY_AFTER = """SELECT j.version, j.history FROM execution AS e CROSS JOIN journal AS j ON j.run = e.run
    WHERE e.namespace = ? AND e.workflow_id = ? AND e.run_no = ? AND j.version > ?
    ORDER BY j.version"""
COMMITS = BulkQuery(
    list[tuple[int, int, str]],
    "w.column1, e.version, e.commit_id",
    """FROM (VALUES {rows}) AS w CROSS JOIN execution AS e
        ON e.namespace = w.column2 AND e.workflow_id = w.column3 AND e.run_no = w.column4""",
    _marks(4),
)
DUE = Query(
    list[tuple[str, str, int, str, int]],
    "namespace, workflow_id, run_no, run_id, wake_at",
    """FROM (SELECT * FROM execution WHERE wake_at > 0 AND wake_at <= ? ORDER BY wake_at LIMIT ?)""",
)
RUNNING = Query(
    list[tuple[str, str, int]],
    "namespace, workflow_id, run_no",
    """FROM (SELECT * FROM execution
        WHERE running > 0 AND shard >= ?1 AND (shard, namespace, workflow_id, run_no) > (?1, ?2, ?3, ?4)
        ORDER BY shard, namespace, workflow_id, run_no LIMIT ?5)""",
)
_BacklogRows = list[tuple[int, int, int, tuple[str, int], tuple[str, int, int]]]
_BACKLOG_COLUMNS = """priority, fairness_pass, sequence, json_array(workflow_id, run_no),
    json_array(run_id, scheduled_event_id, attempt)"""
_BACKLOG = """FROM (SELECT * FROM backlog
    WHERE namespace = ? AND kind = ? AND task_queue = ? AND type = ?{after}
    ORDER BY priority, fairness_pass, sequence LIMIT ?)"""
BACKLOG = Query(_BacklogRows, _BACKLOG_COLUMNS, _BACKLOG.format(after=""))
BACKLOG_AFTER = Query(
    _BacklogRows, _BACKLOG_COLUMNS, _BACKLOG.format(after=" AND (priority, fairness_pass, sequence) > (?, ?, ?)")
)
# Each step seeks past a queue's tasks instead of reading them.
NEXT_BACKLOGGED_QUEUE = """SELECT namespace, kind, task_queue, type FROM backlog
    WHERE (namespace, kind, task_queue, type) > (?, ?, ?, ?) ORDER BY namespace, kind, task_queue, type LIMIT 1"""
