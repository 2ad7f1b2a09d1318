"""Many rows in one SQLite statement.

`executemany` steps once a row, and Python gives up its global lock around every step: while a thread of the
user's computes, each row then waits for that thread's time slice (measured: 125 writes a second instead of
70,000). A statement over many rows is one step, and no slower without such a thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

Row = Sequence[object]

_LARGEST = 128
"""Rows in one statement: SQLite takes 32,766 parameters, and longer statements gain nothing."""


class Bulk:
    """A statement with ``{rows}`` in it, where any number of rows go.

    Args:
        statement: the SQL. In a ``FROM (VALUES {rows})`` SQLite names the columns ``column1`` and so on.
        row: what stands for one row, with a ``?`` for each of its values.
        joint: what stands between two rows.
    """

    def __init__(self, statement: str, row: str, joint: str = ", ") -> None:
        self._statements: list[tuple[int, str]] = []
        size = _LARGEST
        while size:
            self._statements.append((size, statement.format(rows=joint.join([row] * size))))
            size //= 2

    def run(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> int:
        """Run it over the rows; how many rows of the database were changed."""
        return sum(cursor.rowcount for cursor in self._cursors(connection, rows))

    def fetch(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> list[Any]:
        """Run a SELECT over the rows; all that it gives."""
        found: list[Any] = []
        for cursor in self._cursors(connection, rows):
            found += cursor.fetchall()
        return found

    def _cursors(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> Iterator[sqlite3.Cursor]:
        done, count = 0, len(rows)
        for size, statement in self._statements:
            while count - done >= size:
                part = rows[done : done + size]
                yield connection.execute(statement, tuple(chain.from_iterable(part)))
                done += size
