"""A PostgreSQL server for one measurement: on a socket in its folder, durable as it comes, counting its statements."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench import machine
from bench.options import Options
from tools.postgres import PostgresServer, binaries

POSTGRESQL = "postgresql"
"""How variants on a PostgreSQL are named, or how their names begin."""

PROGRAMS = "BENCH_POSTGRESQL"
"""The environment variable that names the folder of the server's programs."""

_DSN, _PID, _DATA = "BENCH_DSN", "BENCH_DATABASE_PID", "BENCH_DATABASE_DATA"
_SETTINGS = {
    "max_connections": "200",
    "max_wal_size": "4GB",
    "shared_buffers": "256MB",
    "shared_preload_libraries": "pg_stat_statements",
}
_COUNTERS = "SELECT sum(calls), pg_current_wal_lsn() - '0/0'::pg_lsn, sum(total_exec_time) FROM pg_stat_statements"


@contextmanager
def database(folder: Path, chosen: Options) -> Generator[Mapping[str, str]]:
    """The server that a variant needs, if it needs one; what its processes are told in their environment."""
    if not chosen.variant.startswith(POSTGRESQL):
        yield {}
        return
    given = os.environ.get(PROGRAMS)  # the same for all systems, whatever is in their environments
    programs = Path(given) if given else next(iter(binaries().values()))
    folder.chmod(0o711)  # the server runs as somebody else, where this is root
    server = PostgresServer(programs, _SETTINGS, parent=folder)
    server.initialise()
    server.start()
    server.psql("CREATE EXTENSION pg_stat_statements")
    machine.prioritise(server.pid)
    try:
        yield {
            _DSN: server.dsn(),
            _PID: str(server.pid),
            _DATA: str(server.data / "base"),
            PROGRAMS: str(server.programs),
        }
    finally:
        server.remove()


def dsn() -> str:
    """The address of the measurement's server."""
    return os.environ[_DSN]


def roots() -> machine.Roots:
    """Its processes, where there is one."""
    return {"database": [int(os.environ[_PID])]} if _PID in os.environ else {}


def data_paths() -> list[Path]:
    """The folders of its tables and indexes, without the log."""
    return [Path(os.environ[_DATA])]


Counters = tuple[float, ...]


def read() -> Counters:
    """What the server has done so far: statements, bytes of log, milliseconds in statements."""
    if _DSN not in os.environ:
        return ()
    psql = [f"{os.environ[PROGRAMS]}/psql", dsn(), "--no-psqlrc", "--tuples-only", "--no-align", "--command", _COUNTERS]
    text = subprocess.run(psql, check=True, capture_output=True, text=True).stdout
    return tuple(float(value) for value in text.strip().split("|"))


def cost(before: Counters, after: Counters, n: int) -> dict[str, float]:
    """What each of n workflows or steps cost the server."""
    names = ("db_statements_per", "db_wal_bytes_per", "db_ms_per")
    return {name: (b - a) / n for name, a, b in zip(names, before, after, strict=False)}
