"""What is used of asyncpg, the PostgreSQL driver, with types: it has none of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, Protocol

from perdure.errors import StoreError

Row = Sequence[Any]
"""A row of a result: its values, in order."""


class Settings(Protocol):
    """What the server says of itself."""

    server_encoding: str


class Connection(Protocol):
    """A connection. `fetchrow` is for statements that give a row."""

    async def execute(self, query: str, *args: object) -> str: ...
    async def fetch(self, query: str, *args: object) -> list[Row]: ...
    async def fetchrow(self, query: str, *args: object) -> Row: ...
    def transaction(self) -> AbstractAsyncContextManager[object]: ...
    def is_closed(self) -> bool: ...
    def terminate(self) -> None: ...
    async def close(self, *, timeout: float) -> None: ...
    async def add_listener(self, channel: str, callback: Callable[[object, int, str, str], None]) -> None: ...
    def add_termination_listener(self, callback: Callable[[object], None]) -> None: ...
    def get_server_version(self) -> Sequence[int | str]: ...
    def get_settings(self) -> Settings: ...


if TYPE_CHECKING:

    class PostgresError(Exception):
        """Said by the server, or by the driver of a value that doesn't fit its type."""

        sqlstate: str

    class PostgresConnectionError(PostgresError):
        """The connection is gone."""

    class InsufficientPrivilegeError(PostgresError):
        """That is not this user's to do."""

    class InterfaceError(Exception):
        """Said by the driver."""

    class InternalClientError(Exception):
        """The driver is confused, as when a connection is lost at the wrong moment."""

    class TargetServerAttributeNotMatched(InternalClientError):
        """The server takes no writes."""

    def connect(
        dsn: str,
        *,
        timeout: float,
        command_timeout: float,
        target_session_attrs: str,
        server_settings: dict[str, str],
    ) -> Awaitable[Connection]: ...

else:
    try:
        from asyncpg import (
            InsufficientPrivilegeError,
            InterfaceError,
            InternalClientError,
            PostgresConnectionError,
            PostgresError,
            TargetServerAttributeNotMatched,
            connect,
        )
    except ModuleNotFoundError:
        raise StoreError("PostgreSQL needs the package asyncpg: pip install 'perdure[postgres]'") from None

TROUBLES: Final = (OSError, PostgresError, InterfaceError, InternalClientError)
"""What a statement may raise."""

__all__ = [
    "TROUBLES",
    "Connection",
    "InsufficientPrivilegeError",
    "InterfaceError",
    "InternalClientError",
    "PostgresConnectionError",
    "PostgresError",
    "Row",
    "TargetServerAttributeNotMatched",
    "connect",
]
