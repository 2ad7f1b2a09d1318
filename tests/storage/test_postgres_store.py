"""What is particular to the PostgreSQL store: what it says of a database that it can't use, and how it asks."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from perdure.clock import SECOND
from perdure.engine.storage import filter as list_filter
from perdure.engine.storage import postgres, postgres_listing, postgres_server
from perdure.engine.storage.api import Scope
from perdure.engine.storage.postgres import PostgresStore
from perdure.engine.storage.postgres_driver import Connection
from perdure.engine.storage.postgres_notices import decode
from perdure.engine.storage.postgres_schema import VERSION
from perdure.engine.storage.postgres_values import plain, text
from perdure.errors import (
    InvalidRequest,
    PerdureError,
    StoreError,
    StoreForeign,
    StoreReadOnly,
    StoreTooNew,
    Unavailable,
)
from perdure.ids import SHARDS
from perdure.limits import POSTGRES_READERS
from tests.storage.make import LATER, NOW, follow, item, put, queue, seen, start
from tests.storage.places import PostgresPlace, another
from tools.postgres import PostgresServer, binaries, free_port, shared_server

PROGRAMS = binaries()


@pytest.fixture(params=PROGRAMS)
def place(request: pytest.FixtureRequest) -> PostgresPlace:
    return PostgresPlace(shared_server(request.param))


@pytest.fixture
async def store(place: PostgresPlace) -> AsyncIterator[PostgresStore]:
    opened = place.store()
    await opened.open(NOW)
    yield opened
    await opened.close()


def test_the_tests_run_on_two_versions() -> None:
    if len(PROGRAMS) < 2:
        pytest.skip(f"only one version of PostgreSQL is installed: {PROGRAMS}")


# --- What can't be opened -------------------------------------------------------------------------------
async def test_a_server_that_is_not_there() -> None:
    port = free_port()
    with pytest.raises(Unavailable, match=rf"postgresql://ann@127.0.0.1:{port}/x\?sslmode=disable can't be reached"):
        await PostgresStore(f"postgresql://ann:secret@127.0.0.1:{port}/x?sslmode=disable#secret").open(NOW)
    with pytest.raises(Unavailable, match="can't be reached"):
        await PostgresStore("postgresql:///x?host=/nowhere").open(NOW)


async def test_a_host_that_does_not_answer_is_not_the_last(
    place: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_server, "POSTGRES_CONNECT_TIMEOUT", SECOND // 2)
    server = PostgresServer(place.server.programs, {"port": str(free_port()), "listen_addresses": "127.0.0.1"})
    server.initialise()
    server.start()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        hosts = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{free_port()}"
        with pytest.raises(Unavailable, match="can't be reached"):
            await PostgresStore(f"postgresql://postgres@{hosts}/postgres").open(NOW)
        store = PostgresStore(f"postgresql://postgres@{hosts},127.0.0.1:{server.settings['port']}/postgres")
        await store.open(NOW)
        await store.close()
    server.remove()


@pytest.fixture(scope="module")
def with_passwords() -> Iterator[PostgresServer]:
    """A server that asks for passwords."""
    server = PostgresServer(next(iter(PROGRAMS.values())))
    server.initialise()
    server.start()
    server.psql("CREATE ROLE ann LOGIN PASSWORD 'right'")
    rules = server.data / "pg_hba.conf"
    rules.write_text("local all ann scram-sha-256\nlocal all all trust\n")
    server.psql("SELECT pg_reload_conf()")
    yield server
    server.remove()


async def test_a_user_who_is_refused(with_passwords: PostgresServer) -> None:
    right = with_passwords.dsn().replace("postgres@", "ann:right@")
    with pytest.raises(StoreReadOnly, match="GRANT it CREATE"):
        await PostgresStore(right).open(NOW)
    with pytest.raises(StoreError, match="correct the user, the password or pg_hba") as caught:
        await PostgresStore(right.replace("right", "wrong")).open(NOW)
    assert "wrong" not in str(caught.value)
    assert not caught.value.retryable
    with_passwords.psql("GRANT CREATE ON DATABASE postgres TO ann")
    store = PostgresStore(right)
    await store.open(NOW)
    await put(store, start("a"))
    await store.close()
    with_passwords.psql("ALTER ROLE ann CONNECTION LIMIT 0")
    with pytest.raises(Unavailable, match="no connection left"):
        await PostgresStore(right).open(NOW)


async def test_a_database_that_is_not_there(place: PostgresPlace) -> None:
    with pytest.raises(StoreError, match=r'"missing" does not exist.*: make it with `createdb`'):
        await PostgresStore(place.server.dsn("missing")).open(NOW)


async def test_what_is_no_address() -> None:
    for dsn in ("perdure.db", "mysql://host/database", ""):
        with pytest.raises(StoreError, match="begins with postgresql://"):
            PostgresStore(dsn)
    with pytest.raises(StoreError, match="is no address of a database"):
        await PostgresStore("postgresql://host:port/database").open(NOW)


async def test_a_database_of_another_encoding(place: PostgresPlace) -> None:
    place.server.psql("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    with pytest.raises(StoreError, match="keeps texts as LATIN1: make a database with ENCODING 'UTF8'"):
        await PostgresStore(place.server.dsn("latin")).open(NOW)
    place.server.psql("DROP DATABASE latin")


async def test_a_server_that_is_too_old(place: PostgresPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_server, "OLDEST_SERVER", 99)
    with pytest.raises(StoreError, match="needs 99 or later: upgrade it"):
        await place.store().open(NOW)


async def test_tables_of_a_later_version(store: PostgresStore, place: PostgresPlace) -> None:
    async with another(place) as other:
        await other.execute("UPDATE meta SET version = version + 1")
    with pytest.raises(StoreTooNew, match=f"of version {VERSION + 1}; .* up to {VERSION}: upgrade Perdure"):
        await place.store().open(NOW)


async def test_a_schema_of_another_program(place: PostgresPlace) -> None:
    place.server.psql('CREATE SCHEMA "somebody\'s"')
    place.server.psql('CREATE TABLE "somebody\'s".people (name text)')
    with pytest.raises(StoreForeign, match="holds tables of another program: give another schema"):
        await PostgresStore(place.server.dsn(), schema="somebody's").open(NOW)


async def test_tables_that_somebody_has_dropped(store: PostgresStore, place: PostgresPlace) -> None:
    async with another(place) as other:
        await other.execute("DROP TABLE snapshot")
    with pytest.raises(StoreError, match="a table is missing in schema") as caught:
        await store.load([start("a").key.chain])
    assert not caught.value.retryable


async def test_nodes_that_start_at_the_same_time_make_the_tables_once(place: PostgresPlace) -> None:
    stores = [place.store() for _ in range(5)]
    assert not any(await asyncio.gather(*(store.open(NOW) for store in stores)))
    assert len({await store.join() for store in stores}) == 5
    for store in stores:
        await store.close()


async def test_a_store_is_used_while_it_is_open(place: PostgresPlace) -> None:
    store = place.store()
    for use in (put(store, start("a")), store.load([start("a").key.chain]), store.forget(NOW, 1), store.join()):
        with pytest.raises(StoreError, match="is not open"):
            await use
    await store.close()
    await store.open(NOW)
    with pytest.raises(StoreError, match="open in this store already"):
        await store.open(NOW)
    await store.close()
    await store.close()


async def test_a_node_that_lives_is_no_unclean_end(store: PostgresStore, place: PostgresPlace) -> None:
    other = place.store()
    assert await other.open(NOW) is False
    connection = other._writer()._connection
    assert connection is not None
    await other.join()
    other._writer()._connection = None
    await connection.close(timeout=1)
    third = place.store()
    assert await third.open(NOW) is True
    await third.close()
    assert await third.open(NOW) is False, "it was told once"
    await third.close()
    await other.close()


# --- Values ---------------------------------------------------------------------------------------------
def test_texts_keep_their_order() -> None:
    texts = [
        a + b + c for a in ("", "\0", "\1", "\2", "a") for b in ("", "\0", "\1", "\2") for c in ("", "\0", "\1", "z")
    ]
    assert [plain(text(one)) for one in texts] == texts
    assert sorted(set(texts), key=text) == sorted(set(texts))
    assert not any("\0" in text(one) for one in texts)


async def test_a_write_that_no_database_can_hold_changes_nothing(store: PostgresStore) -> None:
    await put(store, start("a"))
    for bad in (start("c")._replace(wake_at=1 << 70), start("\ud800")):
        with pytest.raises((PerdureError, UnicodeEncodeError)) as caught:
            await put(store, start("b"), bad)
        assert not isinstance(caught.value, StoreError), "it would be tried for ever"
    assert await put(store, start("b")) == ["taken"]


async def test_long_values_can_be_listed(store: PostgresStore) -> None:
    long = "".join(map(chr, range(0x4E00, 0x4E00 + 1_000)))
    run = start(long, namespace=long)
    await put(store, seen(run, NOW, long, **{long: long + long}), seen(start("b", namespace=long)))
    for query in (f"\"{long}\" = '{long}{long}'", f"WorkflowId = '{long}'", f"WorkflowType = '{long}'"):
        rows, _ = await store.list(long, query, "", 10)
        assert [row.workflow_id for row in rows] == [long]


async def test_a_page_token_of_numbers_that_are_too_large(store: PostgresStore) -> None:
    from perdure.engine.storage import listing

    with pytest.raises((InvalidRequest, PerdureError)):
        await store.list("default", "", listing.token((1 << 63, "a", 1)), 10)


@pytest.mark.parametrize("payload", ["", "[]", "{}", '["x"]', '["r"]', '["b", "a", "other", "c", "d"]', "[1]"])
def test_notices_that_nobody_understands(payload: str) -> None:
    assert type(decode(payload)).__name__ == "NoticesLost"


# --- How it asks ----------------------------------------------------------------------------------------
async def test_every_statement_goes_by_an_index(store: PostgresStore) -> None:
    node = await store.join()
    runs = [seen(start(f"w-{number}"), NOW + number, env="x")._replace(
        wake_at=NOW + number, running=1, home=node, dedup=[("r", LATER)]) for number in range(500)]  # fmt: skip
    tasks = [item(run, number) for number, run in enumerate(runs)]
    await put(store, *(run._replace(backlog_added=[task]) for run, task in zip(runs, tasks, strict=True)))
    before = await _read(store)
    for run in runs[:20]:
        await put(store, seen(follow(run), run.visibility.start_time if run.visibility else 0, env="y")._replace(
            wake_at=LATER, snapshot=b"state", dedup=[("s", LATER)]))  # fmt: skip
        await put(store, follow(follow(run)), follow(follow(run)))
        await store.load([run.key.chain])
        await store.load_run(run.key.chain, run.run_id)
        await store.versions([run.key])
        await store.committed([run])
        await store.journal(run.key, 0, 1_000)
        await store.taken(run.key.chain, ["r", "s"], NOW)
        await store.due(NOW + 300, 5)
        await store.due_in(Scope(node, frozenset({node}), frozenset(range(SHARDS))), NOW + 300, 5)
        await store.running(run.key, 5)
        await store.running_in(Scope(node, frozenset({node}), frozenset()), run.key, 5)
        await store.claim(node, [queue()], 2, frozenset({node}), SECOND)
        await store.backlog(queue(), tasks[400], 5)
        await store.backlogged_queues()
        for query in ("", "env = 'y'", "ExecutionStatus = 'Running'", f"WorkflowId = '{run.key.workflow_id}'"):
            await store.list("default", query, "", 5)
        await store.forget(NOW, 5)
        await put(store, follow(follow(run))._replace(delete=True))
    after = await _read(store)
    scans = {table: after[table][0] - before[table][0] for table in after}
    assert not any(scans.values()), scans
    entries = {table: (after[table][1] - before[table][1]) / 20 for table in after}
    assert all(count < 150 for count in entries.values()), f"index entries read a round: {entries}"


async def test_homes_of_the_past_cost_nothing(store: PostgresStore) -> None:
    node = await store.join()
    await put(store, *(start(f"w-{home}")._replace(wake_at=LATER + home, home=node + home) for home in range(500)))
    scope = Scope(node, frozenset({node}), frozenset(range(SHARDS)))
    before = await _read(store)
    for now in range(NOW, NOW + 10):
        assert await store.due_in(scope, now, 5) == []
    assert [due.wake_at for due in await store.due_in(scope, LATER + 9, 1)] == [LATER]
    assert (await _read(store))["execution"][1] - before["execution"][1] < 10


async def _read(store: PostgresStore) -> dict[str, tuple[int, int]]:
    """The times each large table was scanned, and the index entries read of it."""
    await store._writer().execute("SELECT pg_stat_force_next_flush()")
    await store._fetch("SELECT pg_stat_force_next_flush()")
    rows = await store._fetch(
        "SELECT relname, seq_scan, idx_tup_fetch FROM pg_stat_user_tables WHERE schemaname = current_schema()"
        " AND relname NOT IN ('node', 'meta', 'watch', 'question')"
    )
    return {name: (scans, entries) for name, scans, entries in rows}


@pytest.mark.parametrize(
    ("query", "index"),
    {
        "": "visibility_start",
        "WorkflowType = 'a'": "visibility_start",
        "TaskQueue = 'a' AND ExecutionStatus = 'Running'": "visibility_open",
        "env = 'test' AND ExecutionStatus = 'Failed'": "attribute_text",
        "size = 3": "attribute_number",
        "WorkflowId = 'a'": "execution_pkey",
    }.items(),
)
async def test_listings_follow_an_index(store: PostgresStore, query: str, index: str, place: PostgresPlace) -> None:
    statement, parameters = postgres_listing.statement(list_filter.parse(query), "default", (NOW, "a", 1), 10)
    async with another(place) as other:
        plan = "\n".join(str(row[0]) for row in await other.fetch(f"EXPLAIN {statement}", *parameters))
    assert f"using {index}" in plan or f"on {index}" in plan, plan
    assert "Seq Scan" not in plan


async def test_few_connections(store: PostgresStore, place: PostgresPlace) -> None:
    await store.listen(await store.join(), lambda notice: None)
    await asyncio.gather(*(store.versions([start("a").key]) for _ in range(50)))
    async with another(place) as other:
        rows = await other.fetch(
            "SELECT application_name, count(*) FROM pg_stat_activity WHERE application_name LIKE 'perdure %'"
            " AND pid <> pg_backend_pid() AND datname = current_database() GROUP BY 1"
        )
    assert {name: count for name, count in rows if name != "perdure tests"} == {
        "perdure commits": 1, "perdure notices": 1, "perdure reads": POSTGRES_READERS,
    }  # fmt: skip


async def test_what_keeps_a_node_alive_waits_neither_for_reads_nor_for_commits(
    store: PostgresStore, place: PostgresPlace
) -> None:
    node = await store.join()
    await store.listen(node, lambda notice: None)
    run = start("a")
    await put(store, run)
    async with another(place) as other:
        slow = [asyncio.create_task(store._fetch("SELECT pg_sleep(60)")) for _ in range(2 * POSTGRES_READERS)]
        await until(other, POSTGRES_READERS, "query LIKE 'SELECT pg_sleep%' AND wait_event = 'PgSleep'")
        async with other.transaction():
            await other.execute("SELECT FROM execution FOR UPDATE")
            commit = asyncio.create_task(put(store, follow(run)))
            await until(other, 1, "wait_event_type = 'Lock' AND application_name = 'perdure commits'")
            assert node in (await store.renew(node, ("worker",), 60 * SECOND)).nodes
            assert not commit.done() and not any(read.done() for read in slow)
        assert await commit == ["taken"]
    for read in slow:
        read.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_a_node_whose_ears_are_lost_says_through_another_connection_that_it_is_alive(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await store.join()
    await store.listen(node, lambda notice: None)
    ears = store._ears
    assert ears is not None and ears._connection is not None
    monkeypatch.setattr(ears, "_connect", asyncio.Event().wait)  # it isn't made again
    ears._connection.terminate()
    assert node in (await store.renew(node, (), 60 * SECOND)).nodes


async def test_listings_leave_a_connection_to_the_engine(
    store: PostgresStore, place: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_server, "POSTGRES_LOCK_TIMEOUT", 60 * SECOND)
    run = start("a")
    await put(store, run)
    async with another(place) as other:
        async with other.transaction():
            await other.execute("LOCK TABLE visibility")
            listings = [asyncio.create_task(store.list("default", "", "", 10)) for _ in range(10)]
            waiting = "wait_event_type = 'Lock' AND application_name = 'perdure reads'"
            await until(other, POSTGRES_READERS - 1, waiting)
            assert await store.versions([run.key]) == [1]
            await until(other, POSTGRES_READERS - 1, waiting)
            assert not any(listing.done() for listing in listings)
        await asyncio.gather(*listings)


async def until(other: Connection, count: int, condition: str) -> None:
    """Wait until so many processes of the server are in a state."""
    async with asyncio.timeout(10):
        while len(await other.fetch(f"SELECT FROM pg_stat_activity WHERE {condition}")) != count:
            await other.execute("SELECT pg_stat_clear_snapshot()")


async def test_a_history_of_many_rows(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "POSTGRES_HISTORY_ROWS", 10)
    last = start("a")
    await put(store, last)
    for _ in range(35):
        last = follow(last)._replace(history=b"x")
        await put(store, last)
    whole = await store.journal(last.key, 0, 1 << 30)
    assert [version for version, _ in whole.rows] == list(range(1, 37))
    assert whole.next == 0
    first = await store.journal(last.key, 0, 25)
    assert first.next == first.rows[-1][0] < 36
    rest = await store.journal(last.key, first.next, 1 << 30)
    assert [*first.rows, *rest.rows] == whole.rows
