"""Activities that run in processes: functions of a module, since another process has to find them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress

from perdure import activity


@activity(name="crunching.pid", executor="process")
def pid() -> int:
    return os.getpid()


@activity(name="crunching.square", executor="process")
def square(n: int) -> int:
    return n * n


@activity(name="crunching.tells", executor="process")
def tells(value: str) -> str:
    info = activity.info()
    activity.logger.info("about %s", value, extra={"shade": "blue", "odd": object()})
    activity.logger.debug("not this")
    for step in range(1000):
        activity.heartbeat(step)
    return f"{info.activity_type} {info.attempt} {value}"


@activity(name="crunching.fails", executor="process")
def fails() -> None:
    activity.heartbeat("first")
    activity.heartbeat("last")
    activity.heartbeat()
    raise LookupError("no luck")


@activity(name="crunching.dies", executor="process")
def dies(how: int) -> None:
    if how < 0:
        os.kill(os.getpid(), -how)
    os._exit(how)


@activity(name="crunching.falls_silent", executor="process")
def falls_silent(fifo: str) -> None:
    """Closes its end of the link to the worker, and ends in its own time: never."""
    os._exit = lambda status: signal.pause()
    with open(fifo, "w") as ready:
        ready.write(str(os.getpid()))
    for fd in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError), socket.socket(fileno=os.dup(fd)) as link:
            link.shutdown(socket.SHUT_WR)
    signal.pause()


@activity(name="crunching.exits", executor="process")
def exits() -> None:
    sys.exit("enough")


@activity(name="crunching.until_cancelled", executor="process")
def until_cancelled(how: str, fifo: str) -> str:
    with open(fifo, "w") as ready:
        ready.write("ready")
    while not activity.is_cancelled():
        pass
    if how == "returns":
        return "done all the same"
    if how == "beats":
        activity.heartbeat()
    raise asyncio.CancelledError


@activity(name="crunching.deaf", executor="process")
def deaf(fifo: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    with open(fifo, "w") as ready:
        ready.write(f"{os.getpid()} {child.pid}")
    signal.pause()


@activity(name="crunching.endless", executor="process")
def endless() -> None:
    signal.pause()


@activity(name="crunching.later", executor="process")
def later() -> str:
    raise activity.CompleteLater()


@activity(name="crunching.no_result", executor="process")
def no_result() -> object:
    return object()


class Hidden:
    """Its function is not found by the name of the function."""

    visible = activity(name="crunching.hidden", executor="process")(pid.__wrapped__)


@activity(name="crunching.repeat", executor="process")
def repeat(text: str, times: int) -> str:
    return text * times
