"""Files that can't be opened, and who holds them: each trouble has an error that says what to do."""

# ruff: noqa: ASYNC240 - a test may wait for its files and processes

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from perdure.engine.storage.api import ChainKey, RunKey
from perdure.engine.storage.schema import APPLICATION_ID, MIGRATIONS, VERSION
from perdure.engine.storage.sqlite import SqliteStore
from perdure.errors import (
    StoreCorrupt,
    StoreError,
    StoreForeign,
    StoreFull,
    StoreLocked,
    StoreLost,
    StoreReadOnly,
    StoreTooNew,
    Unavailable,
)
from perdure.ids import shard_of
from tests.storage import processes
from tests.storage.make import NAMESPACE, NOW, fill, follow, ids, put, seen, start

NOBODY = 65534


# --- One holder -----------------------------------------------------------------------------------------
async def test_another_process_that_has_the_file_is_named(path: Path) -> None:
    with processes.launch(processes.hold, path) as holder:
        assert processes.told(holder)["pid"] == holder.pid
        with pytest.raises(StoreLocked, match=f"process {holder.pid}, since 2027-01-15 08:00:00 UTC") as caught:
            await SqliteStore(path).open(NOW)
        assert caught.value.pid == holder.pid
        holder.communicate()
    store = SqliteStore(path)
    assert await store.open(NOW) is False
    await store.close()


async def test_a_file_that_its_holder_has_read_is_held_on(path: Path) -> None:
    """As by a copy of its folder, which makes the system take back all locks of the process."""
    store = SqliteStore(path)
    await store.open(NOW)
    _ = path.read_bytes(), path.with_name("perdure.db.lock").read_bytes()
    assert await put(store, start("a")) == ["taken"]
    assert processes.run(processes.try_to_open, path, "0")["error"] == "StoreLocked"
    await store.close()


async def test_a_holder_that_another_process_has_followed_acknowledges_nothing_more(path: Path) -> None:
    store = SqliteStore(path)
    await store.open(NOW)
    _ = path.read_bytes(), path.with_name("perdure.db.lock").read_bytes()
    with processes.launch(processes.hold, path) as other:
        assert processes.told(other)["pid"] == other.pid
        with pytest.raises(StoreLost, match="another process has opened it"):
            await put(store, start("a"))
        other.communicate()
    await store.close()


async def test_a_killed_holder_leaves_the_file_free_and_whole(path: Path) -> None:
    with processes.launch(processes.hold, path) as holder:
        assert processes.told(holder)["verdicts"] == ["taken"]
        holder.send_signal(signal.SIGKILL)
    assert path.with_name("perdure.db.lock").exists()
    store = SqliteStore(path)
    assert await store.open(NOW) is True
    [version] = await store.versions([start(f"by-{holder.pid}").key])
    assert version == 1
    await store.close()


async def test_children_of_a_killed_holder_do_not_hold_the_file(path: Path) -> None:
    with processes.launch(processes.hold_with_child, path) as holder:
        child = processes.told(holder)["child"]
        assert isinstance(child, int)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        os.kill(child, 0)  # it lives
        store = SqliteStore(path)
        assert await store.open(NOW) is True
        await store.close()


async def test_a_second_store_in_one_process_is_refused(path: Path, tmp_path: Path) -> None:
    store = SqliteStore(path)
    await store.open(NOW)
    link = tmp_path / "link.db"
    link.symlink_to(path)
    for other in (path, link, os.path.relpath(path)):
        with pytest.raises(StoreLocked, match="this very process") as caught:
            await SqliteStore(other).open(NOW)
        assert caught.value.pid == os.getpid()
    assert processes.run(processes.try_to_open, path, 0)["error"] == "StoreLocked", "the first hold is unharmed"
    await store.close()
    await fill(path)


