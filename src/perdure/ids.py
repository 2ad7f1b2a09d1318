"""Identifiers: how they are made, and the shard that an execution belongs to.

Randomness comes in from outside, as time does: whoever builds an engine hands it an :class:`IdSource`.
"""

from __future__ import annotations

import os
import random
import zlib
from typing import Protocol

from perdure.limits import SHARDS


class IdSource(Protocol):
    """A source of identifiers that do not repeat."""

    def new_id(self) -> str:
        """32 hexadecimal digits, different on every call."""
        ...


class RandomIds:
    """Identifiers from the operating system's randomness."""

    _urandom = staticmethod(os.urandom)

    def __init__(self) -> None:
        self._pool: list[str] = []

    def new_id(self) -> str:
        # One system call serves 256 identifiers.
        if not self._pool:
            digits = self._urandom(4096).hex()
            self._pool = [digits[start : start + 32] for start in range(0, len(digits), 32)]
        return self._pool.pop()


class SeededIds:
    """Identifiers that repeat exactly for the same seed, for simulations and tests."""

    def __init__(self, seed: int | str) -> None:
        self._random = random.Random(seed)

    def new_id(self) -> str:
        return f"{self._random.getrandbits(128):032x}"


def shard_of(namespace: str, workflow_id: str) -> int:
    """The shard of all runs of a workflow id; the same in every process and every release."""
    return zlib.crc32(workflow_id.encode(), zlib.crc32(namespace.encode())) % SHARDS
