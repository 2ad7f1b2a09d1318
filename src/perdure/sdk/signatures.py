"""How the arguments of a user's function become payloads, and back.

Positional arguments become payloads in order; keyword-only ones follow, with their name in the metadata.
Types are read from the annotations once, when they are first needed (a definition may refer to names that
come later in its module).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any, NamedTuple, get_type_hints

from perdure.errors import DecodeError
from perdure.model.payloads import KEYWORD, Payload, Payloads
from perdure.sdk.converter import Codec, codec

_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


class _Slot(NamedTuple):
    """One place for a value."""

    codec: Codec
    hint: object
    where: str


class _Types(NamedTuple):
    """What the annotations say, once they have been read."""

    positional: tuple[_Slot, ...]
    named: dict[str, _Slot]
    more_positional: _Slot | None
    more_named: _Slot | None
    result: _Slot


class Signature:
    """The parameters and the result of one user function, as payloads.

    Args:
        function: the function whose annotations are read.
        name: how messages call it, for example "activity create_vpc".
        skip_first: the first parameter is `self`.
        result_of: the function whose result it is, where that is another one (a class workflow's `run`).
    """

    def __init__(
        self,
        function: Callable[..., object],
        name: str,
        *,
        skip_first: bool = False,
        result_of: Callable[..., object] | None = None,
    ) -> None:
        self.name = name
        self._function = function
        self._result_of = result_of or function
        parameters = list(inspect.signature(function).parameters.values())[1 if skip_first else 0 :]
        self._parameters = parameters
        self._shape = inspect.Signature(parameters)
        positional = [p for p in parameters if p.kind in _BY_POSITION]
        self._required = sum(p.default is Parameter.empty for p in positional)
        # Calls that pass only positional arguments, between these two counts of them, need no binding.
        needs_names = any(p.kind is Parameter.KEYWORD_ONLY and p.default is Parameter.empty for p in parameters)
        self._most = -1 if needs_names else len(positional)
        self._types: _Types | None = None

    @property
    def result_type(self) -> object:
        """The annotation of the result; `Any` where there is none."""
        return (self._types or self._read_types()).result.hint

    def fits(self, method: Callable[..., object]) -> bool:
        """Whether a method takes, after `self`, what this function takes: the fewest arguments, and the most."""
        single = [p for p in self._parameters if p.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)]
        for passed in (single, [p for p in single if p.default is Parameter.empty]):
            args = [p for p in passed if p.kind in _BY_POSITION]
            kwargs = {p.name: p for p in passed if p.kind is Parameter.KEYWORD_ONLY}
            try:
                inspect.signature(method).bind(self, *args, **kwargs)
            except TypeError:
                return False
        return True

    def encode(self, args: Sequence[object], kwargs: Mapping[str, object]) -> Payloads:
        """Arguments as payloads. Raises TypeError where they don't fit the parameters, EncodeError and
        PayloadTooLarge naming the parameter."""
        types = self._types or self._read_types()
        if kwargs or not self._required <= len(args) <= self._most:
            return self._encode_bound(types, args, kwargs)
        if len(args) == 1:  # the commonest, without a loop
            slot = types.positional[0]
            return (slot.codec.encode(args[0], slot.where),)
        return tuple(
            [slot.encode(value, where) for (slot, _, where), value in zip(types.positional, args, strict=False)]
        )

    def decode(self, payloads: Payloads) -> tuple[list[object], dict[str, object]]:
        """Payloads as (args, kwargs), of the hinted types. Raises DecodeError naming parameter and field."""
        types = self._types or self._read_types()
        if len(payloads) == 1 and payloads[0].metadata is None and self._required <= 1 <= self._most:
            slot = types.positional[0]  # the commonest, without a loop
            return [slot.codec.decode(payloads[0], slot.where)], {}
        args: list[object] = []
        kwargs: dict[str, object] = {}
        for payload in payloads:
            name = payload.metadata.get(KEYWORD) if payload.metadata is not None else None
            if name is None:
                fixed = len(args) < len(types.positional)
                slot = types.positional[len(args)] if fixed else types.more_positional
            else:
                slot = types.named.get(name, types.more_named)
            if slot is None:
                raise DecodeError(self._surplus(types, payloads, name))
            value = slot.codec.decode(payload, slot.where)
            if name is None:
                args.append(value)
            else:
                kwargs[name] = value
        if kwargs or not self._required <= len(args) <= self._most:
            self._check_shape(args, kwargs)
        return args, kwargs

    def encode_result(self, value: object) -> Payload:
        """A result as a payload. Raises EncodeError or PayloadTooLarge."""
        slot = (self._types or self._read_types()).result
        return slot.codec.encode(value, slot.where)

    def decode_result(self, payload: Payload) -> object:
        """A payload as the hinted result. Raises DecodeError."""
        slot = (self._types or self._read_types()).result
        return slot.codec.decode(payload, slot.where)

    def _encode_bound(self, types: _Types, args: Sequence[object], kwargs: Mapping[str, object]) -> Payloads:
        """The same for calls with keywords; a keyword that could be positional becomes it, so that two ways
        of writing one call give the same payloads."""
        try:
            bound = self._shape.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}: {error}") from None
        payloads: list[Payload] = []
        for index, value in enumerate(bound.args):
            slot = types.positional[index] if index < len(types.positional) else types.more_positional
            assert slot is not None  # or it would not have been bound
            payloads.append(slot.codec.encode(value, slot.where))
        for name, value in bound.kwargs.items():
            slot = types.named.get(name, types.more_named)
            assert slot is not None
            payload = slot.codec.encode(value, slot.where)
            payloads.append(Payload(payload.data, {**(payload.metadata or {}), KEYWORD: name}))
        return tuple(payloads)

    def _check_shape(self, args: list[object], kwargs: dict[str, object]) -> None:
        try:
            self._shape.bind(*args, **kwargs)
        except TypeError as error:
            raise DecodeError(
                f"{self.name}: {error}. Was a parameter added since the call was made? Then give it a default"
            ) from None

    def _surplus(self, types: _Types, payloads: Payloads, name: str | None) -> str:
        """Arguments were sent that no parameter takes."""
        if name is not None:
            return f"{self.name} has no parameter {name!r}, but was sent one: did its parameters change?"
        sent = sum(payload.metadata is None or KEYWORD not in payload.metadata for payload in payloads)
        takes = f"{len(types.positional)} positional argument{'' if len(types.positional) == 1 else 's'}"
        return f"{self.name} takes {takes}, but was sent {sent}: did its parameters change?"

    def _read_types(self) -> _Types:
        hints = self._hints(self._function)
        slots = {p.name: self._slot(hints.get(p.name, Any), f"argument {p.name!r}") for p in self._parameters}
        by_kind = {p.kind: slots[p.name] for p in self._parameters}
        returned = hints if self._result_of is self._function else self._hints(self._result_of)
        self._types = _Types(
            positional=tuple(slots[p.name] for p in self._parameters if p.kind in _BY_POSITION),
            named={p.name: slots[p.name] for p in self._parameters if p.kind in _BY_NAME},
            more_positional=by_kind.get(Parameter.VAR_POSITIONAL),
            more_named=by_kind.get(Parameter.VAR_KEYWORD),
            result=self._slot(returned.get("return", Any), "the result"),
        )
        return self._types

    def _slot(self, hint: object, what: str) -> _Slot:
        where = f"{what} of {self.name}"
        try:
            return _Slot(codec(hint), hint, where)
        except TypeError as error:
            raise TypeError(f"{where}: {error}") from None

    def _hints(self, function: Callable[..., object]) -> dict[str, object]:
        try:
            return get_type_hints(function, include_extras=True)
        except Exception as error:
            raise TypeError(
                f"{self.name}: the annotations can't be read: {error}. They are needed at run time: define or "
                f"import the types in the module itself, not in a function or under TYPE_CHECKING"
            ) from error
