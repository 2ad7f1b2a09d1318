"""Finds all that is of one class in any message, and puts others in their place.

Which fields of a struct may hold such a thing is read from the annotations, once for each class of structs: those that
hold none are passed over whole. So a new message, event or field needs nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar, cast, get_args

from msgspec import Struct
from msgspec.structs import fields, replace

Leaf = TypeVar("Leaf", bound=Struct)
Message = TypeVar("Message")


class Walk(Generic[Leaf]):
    """A walk for one class of structs, which it doesn't look into."""

    def __init__(self, leaf: type[Leaf]) -> None:
        self._leaf = leaf
        self._names: dict[type[Any], tuple[str, ...]] = {}

    def find(self, value: object) -> list[Leaf]:
        """All that there are, in order."""
        found: list[Leaf] = []
        self._collect(value, found)
        return found

    def put(self, message: Message, fresh: Iterator[Leaf]) -> Message:
        """The message with others in their place, in the order of `find`."""
        return self._put(message, fresh)

    def _collect(self, value: Any, found: list[Leaf]) -> None:
        kind = cast("type[Any]", type(value))
        if kind is self._leaf:
            found.append(value)
        elif kind is tuple or kind is list:
            for item in value:
                self._collect(item, found)
        elif kind is dict:
            for item in value.values():
                self._collect(item, found)
        else:
            for name in self._fields(kind):
                self._collect(getattr(value, name), found)

    def _put(self, value: Any, fresh: Iterator[Leaf]) -> Any:
        kind = cast("type[Any]", type(value))
        if kind is self._leaf:
            return next(fresh)
        if kind is tuple:
            return tuple([self._put(item, fresh) for item in value])
        if kind is list:
            return [self._put(item, fresh) for item in value]
        if kind is dict:
            return {key: self._put(item, fresh) for key, item in value.items()}
        names = self._fields(kind)
        return replace(value, **{name: self._put(getattr(value, name), fresh) for name in names}) if names else value

    def _fields(self, kind: type[Any]) -> tuple[str, ...]:
        """The fields of a struct that may hold one; of anything else, none."""
        names = self._names.get(kind)
        if names is None:
            found = fields(kind) if issubclass(kind, Struct) else ()
            names = self._names[kind] = tuple([each.name for each in found if self._may_hold(each.type, frozenset())])
        return names

    def _may_hold(self, hint: Any, above: frozenset[object]) -> bool:
        if hint is self._leaf:
            return True
        if args := get_args(hint):
            return any(self._may_hold(arg, above) for arg in args)
        if not isinstance(hint, type) or not issubclass(hint, Struct) or hint in above:
            return False
        return any(self._may_hold(each.type, above | {hint}) for each in fields(hint))
