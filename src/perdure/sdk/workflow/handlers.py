"""Signals, queries and updates: methods of a workflow class that take messages.

`Onboarding.approve` names a handler, for `handle.signal(Onboarding.approve, "bob")`; on an object it is the method.
The kinds are types, so that a query can't be sent as a signal; plain and `async` handlers differ in what calling
the method gives.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import MethodType
from typing import ClassVar, Concatenate, Generic, Self, TypeVar, overload

from typing_extensions import ParamSpec

from perdure.sdk.coroutines import Coro
from perdure.sdk.options import optional_name
from perdure.sdk.signatures import Signature
from perdure.sdk.workflow.definition import HandlerDefinition, HandlerKind

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")


class Handler(Generic[P]):
    """A handler, before it is bound to an object. `definition` says all of it."""

    kind: ClassVar[HandlerKind]

    def __init__(self, function: Callable[..., object], name: str | None) -> None:
        name = optional_name(name, "name") or function.__name__
        self.definition = HandlerDefinition(
            kind=self.kind,
            name=name,
            function=function,
            is_async=inspect.iscoroutinefunction(function),
            signature=Signature(function, f"{self.kind} {name}", skip_first=True),
        )
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        self._owner: type[object] | None = None

    @property
    def name(self) -> str:
        """The name on the wire."""
        return self.definition.name

    def __set_name__(self, owner: type[object], name: str) -> None:
        self._owner = owner

    def _bound(self, instance: object) -> object:
        return self if instance is None else MethodType(self.definition.function, instance)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}>"


class Signal(Handler[P]):
    """A message without an answer."""

    kind = "signal"


class Query(Handler[P], Generic[P, R_co]):
    """A question that changes nothing."""

    kind = "query"

    def __init__(self, function: Callable[..., object], name: str | None) -> None:
        super().__init__(function, name)
        if self.definition.is_async:
            raise TypeError(
                f"query {self.name}: a query can't be an `async def`, since it answers at once, from what the workflow "
                f"knows. For one that waits or changes something, use @workflow.update"
            )


class Update(Handler[P], Generic[P, R_co]):
    """A message that changes something and has an answer."""

    kind = "update"

    def validator(self, function: Callable[Concatenate[S, P], None], /) -> Callable[Concatenate[S, P], None]:
        """Decorate a method that raises if the update is to be refused. It must not change anything.

        It belongs to this very update: a subclass that overrides the update gives its own a validator, or has none.

        Raises:
            TypeError: for an update of a base class, whose other subclasses it would change too.
        """
        if self._owner is not None:
            place = f"{self._owner.__qualname__}.{self.name}"
            raise TypeError(f"{place} is a base's update: override it, and give the override a validator")
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"update {self.name}: its validator must be a plain function, since it answers at once")
        if not self.definition.signature.fits(function):
            raise TypeError(f"update {self.name}: its validator must take the same parameters as the update")
        self.definition.validator = function
        return function


class Alarm(Handler[[]]):
    """What an entity does when an alarm rings."""

    kind = "alarm"

    def __init__(self, function: Callable[..., object], name: str | None) -> None:
        super().__init__(function, name)
        if len(inspect.signature(function).parameters) != 1:
            raise TypeError(f"alarm {self.name}: its method takes nothing but self")


class PlainAlarm(Alarm):
    """An alarm handled by a plain method."""

    @overload
    def __get__(self, instance: None, owner: type[object], /) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[object], /) -> Callable[[], None]: ...
    def __get__(self, instance: object, owner: type[object], /) -> object:
        return self._bound(instance)


class AsyncAlarm(Alarm):
    """An alarm handled by an `async` method."""

    @overload
    def __get__(self, instance: None, owner: type[object], /) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[object], /) -> Callable[[], Coro[None]]: ...
    def __get__(self, instance: object, owner: type[object], /) -> object:
        return self._bound(instance)


class PlainSignal(Signal[P]):
    """A signal handled by a plain method."""

    @overload
    def __get__(self, instance: None, owner: type[object], /) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[object], /) -> Callable[P, None]: ...
    def __get__(self, instance: object, owner: type[object], /) -> object:
        return self._bound(instance)


class AsyncSignal(Signal[P]):
    """A signal handled by an `async` method."""

    @overload
    def __get__(self, instance: None, owner: type[object], /) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[object], /) -> Callable[P, Coro[None]]: ...
    def __get__(self, instance: object, owner: type[object], /) -> object:
        return self._bound(instance)


class PlainQuery(Query[P, R_co]):
    """A query, which is always a plain method."""

    @overload
    def __get__(self, instance: None, owner: type[object], /) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[object], /) -> Callable[P, R_co]: ...
    def __get__(self, instance: object, owner: type[object], /) -> object:
        return self._bound(instance)


class PlainUpdate(Update[P, R_co]):
    """An update handled by a plain method."""

    @overload
    def __get__(self, instance: None, owner: type[object], /) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[object], /) -> Callable[P, R_co]: ...
    def __get__(self, instance: object, owner: type[object], /) -> object:
        return self._bound(instance)


class AsyncUpdate(Update[P, R_co]):
    """An update handled by an `async` method."""

    @overload
    def __get__(self, instance: None, owner: type[object], /) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[object], /) -> Callable[P, Coro[R_co]]: ...
    def __get__(self, instance: object, owner: type[object], /) -> object:
        return self._bound(instance)


def handlers_of(cls: type[object]) -> dict[tuple[HandlerKind, str], HandlerDefinition]:
    """The handlers of a class, those of its bases included, by kind and name.

    Raises:
        TypeError: two handlers share a name, or a handler is overridden by something that is none of its kind.
    """
    found: dict[tuple[HandlerKind, str], HandlerDefinition] = {}
    attributes: dict[tuple[HandlerKind, str], str] = {}
    for attribute, handler in _effective(cls).items():
        definition = handler.definition
        key = definition.kind, definition.name
        if key in attributes:
            raise TypeError(
                f"{cls.__name__}: both {attributes[key]} and {attribute} are the {definition.kind} {definition.name!r}"
            )
        attributes[key] = attribute
        found[key] = definition
    return found


def _effective(cls: type[object]) -> dict[str, Handler[...]]:
    """The handlers by attribute, as attribute access finds them."""
    found: dict[str, Handler[...]] = {}
    for base in reversed(cls.__mro__):
        for attribute, value in vars(base).items():
            before = found.get(attribute)
            if isinstance(value, Handler):
                found[attribute] = value
            if before is not None and (not isinstance(value, Handler) or value.kind != before.kind):
                decorator = "on_alarm(…)" if before.kind == "alarm" else before.kind
                raise TypeError(
                    f"{base.__name__}.{attribute} overrides a {before.kind}: decorate it with @workflow.{decorator}"
                )
    return found
