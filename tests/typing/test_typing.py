"""The public API types exactly: pyright and mypy accept `accepted.py`, and refuse what `refused.py` marks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FILES = ("accepted.py", "refused.py")
PATHS = [str(HERE / name) for name in FILES]

Errors = dict[str, dict[int, list[str]]]
"""Messages by file and line."""


def pyright(folder: Path) -> Errors:
    """What pyright says in strict mode."""
    config = {
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "extraPaths": [str(ROOT / "src"), str(HERE)],
        "enableTypeIgnoreComments": False,
        # The refused calls stand where a value that nobody uses may stand.
        "reportUnusedFunction": "none",
        "reportUnusedExpression": "none",
        "reportUnusedCoroutine": "none",
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", *PATHS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    found: Errors = {}
    for diagnostic in json.loads(done.stdout)["generalDiagnostics"]:
        line = diagnostic["range"]["start"]["line"] + 1
        message = f"{diagnostic.get('rule')}: {diagnostic['message']}"
        found.setdefault(Path(diagnostic["file"]).name, {}).setdefault(line, []).append(message)
    return found


def mypy(folder: Path) -> Errors:
    """What mypy says in strict mode."""
    config = folder / "mypy.ini"
    config.write_text(
        "[mypy]\n"
        "strict = true\n"
        "python_version = 3.11\n"
        "enable_error_code = deprecated\n"
        # What is reported are the cases; the library itself is checked by `make types`.
        "follow_imports = silent\n"
        f"mypy_path = {ROOT / 'src'}:{HERE}\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), "--cache-dir", str(folder), "--no-pretty"]
    done = subprocess.run([*command, *PATHS], capture_output=True, text=True, check=False, cwd=folder)
    found: Errors = {}
    for output in done.stdout.splitlines():
        match = re.fullmatch(r"(.+?):(\d+): error: (.*)", output)
        if match:
            found.setdefault(Path(match[1]).name, {}).setdefault(int(match[2]), []).append(match[3])
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return found


@pytest.mark.parametrize("checker", [pyright, mypy])
def test_exactly_the_marked_lines_are_refused(checker: Callable[[Path], Errors], tmp_path: Path) -> None:
    found = checker(tmp_path)
    assert set(found) <= set(FILES)
    problems: list[str] = []
    for name in FILES:
        lines = (HERE / name).read_text().splitlines()
        expected = {number for number, line in enumerate(lines, 1) if line.endswith("# expect error")}
        # mypy reports what is wrong with a decorated class or function at its own line, below the decorator's.
        below = {n + 1: n for n in expected if lines[n - 1].lstrip().startswith("@")}
        errors = {below.get(n, n): messages for n, messages in found.get(name, {}).items()}
        problems += [f"{name}:{n}: accepted, but should not be: {lines[n - 1]}" for n in sorted(expected - set(errors))]
        problems += [f"{name}:{n}: {errors[n]}" for n in sorted(set(errors) - expected)]
    assert "\n".join(problems) == ""
    assert len(found["refused.py"]) > 70
