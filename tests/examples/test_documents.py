"""The programs in the documents print what the documents say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository.files import ROOT

_PROGRAM = re.compile(r"^```python\n(.*?)^```\n\nIt prints\n\n```text\n(.*?)^```", re.MULTILINE | re.DOTALL)


def programs() -> list[tuple[str, str, str]]:
    """The document, the program and what it prints."""
    found = [(path.name, _PROGRAM.findall(path.read_text())) for path in sorted((ROOT / "docs").glob("*.md"))]
    return [(name, program, printed) for name, all_of_it in found for program, printed in all_of_it]


def test_there_are_some() -> None:
    some = {
        "changing-code.md",
        "entities.md",
        "retries-and-holds.md",
        "schedules.md",
        "waiting.md",
        "workflow-code.md",
    }
    assert {name for name, _, _ in programs()} >= some


@pytest.mark.parametrize(("name", "program", "printed"), programs(), ids=[name for name, _, _ in programs()])
def test_a_program_prints_what_the_document_says(name: str, program: str, printed: str, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(program)
    for _ in range(2):  # as readers do, and the file of the first time is there
        done = subprocess.run([sys.executable, file], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, printed), done.stderr
