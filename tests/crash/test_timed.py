"""Schedules whose processes are killed: no start is lost, and none is there twice."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from msgspec import json

from perdure import embedded
from tests.crash.runner import PIPE_SIZE, ROOT, SILENCE
from tests.crash.timed import AT_ONCE, BEGIN, EVERY, LIVE, LIVE_TIMES, ONE_BY_ONE, TIMES, TRIGGERS, Task
from tools.postgres import shared_server

KILLS = 8
LINES = 25
"""A program is killed after up to so many lines, and up to so many milliseconds."""


class Program:
    """One that may be killed, and begun again."""

    def __init__(self, location: str, errors: Path) -> None:
        self._command = [sys.executable, "-m", "tests.crash.timed", json.encode(Task(location)).decode()]
        self._errors = errors
        self.lines: list[str] = []
        self.begin()

    def begin(self) -> None:
        """Begin its next life."""
        with self._errors.open("ab") as errors:
            self.process = subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors)
        assert self.process.stdout is not None
        self.pipe, self._rest, self.writes = self.process.stdout, b"", True

    def read(self) -> int:
        """Take what it has written; how many lines that are."""
        written = os.read(self.pipe.fileno(), PIPE_SIZE)
        self.writes = bool(written)
        *lines, self._rest = (self._rest + written).split(b"\n")
        self.lines += [line.decode() for line in lines]
        return len(lines)

    def kill(self) -> bool:
        """`kill -9`; False if it had ended by itself."""
        killed = self.process.poll() is None
        self.process.kill()
        while self.writes:
            self.read()
        self.process.wait()
        self.pipe.close()
        return killed


def read(programs: list[Program], lines: int) -> None:
    """Until they have written so many lines, or have all ended."""
    while lines > 0 and (writing := {program.pipe: program for program in programs if program.writes}):
        ready, _, _ = select.select(list(writing), [], [], SILENCE)
        assert ready, f"nothing was done for {SILENCE:.0f} s"
        lines -= sum(writing[pipe].read() for pipe in ready)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "count"), [("sqlite", 1), ("postgres", 2)])
async def test_no_start_is_lost_and_none_is_there_twice(kind: str, count: int, tmp_path: Path) -> None:
    location = str(tmp_path / "timed.db") if kind == "sqlite" else _database(tmp_path.name)
    random = Random(1)
    programs = [Program(location, tmp_path / "errors") for _ in range(count)]
    kills = 0
    try:
        for _ in range(KILLS):
            read(programs, random.randint(1, LINES))
            victim = random.choice(programs)
            with suppress(subprocess.TimeoutExpired):
                victim.process.wait(random.random() * 0.02)
            if victim.writes and victim.kill():
                kills += 1
                victim.begin()
        read(programs, sys.maxsize)
        assert [program.process.wait(SILENCE) for program in programs] == [0] * count, errors_in(tmp_path)
    finally:
        for program in programs:
            program.kill()
    assert kills >= KILLS // 2, "there is too little work to be killed in"
    errors = errors_in(tmp_path)
    assert "ERROR" not in errors, errors
    assert "Traceback" not in errors, errors
    await _check(location, {line for program in programs for line in program.lines})


def errors_in(folder: Path) -> str:
    """What the programs have written to their standard error."""
    return (folder / "errors").read_text()


def _database(name: str) -> str:
    server, name = shared_server("postgres"), "".join(filter(str.isalnum, name)).lower()
    server.psql(f"CREATE DATABASE timed_{name}")
    return server.dsn(f"timed_{name}")


async def _check(location: str, worked: set[str]) -> None:
    past = {BEGIN + number * EVERY for number in range(TIMES)}
    async with embedded(location, workflows=[], activities=[]) as client:
        for id, expected in ((AT_ONCE, TIMES + TRIGGERS), (ONE_BY_ONE, TIMES + TRIGGERS), (LIVE, LIVE_TIMES)):
            rows = [row async for row in client.list(f"ScheduledById = '{id}'")]
            assert {row.status for row in rows} == {"Completed"}
            assert len({row.id for row in rows}) == len(rows)
            assert len(rows) == expected
            assert {row.id for row in rows} <= worked
            seen = await client.schedule(id).describe()
            assert (seen.started, seen.missed, seen.skipped, seen.refused) == (expected, 0, 0, 0)
            times = {(await client.get(row.id).describe()).scheduled_time for row in rows}
            if id == LIVE:
                seconds = sorted(int(time.timestamp()) for time in times if time is not None)
                assert seconds == list(range(seconds[0], seconds[0] + LIVE_TIMES))
            else:
                assert past <= times
                assert len(times) == expected
