"""Imports follow the table of layers; and the checker that says so catches what it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.repository import layers
from tests.repository.files import PACKAGE


def test_every_import_follows_the_table() -> None:
    found = [str(violation) for violation in layers.check_package(PACKAGE)]
    assert not found, "\n".join(found)


def test_every_area_of_the_table_is_above_what_it_is_kept_apart_from() -> None:
    areas = set(layers.LAYERS)
    assert {one for one, _, _ in layers.APART} | {other for _, other, _ in layers.APART} <= areas
    assert set(layers.PURE) | set(layers.ONLY_IN.values()) <= areas


def messages(tmp_path: Path, where: str, source: str) -> list[str]:
    """What the checker says of one file in an otherwise empty package."""
    package = tmp_path / "perdure"
    for name in ("model/events", "engine/core/decide", "sdk/loop", "sdk/client/client", "engine/node/node"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / f"{name}.py").touch()
    path = package / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    return [v.message for v in layers.check_file(path, package)]


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("model/state.py", "from perdure.model.events import HistoryEvent"),
        ("model/state.py", "import msgspec"),
        ("engine/core/evolve.py", "from perdure.model import events as e"),
        ("engine/storage/sqlite.py", "import sqlite3, asyncio"),
        ("engine/node/node.py", "from perdure.engine.core import decide"),
        ("sdk/client/handle.py", "from perdure.sdk import loop"),
        ("embedded.py", "from perdure.engine.node.node import Node\nfrom perdure.sdk.client.client import Client"),
        ("__init__.py", "from perdure.embedded import embedded"),
    ],
)
def test_allowed(tmp_path: Path, where: str, source: str) -> None:
    assert messages(tmp_path, where, source) == []


@pytest.mark.parametrize(
    ("where", "source", "says"),
    [
        ("model/state.py", "from perdure.engine.core.decide import decide", "layer 2"),
        ("model/state.py", "from perdure.engine.core import decide", "layer 2"),
        ("model/state.py", "from ..engine.core import decide", "layer 2"),
        ("engine/core/decide.py", "import perdure", "layer 5"),
        ("engine/core/decide.py", "from perdure import embedded", "layer 5"),
        ("engine/core/decide.py", "import asyncio", "may not import asyncio"),
        ("engine/core/decide.py", "def f():\n    from time import time", "may not import time"),
        ("engine/core/decide.py", "from os.path import join", "may not import os"),
        ("engine/core/decide.py", "if TYPE_CHECKING:\n    from perdure.sdk.loop import Loop", "they meet in"),
        ("engine/core/decide.py", "from perdure.engine.storage.api import Write", "the node stores"),
        ("engine/storage/sqlite.py", "import random", "may not import random"),
        ("engine/storage/sqlite.py", "from perdure.engine.core import decide", "no business logic"),
        ("engine/node/node.py", "from perdure.sdk.client import client", "they meet in"),
        ("sdk/client/client.py", "from perdure.engine.node import node", "they meet in"),
        ("sdk/client/client.py", "import sqlite3", "only engine.storage"),
        ("sdk/client/client.py", "import importlib\nimportlib.import_module('perdure.engine')", "they meet in"),
        ("sdk/loop.py", "from perdure.sdk.client.client import Client", "layer 3"),
        ("model/state.py", "import perdure.somewhere", "in no layer"),
        ("misc/helpers.py", "", "in no layer"),
    ],
)
def test_refused(tmp_path: Path, where: str, source: str, says: str) -> None:
    found = messages(tmp_path, where, source)
    assert len(found) == 1
    assert says in found[0]
