"""Opens an SQLite file for the store: holds it, tells whether it is Perdure's and sound, brings it up to date.

Whatever is wrong with the file or its folder becomes an error that says what to do about it.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from pathlib import Path
from typing import Any, Final

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


class SqliteFile:
    """An open file: the hold on it, and the connection that writes."""

    def __init__(self, path: str, holder: Holder, writer: sqlite3.Connection) -> None:
        self.path = path
        self.writer = writer
        self._holder = holder

    def reader(self) -> sqlite3.Connection:
        """A further connection, which sees what is committed and can't write."""
        return _connect(self.path, "ro")

    def is_there(self) -> bool:
        """Whether what is written can be found again at the path."""
        return self._holder.is_there()

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
        raise _os_error(path, error) from error
    try:
        _make_or_check(path)
        writer = _connect(path, "rw")
        try:
            _identify(path, writer)
            _check(path, writer)
            _configure(path, writer, flush)
            _migrate(writer)
            holder.hold_file()
        except BaseException:
            writer.close()
            raise
    except sqlite3.Error as error:
        holder.release()
        raise explained(path, error) from error
    except OSError as error:
        holder.release()
        raise _os_error(path, error) from error
    except BaseException:
        holder.release()
        raise
    return SqliteFile(path, holder, writer)


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
    if _pragma(writer, "application_id") != APPLICATION_ID:
        if writer.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            raise StoreForeign(f"{path} is a database of another program: give another path")
        return
    version = _pragma(writer, "user_version")
    if version < 1:
        raise StoreCorrupt(_corrupt(path, f"its version is {version}"))
    if version > VERSION:
        raise StoreTooNew(
            f"{path} is of version {version}; this Perdure knows versions up to {VERSION}: "
            "upgrade Perdure, or give another path"
        )


def _check(path: str, writer: sqlite3.Connection) -> None:
    if os.path.getsize(path) <= CHECKED_SIZE:
        found = str(writer.execute("PRAGMA quick_check(1)").fetchone()[0])
        if found != "ok":
            raise StoreCorrupt(_corrupt(path, found.splitlines()[-1]))


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
    for migration in MIGRATIONS[first:]:
        for statement in migration:
            writer.execute(statement)
    writer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    writer.execute(f"PRAGMA user_version = {VERSION}")
    writer.execute("COMMIT")


def _pragma(connection: sqlite3.Connection, pragma: str) -> Any:
    return connection.execute(f"PRAGMA {pragma}").fetchone()[0]


# --- Errors ---------------------------------------------------------------------------------------------
def explained(path: str, error: sqlite3.Error) -> PerdureError:
    """What an error of SQLite's means for a caller of the store. Nothing was committed."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StoreFull(f"no space is left for {path}: free some; what was acknowledged is safe, and work goes on")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreCorrupt(_corrupt(path, str(error)))
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StoreReadOnly(_read_only(path, str(error)))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(f"another program is writing to {path}: let it finish")
    if code == sqlite3.SQLITE_IOERR:
        return Unavailable(f"the disk failed while {path} was used ({error}): look at the system's log")
    if code in (sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_NOMEM):
        return Unavailable(f"{path} could not be used just now: {error}")
    return StoreError(f"{path} can't be used: {error}")


def _corrupt(path: str, what: str) -> str:
    return (
        f"{path} is damaged ({what}): keep a copy of it and of {path}-wal, then restore a backup, "
        "or save what can be read with `sqlite3 … .recover`"
    )


def _read_only(path: str, what: str) -> str:
    return (
        f"{path} or its folder can't be written ({what}): both must be writable for this user, "
        "since the log and the lock lie beside the file"
    )


def _os_error(path: str, error: OSError) -> StoreError:
    what = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreReadOnly(_read_only(path, what))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"no space is left for {path}: free some")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return StoreError(f"there is no folder {os.path.dirname(path)}: make it, or give another path")
    if error.errno == errno.EISDIR:
        return StoreError(f"{path} is a folder: give the path of a file in it")
    return StoreError(f"{path} can't be opened: {what}")
