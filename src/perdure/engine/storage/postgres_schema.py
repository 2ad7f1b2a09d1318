"""The tables of the PostgreSQL store, and how those of an earlier version become those of today.

The shard leads every primary key, is in every row and in every join, so that executions can be spread by shard over
several databases, or by a PostgreSQL that distributes its tables, without being changed. Only `node` and `question`,
which are about processes, have none, and `meta`, about the tables; and `blob`, whose digest takes its place.

A run is found by (shard, chain, run_no), where the chain is a digest of namespace and workflow id: ids may be longer
than an index takes. What belongs to it is keyed by (shard, run), a number of the run's own, given in the order of
starts: so what is new lies together at the end of each table, and of each shard's part of an index. (The numbers are
one database's. One that takes over shards must be ahead of where they were: `setval`.)

What is in no index can be changed in place (a HOT update), so the hot row's version, status and counter are in none;
`busy` is, and changes only where `running` comes from or to 0.

Texts have the order of their code points (COLLATE "C"), and are escaped (`postgres_values.text`).
"""

from __future__ import annotations

from typing import Final

from perdure.limits import RUN_NUMBERS

OLDEST_SERVER: Final = 14
"""The first version of PostgreSQL that has all that is used here."""

_EAGER: Final = (
    "autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0"
)
"""For tables whose rows change all the time: what is dead is cleared away before it is in the way."""

