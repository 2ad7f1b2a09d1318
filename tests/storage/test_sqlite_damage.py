"""Files with damage: it has an error that names the file, whoever meets it, and what is left is kept."""

# ruff: noqa: ASYNC240 - a test may wait for its files and processes

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from perdure.engine.storage.sqlite import SqliteStore
from perdure.errors import StoreCorrupt
from tests.storage import processes
from tests.storage.make import NOW, fill, follow, ids, put, start


async def test_a_damaged_page(path: Path) -> None:
    await fill(path)
    content = bytearray(path.read_bytes())
    for page in range(2, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = os.urandom(64)
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match=r"is damaged .* restore a backup"):
        await SqliteStore(path).open(NOW)
    assert path.read_bytes() == content, "evidence is kept"
    assert not path.with_name("perdure.db.lock").exists()


async def test_a_file_that_was_cut(path: Path) -> None:
    await fill(path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(StoreCorrupt, match="is damaged"):
        await SqliteStore(path).open(NOW)


async def test_a_file_that_was_cut_a_little(path: Path) -> None:
    """SQLite takes zeros for what is missing of the last page, and finds nothing wrong with many."""
    await fill(path)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(StoreCorrupt, match="its end is missing"):
        await SqliteStore(path).open(NOW)


async def test_a_file_whose_end_is_still_in_the_log(path: Path) -> None:
    with processes.launch(processes.hold, path) as holder:
        processes.told(holder)
        holder.send_signal(signal.SIGKILL)
    os.truncate(path, path.stat().st_size - 1)
    store = SqliteStore(path)
    assert await store.open(NOW) is True
    [version] = await store.versions([start(f"by-{holder.pid}").key])
    assert version == 1
    await store.close()


@pytest.mark.parametrize("how", ["removed", "emptied"])
async def test_a_log_without_its_file_is_kept(path: Path, how: str) -> None:
    with processes.launch(processes.hold, path) as holder:
        processes.told(holder)
        holder.send_signal(signal.SIGKILL)
    log = path.with_name("perdure.db-wal")
    before = log.read_bytes()
    path.unlink()
    if how == "emptied":
        path.touch()
    with pytest.raises(StoreCorrupt, match=r"is empty or not there, though its log .* put the file back, or remove"):
        await SqliteStore(path).open(NOW)
    assert log.read_bytes() == before
    log.unlink()
    await fill(path)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("DROP TABLE dedup", "it has no dedup.expires, dedup.key, dedup_expires"),
        ("DROP INDEX journal_key", "it has no journal_key"),
        ("DELETE FROM meta", "can't be understood"),
        ("ALTER TABLE meta RENAME COLUMN value TO valve", "it has no meta.value"),
    ],
)
async def test_a_file_with_something_missing(path: Path, damage: str, told: str) -> None:
    await fill(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute(damage)
        other.commit()
    with pytest.raises(StoreCorrupt, match=f"{path} is damaged .*{told}"):
        await SqliteStore(path).open(NOW)
    assert not path.with_name("perdure.db.lock").exists()


async def test_a_damaged_header(path: Path) -> None:
    await fill(path)
    content = bytearray(path.read_bytes())
    content[47] = 9  # the format of the schema
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match=f"{path} is damaged .*unsupported file format"):
        await SqliteStore(path).open(NOW)


async def test_a_damaged_name_in_the_schema(path: Path) -> None:
    """SQLite's error has it in it, and can't be read itself."""
    await fill(path)
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE dedup", b"CREATE\xffTABLE dedup"))
    with pytest.raises(StoreCorrupt, match=f"{path} is damaged"):
        await SqliteStore(path).open(NOW)


@pytest.mark.parametrize(
    "damage",
    [
        "run_id = cast(x'ff' AS TEXT)",
        "run_id = x'ff'",
        "commit_id = cast(x'ff' AS TEXT)",
        "version = 'one'",
        "status = 77",
    ],
)
async def test_a_damaged_value(path: Path, damage: str) -> None:
    await fill(path, 1)
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"UPDATE execution SET wake_at = 1, running = 1, {damage}")
        if damage.startswith("status"):
            other.execute(f"UPDATE visibility SET {damage}")
        other.commit()
    store = SqliteStore(path)
    await store.open(NOW)
    key = start("w-0").key
    met = 0
    for read in (store.load([key.chain]), store.versions([key]), store.due(NOW, 9), ids(store)):
        try:
            await read
        except StoreCorrupt as error:
            assert f"{path} is damaged" in str(error)
            met += 1
    assert met
    await store.close()


async def test_damage_that_is_found_while_writing(path: Path) -> None:
    await fill(path, 1)
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE execution SET version = 'one'")
        other.commit()
    store = SqliteStore(path)
    await store.open(NOW)
    with pytest.raises(StoreCorrupt, match=f"{path} is damaged"):
        await put(store, follow(start("w-0")))
    await store.close()


async def test_damage_that_is_found_while_reading(path: Path) -> None:
    store = SqliteStore(path)
    await store.open(NOW)
    last = start("a")._replace(history=b"x" * 9_000)
    await put(store, last)
    # As large as the file must be not to be checked whole when it is opened.
    for _ in range(120):
        writes = [last := follow(last)._replace(history=b"x" * 9_000) for _ in range(20)]
        await put(store, *writes)
    await store.close()
    content = bytearray(path.read_bytes())
    middle = len(content) // 8192 * 4096
    for page in range(middle, middle + 100 * 4096, 4096):
        content[page : page + 4096] = os.urandom(4096)
    path.write_bytes(content)
    await store.open(NOW)
    with pytest.raises(StoreCorrupt, match="is damaged"):
        await store.journal(last.key, 0, 1 << 30)
    await store.close()
