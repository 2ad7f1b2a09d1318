"""What `perdure` exports, and that importing it costs little."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import perdure
from perdure import errors


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_all_errors_are_public() -> None:
    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert classes - set(perdure.__all__) == {"Evicted"}  # which has to do with the runtime only


def test_importing_perdure_loads_no_engine_and_no_server() -> None:
    code = "import json, sys, perdure; print(json.dumps(sorted(sys.modules)))"
    modules: list[str] = json.loads(python(code))
    heavy = ("perdure.engine", "perdure.embedded", "perdure.sdk.client", "perdure.sdk.worker", "sqlite3", "sqlglot")
    assert [name for name in modules if name.startswith(heavy)] == []


@pytest.mark.parametrize(
    "first",
    [
        "from perdure import embedded as seen",
        "from perdure.embedded import embedded as seen",
        "import perdure.embedded; seen = perdure.embedded",
        "import perdure; seen = perdure.embedded; import perdure.embedded",
        "import perdure, importlib; importlib.import_module('perdure.embedded'); seen = perdure.embedded",
    ],
)
def test_embedded_is_the_function_however_it_is_imported(first: str) -> None:
    then = "import perdure; from perdure import embedded; print(seen is embedded is perdure.embedded, seen.__name__)"
    assert python(f"{first}\n{then}") == "True embedded"
