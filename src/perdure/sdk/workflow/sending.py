"""Messages to workflows as their senders write them: a handler of the workflow's class, or a name, with arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from perdure.model.payloads import Payload, Payloads
from perdure.sdk.converter import decode, encode_all
from perdure.sdk.options import text
from perdure.sdk.unknown import unknown_name
from perdure.sdk.workflow.definition import HandlerDefinition, HandlerKind, WorkflowDefinition
from perdure.sdk.workflow.handlers import Handler


def message_of(
    kind: HandlerKind,
    handler: object,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    workflow: WorkflowDefinition | None,
) -> tuple[str, Payloads, HandlerDefinition | None]:
    """A message's name and arguments as they travel, and its handler where that is known.

    Raises:
        TypeError: it is no handler of this kind, or not of this workflow, or doesn't take these arguments.
        EncodeError, PayloadTooLarge: an argument can't be stored.
    """
    if isinstance(handler, str):
        name = text(handler, "name")
        known = None if workflow is None else workflow.handlers.get((kind, name))
        if known is None:
            return name, encode_all(args, f"an argument of {kind} {name!r}"), None
        return name, known.signature.encode(args, kwargs), known
    if not isinstance(handler, Handler):
        raise TypeError(f"{handler!r} is not {_one(kind)}: decorate the method with @workflow.{kind}, or give its name")
    definition = handler.definition
    if definition.kind != kind:
        raise TypeError(f"{definition.name} is {_one(definition.kind)}, not {_one(kind)}")
    if workflow is not None:
        _check_handler(workflow, definition)
    return definition.name, definition.signature.encode(args, kwargs), definition


def _one(kind: str) -> str:
    return f"{'an' if kind[0] in 'au' else 'a'} {kind}"


def decoded(handler: HandlerDefinition | None, result: Payload | None, name: str) -> object:
    """The answer to a message."""
    if result is None:
        return None
    if handler is None:
        return decode(result, object, f"the answer of {name!r}")
    return handler.signature.decode_result(result)


def _check_handler(workflow: WorkflowDefinition, handler: HandlerDefinition) -> None:
    own = workflow.handlers
    if (handler.kind, handler.name) in own and id(handler) in _handler_ids(workflow.target):
        return
    known = [name for kind, name in own if kind == handler.kind]
    where = f"workflow {workflow.name}"
    if handler.name not in known:
        raise TypeError(unknown_name(where, handler.kind, handler.name, known))
    place = handler.function.__qualname__
    raise TypeError(f"{place} is a {handler.kind} of another class; this handle is for {where}")


@lru_cache(maxsize=1024)
def _handler_ids(cls: type[object]) -> frozenset[int]:
    """The definitions of all handlers of a class and its bases, overridden ones included, by identity."""
    found = [value for base in cls.__mro__ for value in vars(base).values() if isinstance(value, Handler)]
    return frozenset([id(handler.definition) for handler in found])
