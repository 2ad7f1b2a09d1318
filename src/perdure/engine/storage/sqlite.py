"""The store in one SQLite file, which one process holds.

Statements run on the event loop's thread: they take microseconds. What waits for the disk, COMMIT and
checkpoints, runs in a helper thread, and no other statement touches that connection meanwhile. Reads have a
connection of their own, so that they go on during a commit and see only what is on disk.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn, TypeVar

from perdure.engine.storage import admission, sqlite_blobs, sqlite_listing, sqlite_writing, statements
from perdure.engine.storage.api import (
    BacklogItem,
    ChainKey,
    CommitUnknown,
    Due,
    JournalPage,
    QueueKey,
    RunKey,
    StoredRun,
    Verdict,
    Write,
)
from perdure.engine.storage.helper import HelperThread
from perdure.engine.storage.schema import KIND_CODES, KINDS, STATUSES
from perdure.engine.storage.sqlite_file import TROUBLES, SqliteFile, damaged, explained, open_file, os_error
from perdure.errors import StoreCorrupt, StoreError, StoreFull, StoreLost
from perdure.ids import shard_of
from perdure.limits import CHECKPOINT_PAGES
from perdure.model.requests import ListedWorkflow

_LOG_PAGES_OFFSET: Final = 16
"""Where the index of the log counts its pages (in the format's description: `mxFrame`)."""

_TROUBLES: Final = (*TROUBLES, TypeError, IndexError)
"""The same of reading rows, where a value may be of another type, or a number that stands for nothing."""

Result = TypeVar("Result")

_logger = logging.getLogger(__name__)


def _checked(path: str | os.PathLike[str]) -> str:
    """A path that can be one."""
    text = os.fspath(path)
    if text.endswith(os.sep):
        raise ValueError(f"{text!r} is the path of a folder: give the path of a file in it")
    if not text or "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{text!r} can't be the path of a file: it is empty, or no text that SQLite knows")
    return text


