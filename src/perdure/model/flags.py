"""Behaviours of the SDK that a replay could see. A change of one gets a number here, and is recorded.

A workflow task's completion records the numbers that were in force; a replay of that task uses those, not
today's. Numbers are never reused.
"""

from __future__ import annotations

from typing import Final

CURRENT: Final[tuple[int, ...]] = ()
"""In force for new workflow tasks."""
