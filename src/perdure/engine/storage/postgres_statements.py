"""The SQL that the PostgreSQL store runs, but for listings and the commit of a group: it reads and claims.

Where many rows are asked about, they come as arrays, and each row's query stands in a LATERAL: so it is looked up in
an index, whatever the planner thinks of a table that was empty when the plan was made.
"""

from __future__ import annotations

from typing import Final

CLOCK: Final = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
"""The database's clock, in microseconds."""

# --- Runs -----------------------------------------------------------------------------------------------
_STORED = """e.run_no, e.run_id, e.version, e.status, e.wake_at, e.running, e.home, s.state, coalesce(s.version, 0),
    j.histories, j.privates
    FROM unnest($1::smallint[], $2::bytea[]) WITH ORDINALITY AS w(shard, chain, place)
    CROSS JOIN LATERAL (
        SELECT * FROM execution AS e WHERE e.shard = w.shard AND e.chain = w.chain{condition}
        ORDER BY e.run_no DESC LIMIT 1) AS e
    LEFT JOIN snapshot AS s ON s.shard = e.shard AND s.run = e.run
    CROSS JOIN LATERAL (
        SELECT array_agg(j.history ORDER BY j.version) AS histories, array_agg(j.private ORDER BY j.version) AS privates
        FROM journal AS j
        WHERE j.shard = e.shard AND j.run = e.run AND j.version > coalesce(s.version, 0)) AS j"""
LATEST_RUNS = f"SELECT w.place, {_STORED.format(condition='')}"
RUN_BY_ID = f"SELECT w.place, {_STORED.format(condition=' AND e.run_id = $3')}"
VERSIONS = """SELECT w.place, e.version
    FROM unnest($1::smallint[], $2::bytea[], $3::integer[]) WITH ORDINALITY AS w(shard, chain, run_no, place)
    CROSS JOIN LATERAL (SELECT e.version FROM execution AS e
        WHERE e.shard = w.shard AND e.chain = w.chain AND e.run_no = w.run_no OFFSET 0) AS e"""
COMMITS = """SELECT w.place, j.commit_id
    FROM unnest($1::smallint[], $2::bytea[], $3::integer[], $4::bigint[])
        WITH ORDINALITY AS w(shard, chain, run_no, version, place)
    CROSS JOIN LATERAL (SELECT e.shard, e.run FROM execution AS e
        WHERE e.shard = w.shard AND e.chain = w.chain AND e.run_no = w.run_no OFFSET 0) AS e
    LEFT JOIN LATERAL (SELECT j.commit_id FROM journal AS j
        WHERE j.shard = e.shard AND j.run = e.run AND j.version = w.version OFFSET 0) AS j ON true"""
HISTORY_AFTER = """WITH sizes AS (
        SELECT j.shard, j.run, j.version, octet_length(j.history) AS size
        FROM execution AS e JOIN journal AS j ON j.shard = e.shard AND j.run = e.run
        WHERE e.shard = $1 AND e.chain = $2 AND e.run_no = $3 AND j.version > $4 ORDER BY j.version LIMIT $5
    ), places AS (
        SELECT s.shard, s.run, s.version, row_number() OVER w AS place, sum(s.size) OVER w - s.size AS before,
            max(s.version) OVER () AS last
        FROM sizes AS s WINDOW w AS (ORDER BY s.version)
    ) SELECT j.version, j.history, p.last FROM places AS p
    CROSS JOIN LATERAL (SELECT * FROM journal AS j
        WHERE j.shard = p.shard AND j.run = p.run AND j.version = p.version OFFSET 0) AS j
    WHERE p.before < $6 OR p.place = 1 ORDER BY j.version"""
"""Reads no row beyond the bytes that are wanted: one may be megabytes. The last column: the last of those looked at."""
TAKEN = """SELECT w.place
    FROM unnest($1::smallint[], $2::bytea[]) WITH ORDINALITY AS w(shard, key, place)
    JOIN LATERAL (SELECT d.expires FROM dedup AS d WHERE d.shard = w.shard AND d.key = w.key OFFSET 0) AS d
        ON d.expires > $3"""
