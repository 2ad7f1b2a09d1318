"""Connections to a PostgreSQL server: how they are made and kept, and what their troubles mean.

Every wait has an end: connecting, each statement, each lock, and the silence of a peer that is gone. Whatever goes
wrong becomes an error that says what it is, where, and what to do; passwords are never shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final
from urllib.parse import urlsplit

from perdure.engine.storage.postgres_driver import (
    TROUBLES,
    Connection,
    InterfaceError,
    InternalClientError,
    PostgresConnectionError,
    PostgresError,
    TargetServerAttributeNotMatched,
    connect,
)
from perdure.engine.storage.postgres_schema import OLDEST_SERVER
from perdure.errors import PerdureError, StoreCorrupt, StoreError, StoreFull, StoreReadOnly, Unavailable
from perdure.limits import (
    POSTGRES_CONNECT_TIMEOUT,
    POSTGRES_IDLE_TIMEOUT,
    POSTGRES_LOCK_TIMEOUT,
    POSTGRES_READERS,
    POSTGRES_SILENCE,
    POSTGRES_STATEMENT_TIMEOUT,
    SECOND,
)

_PLANS: Final = {
    # All that is asked goes by an index. A plan that was made while the tables were small must not scan them later.
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "random_page_cost": "1.1",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
_DURABLE: Final = """SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') = 'off'"""


PATIENCE: Final = POSTGRES_STATEMENT_TIMEOUT + POSTGRES_SILENCE
"""How long an answer is waited for: a little longer than the server itself tries, so that it is the server that is
gone."""


