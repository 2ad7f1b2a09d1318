"""Where the repository's files are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "perdure"
CODE = ("src", "tests", "examples", "bench", "tools")


def python_files(*folders: str) -> Iterator[Path]:
    """All Python files of the named folders (by default of all that hold code), in order."""
    for folder in folders or CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not any(part.startswith(".") for part in path.relative_to(ROOT).parts):
                yield path


def relative(path: Path) -> str:
    """A path as messages name it: from the repository's root."""
    return path.relative_to(ROOT).as_posix()
