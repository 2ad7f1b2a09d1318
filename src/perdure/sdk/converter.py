"""Values as payloads, and back: JSON by msgspec, typed by the annotations of the user's functions.

::

    value → Codec(hint).encode → Payload(json) → Codec(hint).decode → value of the hinted type

A value is refused where it is sent if what arrives would not fit the hint: a wrong argument must not get into a
journal. Builtins that obviously fit are not looked at twice. `bytes` travel as they are, everything else as JSON.
Pydantic models are their own affair (`sdk/models.py`); so is what would lose its class (`sdk/records.py`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context, ContextVar
from functools import lru_cache
from pathlib import PurePath
from types import GenericAlias, NoneType, UnionType
from typing import Any, Final, Never, NoReturn, Union, cast, get_args, get_origin

import msgspec

from perdure.errors import CodecError, DecodeError, EncodeError, PayloadTooLarge
from perdure.limits import MAX_PAYLOAD
from perdure.model.failures import GROUP
from perdure.model.payloads import ENCODING, NULL, UNREADABLE, Payload, Payloads
from perdure.sdk import models, records

BINARY: Final = "binary"
"""Value of the `encoding` metadata: `data` is the bytes themselves."""

MSGPACK: Final = "msgpack"
"""The same where `data` is MessagePack, since some of it is bytes."""

ENCODINGS: Final = frozenset({BINARY, MSGPACK, GROUP})
"""What a payload may be encoded as when no codec has changed it, beside plain JSON."""

_BINARY_METADATA: Final = {ENCODING: BINARY}
_MAX_DEPTH: Final = 100  # of the search for what can't be encoded; msgspec gives up on deep values before
_SCALARS: Final[dict[type[object], Callable[..., object]]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
}
"""Builtins that users derive classes from, each with what makes a plain one of such a value."""

_LIST: Final = b"["
_plain: Final = msgspec.msgpack.Encoder(order="sorted").encode
_length: Final = cast("Callable[[object], int]", len)
_UNIONS: Final = (Union, UnionType)
_Order = tuple[tuple[object, "_Order"], ...]


class Codec:
    """Encodes and decodes values of one hinted type. Get one from `codec`."""

    __slots__ = ("_decode", "_fits", "_hint", "_nests")

    def __init__(self, hint: object) -> None:
        if hint is NoReturn or hint is Never:  # what never returns has no result that could be checked
            hint = Any
        self._hint = hint
        self._fits = _fitting_types(hint)
        try:
            self._decode = _decoder(hint)
            self._nests = records.may_nest(hint)
        except (TypeError, ValueError, NameError) as error:
            raise TypeError(f"values of type {_shown(hint)} can't be stored: {error}{_instead(error)}") from None
        except RecursionError:
            raise TypeError(
                f"values of type {_shown(hint)} can't be stored: it is made of itself. Use a class that is"
            ) from None

    def encode(self, value: object, where: str) -> Payload:
        """A value as a payload.

        Args:
            value: what to encode.
            where: what it is to the user, such as "argument 'region' of activity create_vpc".

        Raises:
            EncodeError: it has no encoding, or doesn't fit the hint.
            PayloadTooLarge: it is over `limits.MAX_PAYLOAD`, or over `limits.MAX_BLOB` where codecs are in use.
        """
        kind = type(value)
        if kind is bytes:
            return self._encode_binary(cast(bytes, value), where)
        try:
            data = _encode(value)
        except Exception as error:
            raise _encode_error(value, where, error) from None
        if len(data) > MAX_PAYLOAD:
            _check_room(len(data), where)
        if kind not in self._fits:
            self._check(value, data, where)
        return Payload(data)

    def decode(self, payload: Payload, where: str) -> object:
        """A payload as a value of the hinted type.

        Raises:
            DecodeError: it doesn't fit; the message names `where` and the field.
            CodecError: it is still as a codec has left it.
        """
        try:
            if payload.metadata is not None and ENCODING in payload.metadata:
                if payload.metadata[ENCODING] not in ENCODINGS:
                    raise _unread(payload, where)
                return self._decode_binary(payload)
            return self._decode(payload.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError(f"{where} doesn't fit {_shown(self._hint)}: {_reason(error)}") from None

    def _encode_binary(self, value: bytes, where: str) -> Payload:
        if len(value) > MAX_PAYLOAD:
            _check_room(len(value), where)
        payload = Payload(value, _BINARY_METADATA)
        if bytes not in self._fits:
            try:
                self._decode_binary(payload)
            except msgspec.DecodeError as error:
                raise EncodeError(f"{where} doesn't fit {_shown(self._hint)}: {_reason(error)}") from None
        return payload

    def _decode_binary(self, payload: Payload) -> object:
        encoding = (payload.metadata or {})[ENCODING]
        if encoding != BINARY:
            raise msgspec.DecodeError(f"it is encoded as {encoding!r}")
        if bytes in self._fits:
            return payload.data
        hint = cast("type[object]", self._hint)
        return msgspec.convert(payload.data, hint, builtin_types=(bytes,), dec_hook=_decode_hook)

    def _check(self, value: object, data: bytes, where: str) -> None:
        if data.find(b"null") >= 0:  # `in` takes longer for bytes: it tries them as a number first
            # JSON has no such numbers; msgspec writes null for them.
            found = _find(value, lambda part: isinstance(part, float) and not math.isfinite(part))
            if found is not None:
                path, number = found
                raise EncodeError(f"{where} holds {number} at `${path}`, which JSON can't have: send None or text")
        if data.find(models.MASKED) >= 0:
            found = _find(value, models.is_secret)
            if found is not None:
                raise EncodeError(
                    f"{where} holds a secret at `${found[0]}`, which would be stored masked: pass a reference to it, "
                    "such as the name of an environment variable"
                )
        try:
            back = self._decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise EncodeError(f"{where} doesn't fit {_shown(self._hint)}: {_reason(error)}") from None
        kind = type(value)
        same = type(back) is kind
        if self._nests or not same:
            loss = records.find_loss(value, back, deep=self._nests)
            if loss is None and not same and kind in _members(self._hint):
                loss = records.Loss("", kind, type(back))  # of `Model | Path | str`, text arrives as a path
            if loss is not None:
                raise EncodeError(f"{where} doesn't fit {_shown(self._hint)}: {loss}")
        if same and kind is dict and _length(back) != _length(value):
            _check_keys(cast("dict[object, object]", value), where)


def _decoder(hint: object) -> Callable[[bytes], object]:
    if models.mentions_model(hint) and (by_pydantic := models.decoder(hint)) is not None:
        return by_pydantic
    return msgspec.json.Decoder(cast("type[object]", hint), dec_hook=_decode_hook).decode


@lru_cache(maxsize=4096)
def _cached_codec(hint: object, order: _Order) -> Codec:
    return Codec(hint)


def _order(hint: object) -> _Order:
    """What tells hints apart that are equal: unions in another order, in which models are tried one after the other."""
    return tuple([(part, _order(part)) for part in get_args(hint)])


def codec(hint: object) -> Codec:
    """The codec of a type. Raises TypeError where values of that type can't be stored."""
    try:
        return _cached_codec(hint, _order(hint))
    except TypeError:  # an annotation that can't be hashed, or one that can't be stored
        return Codec(hint)


