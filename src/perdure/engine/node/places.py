"""Where a run's rows are in the store, for who reads them there."""

from __future__ import annotations

from typing import NamedTuple

from perdure.engine.storage.api import RunKey


class Location(NamedTuple):
    """Where a run's rows are."""

    key: RunKey
    run_id: str


class Locate(NamedTuple):
    """Ask where a run's rows are. The answer waits until all that the run has decided is on disk."""
