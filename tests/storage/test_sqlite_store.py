"""What is particular to the SQLite store: its threads, its log, and what it costs."""

# ruff: noqa: ASYNC240 - a test may wait for its files and processes

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import get_args

import pytest

from perdure.engine.storage import filter as list_filter
from perdure.engine.storage import sqlite_listing
from perdure.engine.storage.api import TaskKind
from perdure.engine.storage.helper import HelperThread
from perdure.engine.storage.schema import KIND_CODES, STATUS_CODES
from perdure.engine.storage.sqlite import CHECKPOINT_PAGES, SqliteStore
from perdure.ids import RandomIds
from perdure.model.requests import Status
from tests.storage.make import LATER, NOW, follow, ids, key, put, seen, start

MIB = 1024 * 1024


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(path, flush=False)
    await opened.open(NOW)
    yield opened
    await opened.close()


class Stop:
    """Keeps the store's helper thread busy, so that a COMMIT waits until it is let go."""

    def __init__(self, store: SqliteStore) -> None:
        self._go = threading.Event()
        self._busy = store._helper.run(self._go.wait)

    async def release(self) -> None:
        self._go.set()
        await self._busy


# --- Threads --------------------------------------------------------------------------------------------
async def test_reads_go_on_during_a_commit_and_see_what_is_committed(store: SqliteStore) -> None:
    first = seen(start("a")._replace(wake_at=NOW))
    await put(store, first)
    stop = Stop(store)
    second = follow(first)._replace(wake_at=LATER, running=1)
    commit = asyncio.create_task(put(store, second, seen(start("b"))))
    await asyncio.sleep(0)
    assert await store.versions([first.key, key("b")]) == [1, 0]
    assert [due.wake_at for due in await store.due(LATER, 10)] == [NOW]
    assert await ids(store) == ["a"]
    await stop.release()
    assert await commit == ["taken", "taken"]
    assert await store.versions([first.key]) == [2]
    assert set(await ids(store)) == {"a", "b"}


async def test_a_read_of_several_statements_sees_one_moment(store: SqliteStore) -> None:
    first = start("a")
    await put(store, first)
    count = "SELECT count(*) FROM journal"
    with store._snapshot() as reader:
        before = reader.execute(count).fetchone()
        await put(store, follow(first))
        assert reader.execute(count).fetchone() == before == (1,)
    with store._snapshot() as reader:
        assert reader.execute(count).fetchone() == (2,)


async def test_commits_wait_for_each_other(store: SqliteStore) -> None:
    stop = Stop(store)
    writes = [start(f"w-{number}") for number in range(20)]
    commits = [asyncio.create_task(put(store, write)) for write in writes]
    forgetting = asyncio.create_task(store.forget(NOW, 10))
    await asyncio.sleep(0)
    await stop.release()
    assert await asyncio.gather(*commits) == [["taken"]] * 20
    assert await forgetting == 0
    assert set(await store.versions([write.key for write in writes])) == {1}


async def test_a_cancelled_commit_is_finished(store: SqliteStore) -> None:
    stop = Stop(store)
    first = start("a")
    commit = asyncio.create_task(put(store, first))
    await asyncio.sleep(0)
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit
    following = asyncio.create_task(put(store, start("b")))
    await asyncio.sleep(0)
    await stop.release()
    assert await following == ["taken"]
    assert await store.versions([first.key, key("b")]) == [1, 1]


async def test_closing_waits_for_a_commit(path: Path) -> None:
    store = SqliteStore(path)
    await store.open(NOW)
    stop = Stop(store)
    commit = asyncio.create_task(put(store, start("a")))
    await asyncio.sleep(0)
    closing_store = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    await stop.release()
    assert await commit == ["taken"]
    await closing_store
    assert await store.open(NOW) is False
    assert await store.versions([key("a")]) == [1]
    await store.close()


async def test_a_write_that_no_database_can_hold_changes_nothing(store: SqliteStore) -> None:
    await put(store, start("a"))
    with pytest.raises(OverflowError):
        await put(store, start("b"), start("c")._replace(wake_at=1 << 70))
    assert await put(store, start("b")) == ["taken"]


