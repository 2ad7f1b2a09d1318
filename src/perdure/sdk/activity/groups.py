"""Process groups that end with this process, however that dies.

A group is led by a watcher: a shell that does nothing but wait for the end of a pipe from this process. The pipe ends
with this process, and then the watcher ends the group. It is there before anything else of the group is, so there is no
moment at which that could be left alone::

    this process ──pipe──▶ watcher (leads the group)     the pipe ends: SIGTERM to the group, a grace, SIGKILL

A program that makes a group of its own, as coreutils' `timeout` does, gives it its own pid. The watcher is told that
(`tell`), and ends that group, too. What else leaves the group by itself (a daemon, by setsid or setpgid) is out of
reach.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from typing import Final

# A group that isn't there when it is sent SIGTERM is sent no SIGKILL: its number may be somebody else's by then. `kill`
# with a signal and `--` is understood by all shells only in this form.
WATCHER: Final = (
    "trap '' HUP INT TERM; echo; read -r own; read -r _; kill -TERM 0; kill -s TERM -- \"-$own\" || own=; "
    'sleep "$1"; test -z "$own" || kill -s KILL -- "-$own"; kill -KILL 0'
)
SECOND_WATCHER: Final = "trap '' HUP INT TERM; echo; read -r _; kill -s KILL -- \"$@\""
_GONE: Final = (ProcessLookupError, PermissionError)  # the latter on some systems, of a group of the dead


def watch(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a watcher. WATCHER's argument is the grace in seconds; SECOND_WATCHER's are the groups that it ends, each
    as a negative number."""
    watcher = subprocess.Popen(
        ["/bin/sh", "-c", script, "perdure-watcher", *arguments],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    assert watcher.stdout is not None
    with watcher.stdout:
        watcher.stdout.readline()  # from now on it ignores what is sent to its group, but SIGKILL
    return watcher


def tell(watcher: subprocess.Popen[bytes], pid: int) -> None:
    """The program runs, and may come to lead a group."""
    assert watcher.stdin is not None
    with suppress(BrokenPipeError):  # the program has ended its whole group already
        os.write(watcher.stdin.fileno(), b"%d\n" % pid)


def signal_group(group: int, number: int) -> bool:
    """Whether there was anybody to be sent a signal."""
    try:
        os.killpg(group, number)
    except _GONE:
        return False
    return True


def end_group(watcher: subprocess.Popen[bytes]) -> None:
    """All of the group end now, the watcher, too."""
    signal_group(watcher.pid, signal.SIGKILL)
    reap(watcher)


def reap(watcher: subprocess.Popen[bytes]) -> None:
    """A watcher that was ended leaves nothing behind."""
    watcher.wait()
    if watcher.stdin is not None:
        watcher.stdin.close()


def how_it_ended(returncode: int) -> str:
    """The end of a process in words, as "exited with code 3" or "was ended by SIGKILL"."""
    if returncode >= 0:
        return f"exited with code {returncode}"
    try:
        return f"was ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was ended by signal {-returncode}"