def _encode_hook(value: object) -> object:
    if isinstance(value, PurePath):
        return str(value)
    for scalar, plain in _SCALARS.items():
        if isinstance(value, scalar):
            return plain(value)
    if models.is_model(type(value)):
        return models.as_json(cast(models.Model, value))
    raise TypeError(f"values of type {_shown(type(value))} can't be stored")


_encode: Final = msgspec.json.Encoder(enc_hook=_encode_hook).encode


def _decode_hook(hint: object, value: object) -> object:
    if hint is object:
        return value
    cls: object = get_origin(hint) or hint
    if cls is Iterable and isinstance(value, list):
        items = GenericAlias(list, get_args(hint))
        return msgspec.convert(value, cast("type[object]", items), dec_hook=_decode_hook)
    if isinstance(cls, type):
        if issubclass(cls, PurePath) and isinstance(value, str):
            return cls(value)
        for scalar in _SCALARS:
            if issubclass(cls, scalar) and type(value) is scalar:
                return cast("Callable[[object], object]", cls)(value)
        if models.is_model(hint):
            return models.from_plain(hint, value)
    raise ValueError(
        f"values of type {_shown(hint)} can't be stored: use a dataclass, a msgspec.Struct or a pydantic model"
    )


def _instead(error: Exception) -> str:
    """What to do about a union that msgspec doesn't take."""
    if not str(error).startswith("Type unions"):
        return ""
    return (
        ". JSON doesn't tell such values apart: use tagged structs, pydantic models with a `Literal` field each, or "
        "one class with a field for each"
    )


