"""What of an entity survives a roll-over: the attributes that its class annotates.

They are encoded by their annotations, and put back without `__init__`. What can't be kept is an error where it can
still be mended, at the run's first workflow task, and not years later at the first roll-over.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import InitVar
from pathlib import PurePath
from typing import Any, ClassVar, Final, cast, get_args, get_origin, get_type_hints

import msgspec

from perdure.model.payloads import Payload
from perdure.sdk import models
from perdure.sdk.converter import Codec, codec
from perdure.sdk.workflow.changes import find_change
from perdure.sdk.workflow.defaults import own_defaults

_logger: Final = logging.getLogger("perdure.workflow")
_SCALARS: Final = (PurePath, str, int, float)
"""Classes of which `converter` can store subclasses."""


class Attributes:
    """The annotated attributes of an entity's class, those of its bases included.

    Args:
        cls: the class. Its annotations are read when they are first needed.
    """

    def __init__(self, cls: type[object]) -> None:
        self._cls = cls
        self._read: dict[str, Codec] | None = None
        self._dropped: set[str] = set()  # those of earlier code, of which the log has told

    @property
    def codecs(self) -> dict[str, Codec]:
        """How each attribute is stored. Raises TypeError naming the one that can't be."""
        if self._read is None:
            self._refuse_slots()
            hints = self._hints()
            self._read = {name: self._codec(name, hint) for name, hint in hints.items()}
        return self._read

    def check(self, instance: object) -> None:
        """Raises EncodeError, PayloadTooLarge or TypeError where an attribute could not survive."""
        self.check_names(instance)
        self.encode(instance)

    def check_names(self, instance: object) -> None:
        """Raises TypeError where an attribute is set that the class doesn't annotate: it would be lost."""
        unknown = vars(instance).keys() - self.codecs.keys()
        if unknown:
            name = min(unknown)
            kind = type(cast("object", vars(instance)[name]))
            raise TypeError(
                f"{self._where(name)} is set (to a value of type {_name(kind)}), but the class doesn't annotate it, so "
                f"it would not survive a roll-over: write `{name}: {kind.__name__}` in the class body"
            )

    def encode(self, instance: object) -> dict[str, Payload]:
        """The attributes that are set, by name. Raises EncodeError, PayloadTooLarge or TypeError where one could not
        survive."""
        values: dict[str, object] = vars(instance)
        return {name: self._encode(name, values[name]) for name in self.codecs if name in values}

    def _encode(self, name: str, value: object) -> Payload:
        each, where = self.codecs[name], self._where(name)
        payload = each.encode(value, where)
        change = find_change(value, each.decode(payload, where))
        if change is not None:
            raise TypeError(
                f"{where} would come back from a roll-over{change}: annotate it, and what is in it, as what they are, "
                "such as `tuple[str, ...]` or `dict[int, Node]`; of what can't be stored, such as a defaultdict, hold "
                "what it comes back as"
            )
        return payload

    def restore(self, payloads: Mapping[str, Payload]) -> object:
        """An object with these attributes. Those that the class has no more are dropped, which the log says once; new
        ones have their defaults.

        Raises:
            DecodeError: one doesn't fit its annotation any more.
        """
        instance = object.__new__(self._cls)
        gone = payloads.keys() - self.codecs.keys() - self._dropped
        if gone:
            self._dropped |= gone
            _logger.warning(
                "entity %s has no attribute %s any more: what earlier runs left there is dropped by those that follow",
                self._cls.__qualname__, ", ".join(map(repr, sorted(gone))),
            )  # fmt: skip
        for name, each in self.codecs.items():
            if name in payloads:
                vars(instance)[name] = each.decode(payloads[name], self._where(name))
        own_defaults(instance)
        return instance

    def _refuse_slots(self) -> None:
        for base in self._cls.__mro__:
            slots = cast("str | Iterable[str]", vars(base).get("__slots__", ()))
            names = sorted({slots} if isinstance(slots, str) else set(slots))
            if kept := [name for name in names if name not in ("__dict__", "__weakref__")]:
                raise TypeError(
                    f"entity {self._cls.__qualname__}: what is in the __slots__ of {base.__qualname__} "
                    f"({', '.join(kept)}) would not survive a roll-over: remove the __slots__"
                )

    def _hints(self) -> dict[str, object]:
        try:
            hints = get_type_hints(self._cls, include_extras=True)
        except Exception as error:
            raise TypeError(
                f"entity {self._cls.__qualname__}: the annotations can't be read: {error}. They are needed at run "
                f"time: define or import the types in the module itself, not in a function or under TYPE_CHECKING"
            ) from error
        return {name: hint for name, hint in hints.items() if not _of_the_class(hint)}

    def _codec(self, name: str, hint: object) -> Codec:
        where = self._where(name)
        try:
            made = codec(hint)
            unstorable = next(_unstorable(hint), None)
        except TypeError as error:
            raise TypeError(f"{where}: {error}") from None
        if unstorable is not None:
            raise TypeError(
                f"{where} may hold a value of type {_name(unstorable)}, which can't be stored: use builtins, "
                f"dataclasses, structs or pydantic models, and make the rest anew where it is needed"
            )
        return made

    def _where(self, name: str) -> str:
        return f"attribute {name!r} of entity {self._cls.__qualname__}"


def _of_the_class(hint: object) -> bool:
    """Whether an annotation is not of an attribute of the object."""
    return hint is ClassVar or get_origin(hint) is ClassVar or isinstance(hint, InitVar)


def _unstorable(hint: object) -> Iterator[type[object]]:
    """The classes in a hint whose values have no encoding."""
    seen: set[int] = set()
    todo: list[object] = [msgspec.inspect.type_info(cast("Any", hint))]
    while todo:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, msgspec.inspect.CustomType):
            cls = part.cls
            storable = cls is object or issubclass(cls, _SCALARS) or get_args(cls) or _is_model(cast(object, cls))
            if not storable:
                yield cls
        elif isinstance(part, msgspec.inspect.Type | msgspec.inspect.Field):
            for name in part.__struct_fields__:
                value = cast("object", getattr(part, name))
                todo += cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,)


def _is_model(cls: object) -> bool:
    return models.is_model(cls)


def _name(cls: type[object]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")
