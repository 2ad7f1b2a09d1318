"""Behaviours of the SDK that a replay could see. A change of one gets a number here, and is recorded.

A workflow task's completion records the numbers that were in force; a replay of that task uses those, not
today's. Numbers are never reused.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from perdure.errors import NondeterminismError

CURRENT: Final[tuple[int, ...]] = ()
"""In force for new workflow tasks. Empty as long as nothing has changed since the first release."""

KNOWN: Final[frozenset[int]] = frozenset(CURRENT)
"""Which this version can replay."""


def require_known(flags: Collection[int]) -> None:
    """Raises NondeterminismError where a task was recorded with a behaviour that this version doesn't have."""
    unknown = sorted(set(flags) - KNOWN)
    if unknown:
        raise NondeterminismError(
            f"the history was recorded by a later version of Perdure, with flags that this one doesn't know: "
            f"{', '.join(map(str, unknown))}. Install a version at least as new as that which recorded it"
        )
