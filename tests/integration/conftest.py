"""Each test that asks for `client` or `engine` runs over every kind of engine, and once with tiny caches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.engine.node import serving
from perdure.sdk.client.client import Client
from perdure.sdk.worker import worker
from tests.integration.engines import Engine, Simulation


@pytest.fixture(params=["memory", "sqlite", "transport", "codecs", "tiny", "nodes", "postgres"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    """An engine that can be opened again and again. "tiny" keeps nothing in memory: all is always replayed."""
    kind = str(request.param)
    if kind != "tiny":
        return Engine(kind, tmp_path)
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setattr(serving, "MAX_CACHED_EXECUTIONS", 0)
    monkeypatch.setattr(worker, "DEFAULT_CACHED_WORKFLOWS", 1)
    return Engine("sqlite", tmp_path)


@pytest.fixture
async def client(engine: Engine) -> AsyncIterator[Client]:
    """A client of an engine that runs."""
    async with engine.open() as client:
        yield client


@pytest.fixture
def simulation() -> Simulation:
    """Engines in simulated time."""
    return Simulation()
