"""One process holds a file: a lock that the operating system lets go when its holder dies.

The lock is on a file beside the one that is held, which tells who holds it; and on the file itself, since the other
may be removed. Both are record locks, which children don't inherit: a worker process that outlives its killed parent
must not keep the file. Record locks don't tell apart two users in one process, so those are told apart by a set of
names.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from perdure.clock import SECOND
from perdure.errors import StoreLocked

_held: set[str] = set()

_OUR_BYTE: Final = 2**62
"""Where a file is locked: far behind the bytes that SQLite locks (from 2**30), and behind all that it will hold."""


class Holder:
    """The hold of this process on a file. Made by `hold`."""

    def __init__(self, path: str, lock: int) -> None:
        self._path = path
        self._lock = lock
        self._file: int | None = None

    def hold_file(self) -> None:
        """Hold the file itself, from when SQLite has its own lock on it until it has closed it: before, SQLite unlocks
        all of the file after each read; and to close any handle gives up all locks of the process.

        Raises:
            StoreLocked: another process holds it, though nothing beside it tells so.
        """
        self._file = os.open(self._path, os.O_RDWR)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _OUR_BYTE)
        except (BlockingIOError, PermissionError):
            raise StoreLocked(
                f"{self._path} is open in another process, though {_lock_path(self._path)} was removed: stop that "
                "process first, or use another file"
            ) from None

    def is_there(self) -> bool:
        """Whether the file that is held is still the one at its path, and held. Whoever reads it or the lock file in
        this process gives up the locks when he closes it: so they are taken again, unless somebody else has them."""
        if self._file is None:
            return True
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _OUR_BYTE)
            return os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except OSError:  # also where a folder of the path is gone, or was closed to us
            return False

    def release(self) -> None:
        """Let go of the file. It may be called once."""
        if self._file is not None:
            os.close(self._file)
        # Removed while it is locked; who waits at the old file sees that it is no longer the one (see `hold`).
        with suppress(OSError):
            os.unlink(_lock_path(self._path))
        os.close(self._lock)
        _held.discard(self._path)


def hold(path: str, now: int) -> Holder:
    """Hold a file for this process.

    Args:
        path: the file's real path. It need not exist.
        now: microseconds since the epoch, for the message that others get.

    Raises:
        StoreLocked: it is held already; the message and `pid` name the process.
        OSError: the lock file can't be made.
    """
    if path in _held:
        pid = os.getpid()
        raise StoreLocked(f"{path} is open in this very process (pid {pid}) already: share that one", pid)
    while True:
        lock = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            with os.fdopen(lock) as file:
                holder = file.read()
            if not isinstance(error, (BlockingIOError, PermissionError)):
                raise
            raise _locked(path, holder) from None
        if _is_current(path, lock):
            break
        os.close(lock)
    holder = Holder(path, lock)
    _held.add(path)
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()} {now}\n".encode(), 0)
    except BaseException:  # such as that no space is left
        holder.release()
        raise
    return holder


def _is_current(path: str, lock: int) -> bool:
    """Whether the locked file is the one at the path: its last holder may have removed it meanwhile."""
    try:
        return os.path.samestat(os.stat(_lock_path(path)), os.fstat(lock))
    except FileNotFoundError:
        return False


def _locked(path: str, holder: str) -> StoreLocked:
    words = holder.split()
    if len(words) != 2 or not all(word.isdecimal() for word in words):
        return StoreLocked(f"{path} is open in another process: stop that one first, or use another file")
    pid, since = map(int, words)
    moment = datetime.fromtimestamp(since // SECOND, tz=UTC)
    return StoreLocked(
        f"{path} is open in process {pid}, since {moment:%Y-%m-%d %H:%M:%S} UTC: "
        "stop that process first, or use another file",
        pid,
    )


def _lock_path(path: str) -> str:
    return f"{path}.lock"
