"""The programs of the guides print what the guides say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository.files import ROOT

_PROGRAM = re.compile(r"^```python\n(.*?)^```\n\nIt prints\n\n```text\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", ["ids.md", "pause-and-reset.md", "schedules.md"])
def test_a_guides_program_prints_what_the_guide_says(name: str, tmp_path: Path) -> None:
    ((program, printed),) = _PROGRAM.findall((ROOT / "docs" / name).read_text())
    file = tmp_path / "program.py"
    file.write_text(program)
    done = subprocess.run([sys.executable, file], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, printed), done.stderr
