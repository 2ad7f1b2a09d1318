"""A file in which steps and sleepers leave a line each, so that what ran, and what ran twice, shows from outside.

The file is opened before any workflow runs: workflow code may not open files.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

VARIABLE = "BENCH_MARKS"
"""Environment variable with the file's name; steps leave no marks where it isn't set."""


def _open() -> int | None:
    path = os.environ.get(VARIABLE)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if path else None


_descriptor = _open()


def mark(text: str) -> None:
    """Append a line."""
    if _descriptor is not None:
        os.write(_descriptor, f"{text}\n".encode())


class Marks:
    """The marks in a file. A step writes `S id` when it starts and `E id` when it ends, a sleeper `Z id`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def count(self, beginning: str = "") -> int:
        """Lines so far, or those with such a beginning.

        It keeps nothing of the file, since it may run in the process whose memory is measured.
        """
        try:
            return (b"\n" + self.path.read_bytes()).count(f"\n{beginning}".encode()) - (not beginning)
        except FileNotFoundError:
            return 0

    def _lines(self, kind: str) -> Counter[str]:
        text = self.path.read_text() if self.path.exists() else ""
        return Counter(line for line in text.splitlines() if line.startswith(kind))

    def in_flight(self) -> int:
        """Steps that started and didn't end."""
        return self._lines("S").total() - self._lines("E").total()

    def steps(self) -> dict[str, int]:
        """How many steps ended, and how many started or ended more than once."""
        started, ended = self._lines("S"), self._lines("E")
        return {
            "steps_seen": len(ended),
            "started_twice": sum(n > 1 for n in started.values()),
            "finished_twice": sum(n > 1 for n in ended.values()),
        }
