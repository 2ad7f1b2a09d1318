"""Whether a value comes back from a roll-over as what it was, in all of its parts.

A `defaultdict` that an annotation calls a `dict` comes back as a dict, an `IntEnum` as a number: code that relied on
more would stand still then. That a number comes back as an equal one is no change: a `float` may be set to 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from types import NoneType
from typing import Final, NamedTuple, cast

from perdure.sdk import records
from perdure.sdk.names import class_name

_PLAIN: Final = frozenset[type[object]]({str, int, float, bool, bytes, NoneType})
"""Classes whose values have no parts, and are the same if they are equal."""

_NUMBERS: Final = frozenset[type[object]]({int, float})
_MAX_DEPTH: Final = 100  # nodes that are linked may be as deep as JSON can be


class Change(NamedTuple):
    """A part of a value, and what it would come back as.

    path: where it is in the value, such as "[0].tags"; "" is the value itself.
    """

    path: str
    left: object
    back: object

    def __str__(self) -> str:
        at = f" at `${self.path}`" if self.path else ""
        return f"{at} as {_shown(self.back)}, not {_shown(self.left)}"


def find_change(value: object, back: object, depth: int = 0) -> Change | None:
    """The first part of a value that has come back as something else."""
    kind, came = type(value), type(back)
    if kind is came and kind in _PLAIN:
        same = value == back or repr(value) == repr(back)  # NaN, where a model can store it
        return None if same else Change("", value, back)
    if kind is not came and not records.is_same(kind, came):
        same = kind in _NUMBERS and came in _NUMBERS and value == back
        return None if same else Change("", value, back)
    return _in_parts(value, back, depth + 1) if depth < _MAX_DEPTH and _has_parts(kind) else None


def _in_parts(value: object, back: object, depth: int) -> Change | None:
    if names := _names(type(value)):
        parts: list[object] = [getattr(value, name, None) for name in names]
        return _first(".{}", names, parts, [getattr(back, name, None) for name in names], depth)
    have, came = cast("list[object]", value), cast("list[object]", back)
    if len(have) != len(came):
        return Change("", value, back)
    if isinstance(value, dict):
        ours, theirs = cast("dict[object, object]", value), cast("dict[object, object]", back)
        return _first(".keys()[{}]", range(len(ours)), [*ours], [*theirs], depth) or _first(
            "[{!r}]", ours, [*ours.values()], [*theirs.values()], depth
        )
    if isinstance(value, set | frozenset):  # without an order: each has come back as the one that is equal
        equal = {each: each for each in came}
        return _first("[{}]", ["..."] * len(have), [*have], [equal.get(each) for each in have], depth)
    return _first("[{}]", range(len(have)), [*have], [*came], depth)


def _first(step: str, names: Iterable[object], parts: list[object], backs: list[object], depth: int) -> Change | None:
    """The first change in parts of these names."""
    kinds = list(map(type, parts))
    if kinds == list(map(type, backs)) and _PLAIN.issuperset(kinds) and parts == backs:
        return None  # most of them, in little time
    for name, part, back in zip(names, parts, backs, strict=True):
        change = find_change(part, back, depth)
        if change is not None:
            return change._replace(path=step.format(name) + change.path)
    return None


@lru_cache(maxsize=4096)
def _has_parts(kind: type[object]) -> bool:
    return issubclass(kind, list | tuple | set | frozenset | dict) or bool(_names(kind))


@lru_cache(maxsize=4096)
def _names(kind: type[object]) -> tuple[str, ...]:
    """The fields of a record; none of anything else."""
    return tuple(records.fields(kind))


def _shown(value: object) -> str:
    return f"{value!r:.60} ({class_name(type(value)).removeprefix('builtins.')})"