class SqliteStore:
    """Keeps executions in an SQLite file.

    Args:
        path: the file; it is made if it doesn't exist. Beside it lie `-wal`, `-shm` and `.lock` while it is open.
        flush: whether a commit waits until the disk has it. Without, a power loss may cost the latest commits.

    Raises:
        ValueError: no file can have that path.
    """

    def __init__(self, path: str | os.PathLike[str], *, flush: bool = True) -> None:
        self._path = os.path.realpath(_checked(path))
        self._flush = flush
        self.opening = 0
        self._file: SqliteFile | None = None
        self._reader: sqlite3.Connection | None = None
        self._lister: tuple[sqlite3.Connection, HelperThread] | None = None
        self._busy: asyncio.Future[Any] | None = None  # what the helper does with the writer's connection

    async def open(self, now: int) -> bool:
        if self._file is not None:
            raise StoreError(f"{self._path} is open in this store already")
        file = open_file(self._path, now, flush=self._flush)
        try:
            writer = file.writer
            clean, self.opening = _enter(writer)
            self._next_run = 1 + int(writer.execute("SELECT coalesce(max(run), 0) FROM execution").fetchone()[0])
            self._reader = file.reader()
            self._log_index = os.open(f"{self._path}-shm", os.O_RDONLY)
        except _TROUBLES as error:
            self._let_go(file)
            raise explained(self._path, error, opening=True) from error
        except OSError as error:
            self._let_go(file)
            raise os_error(self._path, error) from error
        except BaseException:
            self._let_go(file)
            raise
        self._checkpoint_at = CHECKPOINT_PAGES
        self._helper = HelperThread("perdure-commit")
        self._warm = sqlite_writing.Warm()
        self._file = file
        return not clean

    async def close(self) -> None:
        if self._file is None:
            return
        await self._writer()
        file, self._file = self._file, None
        if self._lister is not None:
            lister, helper = self._lister
            lister.interrupt()
            helper.stop()
            lister.close()
            self._lister = None
        try:
            await self._helper.run(lambda: _end(file.writer))
        finally:
            self._helper.stop()
            self._let_go(file)
            # Not before the connections: to close any handle of the index gives up SQLite's locks on it.
            os.close(self._log_index)

    def _let_go(self, file: SqliteFile) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        file.close()

    def damaged(self, what: str) -> StoreCorrupt:
        return damaged(self._path, what)

    # --- Writing ----------------------------------------------------------------------------------------
    async def commit(self, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        writer = await self._writer()
        try:
            writer.execute("BEGIN IMMEDIATE")
            verdicts, runs, self._next_run = sqlite_writing.write(writer, group, now, self._next_run, self._warm)
        except BaseException as error:
            self._give_up(writer, error)
        if "taken" in verdicts:
            await self._commit(writer)
            self._warm.committed(group, verdicts, runs)
        else:
            writer.execute("ROLLBACK")
        return verdicts

    async def forget(self, now: int, limit: int) -> int:
        writer = await self._writer()
        forgotten = self._write(writer, lambda: writer.execute(statements.FORGET, (now, limit)).rowcount)
        await self._commit(writer)
        return forgotten

    async def drop_backlog(self, items: Sequence[BacklogItem]) -> None:
        writer, keys = await self._writer(), [sqlite_writing.backlog_key(item) for item in items]
        self._write(writer, lambda: statements.DELETE_BACKLOG.run(writer, keys))
        await self._commit(writer)

    async def put_blob(self, digest: bytes, data: bytes, kept_until: int) -> None:
        def put(writer: sqlite3.Connection) -> None:
            self._write(writer, lambda: sqlite_blobs.put(writer, digest, data, kept_until))
            self._make_durable(writer)

        await self._help(put)  # also to write it takes a while

    async def forget_blobs(self, now: int, kept_until: int, limit: int) -> int:
        def forget(writer: sqlite3.Connection) -> int:
            looked_at = self._write(writer, lambda: sqlite_blobs.forget(writer, now, kept_until, limit))
            self._make_durable(writer)
            return looked_at

        return await self._help(forget)

    def _write(self, writer: sqlite3.Connection, change: Callable[[], Result]) -> Result:
        """Begin a transaction, and change something in it."""
        try:
            writer.execute("BEGIN IMMEDIATE")
            return change()
        except BaseException as error:
            self._give_up(writer, error)

    async def _writer(self) -> sqlite3.Connection:
        """The writer's connection, when the helper is done with it. Use it before the next await."""
        while self._busy is not None and not self._busy.done():
            await asyncio.wait([self._busy])
        if self._file is None:
            raise StoreError(f"{self._path} is not open")
        return self._file.writer

    def _give_up(self, writer: sqlite3.Connection, error: BaseException) -> NoReturn:
        """Undo a transaction that could not be written, and say why."""
        _roll_back(writer)
        self._check_hold()  # what another process has written does not go with what is known of the file
        if isinstance(error, TROUBLES):
            raise explained(self._path, error) from error
        raise error

    async def _commit(self, writer: sqlite3.Connection) -> None:
        """Make the open transaction durable. The helper finishes it even if the caller is cancelled."""
        await self._work(lambda: self._make_durable(writer), writer)

    async def _help(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Let the helper do something with the writer's connection."""
        writer = await self._writer()
        return await self._work(lambda: work(writer), writer)

    async def _work(self, work: Callable[[], Result], writer: sqlite3.Connection) -> Result:
        doing = self._helper.run(work)
        self._busy = doing
        # The first of its callbacks, so that whoever waits for the writer also waits for the checkpoint.
        doing.add_done_callback(lambda done: self._tidy_up(writer, done))
        done = await asyncio.shield(doing)
        # Not by the helper: after each call of the system it would wait for Python's lock, which is the loop's.
        self._check_hold()
        return done

    def _tidy_up(self, writer: sqlite3.Connection, done: asyncio.Future[Any]) -> None:
        """After a commit: begin a checkpoint if it is time."""
        if isinstance(done.exception(), StoreFull):
            self._checkpoint_at = min(self._checkpoint_at, 1)  # once copied, the log's pages can be used again
        if self._log_pages() >= self._checkpoint_at:
            self._busy = self._helper.run(lambda: self._checkpoint(writer))

    def _make_durable(self, writer: sqlite3.Connection) -> None:
        """In the helper thread."""
        try:
            writer.execute("COMMIT")
        except sqlite3.Error as error:
            _roll_back(writer)
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_IOERR:
                raise CommitUnknown(str(explained(self._path, error))) from error
            raise explained(self._path, error) from error

    def _check_hold(self) -> None:
        """Raises StoreLost where the file is not this process's any more."""
        if self._file is not None and not self._file.is_there():
            raise StoreLost(
                f"{self._path} was removed or replaced while it was open, or its log {self._path}-wal was, or another "
                "process has opened it after this one had read it by other means: nothing more is acknowledged. "
                "Restore it, or find out who did it, and open it again"
            )

    def _log_pages(self) -> int:
        # The size of the log's file doesn't tell: it is written from its start again after a checkpoint.
        return int.from_bytes(os.pread(self._log_index, 4, _LOG_PAGES_OFFSET), sys.byteorder)

    def _checkpoint(self, writer: sqlite3.Connection) -> None:
        """In the helper thread, while no transaction is open: only then does the log start anew."""
        try:
            _, pages, copied = writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            if self._checkpoint_at:
                _logger.warning("The log of %s could not be copied into it, and grows: %s", self._path, error)
            self._checkpoint_at = 0  # try again after each commit
        else:
            # Where a reader is in the way, it is tried again when the log has grown.
            self._checkpoint_at = CHECKPOINT_PAGES + (0 if pages == copied else pages)

    # --- Reading ----------------------------------------------------------------------------------------
    async def load(self, chains: Sequence[ChainKey]) -> Sequence[StoredRun | None]:
        with self._snapshot() as reader:
            return [_stored(reader, chain, statements.LATEST_RUN, chain) for chain in chains]

    async def load_run(self, chain: ChainKey, run_id: str) -> StoredRun | None:
        with self._snapshot() as reader:
            return _stored(reader, chain, statements.RUN_BY_ID, (*chain, run_id))

    async def versions(self, runs: Sequence[RunKey]) -> Sequence[int]:
        return [version for version, _ in self._commits(runs)]

    async def committed(self, group: Sequence[Write]) -> Sequence[bool]:
        await self._writer()  # a commit that the helper still tries is over now
        found = self._commits([write.key for write in group])
        return admission.settled(
            group,
            [
                not version if write.delete else commit_id == write.commit_id
                for write, (version, commit_id) in zip(group, found, strict=True)
            ],
        )

    def _commits(self, runs: Sequence[RunKey]) -> list[tuple[int, str]]:
        """The version of each run, and which attempt to commit brought it there; 0 where there is no run."""
        found = [(0, "")] * len(runs)
        rows = [(place, *run) for place, run in enumerate(runs)]
        with self._snapshot() as reader:
            for place, version, commit_id in statements.COMMITS.fetch(reader, rows):
                found[place] = version, commit_id
        return found

    async def journal(self, run: RunKey, after: int, limit_bytes: int) -> JournalPage:
        rows: list[tuple[int, bytes]] = []
        size = 0
        with self._snapshot() as reader:
            for version, history in reader.execute(statements.HISTORY_AFTER, (*run, after)):
                if rows and size >= limit_bytes:
                    return JournalPage(rows, rows[-1][0])
                rows.append((version, history))
                size += len(history)
        return JournalPage(rows, 0)

    async def taken(self, chain: ChainKey, request_ids: Sequence[str], now: int) -> set[str]:
        keys = [(place, sqlite_writing.dedup_key(chain, one), now) for place, one in enumerate(request_ids)]
        with self._snapshot() as reader:
            places = {place for (place,) in statements.FIND_TAKEN.fetch(reader, keys)}
        return {one for place, one in enumerate(request_ids) if place in places}

    async def get_blob(self, digest: bytes) -> bytes | None:
        with self._snapshot() as reader:
            return sqlite_blobs.get(reader, digest)

    async def due(self, now: int, limit: int) -> Sequence[Due]:
        with self._snapshot() as reader:
            rows = statements.DUE.fetch(reader, (now, limit))
        return [
            Due(RunKey(namespace, workflow_id, run_no), run_id, wake_at)
            for namespace, workflow_id, run_no, run_id, wake_at in rows
        ]

    async def running(self, after: RunKey | None, limit: int) -> Sequence[RunKey]:
        place = (-1, "", "", 0) if after is None else (shard_of(*after.chain), *after)
        with self._snapshot() as reader:
            return [RunKey(*row) for row in statements.RUNNING.fetch(reader, (*place, limit))]

    async def backlog(self, queue: QueueKey, after: BacklogItem | None, limit: int) -> Sequence[BacklogItem]:
        namespace, kind, task_queue, task_type = queue
        query, place = (statements.BACKLOG, ()) if after is None else (statements.BACKLOG_AFTER, after[1:4])
        with self._snapshot() as reader:
            rows = query.fetch(reader, (namespace, KIND_CODES[kind], task_queue, task_type, *place, limit))
        return [
            BacklogItem(queue, priority, fairness, sequence, RunKey(namespace, *run), *attempt)
            for priority, fairness, sequence, run, attempt in rows
        ]

    async def backlogged_queues(self) -> Sequence[QueueKey]:
        queues: list[QueueKey] = []
        place: tuple[str, int, str, str] = ("", -1, "", "")
        with self._snapshot() as reader:
            while row := reader.execute(statements.NEXT_BACKLOGGED_QUEUE, place).fetchone():
                place = row
                queues.append(QueueKey(place[0], KINDS[place[1]], *place[2:]))
        return queues

    async def list(self, namespace: str, query: str, page: str, limit: int) -> tuple[Sequence[ListedWorkflow], str]:
        connection, helper = self._listing()
        try:
            # In a thread of its own, since a query without an index reads all runs.
            return await helper.run(lambda: sqlite_listing.page(connection, namespace, query, page, limit))
        except _TROUBLES as error:
            raise explained(self._path, error) from error

    def _listing(self) -> tuple[sqlite3.Connection, HelperThread]:
        if self._lister is None:
            if self._file is None:
                raise StoreError(f"{self._path} is not open")
            self._lister = self._file.reader(), HelperThread("perdure-list")
        return self._lister

    @contextmanager
    def _snapshot(self) -> Generator[sqlite3.Connection]:
        """Statements that see the same commits: one may end in the helper thread between them."""
        reader = self._reader
        if reader is None:
            raise StoreError(f"{self._path} is not open")
        try:
            reader.execute("BEGIN")
            yield reader
        except _TROUBLES as error:
            raise explained(self._path, error) from error
        finally:
            _roll_back(reader)


def _enter(writer: sqlite3.Connection) -> tuple[bool, int]:
    """Whether the last user has closed it, and the number of this opening. Until it is closed, it isn't."""
    value = "SELECT value FROM meta WHERE name = ?"
    clean, openings = (writer.execute(value, (name,)).fetchone()[0] for name in ("clean", "openings"))
    writer.execute("UPDATE meta SET value = iif(name = 'clean', 0, value + 1) WHERE name IN ('clean', 'openings')")
    return bool(clean), 1 + int(openings)


def _end(writer: sqlite3.Connection) -> None:
    """Note a clean end, if the disk takes it; else the next to open sees an unclean one, and looks."""
    with suppress(sqlite3.Error):
        writer.execute("UPDATE meta SET value = 1 WHERE name = 'clean'")
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _roll_back(writer: sqlite3.Connection) -> None:
    if writer.in_transaction:  # some errors have rolled back already
        with suppress(sqlite3.Error):
            writer.execute("ROLLBACK")


def _stored(
    reader: sqlite3.Connection, chain: ChainKey, statement: str, parameters: tuple[object, ...]
) -> StoredRun | None:
    row = reader.execute(statement, parameters).fetchone()
    if row is None:
        return None
    run, run_no, run_id, version, status, wake_at, running, snapshot, snapshot_version = row
    journal = reader.execute(statements.JOURNAL_AFTER, (run, snapshot_version)).fetchall()
    key = RunKey(chain.namespace, chain.workflow_id, run_no)
    return StoredRun(key, run_id, version, STATUSES[status], wake_at, running, snapshot, snapshot_version, journal)
