"""A file that is removed while an engine has it open."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from perdure import StoreLost, embedded, workflow
from tests.integration.work import echo


@workflow(name="lost.waits")
async def waits() -> str:
    await asyncio.sleep(3600)
    return await echo("late")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_nothing_is_acknowledged_without_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "perdure.db"
    async with embedded(path) as client:
        handle = await client.start(waits(), id="before")
        waiting = asyncio.ensure_future(handle.result())
        await handle.describe()
        path.unlink()
        with pytest.raises(StoreLost, match="was removed or replaced"):
            await client.start(waits(), id="after")
        with pytest.raises(StoreLost):
            await waiting
        with pytest.raises(StoreLost):
            await handle.cancel()
    assert "the engine has failed" in caplog.text
