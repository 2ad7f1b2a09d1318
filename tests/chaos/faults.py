"""What goes wrong and when, from a seed; and what was made of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

from tests.chaos.clients import CLIENT_SLOTS

Kind = Literal[
    "kill", "suspend", "leave", "guest", "end backends", "suspend database", "restart database", "fail over",
    "kill standby",
]  # fmt: skip

PROCESS: frozenset[Kind] = frozenset(("kill", "suspend", "leave", "guest"))
"""What happens to a process; the others happen to the database."""

_DECK: tuple[Kind, ...] = (
    "kill", "kill", "kill", "kill", "suspend", "suspend", "suspend", "leave", "leave", "guest", "guest",
    "end backends", "end backends", "suspend database", "restart database", "fail over", "kill standby",
)  # fmt: skip

GAP = 2.5
"""Seconds between two faults, on average."""


@dataclass(frozen=True)
class Plan:
    """A fault that is to be made: `at` seconds after the beginning, `length` seconds long."""

    at: float
    kind: Kind
    slot: int
    length: float
    count: int


@dataclass(frozen=True)
class Fault:
    """A fault that was made. Times are microseconds since the epoch; process 0 is the database."""

    kind: Kind
    process: int
    began: int
    ended: int

    def __str__(self) -> str:
        where = f" of process {self.process}" if self.kind in PROCESS else ""
        return f"{self.began} {self.kind}{where}, {(self.ended - self.began) / 1e6:.2f} s"


def plan(seed: int, seconds: float, longest: float) -> Iterator[Plan]:
    """The faults of a seed. `longest`: the most seconds that a process is suspended. Each kind comes in its turn."""
    random = Random(f"{seed}/faults")
    at = GAP
    while True:
        deck = list(_DECK)
        random.shuffle(deck)
        for kind in deck:
            if at > seconds:
                return
            match kind:
                case "suspend":
                    length = random.choice((random.uniform(0.2, 2), random.uniform(2, longest)))
                case "suspend database":
                    length = random.uniform(0.2, 5)
                case _:
                    length = random.uniform(0, 3)
            yield Plan(at, kind, random.randrange(CLIENT_SLOTS), length, random.randint(1, 8))
            at += random.uniform(0.2, 2 * GAP - 0.2)
