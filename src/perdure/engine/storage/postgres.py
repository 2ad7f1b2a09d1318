"""The store in a PostgreSQL database, which any number of nodes share.

One connection commits (`postgres_writer`), a few read, one listens and says that the node is alive (`postgres_ears`).
Nothing is kept here that another node could make untrue. Whatever was lost is made again by the next call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from perdure.engine.storage import postgres_listing
from perdure.engine.storage import postgres_statements as sql
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
    Write,
)
from perdure.engine.storage.postgres_driver import Row
from perdure.engine.storage.postgres_ears import Ears
from perdure.engine.storage.postgres_migration import enter
from perdure.engine.storage.postgres_notices import MEMBERS, QUESTIONS, encode_moved
from perdure.engine.storage.postgres_server import Readers, Server
from perdure.engine.storage.postgres_values import chain_key, plain, queue_key, request_key, text
from perdure.engine.storage.postgres_writer import Writer
from perdure.engine.storage.schema import KIND_CODES, KINDS, STATUSES
from perdure.errors import StoreCorrupt, StoreError, Unavailable
from perdure.limits import MEMBER_REMEMBERED, POSTGRES_HISTORY_ROWS, POSTGRES_RETRIES
from perdure.model.requests import ListedWorkflow


class PostgresStore:
    """Keeps executions in a PostgreSQL database.

    Args:
        dsn: the address, as in ``postgresql://user:password@host:port/database``. Several hosts, separated by
            commas: the one that takes writes is used, and another after a fail-over.
        schema: the schema in the database that the tables stand in; it is made if it doesn't exist.

    A connection keeps locks and listens; so a pooler in between must pool sessions, not transactions.
    """

    def __init__(self, dsn: str, *, schema: str = "perdure") -> None:
        self._server = Server(dsn, schema)
        self._open: tuple[Writer, Readers] | None = None
        self.opening = 0
        self._channel = ""
        self._ears: Ears | None = None

    async def open(self, now: int) -> bool:
        if self._open is not None:
            raise StoreError(f"{self._server.place} is open in this store already")
        connection = await self._server.connect("commits")
        try:
            self.opening, self._channel, unclean = await enter(self._server, connection)
            writer = Writer(self._server, self.opening, self._channel)
            await writer.use(connection)
        except BaseException:
            connection.terminate()
            raise
        self._open = writer, Readers(self._server)
        return unclean

    async def close(self) -> None:
        if self._open is None:
            return
        writer, readers = self._open
        try:
            if self._ears is not None:
                await self._ears.close()
            await writer.execute(sql.UNWATCH_ALL, self.opening)
            await writer.execute(sql.LEAVE, self.opening)
            await writer.execute(sql.NOTIFY_ALL, self._channel, MEMBERS)
        except (StoreError, Unavailable):
            pass  # the others will see that this node is gone
        finally:
            self._open = self._ears = None
            await writer.close()
            await readers.close()

    def damaged(self, what: str) -> StoreCorrupt:
        return StoreCorrupt(f"{self._server.place} is damaged ({what}): restore a backup, and look at the server's log")

    def _writer(self) -> Writer:
        if self._open is None:
            raise StoreError(f"{self._server.place} is not open")
        return self._open[0]

    def _readers(self) -> Readers:
        if self._open is None:
            raise StoreError(f"{self._server.place} is not open")
        return self._open[1]

    async def _fetch(self, statement: str, *arguments: object) -> list[Row]:
        async with self._readers().use() as connection:
            return await connection.fetch(statement, *arguments)

    # --- Writing ----------------------------------------------------------------------------------------
    async def commit(self, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        writer = self._writer()
        return await writer.commit(group, now) if group else []

    async def committed(self, group: Sequence[Write]) -> Sequence[bool]:
        return await self._writer().committed(group)

    async def forget(self, now: int, limit: int) -> int:
        done = await self._writer().execute(sql.FORGET, now, limit)
        return int(done.split()[-1])

    # --- Blobs ------------------------------------------------------------------------------------------
    async def put_blob(self, digest: bytes, data: bytes, kept_until: int) -> None:
        await self._fetch(sql.PUT_BLOB, digest, data, kept_until)  # commits of groups don't wait for it

    async def get_blob(self, digest: bytes) -> bytes | None:
        rows = await self._fetch(sql.GET_BLOB, digest)
        return rows[0][0] if rows else None

    async def forget_blobs(self, now: int, kept_until: int, limit: int) -> int:
        [[looked_at]] = await self._fetch(sql.FORGET_BLOBS, now, kept_until, limit)
        return looked_at

    # --- Reading ----------------------------------------------------------------------------------------
    async def load(self, chains: Sequence[ChainKey]) -> Sequence[StoredRun | None]:
        found: list[StoredRun | None] = [None] * len(chains)
        if chains:
            keys = zip(*(chain_key(*chain) for chain in chains), strict=True)
            for row in await self._fetch(sql.LATEST_RUNS, *keys):
                place: int = row[0] - 1
                found[place] = _stored(chains[place], row[1:])
        return found

    async def load_run(self, chain: ChainKey, run_id: str) -> StoredRun | None:
        shard, digest = chain_key(*chain)
        rows = await self._fetch(sql.RUN_BY_ID, [shard], [digest], text(run_id))
        return _stored(chain, rows[0][1:]) if rows else None

    async def versions(self, runs: Sequence[RunKey]) -> Sequence[int]:
        found = [0] * len(runs)
        if runs:
            keys = zip(*((*chain_key(*run[:2]), run.run_no) for run in runs), strict=True)
            for place, version in await self._fetch(sql.VERSIONS, *keys):
                found[place - 1] = version
        return found

    async def journal(self, run: RunKey, after: int, limit_bytes: int) -> JournalPage:
        rows: list[tuple[int, bytes]] = []
        size = 0
        while True:
            place = *chain_key(*run[:2]), run.run_no, after
            page = await self._fetch(sql.HISTORY_AFTER, *place, POSTGRES_HISTORY_ROWS, limit_bytes - size)
            rows += [(version, history) for version, history, _ in page]
            if not page or (len(page) < POSTGRES_HISTORY_ROWS and page[-1][0] == page[-1][2]):
                return JournalPage(rows, 0)
            after = rows[-1][0]
            size += sum(len(history) for _, history, _ in page)
            if size >= limit_bytes:
                return JournalPage(rows, after)

    async def taken(self, chain: ChainKey, request_ids: Sequence[str], now: int) -> set[str]:
        shard, _ = chain_key(*chain)
        keys = [request_key(*chain, one) for one in request_ids]
        places: set[int] = {row[0] for row in await self._fetch(sql.TAKEN, [shard] * len(keys), keys, now)}
        return {one for place, one in enumerate(request_ids, 1) if place in places}

    async def due(self, now: int, limit: int) -> Sequence[Due]:
        return [_due(row) for row in await self._fetch(sql.DUE, now, limit)]

    async def running(self, after: RunKey | None, limit: int) -> Sequence[RunKey]:
        return [_run_key(row) for row in await self._fetch(sql.RUNNING, *_after(after), limit)]

    async def backlog(self, queue: QueueKey, after: BacklogItem | None, limit: int) -> Sequence[BacklogItem]:
        place = (-(1 << 63), 0, 0) if after is None else after[1:4]
        return [_item(row) for row in await self._fetch(sql.BACKLOG, queue_key(queue), *place, limit)]

    async def backlogged_queues(self) -> Sequence[QueueKey]:
        return sorted(_queue(row) for row in await self._fetch(sql.BACKLOGGED_QUEUES))

    async def drop_backlog(self, items: Sequence[BacklogItem]) -> None:
        if items:
            await self._fetch(sql.DROP_BACKLOG, *zip(*map(_place, items), strict=True))

    async def list(self, namespace: str, query: str, page: str, limit: int) -> tuple[Sequence[ListedWorkflow], str]:
        async with self._readers().use_long() as connection:
            return await postgres_listing.page(connection, namespace, query, page, limit)

    # --- Several nodes ----------------------------------------------------------------------------------
    async def join(self) -> int:
        writer = self._writer()
        await writer.execute(sql.JOIN, self.opening)
        await writer.execute(sql.NOTIFY_ALL, self._channel, MEMBERS)
        return self.opening

    async def renew(self, node: int, workers: Sequence[str], grace: int) -> Membership:
        # What keeps it alive waits for nobody: neither for what is read, nor for a commit that a lock holds up.
        ears = self._ears
        async with self._readers().use() if ears is None or ears.lost else ears.use() as connection:
            [now] = await connection.fetchrow(sql.RENEW, node, workers, grace)
            await connection.execute(sql.FORGET_MEMBERS, node, MEMBER_REMEMBERED)
            members = await connection.fetch(sql.MEMBERS, now)
        # A worker that has moved is where it was renewed last.
        workers_of = {worker: number for number, attached, _ in members for worker in attached}
        return Membership(now, frozenset(number for number, _, _ in members), workers_of, members[0][2])

    async def listen(self, node: int, heard: Callable[[Notice], None]) -> None:
        writer = self._writer()
        self._ears = Ears(self._server, (self._channel, f"{self._channel}_{node}"), heard, lambda: writer.pid)
        await self._ears.open()

    async def watch(self, node: int, chain: ChainKey) -> None:
        await self._fetch(sql.WATCH, *chain_key(*chain), node, encode_moved(chain))

    async def unwatch(self, node: int, chains: Sequence[ChainKey]) -> None:
        if chains:
            await self._fetch(sql.UNWATCH, *zip(*(chain_key(*chain) for chain in chains), strict=True), node)

    async def claim(
        self, node: int, queues: Sequence[QueueKey], limit: int, alive: frozenset[int], lease: int
    ) -> Sequence[BacklogItem]:
        keys = [queue_key(queue) for queue in queues]
        for _ in range(POSTGRES_RETRIES):
            rows = await self._fetch(sql.CLAIM, node, keys, limit, list(alive), lease)
            claimed = [_item(row[1:]) for row in rows if row[1] is not None]
            if claimed or not rows[0][0]:
                return claimed
        return []  # others took each time what was first

    async def unclaim(self, node: int, items: Sequence[BacklogItem]) -> None:
        if items:
            await self._fetch(sql.UNCLAIM, node, *zip(*map(_place, items), strict=True))

    async def ask(self, question: Question, lasts: int) -> None:
        key = question.queue
        named = text(key.namespace), KIND_CODES[key.kind], text(key.task_queue), text(key.type)
        what = question.asker, question.id, queue_key(key), *named, question.request
        await self._fetch(sql.ASK, *what, lasts, self._channel, QUESTIONS)

    async def asked(self, queues: Sequence[QueueKey], known: Sequence[str], lease: int) -> Sequence[Question]:
        rows = await self._fetch(sql.ASKED, [queue_key(queue) for queue in queues], known, lease)
        return [Question(id, asker, _queue(queue), request) for id, asker, *queue, request in rows]

    async def answer(self, question: Question, answer: bytes) -> None:
        await self._fetch(sql.ANSWER, question.asker, question.id, answer, f"{self._channel}_", QUESTIONS)

    async def answers(self, node: int) -> Sequence[tuple[str, bytes]]:
        return [(id, answer) for id, answer in await self._fetch(sql.ANSWERS, node)]

    async def due_in(self, scope: Scope, now: int, limit: int) -> Sequence[Due]:
        return [_due(row) for row in await self._fetch(sql.DUE_IN, now, limit, *_scope(scope))]

    async def running_in(self, scope: Scope, after: RunKey | None, limit: int) -> Sequence[RunKey]:
        rows = await self._fetch(sql.RUNNING_IN, *_after(after), limit, *_scope(scope))
        return [_run_key(row) for row in rows]


def _stored(chain: ChainKey, row: Row) -> StoredRun:
    run_no, run_id, version, status, wake_at, running, home, state, covered, histories, privates = row
    journal = list(zip(histories or (), privates or (), strict=True))
    key = RunKey(chain.namespace, chain.workflow_id, run_no)
    return StoredRun(
        key, plain(run_id), version, STATUSES[status], wake_at, running, state, covered, journal, home
    )  # fmt: skip


def _run_key(row: Row) -> RunKey:
    namespace, workflow_id, run_no = row
    return RunKey(plain(namespace), plain(workflow_id), run_no)


def _due(row: Row) -> Due:
    namespace, workflow_id, run_no, run_id, wake_at = row
    return Due(RunKey(plain(namespace), plain(workflow_id), run_no), plain(run_id), wake_at)


def _queue(row: Row) -> QueueKey:
    namespace, kind, task_queue, task_type = row
    return QueueKey(plain(namespace), KINDS[kind], plain(task_queue), plain(task_type))


def _place(item: BacklogItem) -> tuple[object, ...]:
    return chain_key(*item.run[:2])[0], queue_key(item.queue), *item[1:4]


def _item(row: Row) -> BacklogItem:
    *queue, priority, fairness_pass, sequence, workflow_id, run_no, run_id, scheduled_event_id, attempt = row
    key = _queue(queue)
    run = RunKey(key.namespace, plain(workflow_id), run_no)
    return BacklogItem(key, priority, fairness_pass, sequence, run, plain(run_id), scheduled_event_id, attempt)


def _after(after: RunKey | None) -> tuple[int, str, str, int]:
    if after is None:
        return -1, "", "", 0
    return chain_key(*after[:2])[0], text(after.namespace), text(after.workflow_id), after.run_no


def _scope(scope: Scope) -> tuple[int, list[int], list[int], int, int]:
    node, alive, shards, overdue, abandoned = scope
    return node, list(alive), list(shards), overdue, abandoned