def _fitting_types(hint: object) -> frozenset[type[object]]:
    """Types whose every value, encoded, fits the hint without being looked at."""
    if hint is Any or hint is object:
        return frozenset({str, int, bool, NoneType, bytes})
    if hint is None or hint is NoneType:
        return frozenset({NoneType})
    if hint is str or hint is int or hint is bool or hint is bytes:
        return frozenset({cast("type[object]", hint)})
    if get_origin(hint) in _UNIONS:
        fitting = frozenset[type[object]]().union(*map(_fitting_types, get_args(hint)))
        # Pydantic may make something else of text, or of a number, than what it was.
        return fitting & {NoneType, bytes} if models.mentions_model(hint) else fitting
    return frozenset()


def _members(hint: object) -> list[object]:
    """The classes in a union."""
    return [get_origin(part) or part for part in get_args(hint)] if get_origin(hint) in _UNIONS else []


ANY: Final = codec(Any)
"""For what has no hint: decodes to plain JSON types."""


def encode(value: object, where: str) -> Payload:
    """A value as a payload, of whatever type it is. Raises EncodeError or PayloadTooLarge."""
    return NULL if value is None else ANY.encode(value, where)


def encode_all(values: Iterable[object], where: str) -> Payloads:
    """Several values, as `encode` does each."""
    return tuple([encode(value, where) for value in values])


def decode(payload: Payload, hint: object, where: str) -> object:
    """A payload as a value of a type. Raises DecodeError, or TypeError where the type can't be stored."""
    return codec(hint).decode(payload, where)


