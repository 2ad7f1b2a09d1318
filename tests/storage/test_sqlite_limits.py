"""The bounds of `perdure.limits` that the SQLite store keeps, and the one of a list filter."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from perdure.engine.storage import sqlite_file
from perdure.engine.storage.api import Store
from perdure.engine.storage.bulk import Bulk
from perdure.engine.storage.sqlite import SqliteStore
from perdure.errors import InvalidRequest, StoreCorrupt
from perdure.limits import CACHE_KIB, MAX_QUERY_LENGTH, ROWS_A_STATEMENT
from tests.storage.make import NOW, ids, put, seen, start

PAGE = 4096


async def test_the_size_up_to_which_a_file_is_checked_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "perdure.db"
    store = SqliteStore(path)
    await store.open(NOW)
    await put(store, start("a")._replace(history=b"x" * 100 * PAGE))
    await store.close()
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // PAGE * PAGE
    content[middle : middle + PAGE] = b"\xff" * PAGE  # a page of the long value
    path.write_bytes(content)
    monkeypatch.setattr(sqlite_file, "CHECKED_SIZE", len(content))
    with pytest.raises(StoreCorrupt, match="is damaged"):
        await store.open(NOW)
    monkeypatch.setattr(sqlite_file, "CHECKED_SIZE", len(content) - 1)
    await store.open(NOW)
    await store.close()


def test_pages_that_the_writer_keeps_in_memory(tmp_path: Path) -> None:
    """What a transaction has written beyond is in the log before its commit, and makes way in memory."""
    path = tmp_path / "perdure.db"
    file = sqlite_file.open_file(str(path), NOW, flush=False)
    log = path.with_name("perdure.db-wal")
    file.writer.execute("CREATE TABLE large (value)")
    file.writer.execute("BEGIN")
    before, pages = log.stat().st_size, 0
    while log.stat().st_size == before:
        file.writer.execute("INSERT INTO large VALUES (zeroblob(3800))")  # a page, nearly
        pages += 1
        assert pages < 10_000
    file.writer.execute("ROLLBACK")
    file.close()
    assert 0.8 < pages * PAGE / (CACHE_KIB * 1024) <= 1


@pytest.mark.parametrize(
    ("rows", "statements"),
    [(ROWS_A_STATEMENT, [ROWS_A_STATEMENT]), (2 * ROWS_A_STATEMENT + 1, [ROWS_A_STATEMENT, ROWS_A_STATEMENT, 1])],
)
def test_rows_in_one_statement(rows: int, statements: list[int]) -> None:
    bulk = Bulk("INSERT INTO numbers VALUES {rows}", "(?)")
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE numbers (number)")
        written = [cursor.rowcount for cursor in bulk.cursors(connection, [(number,) for number in range(rows)])]
        found = connection.execute("SELECT number FROM numbers").fetchall()
    assert written == statements
    assert [number for (number,) in found] == list(range(rows))


async def test_a_group_of_any_size_fits_into_statements(store: Store) -> None:
    """However many values a row has: the longest statement keeps what SQLite takes."""
    rows = [seen(start(f"w-{number:03}"), NOW - number, env="test") for number in range(3 * ROWS_A_STATEMENT)]
    assert set(await put(store, *rows)) == {"taken"}
    assert await ids(store) == [row.key.workflow_id for row in rows]


async def test_the_longest_list_filter(store: Store) -> None:
    await put(store, seen(start("a")))
    longest = "WorkflowId = 'a'".ljust(MAX_QUERY_LENGTH)
    assert await ids(store, longest) == ["a"]
    with pytest.raises(InvalidRequest, match=r"limits\.MAX_QUERY_LENGTH"):
        await ids(store, longest + " ")
