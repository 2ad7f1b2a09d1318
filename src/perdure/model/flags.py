"""Behaviours of the SDK that a replay could see. A change of one gets a number here, and is recorded.

A workflow task's completion records the numbers that were in force; a replay of that task uses those, not
today's. Numbers are never reused.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from perdure.errors import NondeterminismError

CARRIES_OVER: Final = 1
"""What a run was told of in the very task in which it continues as new, after that, goes over to the next run. Before,
its handlers took it, to no effect."""

CHILDREN_ARE_WAITED_FOR: Final = 40
"""Cancelling the wait for a child waits for the child's end, unless its options say otherwise. Before, it did not; and
the parent's end that mostly followed terminated the child in the middle of its clean-up."""

CURRENT: Final[tuple[int, ...]] = (CARRIES_OVER, CHILDREN_ARE_WAITED_FOR)
"""In force for new workflow tasks."""

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
