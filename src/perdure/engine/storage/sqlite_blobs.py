"""Blobs in an SQLite file. All of it runs inside a transaction, or on a reading connection."""

from __future__ import annotations

import sqlite3

from perdure.engine.storage import statements


def put(writer: sqlite3.Connection, digest: bytes, data: bytes, kept_until: int) -> None:
    """Store a blob, or keep one that is there for longer."""
    writer.execute(statements.PUT_BLOB, (digest, kept_until, data))


def get(reader: sqlite3.Connection, digest: bytes) -> bytes | None:
    """A blob; None where there is none."""
    row = reader.execute(statements.GET_BLOB, (digest,)).fetchone()
    return None if row is None else row[0]


def forget(writer: sqlite3.Connection, now: int, kept_until: int, limit: int) -> int:
    """Delete what is due and not named, look at the rest again later; how many were due."""
    due = writer.execute(statements.DUE_BLOBS, (now, limit)).fetchall()
    writer.executemany(statements.KEEP_BLOB, [(kept_until, digest) for digest, named in due if named])
    writer.executemany(statements.DELETE_BLOB, [(digest,) for digest, named in due if not named])
    return len(due)
