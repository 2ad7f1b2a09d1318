"""What is particular to the PostgreSQL store when a server, a connection or a disk fails: nothing that was acknowledged
is lost, nothing that was refused is there, and the work goes on by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from perdure.clock import MILLISECOND
from perdure.engine.storage import postgres_server, postgres_writer
from perdure.engine.storage.api import CommitUnknown, Notice, NoticesLost, Verdict, Write
from perdure.engine.storage.postgres import PostgresStore
from perdure.engine.storage.postgres_driver import Connection
from perdure.errors import StoreFull, Unavailable
from tests.storage.make import NOW, follow, key, put, start
from tests.storage.places import PostgresPlace, another
from tools.postgres import NOBODY, PostgresServer, binaries, free_port, shared_server

PROGRAMS = binaries()
NEWEST = next(iter(PROGRAMS))


@pytest.fixture(params=PROGRAMS)
def place(request: pytest.FixtureRequest) -> PostgresPlace:
    return PostgresPlace(shared_server(request.param))


@pytest.fixture
async def store(place: PostgresPlace) -> AsyncIterator[PostgresStore]:
    opened = place.store()
    await opened.open(NOW)
    yield opened
    await opened.close()


async def persistently(call: Callable[[], Awaitable[Sequence[Verdict]]]) -> Sequence[Verdict]:
    """Call until the store takes it."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await call()
            except Unavailable:
                await asyncio.wait([asyncio.Future[None]()], timeout=0.02)


async def certainly(store: PostgresStore, group: Sequence[Write]) -> None:
    """Commit a group whatever happens, as the node does."""
    while True:
        try:
            verdicts = await persistently(lambda: store.commit(group, NOW))
        except CommitUnknown:

            async def settle() -> Sequence[Verdict]:
                taken = await store.committed(group)
                return ["taken" if one else "stale" for one in taken]

            verdicts = await persistently(settle)
            if set(verdicts) == {"stale"}:
                continue
        assert set(verdicts) == {"taken"}, verdicts
        return


class Load:
    """Workflows that go on step by step until they are told to stop."""

    def __init__(self, store: PostgresStore, name: str) -> None:
        self.store, self.last = store, [start(f"{name}-{number}") for number in range(5)]
        self.steps = 0
        self._task = asyncio.create_task(self._work())
        self._stop = False

    async def _work(self) -> None:
        group = self.last
        while not self._stop:
            await certainly(self.store, group)
            self.last = group
            self.steps += 1
            group = [follow(write) for write in group]

    async def more(self, steps: int = 20) -> None:
        """Wait until so many more steps were acknowledged."""
        until = self.steps + steps
        async with asyncio.timeout(60):
            while self.steps < until:
                assert not self._task.done(), self._task.exception()
                await asyncio.wait([self._task], timeout=0.01)

    async def stop(self) -> None:
        """Stop, and see that all that was acknowledged is there, and nothing else."""
        self._stop = True
        await self._task
        for write in self.last:
            page = await self.store.journal(write.key, 0, 1 << 30)
            assert [version for version, _ in page.rows] == list(range(1, self.steps + 1))
            assert page.rows[-1] == (write.version, write.history)


# --- Connections that are lost --------------------------------------------------------------------------
async def test_backends_that_are_killed_under_load(store: PostgresStore, place: PostgresPlace) -> None:
    load = Load(store, "w")
    await load.more()
    async with another(place) as other:
        for _ in range(10):
            await other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'perdure %'"
                " AND application_name <> 'perdure tests' AND datname = current_database()"
            )
            await load.more(5)
    await load.stop()


