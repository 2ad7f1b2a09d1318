"""The cloud's durable state: resources, quotas, and a log of every call that wanted to create something."""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS resource (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, fields TEXT NOT NULL,
    key TEXT NOT NULL UNIQUE, ready_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS call (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL, client TEXT NOT NULL, kind TEXT NOT NULL,
    began REAL NOT NULL, ended REAL, outcome TEXT NOT NULL, heard INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX IF NOT EXISTS call_by_key ON call (key);
CREATE TABLE IF NOT EXISTS quota (kind TEXT PRIMARY KEY, maximum INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """A resource as the cloud keeps it. `ready_at` is in seconds since the epoch."""

    id: str
    kind: str
    name: str
    fields: dict[str, object]
    key: str
    ready_at: float


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt to create something, by the client that made it.

    outcome: "open" until it is over; then "created", "repeated" (the key's resource was there already), or
    the code of the error that it got. heard: whether the client was told of the outcome.
    """

    number: int
    key: str
    client: str
    kind: str
    began: float
    ended: float | None
    outcome: str
    heard: bool


class QuotaReached(Exception):
    """There are as many resources of this kind as the account may have."""

    def __init__(self, kind: str, maximum: int) -> None:
        super().__init__(f"quota exceeded: {maximum} of {maximum} {kind} in use")


class KeyReused(Exception):
    """An idempotency key came back with another request."""


class Store:
    """One SQLite file. Every method is one transaction, safe to call from any thread."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def begin_call(self, key: str, client: str, kind: str, now: float) -> tuple[int, int]:
        """Log that a call began. Returns its number, and how many with this key got past the rate limit."""
        with self._lock:
            count = "SELECT count(*) FROM call WHERE key = ? AND outcome != 'throttled'"
            (before,) = self._db.execute(count, (key,)).fetchone()
            insert = "INSERT INTO call (key, client, kind, began, outcome) VALUES (?, ?, ?, ?, 'open')"
            number = self._db.execute(insert, (key, client, kind, now)).lastrowid
        assert number is not None
        return number, before

    def end_call(self, number: int, outcome: str, now: float) -> None:
        with self._lock:
            self._db.execute("UPDATE call SET outcome = ?, ended = ? WHERE number = ?", (outcome, now, number))

    def not_heard(self, number: int) -> None:
        """Log that a call's answer did not arrive."""
        with self._lock:
            self._db.execute("UPDATE call SET heard = 0 WHERE number = ?", (number,))

    def create(self, kind: str, name: str, fields: dict[str, object], key: str, ready_at: float) -> tuple[Stored, bool]:
        """The resource of this key, made now unless it exists. The flag says whether it was made now.

        Raises QuotaReached, or KeyReused if the key belongs to another request.
        """
        with self._lock:
            found = self._one("key", key)
            if found is not None:
                if (found.kind, found.fields) != (kind, fields):
                    raise KeyReused(f"idempotency key {key!r} was used for {found.kind} {found.name!r} before")
                return found, False
            quota = self._db.execute("SELECT maximum FROM quota WHERE kind = ?", (kind,)).fetchone()
            (count,) = self._db.execute("SELECT count(*) FROM resource WHERE kind = ?", (kind,)).fetchone()
            if quota is not None and count >= quota[0]:
                raise QuotaReached(kind, quota[0])
            made = Stored(f"{kind[:3]}-{secrets.token_hex(4)}", kind, name, fields, key, ready_at)
            row = (made.id, kind, name, json.dumps(fields, sort_keys=True), key, ready_at)
            self._db.execute("INSERT INTO resource VALUES (?, ?, ?, ?, ?, ?)", row)
            return made, True

    def get(self, id: str) -> Stored | None:
        """A resource by its id, if there is one."""
        with self._lock:
            return self._one("id", id)

    def set_quota(self, kind: str, maximum: int) -> None:
        """Let the account have `maximum` resources of a kind."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO quota VALUES (?, ?)", (kind, maximum))

    def set_default_quotas(self, quotas: dict[str, int]) -> None:
        """Quotas of a new account; those that were set before stay."""
        with self._lock:
            self._db.executemany("INSERT OR IGNORE INTO quota VALUES (?, ?)", quotas.items())

    def count(self) -> int:
        """How many resources exist."""
        with self._lock:
            (count,) = self._db.execute("SELECT count(*) FROM resource").fetchone()
        return int(count)

    def report(self) -> dict[str, object]:
        """Everything: resources, quotas, and the log of calls, in order."""
        with self._lock:
            resources = [_stored(row) for row in self._db.execute("SELECT * FROM resource ORDER BY rowid")]
            calls = [_call(row) for row in self._db.execute("SELECT * FROM call ORDER BY number")]
            quotas = dict(self._db.execute("SELECT kind, maximum FROM quota").fetchall())
        return {"resources": list(map(asdict, resources)), "calls": list(map(asdict, calls)), "quotas": quotas}

    def _one(self, column: str, value: str) -> Stored | None:
        row = self._db.execute(f"SELECT * FROM resource WHERE {column} = ?", (value,)).fetchone()
        return None if row is None else _stored(row)


def _stored(row: tuple[str, str, str, str, str, float]) -> Stored:
    id, kind, name, fields, key, ready_at = row
    return Stored(id, kind, name, json.loads(fields), key, ready_at)


def _call(row: tuple[int, str, str, str, float, float | None, str, int]) -> Call:
    number, key, client, kind, began, ended, outcome, heard = row
    return Call(number, key, client, kind, began, ended, outcome, bool(heard))
