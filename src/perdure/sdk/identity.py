"""What this process calls itself in histories and descriptions."""

from __future__ import annotations

import os
import socket
from functools import lru_cache


def identity() -> str:
    """ "pid@host"."""
    return _identity(os.getpid())  # another one after a fork


@lru_cache(maxsize=1)
def _identity(pid: int) -> str:
    return f"{pid}@{socket.gethostname()}"
