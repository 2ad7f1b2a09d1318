"""A file that is removed, or found to be damaged, while an engine has it open."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from perdure import StoreCorrupt, StoreLost, embedded, workflow
from perdure.engine.storage import sqlite_file
from tests.integration.work import echo


@workflow(name="lost.waits")
async def waits() -> str:
    await asyncio.sleep(3600)
    return await echo("late")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("which", ["", "-wal"])
@pytest.mark.parametrize("replaced", [False, True])
async def test_nothing_is_acknowledged_without_the_file(
    which: str, replaced: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "perdure.db"
    async with embedded(path) as client:
        handle = await client.start(waits(), id="before")
        waiting = asyncio.ensure_future(handle.result())
        await handle.describe()
        os.unlink(f"{path}{which}")
        if replaced:
            os.close(os.open(f"{path}{which}", os.O_CREAT))
        with pytest.raises(StoreLost, match="was removed or replaced"):
            await client.start(waits(), id="after")
        with pytest.raises(StoreLost):
            await waiting
        with pytest.raises(StoreLost):
            await handle.cancel()
    assert "the engine has failed" in caplog.text
    if which:  # what the log had is written into the file when that is closed
        async with embedded(path) as client:
            assert (await client.get("before").describe()).status == "Running"


async def test_damage_that_a_commit_meets_is_told_to_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite_file, "CHECKED_SIZE", 0)  # or it would be found at once
    path = tmp_path / "perdure.db"
    async with embedded(path) as client:
        await client.start(waits(), id="before")
    with closing(sqlite3.connect(path)) as file:
        (page,) = file.execute("SELECT rootpage FROM sqlite_master WHERE name = 'visibility'").fetchone()
    content = bytearray(path.read_bytes())
    content[4096 * (page - 1) : 4096 * page] = b"\xff" * 4096
    path.write_bytes(content)
    async with embedded(path) as client:
        waiting = asyncio.ensure_future(client.get("before").result())
        await client.get("before").describe()
        for id in ("after", "later"):
            with pytest.raises(StoreCorrupt, match="is damaged"):
                await client.start(waits(), id=id)
        with pytest.raises(StoreCorrupt, match="is damaged"):
            await waiting
    assert "the engine has failed" in caplog.text
