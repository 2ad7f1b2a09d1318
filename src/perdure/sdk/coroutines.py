"""Coroutines in the public API: their type, and what becomes of one that is refused."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeAlias, TypeVar, cast

R = TypeVar("R")

Coro: TypeAlias = Coroutine[Any, Any, R]
"""What an `async def` that returns an R gives when it is called.

An alias, because mypy would take each `Any` that is written out for a value of unknown type: then
`asyncio.gather(create_vpc("eu"), …)` would be of type Any.
"""


def close(awaitable: object) -> None:
    """Give up what was to be awaited and is not: otherwise there would be a warning that nobody awaited it, too."""
    if isinstance(awaitable, Coroutine):
        cast("Coro[object]", awaitable).close()
