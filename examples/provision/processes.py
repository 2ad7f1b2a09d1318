"""Child processes of the demo: started, spoken to line by line, and ended by their own process ids."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository: where `python -m examples.…` works."""

MAX_LINE = 1024 * 1024
"""Bytes of one line that a child writes."""


class Child:
    """A running `python -m module …`. Its standard error goes to a file."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.pid = process.pid

    @classmethod
    async def start(cls, module: str, *args: str, log: Path, environment: Mapping[str, str] | None = None) -> Child:
        """Start a module of this repository. `environment` is added to ours."""
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, *args),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                limit=MAX_LINE,
                start_new_session=True,  # Ctrl-C reaches only the demo, which then ends its children
            )
        return cls(process, log)

    async def line(self) -> str:
        """The next line that it writes. Raises ChildFailed if there is none."""
        async for line in self.lines():
            return line
        raise ChildFailed(await self.epitaph())

    async def lines(self) -> AsyncIterator[str]:
        """Lines as it writes them, until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            yield line.decode().rstrip("\n")

    async def send(self, line: bytes) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        await self._process.stdin.drain()

    async def kill(self) -> None:
        """kill -9, and wait until it is gone. Nothing is done if it is gone already."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def epitaph(self) -> str:
        """How it ended, and the last that it wrote to its standard error."""
        return f"process {self.pid} ended with status {await self._process.wait()}\n{self.errors()}"

    def errors(self) -> str:
        """The last lines that it wrote to its standard error."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])


class ChildFailed(Exception):
    """A child ended that should not have, or did not do what it should."""