FORGET = """DELETE FROM dedup AS d USING (
        SELECT f.shard, f.key FROM dedup AS f WHERE f.expires <= $1 ORDER BY f.expires LIMIT $2 FOR UPDATE SKIP LOCKED
    ) AS f WHERE d.shard = f.shard AND d.key = f.key"""

# --- Judging a group that the one statement can't judge --------------------------------------------------
LOCK_RUNS = """SELECT w.place, e.run_no, e.version
    FROM unnest($1::smallint[], $2::bytea[], $3::integer[]) WITH ORDINALITY AS w(shard, chain, run_no, place)
    CROSS JOIN LATERAL (SELECT e.run_no, e.version FROM execution AS e
        WHERE e.shard = w.shard AND e.chain = w.chain AND e.run_no = w.run_no FOR UPDATE) AS e"""
"""In the order that the keys are given in."""
LATEST = """SELECT w.place, e.run_no, e.status
    FROM unnest($1::smallint[], $2::bytea[]) WITH ORDINALITY AS w(shard, chain, place)
    CROSS JOIN LATERAL (SELECT e.run_no, e.status FROM execution AS e
        WHERE e.shard = w.shard AND e.chain = w.chain ORDER BY e.run_no DESC LIMIT 1) AS e"""

# --- What is due, and what runs --------------------------------------------------------------------------


def _in_scope(first: int) -> str:
    """Whether a run is in a scope, which is given by five parameters."""
    node, alive, shards, overdue, abandoned = (f"${number}" for number in range(first, first + 5))
    return f"""(e.home = {node} OR e.wake_at BETWEEN 1 AND {abandoned}
        OR (e.home <> ALL ({alive}::bigint[]) OR e.wake_at BETWEEN 1 AND {overdue})
            AND e.shard = ANY ({shards}::smallint[]))"""


# By their times alone, whosever they are: few are due at any moment, and homes that are gone may be many. 100,000 due
# runs of another node are 20 ms; an index by home and time would make an update of `wake_at` two thirds dearer, and
# each scan look at every home of the past.
_DUE = """SELECT e.namespace, e.workflow_id, e.run_no, e.run_id, e.wake_at FROM execution AS e
    WHERE e.wake_at > 0 AND e.wake_at <= $1{scope} ORDER BY e.wake_at LIMIT $2"""
DUE = _DUE.format(scope="")
DUE_IN = _DUE.format(scope=f" AND {_in_scope(3)}")
_RUNNING = """SELECT e.namespace, e.workflow_id, e.run_no FROM execution AS e
    WHERE e.busy AND e.shard >= $1 AND (e.shard, e.namespace, e.workflow_id, e.run_no) > ($1, $2, $3, $4){scope}
    ORDER BY e.shard, e.namespace, e.workflow_id, e.run_no LIMIT $5"""
RUNNING = _RUNNING.format(scope="")
RUNNING_IN = _RUNNING.format(scope=f" AND {_in_scope(6)}")

# --- Backlogs -------------------------------------------------------------------------------------------
_ITEM = """b.namespace, b.kind, b.task_queue, b.type, b.priority, b.fairness_pass, b.sequence, b.workflow_id, b.run_no,
    b.run_id, b.scheduled_event_id, b.attempt"""
BACKLOG = f"""SELECT {_ITEM} FROM backlog AS b
    WHERE b.queue = $1 AND (b.priority, b.fairness_pass, b.sequence) > ($2, $3, $4)
    ORDER BY b.priority, b.fairness_pass, b.sequence LIMIT $5"""
BACKLOGGED_QUEUES = """WITH RECURSIVE queues AS (
        (SELECT b.queue, b.namespace, b.kind, b.task_queue, b.type FROM backlog AS b ORDER BY b.queue LIMIT 1)
        UNION ALL
        SELECT n.* FROM queues AS q CROSS JOIN LATERAL (
            SELECT b.queue, b.namespace, b.kind, b.task_queue, b.type FROM backlog AS b WHERE b.queue > q.queue
            ORDER BY b.queue LIMIT 1) AS n
    ) SELECT namespace, kind, task_queue, type FROM queues"""
