"""Opens an SQLite file for the store: holds it, tells whether it is Perdure's and sound, brings it up to date.

Whatever is wrong with the file or its folder becomes an error that says what to do about it.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from perdure.engine.storage.holder import Holder, hold
from perdure.engine.storage.schema import APPLICATION_ID, MIGRATIONS, VERSION
from perdure.errors import (
    PerdureError,
    StoreCorrupt,
    StoreError,
    StoreForeign,
    StoreFull,
    StoreReadOnly,
    StoreTooNew,
    Unavailable,
)
from perdure.limits import CACHE_KIB, CHECKED_SIZE

_MAGIC: Final = b"SQLite format 3\0"

_INDEX_PART: Final = 32 * 1024
"""The bytes by which the index of the log grows (in the format's description: the `-shm` file)."""

TROUBLES: Final = (sqlite3.Error, UnicodeDecodeError, msgspec.DecodeError)
"""What SQLite and its module raise, and what is raised where something is not the text or the list that was written."""

_NO_TEXT: Final = ("Could not decode to UTF-8", "JSON cannot hold BLOB")
"""How it is said that a text is none; there is no code for it, since SQLite itself doesn't look."""


class SqliteFile:
    """An open file: the hold on it, and the connection that writes."""

    def __init__(self, path: str, holder: Holder, writer: sqlite3.Connection, log: os.stat_result) -> None:
        self.path = path
        self.writer = writer
        self._holder, self._log = holder, log

    def reader(self) -> sqlite3.Connection:
        """A further connection, which sees what is committed and can't write."""
        return _connect(self.path, "ro")

    def is_there(self) -> bool:
        """Whether what was committed can be found again at the path: the file, and the log beside it."""
        try:
            log = os.stat(f"{self.path}-wal")
        except OSError:
            return False
        return os.path.samestat(log, self._log) and self._holder.is_there()

    def close(self) -> None:
        """Close the connection and let go of the file."""
        try:
            self.writer.close()
        finally:
            self._holder.release()


def open_file(path: str, now: int, *, flush: bool) -> SqliteFile:
    """Open a file, or make it, for this process alone.

    Args:
        path: its real path.
        now: microseconds since the epoch.
        flush: whether a commit waits until the disk has it.

    Raises:
        StoreError: one of its subclasses, where the trouble has a name.
        Unavailable: another program is writing to the file.
    """
    try:
        _check_kind(path)
        holder = hold(path, now)
    except OSError as error:
        raise os_error(path, error) from error
    try:
        _make_or_check(path)
        writer = _connect(path, "rw")
        try:
            _identify(path, writer)
            _check(path, writer)
            _configure(path, writer, flush)
            _migrate(writer)
            log = os.stat(f"{path}-wal")
            holder.hold_file()
        except BaseException:
            writer.close()
            raise
    except TROUBLES as error:
        holder.release()
        raise explained(path, error, opening=True) from error
    except OSError as error:
        holder.release()
        raise os_error(path, error) from error
    except BaseException:
        holder.release()
        raise
    return SqliteFile(path, holder, writer, log)


def _connect(path: str, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{Path(path).as_uri()}?mode={mode}",
        uri=True,
        timeout=0,  # to wait for another program here would block the event loop
        isolation_level=None,
        check_same_thread=False,
        cached_statements=512,
    )


def _check_kind(path: str) -> None:
    """If there is something, it is a file, and has one name."""
    if not os.path.lexists(path) or os.path.isdir(path):
        return  # to open a folder says so
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise StoreForeign(f"{path} is a device or a pipe, not a file: give the path of a file")
    if found.st_nlink > 1:
        raise StoreError(
            f"{path} has {found.st_nlink} names (hard links), and each would have a log of its own: remove the others, "
            "or make a copy"
        )


def _make_or_check(path: str) -> None:
    """The file exists, can be written, and begins as a database does."""
    if not _size(path) and _size(f"{path}-wal"):  # which SQLite would throw away
        raise StoreCorrupt(
            f"{path} is empty or not there, though its log {path}-wal has something in it: "
            "put the file back, or remove the log, too"
        )
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        return
    except FileExistsError:
        pass
    with open(path, "r+b") as file:
        head = file.read(len(_MAGIC))
    if head and head != _MAGIC:
        raise StoreForeign(
            f"{path} is not a database file: give another path, or restore it from a backup if it should be one"
        )


def _identify(path: str, writer: sqlite3.Connection) -> None:
    """The database is one of Perdure's, and not of a later version; or it is empty."""
    mark, version = _pragma(writer, "application_id"), _pragma(writer, "user_version")
    if mark != APPLICATION_ID:
        if mark or version or writer.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            raise StoreForeign(f"{path} is a database of another program: give another path")
        return
    if version < 1:
        raise damaged(path, f"its version is {version}")
    if version > VERSION:
        raise StoreTooNew(
            f"{path} is of version {version}; this Perdure knows versions up to {VERSION}: "
            "upgrade Perdure, or give another path"
        )


def _check(path: str, writer: sqlite3.Connection) -> None:
    """The database is whole, as far as can be told quickly."""
    size = _size(path)
    if size <= CHECKED_SIZE:
        found = str(writer.execute("PRAGMA quick_check(1)").fetchone()[0])
        if found != "ok":
            raise damaged(path, found.splitlines()[-1])
    # What is missing of a last page SQLite takes for zeros. It may still be in the log.
    if size < _pragma(writer, "page_count") * _pragma(writer, "page_size") and not _size(f"{path}-wal"):
        raise damaged(path, "its end is missing")
    with closing(sqlite3.connect(":memory:")) as model:
        _apply(model, MIGRATIONS[: _pragma(writer, "user_version")])
        missing = _names(model) - _names(writer)
    if missing:
        raise damaged(path, f"it has no {', '.join(sorted(missing))}")


def _size(path: str) -> int:
    """A file's size; 0: it isn't there."""
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0


def _names(connection: sqlite3.Connection) -> set[str]:
    """The names of all columns of tables, and of all indexes that were made by a statement."""
    return {
        name
        for (name,) in connection.execute(
            """SELECT s.name || coalesce('.' || c.name, '')
                FROM sqlite_schema AS s LEFT JOIN pragma_table_info(s.name) AS c WHERE s.sql IS NOT NULL"""
        )
    }


def _configure(path: str, writer: sqlite3.Connection, flush: bool) -> None:
    mode = _pragma(writer, "journal_mode = WAL")
    if mode != "wal":
        raise StoreError(
            f"{path} can't have a write-ahead log (its journal mode stays {mode!r}): put it on a local disk"
        )
    for setting in (
        f"synchronous = {'FULL' if flush else 'NORMAL'}",
        "wal_autocheckpoint = 0",
        f"cache_size = -{CACHE_KIB}",
        "secure_delete = OFF",
    ):
        writer.execute(f"PRAGMA {setting}")


def _migrate(writer: sqlite3.Connection) -> None:
    first = _pragma(writer, "user_version")
    if first == VERSION:
        return
    writer.execute("BEGIN IMMEDIATE")
    _apply(writer, MIGRATIONS[first:])
    writer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    writer.execute(f"PRAGMA user_version = {VERSION}")
    writer.execute("COMMIT")


def _apply(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]]) -> None:
    for migration in migrations:
        for statement in migration:
            connection.execute(statement)


