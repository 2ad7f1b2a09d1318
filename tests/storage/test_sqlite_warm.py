"""What the SQLite store does not read, because it has just written it; and that it judges writes as if it had."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from perdure.engine.storage import sqlite_writing
from perdure.engine.storage.sqlite import SqliteStore
from perdure.limits import WARM_RUNS
from tests.storage.make import LATER, NOW, ending, follow, put, start

Reads = Callable[[], int]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "perdure.db", flush=False)
    await opened.open(NOW)
    yield opened
    await opened.close()


@pytest.fixture
def reads(store: SqliteStore) -> Reads:
    """Tells how often the writer has read since the last call."""
    assert store._file is not None
    seen: list[str] = []
    store._file.writer.set_trace_callback(seen.append)

    def count() -> int:
        found = [statement for statement in seen if statement.lstrip().startswith("SELECT")]
        seen.clear()
        return len(found)

    return count


async def test_a_run_that_was_just_written_is_not_read(store: SqliteStore, reads: Reads) -> None:
    first, other = start("a"), start("b")
    await put(store, first, other)
    assert reads() == 1  # is the id free?
    second = follow(first)
    assert await put(store, second, follow(other)) == ["taken", "taken"]
    assert await put(store, ending(second)) == ["taken"]
    assert reads() == 0
    assert await store.versions([first.key, other.key]) == [3, 2]


async def test_what_is_behind_is_stale_however_warm(store: SqliteStore) -> None:
    first = start("a")
    second = follow(first)
    await put(store, first)
    await put(store, second)
    assert await put(store, follow(first), start("b")) == ["stale", "taken"]
    assert await put(store, follow(second)) == ["taken"]


async def test_a_request_id_that_was_taken_refuses_a_warm_run(store: SqliteStore) -> None:
    first = start("a")
    second = follow(first)._replace(dedup=[("request", LATER)])
    await put(store, first)
    await put(store, second)
    third = follow(second)
    assert await put(store, third._replace(dedup=[("request", LATER)])) == ["duplicate"]
    assert await put(store, third) == ["taken"]


async def test_writes_of_one_id_stand_or_fall_together_also_where_one_is_warm(store: SqliteStore) -> None:
    first = start("a")
    await put(store, first)
    assert await put(store, follow(first), start("a", run_no=2)) == ["stale", "stale"]  # the first still runs
    end = ending(first)
    assert await put(store, end, start("a", run_no=2)) == ["taken", "taken"]
    assert await store.versions([first.key, first.key._replace(run_no=2)]) == [2, 1]


async def test_after_a_commit_that_came_to_nothing_the_run_is_read(store: SqliteStore, reads: Reads) -> None:
    first = start("a")
    second = follow(first)
    await put(store, first)
    with pytest.raises(OverflowError):
        await put(store, second, start("b")._replace(wake_at=1 << 70))
    reads()
    assert await put(store, second) == ["taken"]
    assert reads() == 1


async def test_after_a_commit_that_nobody_waited_for_the_run_is_read(store: SqliteStore, reads: Reads) -> None:
    first = start("a")
    second = follow(first)
    await put(store, first)
    commit = asyncio.create_task(put(store, second))
    await asyncio.sleep(0)
    commit.cancel()
    with suppress(asyncio.CancelledError):
        await commit
    reads()
    assert await put(store, follow(second)) == ["taken"]
    assert reads() == 1


async def test_what_runs_is_written_when_it_changes_and_only_then(store: SqliteStore) -> None:
    assert store._file is not None
    updates: list[str] = []
    store._file.writer.set_trace_callback(lambda said: updates.append(said) if "UPDATE execution" in said else None)
    write = start("a")
    await put(store, write)
    for running, written in ((1, True), (1, False), (2, True), (2, False), (0, True), (0, False)):
        updates.clear()
        write = follow(write)._replace(running=running)
        await put(store, write)
        assert [("running =" in said) for said in updates] == [written]
        [stored] = await store.load([write.key.chain])
        assert stored is not None
        assert (stored.running, stored.version) == (running, write.version)
        assert await store.running(None, 10) == ([write.key] if running else [])


async def test_so_many_runs_are_warm(store: SqliteStore, reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    assert WARM_RUNS > 1_000
    monkeypatch.setattr(sqlite_writing, "WARM_RUNS", 2)
    writes = [start(name) for name in "abc"]
    for write in writes:
        await put(store, write)
    reads()
    await put(store, *(follow(write) for write in writes[1:]))
    assert reads() == 0
    assert await put(store, follow(writes[0])) == ["taken"]  # written longest ago
    assert reads() == 1


async def test_a_run_that_has_ended_is_not_kept(store: SqliteStore) -> None:
    first = start("a")
    await put(store, first)
    await put(store, ending(first))
    assert not store._warm._runs