_FREE = f"(b.claimed_by <> ALL ($4::bigint[]) OR b.claimed_until <= {CLOCK})"
# The first of all queues are found, and only these locked: what others are just taking is left to them.
CLAIM = f"""WITH head AS (
        SELECT h.* FROM unnest($2::bytea[]) AS q(queue) CROSS JOIN LATERAL (
            SELECT b.shard, b.queue, b.priority, b.fairness_pass, b.sequence FROM backlog AS b
            WHERE b.queue = q.queue AND {_FREE} ORDER BY b.priority, b.fairness_pass, b.sequence LIMIT $3) AS h
        ORDER BY h.priority, h.fairness_pass, h.sequence LIMIT $3
    ), mine AS (
        SELECT b.shard, b.queue, b.priority, b.fairness_pass, b.sequence FROM head AS h JOIN backlog AS b
            USING (shard, queue, priority, fairness_pass, sequence) WHERE {_FREE} FOR UPDATE OF b SKIP LOCKED
    ), claimed AS (
        UPDATE backlog AS b SET claimed_by = $1, claimed_until = {CLOCK} + $5 FROM mine AS m
        WHERE b.shard = m.shard AND b.queue = m.queue AND b.priority = m.priority
            AND b.fairness_pass = m.fairness_pass AND b.sequence = m.sequence
        RETURNING {_ITEM}
    ) SELECT (SELECT count(*) FROM head), c.* FROM (VALUES (1)) AS always LEFT JOIN claimed AS c ON true
    ORDER BY c.priority, c.fairness_pass, c.sequence"""
UNCLAIM = """UPDATE backlog AS b SET claimed_by = 0, claimed_until = 0
    FROM unnest($2::smallint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[])
        AS w(shard, queue, priority, fairness_pass, sequence)
    WHERE b.shard = w.shard AND b.queue = w.queue AND b.priority = w.priority AND b.fairness_pass = w.fairness_pass
        AND b.sequence = w.sequence AND b.claimed_by = $1"""
DROP_BACKLOG = """DELETE FROM backlog AS b
    USING unnest($1::smallint[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[])
        AS w(shard, queue, priority, fairness_pass, sequence)
    WHERE b.shard = w.shard AND b.queue = w.queue AND b.priority = w.priority AND b.fairness_pass = w.fairness_pass
        AND b.sequence = w.sequence"""

# --- Blobs ----------------------------------------------------------------------------------------------
PUT_BLOB = """INSERT INTO blob AS b (digest, data, kept_until) VALUES ($1, $2, $3)
    ON CONFLICT (digest) DO UPDATE SET kept_until = greatest(b.kept_until, excluded.kept_until)"""
GET_BLOB = "SELECT data FROM blob WHERE digest = $1"
REFER_TO_BLOBS = """INSERT INTO blob_reference (shard, run, digest)
    SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bytea[]) ON CONFLICT DO NOTHING"""
FORGET_BLOBS = """WITH locked AS (
        SELECT digest FROM blob WHERE kept_until <= $1 ORDER BY kept_until LIMIT $3 FOR UPDATE SKIP LOCKED
    ), due AS (
        SELECT l.digest, EXISTS (SELECT FROM blob_reference AS r WHERE r.digest = l.digest) AS named FROM locked AS l
    ), kept AS (
        UPDATE blob AS b SET kept_until = $2 FROM due AS d WHERE b.digest = d.digest AND d.named
    ), gone AS (
        DELETE FROM blob AS b USING due AS d WHERE b.digest = d.digest AND NOT d.named
    ) SELECT count(*) FROM due"""

