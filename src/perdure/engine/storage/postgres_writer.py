"""The one connection that commits, and what becomes of a group on it.

A group is one call of the function `commit_group`, outside any transaction block: one round trip. Where the function
can't judge it (a run that is written twice, a request id that was taken before), or there is more to write (which
blobs a run names), it is judged here, in a transaction of several statements that has locked its rows.

A connection that is lost in the middle leaves a backend behind that may commit yet. So before anybody is told whether
it did, that very backend is ended, wherever it is; after a fail-over it is gone with its server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from perdure.engine.storage import admission
from perdure.engine.storage import postgres_statements as sql
from perdure.engine.storage.api import CommitUnknown, Verdict, Write
from perdure.engine.storage.postgres_driver import TROUBLES, Connection, InsufficientPrivilegeError, PostgresError
from perdure.engine.storage.postgres_server import PATIENCE, Server, close, is_lost
from perdure.engine.storage.postgres_values import chain_key
from perdure.engine.storage.postgres_writing import CALL, Rows, fits, in_order, request_columns, steps
from perdure.engine.storage.schema import STATUS_CODES
from perdure.errors import StoreError, Unavailable
from perdure.limits import POSTGRES_RETRIES, POSTGRES_SILENCE, RUN_NUMBERS, SECOND

_BELONG_TOGETHER, _TAKEN_BEFORE, _TWICE = "PD001", "PD002", "21000"
_TO_BE_JUDGED = frozenset({_BELONG_TOGETHER, _TAKEN_BEFORE, _TWICE})
_LOCKED = "55P03"
_IN_THE_WAY = frozenset({"40001", "40P01", _LOCKED})
"""Serialization failures, deadlocks, and locks that were not free in time."""


class _Moved(Exception):
    """Something that was judged has changed before it was locked."""


class Writer:
    """Commits groups, one at a time.

    Args:
        server: where.
        node: the number that this store has.
        channel: where notices go.
    """

    def __init__(self, server: Server, node: int, channel: str) -> None:
        self._server, self._node, self._channel = server, node, channel
        self._turn = asyncio.Lock()
        self._connection: Connection | None = None
        self._backend: tuple[int, datetime] = (0, datetime.min.replace(tzinfo=UTC))
        self._left: set[tuple[int, datetime]] = set()  # backends of lost connections, which may commit yet
        self._next_run = self._last_run = 0

    @property
    def pid(self) -> int:
        """The process that serves the connection."""
        return self._backend[0]

    async def close(self) -> None:
        """Wait for what is being committed, and let go."""
        async with self._turn:
            connection, self._connection = self._connection, None
            if connection is not None:
                await close(connection)

    async def execute(self, statement: str, *arguments: object) -> str:
        """Run a statement between two groups; what it did, as PostgreSQL says it."""
        async with self._turn:
            connection = await self._ready()
            try:
                return await connection.execute(statement, *arguments)
            except TROUBLES as error:
                raise self._server.failed(connection, error) from error

    async def _ready(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            await self.use(await self._server.connect("commits"))
            assert self._connection is not None
        return self._connection

    async def use(self, connection: Connection) -> None:
        """Commit through this connection from now on."""
        try:
            await connection.execute(sql.HOLD, self._node)
            [pid, since] = await connection.fetchrow(sql.BACKEND)
            self._backend = pid, since
        except TROUBLES as error:
            connection.terminate()
            raise self._server.explained(error) from error
        # Another server, after a fail-over, may give the old numbers to others.
        self._next_run = self._last_run = 0
        self._connection = connection

    # --- Groups -----------------------------------------------------------------------------------------
    async def commit(self, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        """See `Store.commit`."""
        async with self._turn:
            return await self._commit(group, now, POSTGRES_RETRIES)

    async def _commit(self, group: Sequence[Write], now: int, retries: int) -> Sequence[Verdict]:
        try:
            return await self._at_once(group, now)
        except PostgresError as error:
            state = getattr(error, "sqlstate", "")
            alone = len(admission.views_of(group)) == 1
            if state not in _IN_THE_WAY or not retries or (alone and state == _LOCKED):
                raise self._server.explained(error) from error
        except _Moved as moved:
            if not retries:
                raise Unavailable(f"{self._server.place}: other nodes write to the same workflows just now") from moved
        verdicts: list[Verdict] = ["stale" for _ in group]
        for part in _halves(group):
            try:
                judged = await self._commit([group[position] for position in part], now, retries - 1)
            except (StoreError, Unavailable) as error:
                if "taken" in verdicts:  # only some of the group is there
                    raise CommitUnknown(f"a part of a group was not committed: {error}") from error
                raise
            for position, verdict in zip(part, judged, strict=True):
                verdicts[position] = verdict
        return verdicts

    async def _at_once(self, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        """One transaction. Raises what the server says where nothing was done."""
        connection = await self._ready()
        # Before the driver's own time-out: that cancels the statement on the server, which cuts a wait for the standby
        # short as if all were well.
        alarm = asyncio.get_running_loop().call_later((PATIENCE - SECOND) / SECOND, connection.terminate)
        try:
            if fits(group) and not any(write.blobs for write in group):
                try:
                    return await self._taken(connection, group, now)
                except PostgresError as error:
                    if getattr(error, "sqlstate", "") not in _TO_BE_JUDGED:
                        raise
            return await self._judged(connection, group, now)
        except (*TROUBLES, asyncio.CancelledError) as error:
            if not is_lost(connection, error):
                raise
            self._left.add(self._backend)
            connection.terminate()
            if isinstance(error, asyncio.CancelledError):
                raise
            raise CommitUnknown(f"{self._server.place} was lost during a commit: {error}") from error
        finally:
            alarm.cancel()

    async def _taken(self, connection: Connection, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        rows = Rows(group)
        verdicts = in_order(rows.order, await self._call(connection, rows, len(group), now, judged=False))
        refused = [write for write, verdict in zip(group, verdicts, strict=True) if verdict != "taken" and write.dedup]
        if refused:
            duplicates = await _requests_taken(connection, refused, now)
            for position, write in enumerate(group):
                if verdicts[position] != "taken" and any((write.key[:2], one) in duplicates for one, _ in write.dedup):
                    verdicts[position] = "duplicate"
        return verdicts

    async def _call(
        self, connection: Connection, rows: Rows, count: int, now: int, *, judged: bool
    ) -> Sequence[int | None]:
        if self._next_run + count >= self._last_run:
            [self._next_run] = await connection.fetchrow("SELECT nextval('run')")
            self._last_run = self._next_run + RUN_NUMBERS
        base, self._next_run = self._next_run, self._next_run + count
        arguments = rows.parameters(now, base, judged=judged, node=self._node, channel=self._channel)
        [taken] = await connection.fetchrow(CALL, *arguments)
        return taken

    async def _judged(self, connection: Connection, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        """Judge a group by `admission`'s rules, with its rows locked, and write what is taken."""
        async with connection.transaction():
            views = admission.views_of(group)
            keys = {(*chain_key(*write.key[:2]), run_no): (write.key[:2], run_no)
                    for write in group for run_no in {write.key.run_no, write.key.run_no - 1}}  # fmt: skip
            named = sorted(keys)
            for place, run_no, version in await connection.fetch(sql.LOCK_RUNS, *zip(*named, strict=True)):
                chain, _ = keys[named[place - 1]]
                views[chain].versions[run_no] = version
            chains = list(views)
            latest = await connection.fetch(sql.LATEST, *zip(*(chain_key(*chain) for chain in chains), strict=True))
            for place, run_no, status in latest:
                view = views[chains[place - 1]]
                view.latest, view.open = run_no, status == STATUS_CODES["Running"]
            for chain, request_id in await _requests_taken(connection, group, now):
                views[chain].taken.add(request_id)
            verdicts = admission.verdicts(group, views)
            taken = [write for write, verdict in zip(group, verdicts, strict=True) if verdict == "taken"]
            for part in steps(taken):
                rows = Rows(part)
                runs = await self._call(connection, rows, len(part), now, judged=True)
                if None in runs:
                    raise _Moved
                await _refer_to_blobs(connection, part, rows, runs)
        return verdicts

    # --- Settling ---------------------------------------------------------------------------------------
    async def committed(self, group: Sequence[Write]) -> Sequence[bool]:
        """See `Store.committed`."""
        async with self._turn:
            connection = await self._ready()
            try:
                await self._end_what_was_left(connection)
                # Ending a backend cuts short its wait for the standby. What is written now comes after its commit, so
                # that when this is everywhere, that is, too.
                await connection.execute(sql.TOUCH)
                rows = [(*chain_key(*write.key[:2]), write.key.run_no, write.version) for write in group]
                found = await connection.fetch(sql.COMMITS, *_columns(rows, 4))
            except TROUBLES as error:
                raise self._server.failed(connection, error) from error
        stored: dict[int, str | None] = {int(place): commit_id for place, commit_id in found}
        there = [
            place not in stored if write.delete else stored.get(place) == write.commit_id
            for place, write in enumerate(group, 1)
        ]
        return admission.settled(group, there)

    async def _end_what_was_left(self, connection: Connection) -> None:
        for pid, since in list(self._left):
            with suppress(InsufficientPrivilegeError):  # a backend of somebody else's has that number now
                ended = await connection.fetch(sql.END_BACKEND, pid, since, POSTGRES_SILENCE // 1_000)
                if ended and not ended[0][0]:
                    raise Unavailable(f"{self._server.place}: process {pid} does not end; its last commit is open")
            self._left.discard((pid, since))


async def _refer_to_blobs(
    connection: Connection, writes: Sequence[Write], rows: Rows, runs: Sequence[int | None]
) -> None:
    """Note which blobs the runs name that were written."""
    named = [
        (chain_key(*write.key[:2])[0], run, digest)
        for write, run in ((writes[position], run) for position, run in zip(rows.order, runs, strict=True))
        for digest in (() if write.delete else write.blobs)
    ]
    if named:
        await connection.execute(sql.REFER_TO_BLOBS, *_columns(named, 3))


async def _requests_taken(
    connection: Connection, writes: Sequence[Write], now: int
) -> set[tuple[admission.ChainTuple, str]]:
    """Those of the writes' request ids that were taken before."""
    shards, keys, ids = request_columns(writes)
    return {ids[place - 1] for (place,) in await connection.fetch(sql.TAKEN, shards, keys, now)} if ids else set()


def _columns(rows: Sequence[tuple[object, ...]], width: int) -> list[Sequence[object]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _halves(group: Sequence[Write]) -> list[list[int]]:
    """A group in two: the positions of the writes, those of each workflow id together, wherever they stand."""
    chains = list(dict.fromkeys(write.key[:2] for write in group))
    first = set(chains[: (len(chains) + 1) // 2])
    parts = [[n for n, write in enumerate(group) if (write.key[:2] in first) is half] for half in (True, False)]
    return [part for part in parts if part]