COMMIT_GROUP: Final = """
CREATE FUNCTION commit_group_1(
    -- Of all writes, in the order of their keys. An expected version of 0 begins a run, whose number is base + place.
    now bigint, base bigint, judged boolean,
    shards smallint[], chains bytea[], run_nos integer[], expecteds bigint[], versions bigint[], statuses smallint[],
    wakes bigint[], runnings integer[], homes bigint[], commits text[], histories bytea[], privates bytea[],
    -- The others name a write by its place, from 1. First: what only begun runs have.
    begun integer[], begun_namespaces text[], begun_workflow_ids text[], begun_run_ids text[],
    -- Writes that stand or fall with another.
    ends integer[], successors integer[],
    gone integer[],
    snapshots integer[], states bytea[],
    seen integer[], seen_spaces bigint[], seen_namespaces text[], seen_workflow_ids text[], seen_run_nos integer[],
    seen_run_ids text[], seen_starts bigint[], seen_closes bigint[], seen_statuses smallint[], seen_types text[],
    seen_queues text[], seen_memos bytea[],
    attributed integer[], attribute_spaces bigint[], attribute_names text[], attribute_kinds smallint[],
    attribute_numbers numeric[], attribute_texts text[], attribute_starts bigint[],
    requests integer[], request_keys bytea[], request_expiries bigint[],
    added integer[], added_queues bytea[], added_priorities bigint[], added_passes bigint[], added_sequences bigint[],
    added_namespaces text[], added_kinds smallint[], added_task_queues text[], added_types text[],
    added_workflow_ids text[], added_run_nos integer[], added_run_ids text[], added_events bigint[],
    added_attempts bigint[], added_notices text[],
    removed integer[], removed_queues bytea[], removed_priorities bigint[], removed_passes bigint[],
    removed_sequences bigint[],
    told integer[], told_nodes bigint[], told_notices text[],
    me bigint, channel text
) RETURNS bigint[] LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    taken bigint[] := array_fill(NULL::bigint, ARRAY[cardinality(shards)]);  -- the runs that were written, by place
    changed record;
    due integer;
    done integer;
BEGIN
    IF gone <> '{}' THEN
        FOR changed IN
            DELETE FROM execution AS e USING unnest(gone) AS w(place)
            WHERE e.shard = shards[w.place] AND e.chain = chains[w.place] AND e.run_no = run_nos[w.place]
                AND e.version = expecteds[w.place]
            RETURNING w.place, e.run
        LOOP
            taken[changed.place] := changed.run;
        END LOOP;
        DELETE FROM journal AS j USING unnest(gone) AS w(place)
            WHERE j.shard = shards[w.place] AND j.run = taken[w.place];
        DELETE FROM snapshot AS s USING unnest(gone) AS w(place)
            WHERE s.shard = shards[w.place] AND s.run = taken[w.place];
        DELETE FROM visibility AS v USING unnest(gone) AS w(place)
            WHERE v.shard = shards[w.place] AND v.run = taken[w.place];
        DELETE FROM attribute AS a USING unnest(gone) AS w(place)
            WHERE a.shard = shards[w.place] AND a.run = taken[w.place];
    END IF;
    -- A row that another transaction has locked is waited for, and its version then compared again.
    FOR changed IN
        UPDATE execution AS e SET version = w.version, status = w.status, wake_at = coalesce(w.wake_at, e.wake_at),
            running = w.running, busy = w.running > 0, home = w.home
        FROM unnest(shards, chains, run_nos, expecteds, versions, statuses, wakes, runnings, homes)
            WITH ORDINALITY AS w(shard, chain, run_no, expected, version, status, wake_at, running, home, place)
        WHERE w.expected > 0 AND e.shard = w.shard AND e.chain = w.chain AND e.run_no = w.run_no
            AND e.version = w.expected
        RETURNING w.place, e.run
    LOOP
        taken[changed.place] := changed.run;
    END LOOP;
    IF begun <> '{}' THEN
        -- That nobody else begins the same run is the key's affair. A run of that number could be missed only if it
        -- began, ended and was deleted by its retention while this statement waits.
        FOR changed IN
            INSERT INTO execution (shard, chain, run_no, run, version, status, wake_at, running, busy, home,
                namespace, workflow_id, run_id)
            SELECT shards[w.place], chains[w.place], run_nos[w.place], base + w.place, versions[w.place],
                statuses[w.place], coalesce(wakes[w.place], 0), runnings[w.place], runnings[w.place] > 0,
                homes[w.place], w.namespace, w.workflow_id, w.run_id
            FROM unnest(begun, begun_namespaces, begun_workflow_ids, begun_run_ids)
                AS w(place, namespace, workflow_id, run_id)
            LEFT JOIN LATERAL (
                SELECT l.run_no, l.status FROM execution AS l
                WHERE l.shard = shards[w.place] AND l.chain = chains[w.place] ORDER BY l.run_no DESC LIMIT 1
            ) AS latest ON true
            WHERE judged OR run_nos[w.place] = coalesce(latest.run_no, 0) + 1 AND latest.status IS DISTINCT FROM 0
            ON CONFLICT (shard, chain, run_no) DO NOTHING
            RETURNING execution.run - base AS place, execution.run
        LOOP
            taken[changed.place] := changed.run;
        END LOOP;
    END IF;
    IF EXISTS (SELECT FROM unnest(ends, successors) AS w(one, other)
            WHERE (taken[w.one] IS NULL) <> (taken[w.other] IS NULL)) THEN
        RAISE EXCEPTION USING ERRCODE = 'PD001', MESSAGE = 'writes that belong together were not taken together';
    END IF;
    INSERT INTO journal (shard, run, version, commit_id, history, private)
        SELECT w.shard, w.run, w.version, w.commit_id, w.history, w.private
        FROM unnest(shards, taken, versions, commits, histories, privates)
            WITH ORDINALITY AS w(shard, run, version, commit_id, history, private, place)
        WHERE w.run IS NOT NULL AND w.place <> ALL (gone);
    IF snapshots <> '{}' THEN
        INSERT INTO snapshot AS s (shard, run, version, state)
            SELECT shards[w.place], taken[w.place], versions[w.place], w.state
            FROM unnest(snapshots, states) AS w(place, state) WHERE taken[w.place] IS NOT NULL
            ON CONFLICT (shard, run) DO UPDATE SET version = excluded.version, state = excluded.state;
    END IF;
    IF seen <> '{}' THEN
        DELETE FROM attribute AS a USING unnest(seen) AS w(place)
            WHERE a.shard = shards[w.place] AND a.run = taken[w.place] AND expecteds[w.place] > 0;
        INSERT INTO visibility AS v (shard, run, space, namespace, workflow_id, run_no, run_id, start_time,
                close_time, status, workflow_type, task_queue, memo)
            SELECT shards[w.place], taken[w.place], w.space, w.namespace, w.workflow_id, w.run_no, w.run_id,
                w.start_time, w.close_time, w.status, w.workflow_type, w.task_queue, w.memo
            FROM unnest(seen, seen_spaces, seen_namespaces, seen_workflow_ids, seen_run_nos, seen_run_ids,
                seen_starts, seen_closes, seen_statuses, seen_types, seen_queues, seen_memos)
                AS w(place, space, namespace, workflow_id, run_no, run_id, start_time, close_time, status,
                    workflow_type, task_queue, memo)
            WHERE taken[w.place] IS NOT NULL
            ON CONFLICT (shard, run) DO UPDATE SET start_time = excluded.start_time, close_time = excluded.close_time,
                status = excluded.status, workflow_type = excluded.workflow_type, task_queue = excluded.task_queue,
                memo = excluded.memo;
        INSERT INTO attribute (shard, run, entry, space, name, kind, number, text, start_time)
            SELECT shards[w.place], taken[w.place], w.entry, w.space, w.name, w.kind, w.number, w.text, w.start_time
            FROM unnest(attributed, attribute_spaces, attribute_names, attribute_kinds, attribute_numbers,
                attribute_texts, attribute_starts)
                WITH ORDINALITY AS w(place, space, name, kind, number, text, start_time, entry)
            WHERE taken[w.place] IS NOT NULL;
    END IF;
    IF requests <> '{}' THEN
        SELECT count(*) INTO due FROM unnest(requests) AS w(place) WHERE taken[w.place] IS NOT NULL;
        INSERT INTO dedup AS d (shard, key, expires)
            SELECT shards[w.place], w.key, w.expires
            FROM unnest(requests, request_keys, request_expiries) AS w(place, key, expires)
            WHERE taken[w.place] IS NOT NULL ORDER BY shards[w.place], w.key
            ON CONFLICT (shard, key) DO UPDATE SET expires = excluded.expires WHERE d.expires <= now;
        GET DIAGNOSTICS done = ROW_COUNT;
        IF done < due THEN
            RAISE EXCEPTION USING ERRCODE = 'PD002', MESSAGE = 'a request id was taken before';
        END IF;
    END IF;
    IF removed <> '{}' THEN
        DELETE FROM backlog AS b USING unnest(removed, removed_queues, removed_priorities, removed_passes,
                removed_sequences) AS w(place, queue, priority, fairness_pass, sequence)
            WHERE taken[w.place] IS NOT NULL AND b.shard = shards[w.place] AND b.queue = w.queue
                AND b.priority = w.priority AND b.fairness_pass = w.fairness_pass AND b.sequence = w.sequence;
    END IF;
    IF added <> '{}' THEN
        INSERT INTO backlog AS b (shard, queue, priority, fairness_pass, sequence, namespace, kind, task_queue,
                type, workflow_id, run_no, run_id, scheduled_event_id, attempt, claimed_by, claimed_until)
            SELECT shards[w.place], w.queue, w.priority, w.fairness_pass, w.sequence, w.namespace, w.kind,
                w.task_queue, w.type, w.workflow_id, w.run_no, w.run_id, w.scheduled_event_id, w.attempt, 0, 0
            FROM unnest(added, added_queues, added_priorities, added_passes, added_sequences, added_namespaces,
                added_kinds, added_task_queues, added_types, added_workflow_ids, added_run_nos, added_run_ids,
                added_events, added_attempts)
                AS w(place, queue, priority, fairness_pass, sequence, namespace, kind, task_queue, type,
                    workflow_id, run_no, run_id, scheduled_event_id, attempt)
            WHERE taken[w.place] IS NOT NULL
            ORDER BY shards[w.place], w.queue, w.priority, w.fairness_pass, w.sequence
            ON CONFLICT (shard, queue, priority, fairness_pass, sequence) DO UPDATE SET
                workflow_id = excluded.workflow_id, run_no = excluded.run_no, run_id = excluded.run_id,
                scheduled_event_id = excluded.scheduled_event_id, attempt = excluded.attempt,
                claimed_by = 0, claimed_until = 0;
        -- A notification takes a lock that all commits share: none where nobody would hear it.
        IF EXISTS (SELECT FROM node WHERE number <> me AND joined) THEN
            PERFORM pg_notify(channel, w.notice) FROM (
                SELECT DISTINCT w.notice FROM unnest(added, added_notices) AS w(place, notice)
                WHERE taken[w.place] IS NOT NULL) AS w;
        END IF;
    END IF;
    IF told <> '{}' OR EXISTS (SELECT FROM watch) THEN
        PERFORM pg_notify(channel || '_' || w.node, w.notice) FROM (
            SELECT t.node, t.notice FROM unnest(told, told_nodes, told_notices) AS t(place, node, notice)
            WHERE taken[t.place] IS NOT NULL
            UNION
            SELECT t.node, t.notice FROM unnest(taken, shards, chains) AS w(run, shard, chain)
            JOIN watch AS t ON t.shard = w.shard AND t.chain = w.chain WHERE w.run IS NOT NULL AND t.node <> me
        ) AS w;
    END IF;
    RETURN taken;
END $$"""
"""A group in one round trip. Each statement in it sees what was committed before it began."""

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        f"""CREATE TABLE execution (
            shard smallint NOT NULL, chain bytea NOT NULL, run_no integer NOT NULL, run bigint NOT NULL,
            version bigint NOT NULL, wake_at bigint NOT NULL, home bigint NOT NULL, running integer NOT NULL,
            status smallint NOT NULL, busy boolean NOT NULL,
            namespace text COLLATE "C" NOT NULL, workflow_id text COLLATE "C" NOT NULL,
            run_id text COLLATE "C" NOT NULL,
            PRIMARY KEY (shard, chain, run_no)) WITH (fillfactor = 70, {_EAGER})""",
        "CREATE INDEX execution_wake ON execution (wake_at) WHERE wake_at > 0",
        "CREATE INDEX execution_busy ON execution (shard) WHERE busy",
        f"CREATE SEQUENCE run INCREMENT {RUN_NUMBERS}",
        """CREATE TABLE journal (
            run bigint NOT NULL, version bigint NOT NULL, shard smallint NOT NULL, commit_id text NOT NULL,
            history bytea NOT NULL, private bytea NOT NULL, PRIMARY KEY (shard, run, version))""",
        """CREATE TABLE snapshot (
            run bigint NOT NULL, version bigint NOT NULL, shard smallint NOT NULL, state bytea NOT NULL,
            PRIMARY KEY (shard, run))""",
        f"""CREATE TABLE visibility (
            run bigint NOT NULL, space bigint NOT NULL, start_time bigint NOT NULL, close_time bigint NOT NULL,
            run_no integer NOT NULL, shard smallint NOT NULL, status smallint NOT NULL,
            namespace text COLLATE "C" NOT NULL, workflow_id text COLLATE "C" NOT NULL,
            run_id text COLLATE "C" NOT NULL, workflow_type text COLLATE "C" NOT NULL,
            task_queue text COLLATE "C" NOT NULL, memo bytea, PRIMARY KEY (shard, run))
            WITH (fillfactor = 80, {_EAGER})""",
        "CREATE INDEX visibility_start ON visibility (space, start_time)",
        "CREATE INDEX visibility_open ON visibility (space, start_time) WHERE status = 0",
        # entry: tells the values of a run apart, and means nothing else.
        f"""CREATE TABLE attribute (
            run bigint NOT NULL, space bigint NOT NULL, start_time bigint NOT NULL, entry integer NOT NULL,
            shard smallint NOT NULL, kind smallint NOT NULL, name text COLLATE "C" NOT NULL, number numeric,
            text text COLLATE "C", PRIMARY KEY (shard, run, entry)) WITH ({_EAGER})""",
        """CREATE INDEX attribute_number ON attribute (space, left(name, 64), number, start_time)
            WHERE text IS NULL""",
        """CREATE INDEX attribute_text ON attribute (space, left(name, 64), left(text, 64), start_time)
            WHERE text IS NOT NULL""",
        f"""CREATE TABLE dedup (
            shard smallint NOT NULL, key bytea NOT NULL, expires bigint NOT NULL, PRIMARY KEY (shard, key))
            WITH ({_EAGER})""",
        "CREATE INDEX dedup_expires ON dedup (expires)",
        f"""CREATE TABLE backlog (
            queue bytea NOT NULL, priority bigint NOT NULL, fairness_pass bigint NOT NULL, sequence bigint NOT NULL,
            claimed_by bigint NOT NULL, claimed_until bigint NOT NULL, run_no integer NOT NULL, shard smallint NOT NULL,
            kind smallint NOT NULL, scheduled_event_id bigint NOT NULL, attempt bigint NOT NULL,
            namespace text COLLATE "C" NOT NULL, task_queue text COLLATE "C" NOT NULL, type text COLLATE "C" NOT NULL,
            workflow_id text COLLATE "C" NOT NULL, run_id text COLLATE "C" NOT NULL,
            PRIMARY KEY (shard, queue, priority, fairness_pass, sequence)) WITH (fillfactor = 80, {_EAGER})""",
        "CREATE INDEX backlog_queue ON backlog (queue, priority, fairness_pass, sequence)",
        # joined: it takes part; before, it only uses the store. noticed: its unclean end was told to somebody.
        f"""CREATE TABLE node (
            number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, joined boolean NOT NULL DEFAULT false,
            noticed boolean NOT NULL DEFAULT false, renewed_at bigint NOT NULL, alive_until bigint NOT NULL DEFAULT 0,
            workers text[] NOT NULL DEFAULT '{{}}') WITH (fillfactor = 20, {_EAGER})""",
        f"""CREATE UNLOGGED TABLE watch (
            shard smallint NOT NULL, chain bytea NOT NULL, node bigint NOT NULL, notice text NOT NULL,
            PRIMARY KEY (shard, chain, node)) WITH ({_EAGER})""",
        COMMIT_GROUP,
    ),
    (
        f"""CREATE UNLOGGED TABLE question (
            asker bigint NOT NULL, id text COLLATE "C" NOT NULL, queue bytea NOT NULL, expires bigint NOT NULL,
            taken_until bigint NOT NULL, kind smallint NOT NULL, namespace text COLLATE "C" NOT NULL,
            task_queue text COLLATE "C" NOT NULL, type text COLLATE "C" NOT NULL, request bytea NOT NULL, answer bytea,
            PRIMARY KEY (asker, id)) WITH ({_EAGER})""",
        "CREATE INDEX question_queue ON question (queue) WHERE answer IS NULL",
    ),
    (
        # The digest spreads them as well as a shard would. What is compressed already isn't compressed again.
        f"""CREATE TABLE blob (kept_until bigint NOT NULL, digest bytea NOT NULL PRIMARY KEY, data bytea NOT NULL)
            WITH ({_EAGER})""",
        "ALTER TABLE blob ALTER COLUMN data SET STORAGE EXTERNAL",
        "CREATE INDEX blob_kept ON blob (kept_until)",
        f"""CREATE TABLE blob_reference (
            run bigint NOT NULL, shard smallint NOT NULL, digest bytea NOT NULL, PRIMARY KEY (shard, run, digest))
            WITH ({_EAGER})""",
        "CREATE INDEX blob_reference_digest ON blob_reference (digest)",
        """CREATE FUNCTION forget_blob_references() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            DELETE FROM blob_reference AS r USING gone AS g WHERE r.shard = g.shard AND r.run = g.run;
            RETURN NULL;
        END $$""",
        """CREATE TRIGGER forget_blob_references AFTER DELETE ON execution REFERENCING OLD TABLE AS gone
            FOR EACH STATEMENT EXECUTE FUNCTION forget_blob_references()""",
    ),
)
"""What makes each version from the one before it. They are only ever added to."""

VERSION: Final = len(MIGRATIONS)
