"""Many rows in one SQLite step.

Python gives up its global lock around each step of a statement, and `executemany` and reading rows step once a
row: while a thread of the user's computes, each row then waits for that thread's time slice (measured: 125
writes a second instead of 70,000). So rows are written by one statement over many of them, and read as one JSON
text; without such a thread that is no slower.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Generic, TypeVar

import msgspec

from perdure.limits import ROWS_A_STATEMENT

Row = TypeVar("Row")


class Bulk:
    """A statement with ``{rows}`` in it, where any number of rows go.

    Args:
        statement: the SQL. In a ``FROM (VALUES {rows})`` SQLite names the columns ``column1`` and so on.
        row: what stands for one row, with a ``?`` for each of its values.
        joint: what stands between two rows.
    """

    def __init__(self, statement: str, row: str, joint: str = ", ") -> None:
        sizes = [1 << power for power in range(ROWS_A_STATEMENT.bit_length())]
        self._statements = {size: statement.format(rows=joint.join([row] * size)) for size in sizes}

    def run(self, connection: sqlite3.Connection, rows: Sequence[Sequence[object]]) -> None:
        """Run it over the rows."""
        for _ in self.cursors(connection, rows):
            pass

    def cursors(self, connection: sqlite3.Connection, rows: Sequence[Sequence[object]]) -> Iterator[sqlite3.Cursor]:
        """Run it over the rows, part by part; the cursor of each part."""
        done, left = 0, len(rows)
        while left:
            size = min(1 << left.bit_length() - 1, ROWS_A_STATEMENT)
            part = rows[done : done + size]
            yield connection.execute(self._statements[size], tuple(chain.from_iterable(part)))
            done, left = done + size, left - size


class Query(Generic[Row]):
    """A SELECT whose rows come as one JSON text.

    Args:
        rows: the type of the rows: a list of tuples of texts and whole numbers.
        columns: what a row is made of.
        source: all that follows the columns. An order in it counts only together with a limit.
    """

    def __init__(self, rows: type[list[Row]], columns: str, source: str) -> None:
        self._statement = f"SELECT json_group_array(json_array({columns})) {source}"
        self._decode = msgspec.json.Decoder(rows).decode

    def fetch(self, connection: sqlite3.Connection, parameters: Sequence[object]) -> list[Row]:
        """The rows for the parameters."""
        return self._decode(connection.execute(self._statement, parameters).fetchone()[0])


class BulkQuery(Generic[Row]):
    """A `Query` about any number of rows; see `Bulk`."""

    def __init__(self, rows: type[list[Row]], columns: str, source: str, marks: str) -> None:
        self._bulk = Bulk(f"SELECT json_group_array(json_array({columns})) {source}", marks)
        self._decode = msgspec.json.Decoder(rows).decode

    def fetch(self, connection: sqlite3.Connection, rows: Sequence[Sequence[object]]) -> list[Row]:
        """What the query gives for the rows; their order is not kept."""
        found: list[Row] = []
        for cursor in self._bulk.cursors(connection, rows):
            text: Any = cursor.fetchone()[0]
            found += self._decode(text)
        return found
