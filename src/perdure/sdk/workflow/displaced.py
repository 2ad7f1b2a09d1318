"""Calls whose input has changed since they were recorded: what a replay puts up with, and what it doesn't.

Such a call takes the result of the recorded one, whose place it has (see `matching`). That is right where the code was
changed, and wrong where the same calls come in another order, as out of a set of strings, which has another order in
each process: then something would be done twice, and something never. What tells the two apart is the recorded call:
where the code asks for it elsewhere, too, only its place has changed.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from functools import lru_cache
from typing import Final, NamedTuple

from perdure.errors import NondeterminismError
from perdure.model.tasks import RunRef

WAY_OUT: Final = (
    "Workflow code must do the same when it is replayed: put the change back, or keep the old code beside the new with "
    "workflow.patched; then the run goes on"
)
"""What to do about code that does something else than its history says."""


class Change(NamedTuple):
    """A recorded call, and the one that takes its place.

    recorded, asked: what they are known by; None where order is nothing to them. told: both of them, for people. line:
    that of the latter, "" where it isn't known.
    """

    recorded: Hashable
    asked: Hashable
    told: str
    line: str


class Displaced:
    """The recorded calls of one run whose places others have taken; false as long as there are none."""

    __slots__ = ("_changes", "_run")

    def __init__(self, run: RunRef) -> None:
        self._run = run
        self._changes: dict[Hashable, Change] = {}

    def __bool__(self) -> bool:
        return bool(self._changes)

    def take(self, change: Change) -> None:
        """A replay has met a changed input. Raises NondeterminismError where it is that of a displaced call."""
        self.check(change.asked)
        if change.recorded is not None:
            self._changes.setdefault(change.recorded, change)
        _warn_once(self._run, change.told)

    def check(self, asked: Hashable) -> None:
        """The code asks for something that isn't recorded. Raises NondeterminismError where that was displaced."""
        change = self._changes.get(asked)
        if change is not None:
            raise NondeterminismError(
                f"the workflow's code does the same as its history says, but in another order\n"
                f"  {change.told}\n"
                f"and what is recorded there, the code asks for as well, later. Is there a loop over a set, without "
                f"sorted(…)? That has another order in each process.\n{WAY_OUT}",
                change.line,
            )


@lru_cache(maxsize=1_000)
def _warn_once(run: RunRef, told: str) -> None:
    """Tell of a changed input; not again by each replay."""
    logging.getLogger("perdure.workflow").warning(
        "in the replay of workflow %r: %s; it gets the recorded result", run.workflow_id, told
    )
