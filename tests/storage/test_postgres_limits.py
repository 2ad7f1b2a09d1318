"""The bounds of `perdure.limits` that the PostgreSQL store keeps, against a real server."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence

import pytest

from perdure.clock import MILLISECOND, SECOND
from perdure.engine.storage import (
    postgres,
    postgres_ears,
    postgres_server,
    postgres_writer,
)
from perdure.engine.storage import postgres_statements as sql
from perdure.engine.storage.api import Notice, NoticesLost, Verdict, Write
from perdure.engine.storage.postgres import PostgresStore
from perdure.engine.storage.postgres_notices import encode_grown
from perdure.engine.storage.postgres_values import chain_key, queue_key, space_of
from perdure.errors import Unavailable
from perdure.limits import CACHED_KEYS, POSTGRES_IDLE_TIMEOUT
from tests.storage.make import NOW, put, queue, start
from tests.storage.places import PostgresPlace
from tests.storage.test_postgres_store import place as place
from tests.storage.test_postgres_store import store as store


async def backend(store: PostgresStore) -> int:
    """The process that serves a read."""
    [(pid,)] = await store._fetch("SELECT pg_backend_pid()")
    return pid


# --- Time -----------------------------------------------------------------------------------------------
async def test_a_statement_that_takes_too_long(place: PostgresPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_server, "POSTGRES_STATEMENT_TIMEOUT", 100 * MILLISECOND)
    store = place.store()
    await store.open(NOW)
    with pytest.raises(Unavailable, match="a statement took too long"):
        await store._fetch("SELECT pg_sleep(60)")
    assert len(await store._fetch("SELECT pg_sleep(0)")) == 1
    await store.close()


async def test_a_connection_that_was_not_used_for_long_is_made_anew(store: PostgresStore) -> None:
    first = await backend(store)
    now = asyncio.get_running_loop().time()
    assert store._open is not None
    _, readers = store._open

    def last_used(before: float) -> None:
        readers._idle = [(connection, now - before) for connection, _ in readers._idle]

    last_used(POSTGRES_IDLE_TIMEOUT / SECOND - 30)
    assert await backend(store) == first
    last_used(POSTGRES_IDLE_TIMEOUT / SECOND)
    assert await backend(store) != first


async def test_a_server_that_says_nothing_is_heard_of_again(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_ears, "POSTGRES_SILENCE", 100 * MILLISECOND)
    lost = asyncio.Event()

    def heard(notice: Notice) -> None:
        if notice == NoticesLost():
            lost.set()

    await store.listen(await store.join(), heard)
    ears = store._ears
    assert ears is not None and ears._connection is not None
    [[pid]] = await ears._connection.fetch("SELECT pg_backend_pid()")
    os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(10):
            await lost.wait()
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_process_of_the_server_that_does_not_end(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What became of its last commit can't be told until it does."""
    monkeypatch.setattr(postgres_writer, "POSTGRES_SILENCE", 100 * MILLISECOND)
    write = start("a")
    await put(store, write)
    writer = store._writer()
    assert writer._connection is not None
    writer._left.add(writer._backend)
    pid = writer.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        writer._connection.terminate()
        with pytest.raises(Unavailable, match=f"process {pid} does not end; its last commit is open"):
            await store.committed([write])
    finally:
        os.kill(pid, signal.SIGCONT)
    async with asyncio.timeout(10):
        while True:
            try:
                assert await store.committed([write]) == [True]
                break
            except Unavailable:
                pass


# --- How often ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("times", "goes"), [(3, True), (4, False)])
async def test_how_often_a_group_is_tried_again(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch, times: int, *, goes: bool
) -> None:
    monkeypatch.setattr(postgres_writer, "POSTGRES_RETRIES", 3)
    at_once = postgres_writer.Writer._at_once
    tries: list[int] = []

    async def in_the_way(self: postgres_writer.Writer, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        tries.append(len(group))
        if len(tries) <= times:
            raise postgres_writer._Moved
        return await at_once(self, group, now)

    monkeypatch.setattr(postgres_writer.Writer, "_at_once", in_the_way)
    if goes:
        assert await put(store, start("a")) == ["taken"]
    else:
        with pytest.raises(Unavailable, match="other nodes write to the same workflows just now"):
            await put(store, start("a"))
    assert len(tries) == 4


async def test_how_often_a_backlog_is_asked_that_others_take(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "POSTGRES_RETRIES", 3)
    asked: list[str] = []

    async def taken(statement: str, *arguments: object) -> Sequence[tuple[object, ...]]:
        asked.append(statement)
        return [(True, None)]

    monkeypatch.setattr(store, "_fetch", taken)
    assert await store.claim(1, [queue()], 5, frozenset(), SECOND) == []
    assert asked == [sql.CLAIM] * 3


# --- How much -------------------------------------------------------------------------------------------
async def test_numbers_of_runs_are_taken_in_advance_and_by_one_node(
    place: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_writer, "RUN_NUMBERS", 10)
    one, other = place.store(), place.store()
    for node in (one, other):
        await node.open(NOW)
    await one._writer().execute("ALTER SEQUENCE run INCREMENT BY 10")
    before = await _last_number(one)
    for number in range(20):
        for node in (one, other):
            await put(node, start(f"w-{number}-{node is one}"))
    rows = await one._fetch("SELECT run FROM execution")
    assert len({run for (run,) in rows}) == len(rows) == 40
    assert await _last_number(one) - before <= 50, "most are given without asking the server"
    for node in (one, other):
        await node.close()


async def _last_number(store: PostgresStore) -> int:
    [(number,)] = await store._fetch("SELECT last_value FROM run")
    return number


CACHED: dict[str, tuple[Callable[[int], object], Callable[[], int]]] = {
    "chain_key": (lambda n: chain_key("default", f"w{n}"), lambda: chain_key.cache_info().hits),
    "queue_key": (lambda n: queue_key(queue(f"q{n}")), lambda: queue_key.cache_info().hits),
    "space_of": (lambda n: space_of(f"space {n}"), lambda: space_of.cache_info().hits),
    "encode_grown": (lambda n: encode_grown(queue(f"q{n}")), lambda: encode_grown.cache_info().hits),
}


@pytest.mark.parametrize("function", CACHED)
def test_digests_that_are_remembered(function: str) -> None:
    make, hits = CACHED[function]
    for number in range(CACHED_KEYS + 1):
        make(number)
    before = hits()
    make(1)
    assert hits() == before + 1
    make(0)
    assert hits() == before + 1, "the oldest has made room"