async def test_the_helper_passes_results_and_errors_on() -> None:
    helper = HelperThread("test")
    assert await helper.run(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await helper.run(lambda: 1 / 0)
    go = threading.Event()
    waiting = helper.run(go.wait)
    waiting.cancel()
    go.set()
    assert await helper.run(lambda: "alive") == "alive"
    helper.stop()


# --- The log --------------------------------------------------------------------------------------------
async def test_the_log_stays_bounded(store: SqliteStore, path: Path) -> None:
    writes = [start(f"w-{number}") for number in range(20)]
    await put(store, *writes)
    written = largest = 0
    while written < 64 * MIB:
        writes = [follow(write)._replace(history=os.urandom(50_000)) for write in writes]
        await put(store, *writes)
        written += 20 * 50_000
        largest = max(largest, path.with_name("perdure.db-wal").stat().st_size)
    assert 4 * MIB <= largest <= 4 * MIB + 3 * 20 * 50_000
    assert path.stat().st_size > 60 * MIB


async def test_a_reader_of_another_program_only_delays_the_copying(store: SqliteStore, path: Path) -> None:
    write = start("a")
    await put(store, write)
    log = path.with_name("perdure.db-wal")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM execution").fetchall()
        while log.stat().st_size < 20 * MIB:
            write = follow(write)._replace(history=os.urandom(100_000))
            await put(store, write)
        other.execute("ROLLBACK")
    for _ in range(60):
        write = follow(write)._replace(history=os.urandom(100_000))
        await put(store, write)
    await put(store, follow(write))
    assert store._log_pages() < 2 * CHECKPOINT_PAGES
    assert log.stat().st_size < 26 * MIB, "the log was written from its start again"


async def test_private_records_go_when_a_snapshot_covers_them(store: SqliteStore, path: Path) -> None:
    first = start("a")
    second = follow(first)
    third = follow(second)._replace(snapshot=b"state")
    fourth = follow(third)
    await put(store, first, second, third)
    await put(store, fourth)
    with closing(sqlite3.connect(path)) as other:
        rows = other.execute("SELECT history, private FROM journal ORDER BY version").fetchall()
    assert rows == [(write.history, b"") for write in (first, second, third)] + [(fourth.history, fourth.private)]


async def test_deletion_leaves_no_row(store: SqliteStore, path: Path) -> None:
    first = seen(start("a")._replace(snapshot=b"state", running=1, wake_at=NOW), env="test")
    await put(store, first)
    await put(store, follow(first)._replace(delete=True))
    with closing(sqlite3.connect(path)) as other:
        for table in ("execution", "journal", "snapshot", "visibility", "attribute"):
            assert other.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table


# --- Costs ----------------------------------------------------------------------------------------------
async def test_a_sleeping_workflow_takes_less_than_a_kibibyte(path: Path) -> None:
    store = SqliteStore(path, flush=False)
    await store.open(NOW)
    count, identifiers = 20_000, RandomIds()
    for first in range(0, count, 500):
        writes = [
            seen(start(f"environment-{number:06}-{identifiers.new_id()[:10]}"), NOW + first)._replace(
                run_id=identifiers.new_id(),
                commit_id=identifiers.new_id(),
                wake_at=LATER + number,
                history=os.urandom(150),
                private=os.urandom(100),
                dedup=[(identifiers.new_id(), LATER + first)],
            )
            for number in range(first, first + 500)
        ]
        await put(store, *writes)
    await store.close()
    assert path.stat().st_size / count <= 800


PLANS = {
    "": "v USING INDEX visibility_start (namespace=? AND start_time<?)",
    "WorkflowType = 'a'": "v USING INDEX visibility_start (namespace=? AND start_time<?)",
    "TaskQueue = 'a' AND ExecutionStatus = 'Running'": "v USING INDEX visibility_open (namespace=? AND start_time<?)",
    "env = 'test' AND ExecutionStatus = 'Failed'": "d USING COVERING INDEX attribute_value (namespace=? AND name=?",
    "WorkflowId = 'a'": "e USING INDEX execution_key (namespace=? AND workflow_id=?)",
}


@pytest.mark.parametrize("query", PLANS)
async def test_listings_follow_an_index(store: SqliteStore, query: str) -> None:
    statement, parameters = sqlite_listing._statement(list_filter.parse(query), "default", (NOW, "a", 1), 10)
    assert store._reader is not None
    plan = [str(row[3]) for row in store._reader.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    assert PLANS[query] in plan[0]
    assert not any(step.startswith("SCAN") for step in plan)
    if query != "WorkflowId = 'a'":  # runs that began at the same time are sorted, and no more
        assert plan[-1] == "USE TEMP B-TREE FOR RIGHT PART OF ORDER BY"


def test_every_status_and_kind_has_a_number_of_its_own() -> None:
    assert set(STATUS_CODES) == set(get_args(Status))
    assert sorted(STATUS_CODES.values()) == list(range(len(STATUS_CODES)))
    assert list(KIND_CODES) == sorted(get_args(TaskKind))
