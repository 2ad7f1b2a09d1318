"""What a store does first: makes or updates its tables, and enters itself among those that use them."""

from __future__ import annotations

from perdure.engine.storage import postgres_statements as sql
from perdure.engine.storage.postgres_driver import TROUBLES, Connection
from perdure.engine.storage.postgres_schema import MIGRATIONS, VERSION
from perdure.engine.storage.postgres_server import Server
from perdure.errors import StoreForeign, StoreTooNew

_VERSION = "SELECT to_regclass('meta'), (SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace($1)::oid)"


async def enter(server: Server, connection: Connection) -> tuple[int, str, bool]:
    """Make the tables fit, and get a number in them.

    Returns:
        The number, the channel that notices are sent through, and whether somebody who used the store before has
        not closed it.
    """
    try:
        if await _version(server, connection) < VERSION:
            await _migrate(server, connection)
        async with connection.transaction():  # nobody sees the number before it is held
            [number] = await connection.fetchrow(sql.ENTER)
            await connection.execute(sql.HOLD, number)
        unclean = await connection.fetch(sql.UNCLEAN, number)
        await connection.execute(sql.FORGET_UNJOINED)
        [channel] = await connection.fetchrow(sql.CHANNEL)
        return number, channel, bool(unclean)
    except TROUBLES as error:
        raise server.explained(error) from error


async def _version(server: Server, connection: Connection) -> int:
    """The version of the tables; 0: there are none."""
    meta, tables = await connection.fetchrow(_VERSION, '"{}"'.format(server.schema.replace('"', '""')))
    if meta is None:
        if tables:
            raise StoreForeign(
                f"{server.place}: schema {server.schema} holds tables of another program: give another schema"
            )
        return 0
    [version] = await connection.fetchrow("SELECT version FROM meta")
    if version > VERSION:
        raise StoreTooNew(
            f"{server.place}: schema {server.schema} is of version {version}; this Perdure knows versions up to "
            f"{VERSION}: upgrade Perdure, or give another schema"
        )
    return version


async def _migrate(server: Server, connection: Connection) -> None:
    async with connection.transaction():
        # Others who start at the same time wait here, and then find it done.
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"perdure {server.schema}")
        version = await _version(server, connection)
        if version == 0:
            schema = server.schema.replace('"', '""')
            await connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
            await connection.execute("CREATE TABLE meta (version integer NOT NULL)")
            await connection.execute("INSERT INTO meta VALUES (0)")
        for migration in MIGRATIONS[version:]:
            for statement in migration:
                await connection.execute(statement)
        await connection.execute("UPDATE meta SET version = $1", VERSION)
