"""The type of coroutines in the public API."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeAlias, TypeVar

R = TypeVar("R")

Coro: TypeAlias = Coroutine[Any, Any, R]
"""What an `async def` that returns an R gives when it is called.

An alias, because mypy would take each `Any` that is written out for a value of unknown type: then
`asyncio.gather(create_vpc("eu"), …)` would be of type Any.
"""