async def test_a_commit_whose_connection_is_lost_can_not_appear_later(
    store: PostgresStore, place: PostgresPlace
) -> None:
    first = start("a")
    await put(store, first)
    second = follow(first)
    async with another(place) as other:
        async with other.transaction():
            await other.execute("SELECT FROM execution FOR UPDATE")
            commit = asyncio.create_task(put(store, second))
            await _until(other, "wait_event_type = 'Lock' AND application_name = 'perdure commits'")
            connection = store._writer()._connection
            assert connection is not None
            connection.terminate()  # the server goes on: it would commit when it gets the lock
            with pytest.raises(CommitUnknown, match="was lost during a commit"):
                await commit
            assert await store.committed([second]) == [False]
        assert await store.versions([first.key]) == [1]
        assert await put(store, second) == ["taken"]
        assert await store.committed([second]) == [True]


async def _until(connection: Connection, condition: str) -> None:
    """Wait until some process of the server is in a state."""
    async with asyncio.timeout(10):
        while not await connection.fetch(f"SELECT FROM pg_stat_activity WHERE {condition}"):
            pass


async def test_a_server_that_is_killed_and_started_again_under_load() -> None:
    server = PostgresServer(PROGRAMS[NEWEST])
    server.initialise()
    server.start()
    store = PostgresStore(server.dsn())
    await store.open(NOW)
    heard: list[Notice] = []
    await store.listen(await store.join(), heard.append)
    load = Load(store, "w")
    for how in (signal.SIGQUIT, signal.SIGKILL, signal.SIGINT):
        await load.more()
        server.stop(how)
        with pytest.raises(Unavailable):
            await store.versions([key("a")])
        server.start()
        await load.more()
    async with asyncio.timeout(10):
        while NoticesLost() not in heard:
            await load.more(1)
    await load.stop()
    await store.close()
    server.remove()


