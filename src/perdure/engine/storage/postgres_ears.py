"""The connection that notices of other nodes come through; it is made again whenever it is lost. A node also says
through it that it is alive.

After `NoticesLost` what was watched must be watched again: after a crash of the server, nobody knows of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

from perdure.engine.storage.api import Notice, NoticesLost
from perdure.engine.storage.postgres_driver import TROUBLES, Connection
from perdure.engine.storage.postgres_notices import decode
from perdure.engine.storage.postgres_server import Server, close
from perdure.errors import PerdureError
from perdure.limits import POSTGRES_SILENCE, SECOND, STORE_RETRY_INITIAL, STORE_RETRY_MAXIMUM


class Ears:
    """Listens for a node.

    Args:
        server: where.
        channels: what to listen to.
        heard: called for each notice.
        own: tells the process that this store's own notices come from; they are left out.
    """

    def __init__(
        self, server: Server, channels: tuple[str, ...], heard: Callable[[Notice], None], own: Callable[[], int]
    ) -> None:
        self._server, self._channels, self._heard, self._own = server, channels, heard, own
        self._lost = asyncio.Event()
        self._connection: Connection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        """Begin to listen. Raises as `Server.connect`."""
        await self._connect()
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Listen no more."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        if self._connection is not None:
            await close(self._connection)

    @property
    def lost(self) -> bool:
        """Whether there is no connection at the moment."""
        return self._connection is None or self._connection.is_closed()

    @asynccontextmanager
    async def use(self) -> AsyncGenerator[Connection]:
        """The connection, which nobody else has for long. Errors in the block come out as `Server.explained` tells."""
        async with self._turn:
            connection = self._connection
            assert connection is not None
            try:
                yield connection
            except TROUBLES as error:
                raise self._server.failed(connection, error) from error

    async def _connect(self) -> None:
        connection = await self._server.connect("notices")
        try:
            self._lost.clear()
            connection.add_termination_listener(lambda _: self._lost.set())
            for channel in self._channels:
                await connection.add_listener(channel, self._notified)
        except TROUBLES as error:
            connection.terminate()
            raise self._server.explained(error) from error
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection

    def _notified(self, connection: object, pid: int, channel: str, payload: str) -> None:
        if pid != self._own():
            self._heard(decode(payload))

    async def _keep(self) -> None:
        delay = STORE_RETRY_INITIAL
        while True:
            await self._until_lost()
            try:
                await self._connect()
            except PerdureError:
                await asyncio.sleep(delay / SECOND)
                delay = min(delay * 2, STORE_RETRY_MAXIMUM)
                self._lost.set()
            else:
                delay = STORE_RETRY_INITIAL
                self._heard(NoticesLost())

    async def _until_lost(self) -> None:
        """Wait until the connection is lost, and look now and then whether the server still answers."""
        connection = self._connection
        while connection is not None and not self._lost.is_set():
            try:
                async with asyncio.timeout(POSTGRES_SILENCE / SECOND):
                    await self._lost.wait()
            except TimeoutError:
                try:
                    async with asyncio.timeout(POSTGRES_SILENCE / SECOND), self._turn:
                        await connection.execute("SELECT 1")
                except Exception:
                    connection.terminate()
                    return
