"""Random workflow programs: a small tree of operations from a seed. What they mean, `interpreter` says."""

from __future__ import annotations

from random import Random
from typing import Final

import msgspec


class Op(msgspec.Struct, frozen=True, omit_defaults=True):
    """An operation.

    kind: the method of the interpreter that does it. id: what it is called in the trace. pick: a number from which it
    takes its options. body: the operations in it.
    """

    kind: str
    id: int
    pick: int = 0
    body: tuple[Op, ...] = ()


ALONE: Final = {
    "activity": 8,
    "start": 4,
    "join_handle": 4,
    "cancel_handle": 2,
    "local": 2,
    "sleep": 5,
    "draw": 2,
    "patch": 1,
    "receive": 2,
    "wait_until": 3,
    "wake": 3,
    "wait_event": 2,
    "put": 2,
    "get": 2,
    "rank": 2,
    "child": 3,
    "external": 1,
    "fail": 3,
    "cancel_self": 1,
    "join_task": 3,
    "cancel_task": 2,
    "map": 3,
    "everyone": 2,
    "enter": 3,
    "let_in": 3,
    "gather_again": 3,
    "callback": 2,
}
"""Operations without others in them, and how often they come."""

AROUND: Final = {
    "sequence": 4,
    "tries": 4,
    "gather": 5,
    "wait": 5,
    "wait_for": 4,
    "timeout": 4,
    "group": 7,
    "spawn": 5,
    "cancel": 4,
    "shield": 3,
    "shielded": 4,
    "as_completed": 3,
    "saga": 5,
    "catch": 6,
    "swallow": 3,
    "finally": 5,
    "exit_stack": 3,
    "loop": 3,
    "generator": 3,
    "lock": 3,
    "slots": 3,
    "condition": 3,
    "in_set": 3,
    "barrier": 2,
    "workers": 2,
}
"""Those with others in them."""

SEVERAL: Final = {
    **dict.fromkeys(("sequence", "tries", "gather", "wait", "group", "in_set"), 4),
    **dict.fromkeys(("as_completed", "saga", "barrier", "workers"), 3),
    "exit_stack": 2,
}
"""How many operations they have at most, where it is more than those of `TWO` or one."""

TWO: Final = frozenset({"cancel", "finally", "catch"})

HOLDS: Final = frozenset({"lock", "slots", "condition"})
"""What others may wait for. So in them nothing waits for those others: that would be the program's own deadlock."""

NOT_HELD: Final = frozenset({*HOLDS, "join_task", "join_handle", "gather_again"})


class Generator:
    """Makes one program.

    Args:
        seed: programs with the same seed are the same.
        size: how many operations it has, about.
        only: the kinds to choose from; by default all.
    """

    def __init__(self, seed: int, size: int = 0, only: frozenset[str] = frozenset()) -> None:
        self._random = Random(seed)
        self._left = size or self._random.choice((6, 10, 16, 24, 32))
        self._alone = {kind: weight for kind, weight in ALONE.items() if not only or kind in only}
        self._around = {kind: weight for kind, weight in AROUND.items() if not only or kind in only}
        self._count = 0

    def program(self) -> Op:
        """The whole of it."""
        body: list[Op] = []
        while self._left > 0:
            body.append(self._op(4, held=False))
        return Op("tries", 0, self._random.randrange(1000), tuple(body))

    def _op(self, depth: int, *, held: bool) -> Op:
        inner = depth > 0 and self._left > 0 and self._random.random() < 0.55
        kinds = self._around if inner else self._alone
        allowed = [kind for kind in kinds if not held or kind not in NOT_HELD]
        kind = self._random.choices(allowed, [kinds[kind] for kind in allowed])[0] if allowed else "activity"
        return self._next(kind, depth, held=held or kind in HOLDS)

    def _next(self, kind: str, depth: int, *, held: bool) -> Op:
        self._left -= 1
        self._count += 1
        id, pick = self._count, self._random.randrange(1000)
        count = 0
        if kind in AROUND:
            count = 2 if kind in TWO else self._random.randint(1, SEVERAL.get(kind, 1))
        return Op(kind, id, pick, tuple(self._op(depth - 1, held=held) for _ in range(count)))


def shown(op: Op, indent: str = "") -> str:
    """A program for people."""
    return "".join([f"{indent}{op.id} {op.kind} {op.pick}\n", *(shown(each, f"{indent}  ") for each in op.body)])