async def test_a_lock_that_its_holder_removes_meanwhile_is_not_taken(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_of, removed = fcntl.lockf, list[str]()

    def lock_when_released(lock: int, how: int, *part: int) -> None:
        if not removed:  # the holder lets go between our opening the file and locking it
            removed.append(f"{path}.lock")
            os.unlink(removed[0])
        lock_of(lock, how, *part)

    monkeypatch.setattr(fcntl, "lockf", lock_when_released)
    store = SqliteStore(path)
    await store.open(NOW)
    assert processes.run(processes.try_to_open, path, 0)["pid"] == os.getpid()
    await store.close()


async def test_a_held_file_is_held_without_its_lock_file(path: Path) -> None:
    store = SqliteStore(path)
    await store.open(NOW)
    await store.list("default", "", "", 10)  # by a connection of its own
    path.with_name("perdure.db.lock").unlink()
    assert processes.run(processes.try_to_open, path, 0)["error"] == "StoreLocked"
    assert await store.commit([start("w")], NOW) == ["taken"]
    assert processes.run(processes.try_to_open, path, 0)["error"] == "StoreLocked"
    await store.close()
    await fill(path)


async def test_a_file_with_two_names_is_refused(path: Path) -> None:
    await fill(path)
    other = path.with_name("other.db")
    other.hardlink_to(path)
    for name in (path, other):
        with pytest.raises(StoreError, match="has 2 names"):
            await SqliteStore(name).open(NOW)
    assert not list(path.parent.glob("*.lock"))


@pytest.mark.parametrize("how", ["removed", "replaced"])
@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("which", ["", "-wal"])
async def test_a_file_that_is_gone_takes_nothing_more(path: Path, how: str, before: int, which: str) -> None:
    store = SqliteStore(path)
    await store.open(NOW)
    if before:
        assert await store.commit([start("w")], NOW) == ["taken"]
    file = Path(f"{path}{which}")
    file.unlink()
    if how == "replaced":
        file.touch()
    with pytest.raises(StoreLost, match="was removed or replaced while it was open"):
        await store.commit([start("v")], NOW)
    await store.close()


async def test_a_file_whose_folder_is_gone_takes_nothing_more(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    store = SqliteStore(folder / "perdure.db")
    await store.open(NOW)
    folder.rename(tmp_path / "elsewhere")
    folder.touch()
    with pytest.raises(StoreLost, match="was removed or replaced while it was open"):
        await store.commit([start("w")], NOW)
    await store.close()


async def test_a_copy_that_sqlite_makes_of_an_open_file_is_a_store(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    store = SqliteStore(path)
    await store.open(NOW)
    await put(store, seen(start("a")))
    with closing(sqlite3.connect(path)) as other:
        other.execute("VACUUM INTO ?", (str(copy),))
    await put(store, seen(start("b")))
    await store.close()
    for unclean in (True, False):  # there is no log yet beside it, and nothing to write
        copied = SqliteStore(copy)
        assert await copied.open(NOW) is unclean
        assert await copied.forget(NOW, 10) == 0
        assert await ids(copied) == ["a"]
        await copied.close()


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800"])
def test_what_is_no_path(name: str) -> None:
    with pytest.raises(ValueError, match="can't be the path of a file"):
        SqliteStore(name)


async def test_a_device_or_a_pipe_is_no_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place in (Path("/dev/null"), pipe):
        with pytest.raises(StoreForeign, match="a device or a pipe"):
            await SqliteStore(place).open(NOW)
        assert not Path(f"{place}.lock").exists()


async def test_a_closed_file_leaves_nothing_beside_it(path: Path) -> None:
    await fill(path)
    assert [file.name for file in path.parent.iterdir()] == ["perdure.db"]


async def test_files_are_private(path: Path) -> None:
    old = os.umask(0)
    try:
        store = SqliteStore(path)
        await store.open(NOW)
        files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(old)
    await store.close()
    assert files == dict.fromkeys(("perdure.db", "perdure.db-wal", "perdure.db-shm", "perdure.db.lock"), 0o600)


async def test_a_store_is_used_while_it_is_open(path: Path) -> None:
    store = SqliteStore(path)
    for use in (put(store, start("a")), store.load([]), store.forget(NOW, 1), ids(store)):
        with pytest.raises(StoreError, match="is not open"):
            await use
    await store.close()
    await store.open(NOW)
    with pytest.raises(StoreError, match="open in this store already"):
        await store.open(NOW)
    await store.close()
    await store.close()


# --- What is no file of ours ----------------------------------------------------------------------------
async def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_text("name,age\nann,41\n")
    with pytest.raises(StoreForeign, match="not a database file: give another path"):
        await SqliteStore(path).open(NOW)
    assert path.read_text() == "name,age\nann,41\n"
    assert [file.name for file in path.parent.iterdir()] == ["perdure.db"]


async def test_a_database_of_another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE people (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(StoreForeign, match="of another program: give another path"):
        await SqliteStore(path).open(NOW)
    assert path.read_bytes() == before


@pytest.mark.parametrize("marks", [(0, VERSION), (APPLICATION_ID + 1, 0)])
async def test_an_empty_database_of_another_program(path: Path, marks: tuple[int, int]) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.executescript("PRAGMA application_id = {}; PRAGMA user_version = {}".format(*marks))
    before = path.read_bytes()
    with pytest.raises(StoreForeign, match="of another program: give another path"):
        await SqliteStore(path).open(NOW)
    assert path.read_bytes() == before


async def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    await fill(path)
    assert path.stat().st_size > 0


async def test_a_file_whose_making_was_cut_short_becomes_a_store(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode = WAL")
    await fill(path)


async def test_a_file_of_a_later_version(path: Path) -> None:
    await fill(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(StoreTooNew, match=f"of version {VERSION + 1}; .* up to {VERSION}: upgrade Perdure"):
        await SqliteStore(path).open(NOW)


@pytest.mark.parametrize("version", range(1, VERSION))
async def test_a_file_of_an_earlier_version_is_brought_up_to_date(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as other:
        for statement in [statement for migration in MIGRATIONS[:version] for statement in migration]:
            other.execute(statement)
        run = (1, shard_of(NAMESPACE, "old"), NAMESPACE, "old", 1, "run-1", 1, "commit-1", 0, 0, 0)
        other.execute(f"INSERT INTO execution VALUES ({', '.join('?' * len(run))})", run)
        other.execute("INSERT INTO journal VALUES (1, 1, x'', x'')")
        other.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        other.execute(f"PRAGMA user_version = {version}")
        other.commit()
    store = SqliteStore(path)
    await store.open(NOW)
    (old,) = await store.load([ChainKey(NAMESPACE, "old")])
    assert old is not None and (old.key, old.run_id, old.version) == (RunKey(NAMESPACE, "old", 1), "run-1", 1)
    assert await put(store, seen(start("new")), start("old")) == ["taken", "stale"]
    await store.close()
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (VERSION,)


async def test_a_file_without_its_version(path: Path) -> None:
    await fill(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 0")
    with pytest.raises(StoreCorrupt, match="its version is 0"):
        await SqliteStore(path).open(NOW)


# --- Folders and permissions ----------------------------------------------------------------------------
async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"no folder {tmp_path / 'missing'}: make it"):
        await SqliteStore(tmp_path / "missing" / "perdure.db").open(NOW)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(StoreError, match=f"{file} is not a folder"):
        await SqliteStore(file / "perdure.db").open(NOW)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no folder of that kind here")
async def test_a_folder_that_takes_no_files() -> None:
    with pytest.raises(StoreError, match="no file can be made in /proc "):
        await SqliteStore("/proc/perdure.db").open(NOW)


async def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="is a folder: give the path of a file in it"):
        await SqliteStore(tmp_path / "folder").open(NOW)
    with pytest.raises(ValueError, match="is the path of a folder"):
        SqliteStore(f"{tmp_path}/new/")


@pytest.mark.parametrize(
    ("beside", "told"),
    [("lock", "perdure.db.lock can't be opened: Is a directory"), ("-wal", "its log .*-wal .* can't be opened")],
)
async def test_a_folder_beside_the_file(path: Path, beside: str, told: str) -> None:
    await fill(path)
    path.with_name(f"perdure.db{'.' if beside == 'lock' else ''}{beside}").mkdir()
    with pytest.raises(StoreError, match=told):
        await SqliteStore(path).open(NOW)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="perdure-test-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def _other_user() -> int:
    return NOBODY if os.getuid() == 0 else 0  # root may write everywhere


async def test_a_folder_that_can_only_be_read(open_folder: Path) -> None:
    open_folder.chmod(0o555)
    told = processes.run(processes.try_to_open, open_folder / "perdure.db", _other_user())
    assert told["error"] == StoreReadOnly.__name__
    assert "or its folder can't be written (Permission denied)" in str(told["message"])


async def test_a_file_that_can_only_be_read(open_folder: Path) -> None:
    file = open_folder / "perdure.db"
    await fill(file)
    file.chmod(0o444)
    open_folder.chmod(0o777)
    told = processes.run(processes.try_to_open, file, _other_user())
    assert told["error"] == StoreReadOnly.__name__
    assert [one.name for one in open_folder.iterdir()] == ["perdure.db"]


async def test_another_program_that_writes(path: Path) -> None:
    store = SqliteStore(path)
    await store.open(NOW)
    first = start("a")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="another program is writing"):
            await put(store, first)
        other.execute("ROLLBACK")
    assert await put(store, first) == ["taken"]
    await store.close()


# --- Full disks and failing ones ------------------------------------------------------------------------
async def test_a_full_file(path: Path) -> None:
    store = SqliteStore(path)
    await store.open(NOW)
    assert store._file is not None
    [pages] = store._file.writer.execute("PRAGMA page_count").fetchone()
    store._file.writer.execute(f"PRAGMA max_page_count = {pages + 5}")
    last, refused = start("a"), None
    await put(store, last)
    while refused is None:
        write = follow(last)._replace(history=b"x" * 3_000)
        try:
            await put(store, write)
            last = write
        except StoreFull as full:
            refused = full
    assert refused.retryable
    assert await store.versions([last.key]) == [last.version]
    store._file.writer.execute(f"PRAGMA max_page_count = {pages + 500}")
    assert await put(store, follow(last)) == ["taken"]
    await store.close()


def _on_a_small_disk(folder: Path, function: Callable[..., object]) -> dict[str, Any]:
    """Run a function of `processes` over a folder that is a disk of 6 MiB, and what it told."""
    mount = f'mount -t tmpfs -o size=6m tmpfs {folder} && exec "$@"'
    namespace = ["unshare", "--mount", *(["--user", "--map-root-user"] if os.getuid() else [])]
    if subprocess.run([*namespace, "sh", "-c", mount, "sh", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user can't mount a small disk")
    done = subprocess.run(
        [*namespace, "sh", "-c", mount, "sh", *processes.command(function, folder)],
        capture_output=True,
        text=True,
        cwd=processes.ROOT,
        env=processes.environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_a_full_disk(tmp_path: Path) -> None:
    told = _on_a_small_disk(tmp_path, processes.fill)
    assert isinstance(told["acknowledged"], int)
    assert told["acknowledged"] > 10
    assert told["stored_while_full"] == told["acknowledged"]
    assert isinstance(told["last"], int)
    assert told["last"] > told["acknowledged"] + 100
    assert told["rows"] == list(range(1, told["last"] + 1))


def test_a_file_is_opened_on_a_full_disk(tmp_path: Path) -> None:
    """Whatever the space is just not enough for: the lock, the log, its index."""
    told = _on_a_small_disk(tmp_path, processes.open_where_little_is_free)
    errors: list[str] = told["errors"]
    assert len(errors) > 5
    for error in errors:
        assert error.startswith("StoreFull: no space is left for")
        assert "free some, then open it again" in error
        assert "work goes on" not in error
    assert told["unclean"] is False, "the end before was a clean one"


def test_an_index_of_the_log_that_can_not_be_made(path: Path) -> None:
    told = processes.run(processes.fail_to_open, path)
    assert told["error"].startswith("Unavailable: the disk failed while"), "there is space"


async def test_a_lock_that_can_not_be_written_is_not_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StoreFull, match="no space is left"):
        patch.setattr(os, "pwrite", full)
        await SqliteStore(path).open(NOW)
    assert not list(path.parent.iterdir())
    await fill(path)


def test_a_write_that_the_system_refuses(path: Path) -> None:
    told = processes.run(processes.fail_to_write, path)
    assert "the disk failed while" in str(told["error"])
    assert told["while_failing"] == 1
    assert told["verdicts"] == ["taken"]
    assert told["afterwards"] == 2
