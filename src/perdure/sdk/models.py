"""Pydantic models as values, where the user's code has pydantic: Perdure never imports it.

A model becomes JSON by its own serializer and comes back by its own validation, wherever it stands: alone, in builtin
containers and unions, in dataclasses and structs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeGuard, get_args

import msgspec

MASKED: Final = b"**********"
"""What pydantic's secrets are in JSON."""

_NESTED: Final = re.compile(r" at `\$([^`]*)` at `\$([^`]*)`$")
_to_json: Final = msgspec.json.encode


class Model(Protocol):
    """What is used of a model."""

    def model_dump_json(self, *, by_alias: bool, round_trip: bool) -> str: ...
    @classmethod
    def model_validate_json(cls, json_data: bytes, /) -> object: ...


def _pydantic() -> Any:
    return sys.modules["pydantic"]


def is_model(cls: object) -> TypeGuard[type[Model]]:
    """Whether a class is a pydantic model (of version 2 or later)."""
    pydantic = sys.modules.get("pydantic")
    base = getattr(pydantic, "BaseModel", None)
    return isinstance(base, type) and isinstance(cls, type) and issubclass(cls, base)


def is_secret(value: object) -> bool:
    """Whether a value is one of pydantic's secrets, which hide what they hold from logs, and from JSON."""
    types = vars(sys.modules.get("pydantic.types", object))
    kinds = [
        types.get(name) for name in ("Secret", "SecretStr", "SecretBytes")
    ]  # the first is of pydantic 2.7 and later
    return isinstance(value, tuple([kind for kind in kinds if isinstance(kind, type)]))


def mentions_model(hint: object) -> bool:
    """Whether a hint is a model, or a container or union of such."""
    return is_model(hint) or any(map(mentions_model, parts(hint)))


def parts(hint: object) -> tuple[object, ...]:
    """What a hint is made of: its arguments, and what it is short for, as in `type Pet = Cat | Dog`."""
    meant = getattr(hint, "__value__", None)
    return get_args(hint) if meant is None else (*get_args(hint), meant)


def fields(cls: object) -> dict[str, object] | None:
    """The fields of a model, or of one of pydantic's dataclasses, with their hints; None of anything else."""
    found: dict[str, Any] | None = getattr(cls, "model_fields" if is_model(cls) else "__pydantic_fields__", None)
    return None if found is None else {name: field.annotation for name, field in found.items()}


def unparameterized(cls: type[object]) -> type[object]:
    """`Box`, where a class is the model `Box[int]`."""
    generic: dict[str, Any] = getattr(cls, "__pydantic_generic_metadata__", {})
    return generic.get("origin") or cls


def as_json(model: Model) -> msgspec.Raw:
    """A model as JSON that its validation takes back."""
    return msgspec.Raw(model.model_dump_json(by_alias=True, round_trip=True).encode())


def decoder(hint: object) -> Callable[[bytes], object] | None:
    """What makes values of a hint that mentions models from JSON; None where pydantic doesn't know the rest of it."""
    adapter = _adapter(hint)
    if adapter is None:
        return None
    _check_aliases(hint, set())
    validate: Callable[[bytes], object] = adapter.validate_json
    mismatch = _pydantic().ValidationError

    def decode(data: bytes) -> object:
        try:
            return validate(data)
        except mismatch as error:
            raise msgspec.ValidationError(_told(error)) from None

    return decode


def _check_aliases(hint: object, seen: set[object]) -> None:
    """Raises TypeError where a model writes a field under a name by which it doesn't read it: it would get its default,
    without a word."""
    for part in parts(hint):
        _check_aliases(part, seen)
    if not is_model(hint) or hint in seen:
        return
    seen.add(hint)
    config: dict[str, Any] = getattr(hint, "model_config", {})
    by_name = config.get("populate_by_name") or config.get("validate_by_name")
    declared: dict[str, Any] = getattr(hint, "model_fields", {})
    for name, field in declared.items():
        written = field.serialization_alias or name
        read: Any = field.validation_alias
        names = [name] if read is None else [read] if isinstance(read, str) else getattr(read, "choices", None)
        if names is not None and written not in names and not (by_name and written == name):
            raise TypeError(
                f"{hint.__name__} writes its field {name!r} as {written!r} and reads it as {names[0]!r}: "
                "give it one `alias`, or `AliasChoices` that have both"
            )
        _check_aliases(field.annotation, seen)


def _adapter(hint: object) -> Any:
    """Pydantic's own codec of a hint; None where it doesn't know a part of it. Raises TypeError where it says why not.

    Bytes beside models are Base64, as msgspec writes them; a model by itself, which takes no such option, has its own.
    """
    pydantic = _pydantic()
    for config in ({"val_json_bytes": "base64"}, None):
        try:
            return pydantic.TypeAdapter(hint, config=config)
        except pydantic.errors.PydanticSchemaGenerationError:
            return None
        except pydantic.errors.PydanticUserError as error:
            if error.code == "typed-dict-version":  # it doesn't take that of `typing`, which msgspec does
                return None
            if error.code != "type-adapter-config-unused":
                raise TypeError(error.message) from None
    return None


def from_plain(cls: type[Model], value: object) -> object:
    """A model from a plain JSON value. Raises ValueError with the field."""
    try:
        return cls.model_validate_json(_to_json(value))
    except _pydantic().ValidationError as error:
        raise ValueError(_told(error)) from None


def joined(message: str) -> str:
    """A mistake in a model inside of something else, with one path: what is around a model has added its own, behind.

    "a mask is missing at `$.cidr` at `$[1]`" is "a mask is missing at `$[1].cidr`".
    """
    while (nested := _NESTED.search(message)) is not None:
        message = f"{message[: nested.start()]} at `${nested[2]}{nested[1]}`"
    return message


def _told(error: Any) -> str:
    """The first mistake, and where it is."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
    return f"{first['msg']} at `${path}`" if path else str(first["msg"])
