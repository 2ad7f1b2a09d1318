"""What a value would lose on its way: JSON has its fields, and the hint decides of which class they become one again.

A `Cat` that is sent where a `Pet` is taken would arrive as a `Pet`, without what only cats have; and of two classes
with the same fields, one as the other. So a value is compared with what would arrive, by their classes, before it is
sent.

A **record** is a value with a class of the user's, and fields: a dataclass, a struct, a pydantic model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Container, Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar, cast, get_origin, get_type_hints

import msgspec

from perdure.sdk import models
from perdure.sdk.names import class_name

_MAX_DEPTH: Final = 100  # of the search: records may hold some of their own class without end
_SEQUENCES: Final[Container[object]] = frozenset({list, tuple})
_SETS: Final[Container[object]] = frozenset({set, frozenset})
_DICTS: Final[Container[object]] = frozenset({dict})


class Loss(NamedTuple):
    """A part of a value that would arrive as one of another class.

    path: where it is in the value, such as "[0].pet"; "" is the value itself.
    """

    path: str
    sent: type[object]
    arrives: type[object]

    def __str__(self) -> str:
        kept = fields(self.arrives)
        gone = ", ".join([repr(name) for name in fields(self.sent) if name not in kept])
        without = f", without {gone}" if gone else ""
        at = f" at `${self.path}`" if self.path else ""
        sent, arrives = _shown(self.sent), _shown(self.arrives)
        return (
            f"a `{sent}`{at} would arrive as a `{arrives}`{without}. Annotate it as "
            "what it is, or as a union that JSON can tell apart: of pydantic models with a `Literal` field each, or of "
            "tagged structs"
        )


def may_nest(hint: object) -> bool:
    """Whether values of a hint may hold records inside of them."""
    cls: object = get_origin(hint) or hint
    return any(map(_may_be, models.parts(hint))) or (isinstance(cls, type) and bool(_nesting(cls)))


def find_loss(value: object, back: object, *, deep: bool) -> Loss | None:
    """The first record in a value that has arrived as one of another class.

    What has become plain has lost nothing that was asked for: the hint has no class there.

    deep: it may hold records inside of it, so these are compared, too.
    """
    if not deep:
        return _search(value, back, _MAX_DEPTH)
    try:
        if _alike(value, back):
            return None
    except RecursionError:
        pass
    return _search(value, back)


def is_same(sent: type[object], arrives: type[object]) -> bool:
    """Whether two classes are of records, and one, whatever name it was imported by."""
    return _is_record(sent) and _is_record(arrives) and _name(sent) == _name(arrives)


def _alike(value: object, back: object) -> bool:
    """Whether all that may be a record has arrived as what it was: quick, and False where it isn't sure."""
    kind = type(value)
    if kind is not type(back) and not (kind in _SEQUENCES and type(back) in _SEQUENCES):
        return False
    if kind in _SEQUENCES:
        return _all_alike(cast("list[object]", value), cast("list[object]", back))
    if kind in _SETS:
        return set(map(type, cast("set[object]", value))) == set(map(type, cast("set[object]", back)))
    if kind in _DICTS:
        return _all_alike(cast("dict[str, object]", value).values(), cast("dict[str, object]", back).values())
    for name in _nesting(kind):
        part: object = getattr(value, name, None)
        arrived: object = getattr(back, name, None)
        if type(part) is not type(arrived) or (_has_parts(type(part)) and not _alike(part, arrived)):
            return False
    return True


def _all_alike(values: Collection[object], backs: Collection[object]) -> bool:
    kinds = list(map(type, values))
    if kinds != list(map(type, backs)):
        return False
    return not any(map(_has_parts, set(kinds))) or all(map(_alike, values, backs))


def _search(value: object, back: object, depth: int = 0) -> Loss | None:
    sent, arrives = type(value), type(back)
    if sent is not arrives and _is_record(arrives) and _is_record(sent) and _name(sent) != _name(arrives):
        return Loss("", sent, arrives)
    if depth < _MAX_DEPTH:
        for step, part, arrived in _pairs(value, back):
            loss = _search(part, arrived, depth + 1)
            if loss is not None:
                return loss._replace(path=step + loss.path)
    return None


def _pairs(value: object, back: object) -> Iterator[tuple[str, object, object]]:
    """The parts of a value that may hold records, each with its place, and with what has arrived for it."""
    if isinstance(value, list | tuple) and isinstance(back, list | tuple):
        items = zip(cast("list[object]", value), cast("list[object]", back), strict=False)
        for index, (part, arrived) in enumerate(items):
            yield f"[{index}]", part, arrived
    elif isinstance(value, set | frozenset) and isinstance(back, set | frozenset):
        kinds = {type(arrived): arrived for arrived in cast("set[object]", back)}
        for part in cast("set[object]", value):  # without an order: one of another class has become one of these
            yield "[...]", part, kinds.get(type(part)) or next(iter(kinds.values()), None)
    elif isinstance(value, dict) and isinstance(back, dict):
        have = cast("dict[object, object]", back)
        for key, part in cast("dict[object, object]", value).items():
            yield f"[{key!r}]", part, have.get(key)
    else:
        for name in _nesting(type(cast(object, value))):
            yield f".{name}", getattr(cast(object, value), name, None), getattr(back, name, None)


@lru_cache(maxsize=4096)
def _has_parts(kind: type[object]) -> bool:
    return issubclass(kind, list | tuple | set | frozenset | dict) or bool(_nesting(kind))


@lru_cache(maxsize=4096)
def _nesting(cls: type[object]) -> tuple[str, ...]:
    """The fields of a record that may hold records themselves; none of anything else."""
    return tuple([name for name, hint in fields(cls).items() if _may_be(hint)])


def _may_be(hint: object) -> bool:
    """Whether values of a hint may be records, or hold some."""
    cls: object = get_origin(hint) or hint
    return (
        isinstance(hint, TypeVar)
        or (isinstance(cls, type) and _is_record(cls))
        or any(map(_may_be, models.parts(hint)))
    )


@lru_cache(maxsize=4096)
def _is_record(cls: type[object]) -> bool:
    return issubclass(cls, msgspec.Struct) or dataclasses.is_dataclass(cls) or models.is_model(cls)


def fields(cls: type[object]) -> dict[str, object]:
    """The fields of a record, with their hints."""
    if not _is_record(cls):
        return {}
    if (of_model := models.fields(cls)) is not None:
        return of_model
    hints = get_type_hints(cls)
    if issubclass(cls, msgspec.Struct):
        return {name: hints[name] for name in cls.__struct_fields__}
    return {field.name: hints[field.name] for field in dataclasses.fields(cast("Any", cls))}


def _shown(cls: type[object]) -> str:
    return class_name(cls).removeprefix("builtins.")


def _name(cls: type[object]) -> str:
    """What a class is called: one that was defined again, or imported twice, is the same."""
    return class_name(models.unparameterized(cls))
