"""Where stores keep things in tests, one class a kind of store: the conformance suite runs over each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from perdure.engine.storage.api import Store
from perdure.engine.storage.memory import MemoryStore
from perdure.engine.storage.sqlite import SqliteStore


class Place(Protocol):
    """Something that outlives the stores that use it."""

    def store(self) -> Store:
        """A store over what is kept here. The one before it must be closed."""
        ...

    def after_crash(self) -> Store:
        """A store over what the present user would leave if it died now."""
        ...


class MemoryPlace:
    def __init__(self, folder: Path) -> None:
        self._store = MemoryStore()

    def store(self) -> Store:
        return self._store

    def after_crash(self) -> Store:
        return self._store


class SqlitePlace:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._crashes = 0

    def store(self) -> Store:
        return SqliteStore(self._folder / "perdure.db")

    def after_crash(self) -> Store:
        self._crashes += 1
        left = self._folder / f"crash-{self._crashes}"
        left.mkdir()
        for file in self._folder.glob("perdure.db*"):
            if not file.name.endswith("-shm"):  # what lies in shared memory is made anew
                shutil.copy(file, left)
        return SqliteStore(left / "perdure.db")


PLACES: dict[str, Callable[[Path], Place]] = {"memory": MemoryPlace, "sqlite": SqlitePlace}
