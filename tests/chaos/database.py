"""A PostgreSQL primary and its synchronous standby, and what can happen to them.

Both have the same settings; which one is the standby is said by a file in its data folder alone. So a commit waits
until the other one has it, whoever is which.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from urllib.parse import quote

from tools.postgres import DEBIAN, PostgresServer, binaries

PATIENCE = 60.0
"""Seconds after which a server that does not do as told is a failure of the test: a busy machine takes a few."""

_LOOK = 0.05
"""Seconds between two looks at a server."""

_CLIENTS = "SELECT {what} FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
_IN_STEP = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'sync'"


class ChaoticServer(PostgresServer):
    """A server all of whose processes can be sent a signal at once."""

    def signal(self, number: int) -> None:
        """Send all processes a signal. The main process is the first to stop, and the last to go on or to be
        killed, so that it starts no others meanwhile."""
        if self._process is None or self._process.poll() is not None:
            return
        if number == signal.SIGSTOP:
            os.kill(self.pid, number)
        for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), number)
        if number != signal.SIGSTOP:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """`kill -9` for all of it, and wait until it is gone."""
        self.signal(signal.SIGSTOP)
        self.signal(signal.SIGKILL)
        self.wait()


class Pair:
    """Two servers, in folders of their own; `primary` is the one that takes writes."""

    def __init__(self) -> None:
        found = binaries()
        programs = found.get(f"postgres {DEBIAN}") or found["postgres"]
        self.primary, self.standby = (ChaoticServer(programs, _settings()) for _ in range(2))
        for server, other in ((self.primary, self.standby), (self.standby, self.primary)):
            server.settings["primary_conninfo"] = f"host={other.folder} user=postgres application_name=standby"
        hosts = ",".join(quote(str(server.folder), safe="") for server in (self.primary, self.standby))
        self.dsn = f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"

    def start(self) -> None:
        """Start both."""
        self.primary.initialise()
        self.primary.start()
        self._make_standby()

    def remove(self) -> None:
        """End both, and delete what they kept."""
        for server in (self.primary, self.standby):
            server.signal(signal.SIGCONT)
            server.remove()

    # --- Faults -----------------------------------------------------------------------------------------
    def restart_primary(self) -> None:
        """Kill all of the primary's processes, and start it again."""
        self.primary.kill()
        self.primary.start()

    def kill_standby(self) -> None:
        """Until it is started again, no commit is acknowledged."""
        self.standby.kill()

    def start_standby(self) -> None:
        """Start it again."""
        self.standby.start()

    def suspend(self) -> None:
        """Stop all of the primary's processes, until `resume`."""
        self.primary.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the primary go on."""
        self.primary.signal(signal.SIGCONT)

    def fail_over(self) -> None:
        """Kill the primary, promote the standby, and make a new standby in the old one's place."""
        # As a fail-over manager does: only a standby that has everything may take over. A primary that was just
        # restarted shows transactions that its standby hasn't got yet.
        self.wait_in_step()
        self.primary.kill()
        self.primary, self.standby = self.standby, self.primary
        self.primary.run("pg_ctl", "promote", f"--pgdata={self.primary.data}", "--wait")
        self._make_standby()

    def end_backends(self, count: int) -> None:
        """End the connections of some clients, whatever they are doing."""
        ended = _CLIENTS.format(what="pg_terminate_backend(pid)")
        self.query(f"{ended} AND pid IN ({_CLIENTS.format(what='pid')} ORDER BY random() LIMIT {count})")

    # --- Looking ----------------------------------------------------------------------------------------
    def query(self, statement: str) -> str:
        """What a statement gives, as text, on the primary."""
        server = self.primary
        done = subprocess.run(
            [server.programs / "psql", server.dsn(), "--no-psqlrc", "--quiet", "--tuples-only", "--no-align",
             "--command", statement],
            capture_output=True, text=True, cwd=server.folder, check=False, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def dump(self, file: Path) -> None:
        """Write down all that the primary holds, for a look."""
        server = self.primary
        with file.open("wb") as out:
            subprocess.run([server.programs / "pg_dump", server.dsn()], stdout=out, check=False, timeout=PATIENCE)

    def wait_in_step(self) -> None:
        """Wait until the standby has all that the primary has."""
        wait("the standby is not in step", lambda: self.query(_IN_STEP) == "1")

    def _make_standby(self) -> None:
        standby, primary = self.standby, self.primary
        rmtree(standby.data, ignore_errors=True)
        options = [f"--pgdata={standby.data}", "--username=postgres", "--checkpoint=fast", "--no-sync"]
        standby.run("pg_basebackup", f"--host={primary.folder}", *options)
        signalled = standby.data / "standby.signal"
        signalled.touch()
        standby.start()
        self.wait_in_step()


def wait(trouble: str, done: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Look until something is so. Raises AssertionError after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not done():
        assert time.monotonic() < deadline, trouble
        select.select([], [], [], _LOOK)  # of another process there is nothing to be told by


def _settings() -> dict[str, str]:
    """Nothing here loses power, so nothing is flushed: a killed process leaves to the system what it has written."""
    return {
        "fsync": "off",
        "max_wal_size": "1GB",
        "synchronous_standby_names": "standby",
        "wal_retrieve_retry_interval": "200ms",
        "log_min_messages": "fatal",
    }