# --- Fail-over ------------------------------------------------------------------------------------------
async def test_a_standby_takes_over_and_nothing_acknowledged_is_lost() -> None:
    ports = free_port(), free_port()
    tcp = {"listen_addresses": "127.0.0.1", "fsync": "off", "synchronous_standby_names": "*"}
    primary = PostgresServer(PROGRAMS[NEWEST], {**tcp, "port": str(ports[0])})
    primary.initialise()
    primary.start()
    standby = PostgresServer(PROGRAMS[NEWEST], {**tcp, "port": str(ports[1]), "synchronous_standby_names": ""})
    copying = ["--pgdata", str(standby.data), "--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
    standby.run("pg_basebackup", "--host=127.0.0.1", f"--port={ports[0]}", "--username=postgres", *copying)
    standby.start()
    store = PostgresStore(f"postgresql://postgres@127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}/postgres")
    await store.open(NOW)
    loads = [Load(store, "one"), Load(store, "two")]
    for load in loads:
        await load.more(50)
    primary.stop(signal.SIGQUIT)
    standby.run("pg_ctl", "promote", f"--pgdata={standby.data}", "--wait")
    for load in loads:
        await load.more()
        await load.stop()
    await store.close()
    standby.remove()
    primary.remove()


async def test_a_standby_alone_takes_no_writes(place: PostgresPlace) -> None:
    server = place.server
    server.psql("CREATE DATABASE read_only")
    server.psql("ALTER DATABASE read_only SET default_transaction_read_only = on")
    with pytest.raises(Unavailable, match="takes no writes now"):
        await PostgresStore(server.dsn("read_only")).open(NOW)
    server.psql("DROP DATABASE read_only")


# --- Locks ----------------------------------------------------------------------------------------------
async def test_deadlocks_are_tried_again(
    store: PostgresStore, place: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    halved: list[int] = []

    def halves(group: Sequence[Write]) -> list[list[int]]:
        halved.append(len(group))
        return halves_of(group)

    halves_of = postgres_writer._halves
    monkeypatch.setattr(postgres_writer, "_halves", halves)
    runs = [start(f"w-{number}") for number in range(20)]
    await put(store, *runs)
    async with another(place) as other:
        await other.execute("SET deadlock_timeout = '10s'")  # it is the store that must give way
        while not halved:
            group = [follow(run) for run in runs]
            async with other.transaction():
                await other.execute("SELECT FROM execution ORDER BY shard DESC, chain DESC LIMIT 1 FOR UPDATE")
                commit = asyncio.create_task(put(store, *group))
                await _until(other, "wait_event_type = 'Lock' AND application_name = 'perdure commits'")
                await other.execute("SELECT FROM execution ORDER BY shard, chain LIMIT 1 FOR UPDATE")
            assert set(await commit) == {"taken"}
            runs = group
    assert halved == [20]


async def test_each_write_gets_its_own_verdict_where_a_group_is_halved(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where those of a workflow id stand apart from each other."""
    at_once = postgres_writer.Writer._at_once

    async def in_the_way(self: postgres_writer.Writer, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        if len(group) > 3:
            raise postgres_writer._Moved
        return await at_once(self, group, now)

    monkeypatch.setattr(postgres_writer.Writer, "_at_once", in_the_way)
    await put(store, start("there"))
    one = start("one")
    assert await put(store, one, start("two"), start("there"), follow(one)) == ["taken", "taken", "stale", "taken"]


async def test_a_row_that_somebody_keeps_locked_stops_only_itself(
    place: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_server, "POSTGRES_LOCK_TIMEOUT", 100 * MILLISECOND)
    store = place.store()
    await store.open(NOW)
    runs = [start(name) for name in "ab"]
    await put(store, *runs)
    group = [follow(run) for run in runs]
    async with another(place) as other, other.transaction():
        await other.execute("SELECT FROM execution WHERE workflow_id = 'b' FOR UPDATE")
        with pytest.raises(CommitUnknown, match="a lock was not free in time"):
            await put(store, *group)
        assert await store.committed(group) == [True, False]
        with pytest.raises(Unavailable, match="see pg_stat_activity for who holds it"):
            await put(store, group[1])
    assert await put(store, group[1]) == ["taken"]
    await store.close()


# --- Disks ----------------------------------------------------------------------------------------------
@pytest.fixture
def small_disk() -> Iterator[PostgresServer]:
    """A server with a tablespace on a disk of a few megabytes."""
    disk = Path(tempfile.mkdtemp(prefix="pg-disk-"))
    mount = f'mount -t tmpfs -o size=16m,uid={NOBODY},gid={NOBODY} tmpfs {disk} && exec "$@"'
    # The disk is mounted for the server alone, and goes with it.
    alone = ("unshare", "--mount", "sh", "-c", mount, "sh")
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        disk.rmdir()
        pytest.skip("this user can't mount a small disk")
    server = PostgresServer(PROGRAMS[NEWEST], within=alone)
    server.initialise()
    server.start()
    server.psql(f"CREATE TABLESPACE small LOCATION '{disk}'")
    server.psql("CREATE DATABASE small TABLESPACE small")
    yield server
    server.remove()
    disk.rmdir()


async def test_a_full_disk(small_disk: PostgresServer) -> None:
    store = PostgresStore(small_disk.dsn("small"))
    await store.open(NOW)
    small_disk.psql("CREATE TABLE ballast AS SELECT repeat('x', 900) FROM generate_series(1, 3000)", "small")
    last = start("a")
    await put(store, last)
    assert await store.versions([last.key]) == [1]  # a connection is made, which needs some space, too
    refused = 0
    while refused < 3:
        write = follow(last)._replace(history=os.urandom(50_000))
        try:
            await put(store, write)
            last = write
        except StoreFull as full:
            assert "no space is left on the server" in str(full)
            refused += 1
    assert await store.versions([last.key]) == [last.version]
    small_disk.psql("DROP TABLE ballast", "small")
    for _ in range(10):
        last = follow(last)._replace(history=os.urandom(50_000))
        assert await put(store, last) == ["taken"]
    page = await store.journal(last.key, 0, 1 << 30)
    assert [version for version, _ in page.rows] == list(range(1, last.version + 1))
    await store.close()
