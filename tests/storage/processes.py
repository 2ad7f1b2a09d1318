"""Processes of their own for the tests of files: `python -m tests.storage.processes <function> <arguments>`.

Each prints one line of JSON when it has something to tell, and those that wait end with their standard input.
"""

# ruff: noqa: ASYNC222, ASYNC240 - a test may wait for its files and processes

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from perdure.engine.storage.api import CommitUnknown
from perdure.engine.storage.sqlite import SqliteStore
from perdure.errors import PerdureError, StoreFull
from tests.storage.make import NOW, follow, put, start

ROOT = Path(__file__).parents[2]


def command(function: Callable[..., object], *arguments: object) -> list[str]:
    """The command line of a function of this module."""
    return [sys.executable, "-m", "tests.storage.processes", function.__name__, *map(str, arguments)]


def environment() -> dict[str, str]:
    """What lets the process import what this one does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def launch(function: Callable[..., object], *arguments: object) -> subprocess.Popen[str]:
    """Start a function in a process of its own."""
    return subprocess.Popen(
        command(function, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(),
    )


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line that a process prints."""
    assert process.stdout is not None
    told: dict[str, Any] = json.loads(process.stdout.readline())
    return told


def run(function: Callable[..., object], *arguments: object) -> dict[str, Any]:
    """Run a function in a process of its own, and what it told."""
    done = subprocess.run(
        command(function, *arguments), capture_output=True, text=True, cwd=ROOT, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _tell(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


# --- The functions --------------------------------------------------------------------------------------
async def hold(path: str) -> None:
    """Open a file, write a run, and keep the file until the input ends."""
    store = SqliteStore(path)
    unclean = await store.open(NOW)
    verdicts = await put(store, start(f"by-{os.getpid()}"))
    _tell(pid=os.getpid(), unclean=unclean, verdicts=list(verdicts))
    sys.stdin.read()
    await store.close()


async def hold_with_child(path: str) -> None:
    """As `hold`, with a forked child that lives until the input ends, even when this process is gone."""
    store = SqliteStore(path)
    await store.open(NOW)
    child = os.fork()
    if child == 0:
        sys.stdin.read()
        os._exit(0)
    _tell(pid=os.getpid(), child=child)
    os.waitpid(child, 0)


async def try_to_open(path: str, uid: str) -> None:
    """Open a file as another user (0: as this one), and tell the error."""
    if int(uid):
        os.setgid(int(uid))
        os.setuid(int(uid))
    store = SqliteStore(path)
    try:
        await store.open(NOW)
    except PerdureError as error:
        _tell(error=type(error).__name__, message=str(error), pid=getattr(error, "pid", None))
    else:
        await store.close()
        _tell(error=None)


async def fill(folder: str) -> None:
    """Write until the disk is full, free space, write on; tell what was acknowledged and what is there."""
    ballast = Path(folder, "ballast")
    ballast.write_bytes(b"x" * 3_500_000)
    store = SqliteStore(Path(folder, "perdure.db"))
    await store.open(NOW)
    last = start("a")
    await put(store, last)
    refused = 0
    while refused < 3:
        write = follow(last)._replace(history=b"x" * 5_000)
        try:
            await put(store, write)
        except StoreFull:
            refused += 1
        else:
            last = write
    [stored_while_full] = await store.versions([last.key])
    acknowledged = last.version
    ballast.unlink()
    for _ in range(200):  # the first may be refused: it makes the store tidy up
        write = follow(last)._replace(history=b"x" * 5_000)
        with suppress(StoreFull):
            await put(store, write)
            last = write
    await store.close()
    store = SqliteStore(Path(folder, "perdure.db"))
    await store.open(NOW)
    page = await store.journal(last.key, 0, 1 << 30)
    await store.close()
    _tell(
        acknowledged=acknowledged,
        stored_while_full=stored_while_full,
        last=last.version,
        rows=[version for version, _ in page.rows],
    )


async def open_where_little_is_free(folder: str) -> None:
    """Open a file while ever more space is free, until it opens; tell the errors on the way."""
    path, ballast = Path(folder, "perdure.db"), Path(folder, "ballast")
    await (store := SqliteStore(path)).open(NOW)
    await store.close()
    errors: list[str] = []
    unclean = None
    while unclean is None:
        _fill_up(ballast, free=4096 * len(errors))
        try:
            unclean = await store.open(NOW)
        except PerdureError as error:
            errors.append(f"{type(error).__name__}: {error}")
            for beside in ("-wal", "-shm"):  # whatever was begun
                Path(f"{path}{beside}").unlink(missing_ok=True)
    ballast.unlink()
    await store.close()
    _tell(errors=errors, unclean=unclean)


def _fill_up(ballast: Path, free: int) -> None:
    with open(ballast, "wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    os.truncate(ballast, ballast.stat().st_size - free)


async def fail_to_open(path: str) -> None:
    """Open a file while the system refuses to let any file grow as far as the index of its log; tell the error."""
    await (store := SqliteStore(path)).open(NOW)
    await store.close()
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, resource.RLIM_INFINITY))
    try:
        await store.open(NOW)
    except PerdureError as error:
        _tell(error=f"{type(error).__name__}: {error}")


async def fail_to_write(path: str) -> None:
    """Let the system refuse to let the log grow: no disk is full, but a write fails."""
    store = SqliteStore(path)
    await store.open(NOW)
    first = start("a")
    await put(store, first)
    second = follow(first)._replace(history=b"x" * 100_000)
    size = os.path.getsize(f"{path}-wal")
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10_000, resource.RLIM_INFINITY))
    error = ""
    try:
        await put(store, second)
    except CommitUnknown as unknown:
        error = str(unknown)
    [while_failing] = await store.versions([first.key])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    verdicts = await put(store, second)
    [afterwards] = await store.versions([first.key])
    await store.close()
    _tell(error=error, while_failing=while_failing, verdicts=list(verdicts), afterwards=afterwards)


def main() -> None:
    functions = (hold, hold_with_child, try_to_open, fill, open_where_little_is_free, fail_to_open, fail_to_write)
    chosen = {function.__name__: function for function in functions}[sys.argv[1]]
    asyncio.run(chosen(*sys.argv[2:]))


if __name__ == "__main__":
    main()