# --- Nodes ----------------------------------------------------------------------------------------------
ENTER = f"INSERT INTO node (renewed_at) VALUES ({CLOCK}) RETURNING number"
# Whoever uses the store holds a lock on its number, shared by its connections.
HOLD = "SELECT pg_advisory_lock_shared('node'::regclass::oid::integer, $1::integer)"
UNCLEAN = """UPDATE node SET noticed = true
    WHERE number <> $1 AND NOT noticed AND pg_try_advisory_xact_lock('node'::regclass::oid::integer, number::integer)
    RETURNING number"""
FORGET_UNJOINED = "DELETE FROM node WHERE noticed AND NOT joined"
JOIN = f"UPDATE node SET joined = true, renewed_at = {CLOCK} WHERE number = $1"
LEAVE = "DELETE FROM node WHERE number = $1"
UNWATCH_ALL = "DELETE FROM watch WHERE node = $1"
RENEW = f"""INSERT INTO node AS n (number, joined, renewed_at, alive_until, workers) OVERRIDING SYSTEM VALUE
    VALUES ($1, true, {CLOCK}, {CLOCK} + $3, $2)
    ON CONFLICT (number) DO UPDATE SET joined = true, noticed = false, renewed_at = excluded.renewed_at,
        alive_until = excluded.alive_until, workers = excluded.workers RETURNING renewed_at"""
MEMBERS = """SELECT number, workers, (SELECT max(number) FROM node WHERE alive_until > 0)
    FROM node WHERE alive_until >= $1 ORDER BY renewed_at"""
FORGET_MEMBERS = f"""WITH gone AS (
        DELETE FROM node WHERE joined AND number <> $1 AND greatest(alive_until, renewed_at) < {CLOCK} - $2
        RETURNING number
    ) DELETE FROM watch WHERE node IN (SELECT number FROM gone)"""
WATCH = "INSERT INTO watch VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"
UNWATCH = """DELETE FROM watch AS t USING unnest($1::smallint[], $2::bytea[]) AS w(shard, chain)
    WHERE t.shard = w.shard AND t.chain = w.chain AND t.node = $3"""
NOTIFY_ALL = "SELECT pg_notify($1, $2)"
CHANNEL = "SELECT 'perdure_' || 'node'::regclass::oid"

# --- Questions ------------------------------------------------------------------------------------------
ASK = f"""WITH put AS (
        INSERT INTO question (asker, id, queue, namespace, kind, task_queue, type, request, expires, taken_until)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, {CLOCK} + $9, 0) ON CONFLICT (asker, id) DO NOTHING RETURNING 1
    ) SELECT pg_notify($10, $11) FROM put"""
ASKED = f"""WITH expired AS (
        DELETE FROM question WHERE expires <= {CLOCK}
    ), waiting AS (
        SELECT q.asker, q.id FROM question AS q
        WHERE q.queue = ANY ($1::bytea[]) AND q.answer IS NULL AND q.taken_until <= {CLOCK} AND q.expires > {CLOCK}
            AND q.id <> ALL ($2::text[]) FOR UPDATE SKIP LOCKED
    ) UPDATE question AS q SET taken_until = {CLOCK} + $3 FROM waiting AS w WHERE q.asker = w.asker AND q.id = w.id
    RETURNING q.id, q.asker, q.namespace, q.kind, q.task_queue, q.type, q.request"""
ANSWER = """WITH done AS (
        UPDATE question SET answer = $3 WHERE asker = $1 AND id = $2 AND answer IS NULL RETURNING asker
    ) SELECT pg_notify($4 || asker, $5) FROM done"""
ANSWERS = "DELETE FROM question WHERE asker = $1 AND answer IS NOT NULL RETURNING id, answer"

# --- Other backends -------------------------------------------------------------------------------------
# A commit that changes nothing, and is as durable as any.
TOUCH = "SELECT pg_logical_emit_message(true, 'perdure', '')"
BACKEND = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
END_BACKEND = """SELECT pg_terminate_backend(pid, $3) FROM pg_stat_activity
    WHERE pid = $1 AND backend_start = $2"""