def _settings() -> dict[str, str]:
    """What each connection asks of its backend."""
    return {
        "statement_timeout": str(POSTGRES_STATEMENT_TIMEOUT // 1_000),
        "lock_timeout": str(POSTGRES_LOCK_TIMEOUT // 1_000),
        "idle_in_transaction_session_timeout": str(POSTGRES_STATEMENT_TIMEOUT // 1_000),
        "tcp_keepalives_idle": str(POSTGRES_SILENCE // SECOND),
        "tcp_keepalives_interval": str(max(1, POSTGRES_SILENCE // SECOND // 3)),
        "tcp_keepalives_count": "3",
        "default_transaction_isolation": "read committed",
        "client_encoding": "utf8",
        **_PLANS,
    }


class Server:
    """Where a store's database is.

    Args:
        dsn: its address, as in ``postgresql://user:password@host:port/database``. With several hosts, separated by
            commas, the one that takes writes is used.
        schema: the schema in the database that the tables stand in.
    """

    def __init__(self, dsn: str, schema: str) -> None:
        if not dsn.startswith(("postgres://", "postgresql://")):
            raise StoreError("the address of a database begins with postgresql://, as in postgresql://host/database")
        self.schema = schema
        parts = urlsplit(dsn)
        user, at, hosts = parts.netloc.rpartition("@")
        self._dsns = [parts._replace(netloc=f"{user}{at}{host}").geturl() for host in hosts.split(",")]
        shown = parts._replace(netloc=f"{user.partition(':')[0]}{at}{hosts}", fragment="")
        if "password" in shown.query:
            shown = shown._replace(query="")
        self.place = shown.geturl()

    async def connect(self, purpose: str) -> Connection:
        """A new connection. Raises what `explained` tells."""
        troubles: list[Exception] = []
        for dsn in self._dsns:
            try:
                return await self._connect(dsn, purpose)
            except (*TROUBLES, ValueError) as error:
                troubles.append(error)
        means = [self.explained(error) for error in troubles]
        # What a person must mend at one host matters more than that another can't be reached.
        raise next((one for one in means if not one.retryable), means[-1]) from troubles[-1]

    async def _connect(self, dsn: str, purpose: str) -> Connection:
        connection = await connect(
            dsn,
            timeout=POSTGRES_CONNECT_TIMEOUT / SECOND,
            command_timeout=PATIENCE / SECOND,
            target_session_attrs="read-write",
            server_settings={
                **_settings(),
                "application_name": f"perdure {purpose}",
                "search_path": '"{}"'.format(self.schema.replace('"', '""')),
            },
        )
        try:
            version = connection.get_server_version()
            if int(version[0]) < OLDEST_SERVER:
                raise StoreError(
                    f"{self.place} is PostgreSQL {version[0]}; Perdure needs {OLDEST_SERVER} or later: upgrade it"
                )
            if connection.get_settings().server_encoding != "UTF8":
                raise StoreError(
                    f"{self.place} keeps texts as {connection.get_settings().server_encoding}: "
                    "make a database with ENCODING 'UTF8'"
                )
            await connection.execute(_DURABLE)
        except BaseException:
            connection.terminate()
            raise
        return connection

    def failed(self, connection: Connection, error: Exception) -> PerdureError:
        """What it means that a statement failed; a connection that is of no more use is given up."""
        if is_lost(connection, error):
            connection.terminate()
        return self.explained(error)

    def explained(self, error: BaseException) -> PerdureError:
        """What an error of the driver or the server means for a caller. Nothing was committed."""
        if isinstance(error, PerdureError):
            return error
        state = str(getattr(error, "sqlstate", "") or "")
        for prefix, kind, what in _MEANINGS:
            if state.startswith(prefix):
                return kind(f"{self.place}: {what.format(error=error, schema=self.schema)}")
        if isinstance(error, TargetServerAttributeNotMatched):
            return Unavailable(
                f"{self.place} takes no writes now (a standby?): promote it, or give the address of the primary"
            )
        if isinstance(error, ValueError):
            return StoreError(f"{self.place} is no address of a database ({error})")
        if isinstance(error, TimeoutError):
            return Unavailable(f"{self.place} does not answer: see that the server runs, and is let through to")
        if isinstance(error, OSError | InterfaceError | InternalClientError | PostgresConnectionError):
            return Unavailable(f"{self.place} can't be reached ({error}): see that the server runs there")
        return StoreError(f"{self.place} can't be used: {error}")


_MEANINGS: Final[Sequence[tuple[str, type[PerdureError], str]]] = (
    ("28", StoreError, "the server refuses this user ({error}): correct the user, the password or pg_hba.conf"),
    ("3D000", StoreError, "there is no such database ({error}): make it with `createdb`, or give another name"),
    ("42501", StoreReadOnly, "this user may not do that ({error}): GRANT it CREATE on the database, or the schema"),
    ("25006", Unavailable, "the server takes no writes now ({error}): promote it, or wait for the primary"),
    ("53100", StoreFull, "no space is left on the server ({error}): free some; what was acknowledged is safe"),
    ("53300", Unavailable, "the server has no connection left ({error}): raise max_connections, or use fewer"),
    ("53", Unavailable, "the server is short of something ({error})"),
    ("57014", Unavailable, "a statement took too long, or was cancelled ({error})"),
    ("57", Unavailable, "the server is starting, stopping or recovering ({error})"),
    ("55P03", Unavailable, "a lock was not free in time ({error}): see pg_stat_activity for who holds it"),
    ("40", Unavailable, "other transactions were in the way ({error})"),
    ("58", Unavailable, "the server's disk fails ({error}): look at the server's log"),
    ("XX00", StoreCorrupt, "the database is damaged, or the server has a fault ({error}): look at the server's log"),
    ("42P01", StoreError, "a table is missing in schema {schema} ({error}): restore a backup, or use another schema"),
    ("42", StoreError, "schema {schema} is not as Perdure made it ({error}): restore a backup, or use another schema"),
    ("22", PerdureError, "a value can't be stored ({error})"),
    ("54", PerdureError, "a value can't be stored ({error})"),
    ("08", Unavailable, "the connection was lost ({error})"),
)


def is_lost(connection: Connection, error: BaseException) -> bool:
    """Whether a statement ended without the server's word on it."""
    # What the driver itself refuses to send has no severity.
    refused = isinstance(error, PostgresError) and getattr(error, "severity_en", None) in (None, "ERROR")
    return connection.is_closed() or not refused


class Readers:
    """A few connections for reading, made when they are needed."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._places = asyncio.Semaphore(POSTGRES_READERS)
        self._long = asyncio.Semaphore(POSTGRES_READERS - 1)
        self._idle: list[tuple[Connection, float]] = []

    @asynccontextmanager
    async def use(self) -> AsyncGenerator[Connection]:
        """A connection, for as long as the block lasts. Errors in it come out as `Server.explained` tells."""
        async with self._places:
            connection = self._take() or await self._server.connect("reads")
            try:
                yield connection
            except TROUBLES as error:
                raise self._server.failed(connection, error) from error
            except PerdureError:
                raise
            except BaseException:
                connection.terminate()  # it may be in the middle of something
                raise
            finally:
                if not connection.is_closed():
                    self._idle.append((connection, asyncio.get_running_loop().time()))

    @asynccontextmanager
    async def use_long(self) -> AsyncGenerator[Connection]:
        """The same for what may take long. However much of that there is, it leaves a connection to the others."""
        async with self._long, self.use() as connection:
            yield connection

    def _take(self) -> Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection, since = self._idle.pop()
            if now - since > POSTGRES_IDLE_TIMEOUT / SECOND:
                connection.terminate()  # who knows what became of it
            elif not connection.is_closed():
                return connection
        return None

    async def close(self) -> None:
        """Close them all."""
        for connection, _ in self._idle:
            await close(connection)
        self._idle.clear()


async def close(connection: Connection) -> None:
    """Close a connection in good order, if the server still answers."""
    with suppress(*TROUBLES):
        await connection.close(timeout=POSTGRES_SILENCE / SECOND)
