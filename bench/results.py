"""What was measured: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

Value = str | int | float | bool
Result = dict[str, Value]
"""Always with peer, variant, workload and repetition; `failed` tells why there are no figures."""


class Results:
    """Prints results, and adds them to a file."""

    def __init__(self, path: Path | None, peer: str, variant: str, repetition: int) -> None:
        self._path = path
        self._common: Result = {"peer": peer, "variant": variant, "repetition": repetition}

    def put(self, workload: str, figures: Mapping[str, Value]) -> None:
        """Add the figures of one workload."""
        rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in figures.items()}
        line = json.dumps(self._common | {"workload": workload} | rounded)
        print(line, flush=True)
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(line + "\n")

    def failed(self, workload: str, error: BaseException) -> None:
        """Add a workload that could not be measured."""
        self.put(workload, {"failed": f"{type(error).__name__}: {str(error)[:300]}"})


def load(path: Path) -> list[Result]:
    """All results of a file; none where it isn't there."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]