def unordered(payload: Payload) -> bytes:
    """What a payload holds, whatever order lists have in it: that of a set is another one in each process."""
    if payload.data.find(_LIST) < 0 or (payload.metadata is not None and ENCODING in payload.metadata):
        return payload.data
    try:
        return _plain(_sorted(msgspec.json.decode(payload.data)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return payload.data


def _sorted(value: object) -> object:
    if isinstance(value, list):
        return sorted(map(_sorted, cast("list[object]", value)), key=_plain)
    if isinstance(value, dict):
        return {key: _sorted(item) for key, item in cast("dict[object, object]", value).items()}
    return value


def _children(value: object) -> Iterator[tuple[str, object]]:
    """What a container holds, each with how its path goes on."""
    if isinstance(value, Mapping):
        for key, item in cast("Mapping[object, object]", value).items():
            yield f"[{key!r}]", item
    elif isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(cast("Iterable[object]", value)):
            yield f"[{index}]", item
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield f".{name}", getattr(value, name)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield f".{field.name}", getattr(value, field.name, None)
    elif models.is_model(type(value)):
        yield from ((f".{name}", item) for name, item in vars(value).items())


def _find(
    value: object, wanted: Callable[[object], bool], depth: int = 0, *, into_models: bool = True
) -> tuple[str, object] | None:
    """The path of the first innermost part that is wanted, and the part."""
    if depth == _MAX_DEPTH:
        return None
    for step, child in _children(value) if into_models or not models.is_model(type(value)) else ():
        found = _find(child, wanted, depth + 1, into_models=into_models)
        if found is not None:
            return step + found[0], found[1]
    return ("", value) if wanted(value) else None


def _unencodable(value: object) -> bool:
    try:
        _encode(value)
    except Exception:
        return True
    return False


def _check_keys(value: dict[object, object], where: str) -> None:
    """Some keys were lost. Keys are text in JSON: of two that become the same, only one arrives, and that is refused.
    (Those that a TypedDict doesn't know are dropped as well, and may be.)"""
    seen: dict[object, object] = {}
    for key in value:
        text, *_ = msgspec.json.decode(_encode({key: None}), type=dict[str, None])
        if text in seen:
            raise EncodeError(f"{where} has the keys {seen[text]!r} and {key!r}, which are the same in JSON")
        seen[text] = key


def _encode_error(value: object, where: str, error: Exception) -> EncodeError:
    if isinstance(error, RecursionError):
        return EncodeError(f"{where} is nested too deeply, or contains itself")
    # What pydantic can write in its models, such as an address, may be nothing that could stand alone.
    path, part = _find(value, _unencodable, into_models=False) or ("", value)
    at = f" at `${path}`" if path else ""
    if isinstance(error, UnicodeEncodeError):
        return EncodeError(f"{where} holds text that is not valid Unicode{at}: {error}")
    if isinstance(part, int):
        return EncodeError(f"{where} holds a number{at} with more digits than Python makes text of: send it as hex()")
    if isinstance(part, dict):
        return EncodeError(f"{where} holds a dict{at} with keys that JSON can't have: use text or numbers as keys")
    kind = f"{type(part).__module__}.{type(part).__qualname__}".removeprefix("builtins.")
    if isinstance(part, Awaitable):
        return EncodeError(
            f"{where} holds a {kind}{at} instead of what it gives: await it; a plain `def` function takes its .result()"
        )
    if models.is_model(type(part)):
        return EncodeError(f"{where} holds a {kind}{at} that pydantic makes no JSON of: {error}")
    return EncodeError(
        f"{where} holds a value of type {kind}{at}, which can't be stored: use builtins, dataclasses, "
        f"msgspec structs or pydantic models"
    )


_room: Final[ContextVar[int]] = ContextVar("room", default=MAX_PAYLOAD)


@contextmanager
def roomy(size: int) -> Generator[None]:
    """Values may be so large here: what they go through makes them smaller, and looks again."""
    token = _room.set(size)
    try:
        yield
    finally:
        _room.reset(token)


def room() -> int:
    """How large a value may be here, encoded."""
    return _room.get()


def hand_on_room(context: Context) -> None:
    """Values may be as large in another context as they may be here."""
    if (size := _room.get()) != MAX_PAYLOAD:
        context.run(_room.set, size)


def _check_room(size: int, where: str) -> None:
    limit = _room.get()
    if size > limit:
        raise PayloadTooLarge(
            f"{where} is {size:,} bytes when encoded; the limit is {limit:,}. Put it into a file or an object "
            f"store, and pass its name"
        )


def stored_json(payload: Payload, where: str) -> bytes:
    """The JSON in a payload that the SDK itself has written. Raises CodecError where its codecs are missing."""
    if payload.metadata is not None and ENCODING in payload.metadata:
        raise _unread(payload, where)
    return payload.data


def _unread(payload: Payload, where: str) -> CodecError:
    metadata = payload.metadata or {}
    why = metadata.get(UNREADABLE)
    if why is None:
        why = f"it is encoded as {metadata.get(ENCODING)!r}: give the codecs that it was sent with, as `codecs=[…]`"
    return CodecError(f"{where} can't be decoded: {why}")


def _reason(error: Exception) -> str:
    message = models.joined(str(error).replace(" - at ", " at "))
    return message[:1].lower() + message[1:]


def _shown(hint: object) -> str:
    return f"`{hint.__name__}`" if isinstance(hint, type) and not get_args(hint) else f"`{hint}`"