def _pragma(connection: sqlite3.Connection, pragma: str) -> Any:
    return connection.execute(f"PRAGMA {pragma}").fetchone()[0]


# --- Errors ---------------------------------------------------------------------------------------------
def explained(path: str, error: Exception, *, opening: bool = False) -> PerdureError:
    """What an error means for a caller of the store: SQLite's, or one of understanding what it read. Nothing was
    committed."""
    if not isinstance(error, sqlite3.Error):
        return damaged(path, f"a row of it can't be understood: {error}")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path)):
        after = "then open it again" if opening else "and work goes on"
        return StoreFull(f"no space is left for {path}: free some, {after}; what was acknowledged is safe")
    if str(error).startswith(_NO_TEXT):
        return damaged(path, "a text in it is none")  # all of the text, in the error, would tell no more
    # What is asked first of all needs nothing but the tables as they were made.
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or (opening and code == sqlite3.SQLITE_ERROR):
        return damaged(path, str(error))
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StoreReadOnly(_read_only(path, str(error)))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(f"another program is writing to {path}: let it finish")
    if code == sqlite3.SQLITE_IOERR:
        return Unavailable(f"the disk failed while {path} was used ({error}): look at the system's log")
    if code in (sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_NOMEM):
        return Unavailable(f"{path} could not be used just now: {error}")
    if code == sqlite3.SQLITE_CANTOPEN:
        return StoreError(
            f"{path}, its log {path}-wal or the log's index {path}-shm can't be opened ({error}): "
            "see that they are files, and that this user may read and write them"
        )
    return StoreError(f"{path} can't be used: {error}")


def damaged(path: str, what: str) -> StoreCorrupt:
    """The error that says so, and what to do."""
    return StoreCorrupt(
        f"{path} is damaged ({what}): keep a copy of it and of {path}-wal, then restore a backup, "
        "or save what can be read with `sqlite3 … .recover`"
    )


def os_error(path: str, error: OSError) -> StoreError:
    """What an error of the operating system's means, which opening the file met."""
    what = os.strerror(error.errno) if error.errno else str(error)
    folder = os.path.dirname(path)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreReadOnly(_read_only(error.filename or path, what))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"no space is left for {path}: free some, then open it again")
    if error.errno == errno.ENOTDIR:
        return StoreError(f"{folder} is not a folder: give another path")
    if error.errno == errno.ENOENT and os.path.isdir(folder):
        return StoreError(f"no file can be made in {folder} ({what}): give another path")
    if error.errno == errno.ENOENT:
        return StoreError(f"there is no folder {folder}: make it, or give another path")
    if os.path.isdir(path):
        return StoreError(f"{path} is a folder: give the path of a file in it")
    return StoreError(f"{error.filename or path} can't be opened: {what}")


def _is_full(path: str) -> bool:
    """Whether the log's index can't grow. SQLite says that no space is left of all files but that one, where it is an
    error of the disk as any other."""
    space = os.statvfs(os.path.dirname(path))
    return space.f_bavail * space.f_frsize < _INDEX_PART


def _read_only(path: str, what: str) -> str:
    return (
        f"{path} or its folder can't be written ({what}): this user must be able to write both, and what lies beside: "
        "the log, its index and the lock"
    )
