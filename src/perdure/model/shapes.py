"""Whether a message holds what its struct declares.

A message that is made, not decoded, may hold values of any types: nobody has looked at them. A single wrong one in a
journal would make its execution unreadable for ever; so requests and commands are looked at before anything is decided
on them. Both are on the hot path: the annotations are read once for each class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache, cached_property
from itertools import compress
from operator import is_not
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

from msgspec import Struct, ValidationError
from msgspec.msgpack import Decoder, Encoder
from msgspec.structs import astuple, fields

from perdure.errors import InvalidRequest

Check = Callable[[Any, str], None]
"""Takes a value of a type that a field may have, and the field's name. Raises InvalidRequest."""

_Types = dict[type[Any], Check | None]
"""The types that a value may have, exactly, each with what else is to be looked at."""

_SMALLEST: Final = -(2**63)
_LARGEST: Final = 2**63 - 1
"""Whole numbers beyond these can't be stored."""

_UINT64: Final = 0xCF
"""What begins a whole number from 2**32 on in MessagePack; any other byte may be the same."""

_encode: Final = Encoder().encode

_WORDS: Final[Mapping[type[Any], str]] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    NoneType: "None",
}


class Shape:
    """What the fields of one struct class hold.

    Args:
        cls: the class.
        instead: checks of fields that are set, by name, in place of those that their types ask for.
    """

    def __init__(self, cls: type[Struct], instead: Mapping[str, Check] | None = None) -> None:
        self._cls, self._instead = cls, instead or {}

    def check(self, struct: Struct, _name: str = "") -> None:
        """Raises InvalidRequest, which names the first field that is not what it should be."""
        fields, defaults = self._fields
        values = astuple(struct)
        # Most fields are as they were born; those are passed over at no cost of ours.
        for value, (name, types) in compress(zip(values, fields, strict=True), map(is_not, values, defaults)):
            try:
                check = types[type(value)]
            except KeyError:
                raise _wrong(name, types, value) from None
            if check is not None:
                check(value, name)

    @cached_property
    def _fields(self) -> tuple[list[tuple[str, _Types]], list[object]]:
        # Not before they are needed: a struct may hold others of its kind.
        declared = fields(self._cls)
        found = [(each.name, _types(each.type)) for each in declared]
        for name, types in found:
            if name in self._instead:
                types.update({kind: self._instead[name] for kind in types if kind is not NoneType})
        return found, [each.default for each in declared]


@cache
def shape_of(cls: type[Struct]) -> Shape:
    """The shape of a class."""
    return Shape(cls)


@cache
def _decoder(cls: type[Struct]) -> Callable[[bytes], Struct]:
    return Decoder(cls).decode


def check_quickly(struct: Struct) -> None:
    """The check of a struct's shape, in less than half the time where nothing is wrong: what comes back the same from a
    way through bytes holds what its class declares, but for whole numbers that are too large."""
    try:
        encoded = _encode(struct)
        if _UINT64 not in encoded and _decoder(type(struct))(encoded) == struct:
            return
    except (ValidationError, TypeError, ValueError, OverflowError, RecursionError):
        pass
    shape_of(type(struct)).check(struct)


def _types(hint: Any) -> _Types:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return {kind: check for arg in args for kind, check in _types(arg).items()}
    if origin is Literal:
        return {str: _one_of(args)}
    if origin is tuple or origin is list:
        return {origin: _each(_types(args[0]))}
    if origin is dict:
        return {dict: _items(_each(_types(args[0])), _each(_types(args[1])))}
    if hint is float:
        return {float: None, int: _check_number}
    return {hint: _PLAIN[hint] if hint in _PLAIN else shape_of(hint).check}


def _each(types: _Types) -> Check:
    def check(values: Iterable[Any], name: str) -> None:
        for value in values:
            if type(value) not in types:
                raise _wrong(name, types, value)
            check = types[type(value)]
            if check is not None:
                check(value, name)

    return check


def _items(check_keys: Check, check_values: Check) -> Check:
    def check(value: dict[Any, Any], name: str) -> None:
        check_keys(value, name)
        check_values(value.values(), name)

    return check


def _one_of(allowed: tuple[str, ...]) -> Check:
    def check(value: str, name: str) -> None:
        if value not in allowed:
            raise InvalidRequest(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")

    return check


def check_text(value: str, name: str) -> None:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"{name} is no valid text: {value!r} ({error.reason})") from error


def _check_number(value: int, name: str) -> None:
    if not _SMALLEST <= value <= _LARGEST:
        raise InvalidRequest(f"{name} is {value}, which is more than can be stored")


_PLAIN: Final[Mapping[Any, Check | None]] = {
    str: check_text,
    int: _check_number,
    bool: None,
    bytes: None,
    NoneType: None,
}


def _wrong(name: str, types: _Types, value: object) -> InvalidRequest:
    expected = " or ".join(_WORDS.get(kind, kind.__name__) for kind in types)
    return InvalidRequest(f"{name} must be {expected}, not {type(value).__name__}")
