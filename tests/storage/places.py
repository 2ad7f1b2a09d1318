"""Where stores keep things in tests, one class a kind of store: the conformance suite runs over each."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Protocol

from perdure.engine.storage.api import Shared, Store
from perdure.engine.storage.memory import MemoryStore
from perdure.engine.storage.postgres import PostgresStore
from perdure.engine.storage.postgres_driver import Connection
from perdure.engine.storage.postgres_server import Server
from perdure.engine.storage.sqlite import SqliteStore
from perdure.limits import RUN_NUMBERS
from tools.postgres import PostgresServer, binaries, shared_server


class Place(Protocol):
    """Something that outlives the stores that use it."""

    def store(self) -> Store:
        """A store over what is kept here. The one before it must be closed."""
        ...

    def after_crash(self) -> Store:
        """A store over what the present user would leave if it died now."""
        ...


class SharedPlace(Place, Protocol):
    """A place that several stores may use at once."""

    def shared(self) -> Shared:
        """One more store over what is kept here."""
        ...


class MemoryPlace:
    def __init__(self, folder: Path) -> None:
        self._store = MemoryStore()

    def store(self) -> Store:
        return self._store

    def after_crash(self) -> Store:
        return self._store

    def shared(self) -> Shared:
        return self._store.another()


class SqlitePlace:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._crashes = 0

    def store(self) -> Store:
        return SqliteStore(self._folder / "perdure.db")

    def after_crash(self) -> Store:
        self._crashes += 1
        left = self._folder / f"crash-{self._crashes}"
        left.mkdir()
        for file in self._folder.glob("perdure.db*"):
            if not file.name.endswith("-shm"):  # what lies in shared memory is made anew
                shutil.copy(file, left)
        return SqliteStore(left / "perdure.db")


class PostgresPlace:
    """A schema of its own in a server that the tests of this process share."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.schema = f'Test "{next(_numbers)}"'

    def store(self) -> PostgresStore:
        return PostgresStore(self.server.dsn(), schema=self.schema)

    def shared(self) -> Shared:
        return self.store()

    def after_crash(self) -> Store:
        # A copy of all tables; nobody holds the locks that would say that somebody still uses them.
        left = f"left by {next(_numbers)}"
        self.server.psql(_COPY.format(schema=self.schema.replace('"', '""'), left=left, numbers=RUN_NUMBERS))
        return PostgresStore(self.server.dsn(), schema=left)


@asynccontextmanager
async def another(place: PostgresPlace) -> AsyncGenerator[Connection]:
    """A connection of somebody else's, who knows the tables."""
    connection = await Server(place.server.dsn(), place.schema).connect("tests")
    try:
        yield connection
    finally:
        connection.terminate()


_COPY = """
CREATE SCHEMA "{left}";
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT relname FROM pg_class WHERE relnamespace = '"{schema}"'::regnamespace AND relkind = 'r' LOOP
        EXECUTE format('CREATE TABLE "{left}".%I (LIKE "{schema}".%I INCLUDING ALL)', name, name);
        EXECUTE format('INSERT INTO "{left}".%I OVERRIDING SYSTEM VALUE SELECT * FROM "{schema}".%I', name, name);
    END LOOP;
    PERFORM setval(pg_get_serial_sequence('"{left}".node', 'number'), (SELECT max(number) FROM "{schema}".node));
    CREATE SEQUENCE "{left}".run INCREMENT {numbers};
    EXECUTE replace(pg_get_functiondef('"{schema}".commit_group_1'::regproc), 'FUNCTION "{schema}"',
        'FUNCTION "{left}"');
END $$"""
_numbers = count(1)


def _postgres(name: str, folder: Path) -> PostgresPlace:
    return PostgresPlace(shared_server(name))


SHARED_PLACES: dict[str, Callable[[Path], SharedPlace]] = {
    "memory": MemoryPlace,
    **{name: partial(_postgres, name) for name in binaries()},
}
PLACES: dict[str, Callable[[Path], Place]] = {"sqlite": SqlitePlace, **SHARED_PLACES}
