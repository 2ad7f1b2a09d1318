"""Interceptors: code around what clients ask for, activities do, and workflows run and ask for.

One class has a hook for each place; a subclass overrides those that it needs. Which hooks there are is found out once,
when a client or a worker is made: where nobody overrides a hook, nothing is called.

::

    client.start(…) ─client_call─▶ engine ─execute_workflow─▶ workflow ─workflow_call─▶ engine ─execute_activity─▶
                                          activity ─handle_message, handle_query─▶
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final, Literal, NamedTuple, TypeVar, cast

from msgspec import Struct
from msgspec.structs import replace

from perdure.errors import DecodeError
from perdure.model.payloads import Payload
from perdure.model.requests import Reply, Request, StartWorkflow
from perdure.model.schedules import CreateSchedule, UpdateSchedule
from perdure.sdk.converter import decode, encode
from perdure.sdk.options import several, text

RESERVED: Final = "perdure."
"""Names in a header that begin like this are Perdure's own."""

Call = TypeVar("Call")
Header = dict[str, Payload]
Chain = Callable[[Any, Callable[[Any], Any]], Any]
"""All hooks of one place: called with a call, and with what they are around."""


@dataclass(slots=True)
class ClientCall:
    """What a client asks for.

    operation: "start", "signal", "query", "update", "cancel", "terminate", "result", "describe", … name: of the
    workflow's type where it is started, or of the signal, query or update. headers: go with starts (those of a schedule
    with each workflow that it starts), signals, queries and updates. What is asked about a schedule has its id as
    workflow_id.
    """

    operation: str
    workflow_id: str
    name: str = ""
    headers: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(slots=True)
class ActivityCall:
    """An attempt of an activity that is to run; `activity.info()` tells more. headers: those of the call that asked for
    it."""

    activity_type: str
    args: list[object]
    kwargs: dict[str, object]
    headers: dict[str, str]


@dataclass(slots=True)
class InboundCall:
    """Code of a workflow that is to run: its `run` (or function), or a handler of the name.

    args, kwargs: what it takes; those of a class's `run` went to its `__init__` before. headers: those of the start, or
    of the message.
    """

    kind: Literal["run", "signal", "update", "query"]
    name: str
    args: list[object]
    kwargs: dict[str, object]
    headers: dict[str, str]


@dataclass(slots=True)
class OutboundCall:
    """What a workflow's code asks for.

    name: of the activity, the workflow's type, or the signal. workflow_id: whom a signal is for. args, kwargs: of an
    activity or a workflow. headers: go to the other side; a continue-as-new begins with those of the run.
    """

    kind: Literal["activity", "local_activity", "child", "signal", "continue_as_new"]
    name: str
    workflow_id: str
    args: list[object]
    kwargs: dict[str, object]
    headers: dict[str, str]


class Interceptor:
    """Base of all interceptors: override what you need. Each hook is given a call and `next`, the next interceptor or
    the thing itself; it may change the call, and look at (or change) what comes back, or is raised.

    Given to `embedded(interceptors=[…])`, `Client` or `Worker`; the first in the list is the outermost. Hooks of
    workflows run inside them, when they are replayed, too: `workflow.info().is_replaying` tells. They must be as
    deterministic as the workflow's own code, and are refused what that is refused.
    """

    async def client_call(self, call: ClientCall, next: Callable[[ClientCall], Awaitable[object]]) -> object:
        """Around a request of a client. Return what `next` returns."""
        return await next(call)

    async def execute_activity(self, call: ActivityCall, next: Callable[[ActivityCall], Awaitable[object]]) -> object:
        """Around an attempt of an activity, on the worker's loop; its result, which may be another one."""
        return await next(call)

    async def execute_workflow(self, call: InboundCall, next: Callable[[InboundCall], Awaitable[object]]) -> object:
        """Around a workflow's main code; its result."""
        return await next(call)

    async def handle_message(self, call: InboundCall, next: Callable[[InboundCall], Awaitable[object]]) -> object:
        """Around a handler of a signal or an update; its result."""
        return await next(call)

    def handle_query(self, call: InboundCall, next: Callable[[InboundCall], object]) -> object:
        """Around a handler of a query, which only reads; its result."""
        return next(call)

    def workflow_call(self, call: OutboundCall, next: Callable[[OutboundCall], object]) -> object:
        """Around what a workflow's code asks for, when it does. Return what `next` returns: a handle, mostly."""
        return next(call)


HOOKS: Final = tuple(name for name in vars(Interceptor) if not name.startswith("_"))
"""The names of all hooks."""

_SYNCHRONOUS: Final = ("handle_query", "workflow_call")
"""Hooks whose calls are not awaited."""

_OF_WORKFLOWS: Final = ("execute_workflow", "handle_message", "handle_query", "workflow_call")
"""Hooks that run inside workflows."""

_MEANT: Final = {
    "handle_signal": "handle_message",
    "handle_update": "handle_message",
    "start_workflow": "client_call",
    "start_activity": "workflow_call",
    "start_child_workflow": "workflow_call",
    "intercept_client": "client_call",
    "intercept_activity": "execute_activity",
    "intercept_workflow": "execute_workflow",
}
"""What people write for a hook, as other systems call theirs."""


class WorkflowChains(NamedTuple):
    """The hooks of workflows; None where there are none."""

    execute: Chain | None = None
    message: Chain | None = None
    query: Chain | None = None
    outbound: Chain | None = None


NO_CHAINS: Final = WorkflowChains()


def checked(interceptors: Sequence[Interceptor] | None) -> tuple[Interceptor, ...]:
    """A list of interceptors. Raises TypeError where something else is in it, a hook is `async` that must not be, or a
    method is meant to be a hook, and is none."""
    found = tuple(several(() if interceptors is None else interceptors, "interceptors"))
    for each in cast("tuple[object, ...]", found):
        if not isinstance(each, Interceptor):
            made = f"{each.__name__}: make one of it, {each.__name__}()" if isinstance(each, type) else repr(each)
            raise TypeError(f"interceptors must be objects of perdure.Interceptor, not {made}")
        _check_names(type(each))
        for hook in _SYNCHRONOUS:
            if inspect.iscoroutinefunction(getattr(type(each), hook)):
                raise TypeError(f"{type(each).__name__}.{hook} must be a plain `def`: nobody awaits what it returns")
    return found


def _check_names(cls: type[Interceptor]) -> None:
    """Raises TypeError where a method has the name of a hook, nearly; or takes `next` as they do, and is none."""
    for name in dir(cls):
        method: object = getattr(cls, name)
        if name.startswith("_") or name in HOOKS or not inspect.isfunction(method):
            continue
        meant = _MEANT.get(name) or next(iter(get_close_matches(name, HOOKS, 1, 0.8)), "")
        if meant or "next" in inspect.signature(method).parameters:
            hint = f"did you mean {meant}? " if meant else ""
            raise TypeError(
                f"{cls.__name__}.{name} is no hook, so nothing would call it: {hint}The hooks are {', '.join(HOOKS)} "
                f"(a method of your own that nobody else calls begins with an underscore)"
            )


def chain(interceptors: Sequence[Interceptor], hook: str) -> Chain | None:
    """Those of the interceptors that have a hook, as one function; None where none has."""
    hooks = [getattr(each, hook) for each in interceptors if _overrides(type(each), hook)]
    if not hooks:
        return None
    hooks.reverse()

    def through(call: Any, innermost: Callable[[Any], Any]) -> Any:
        next = innermost
        for hook in hooks:
            next = _around(hook, next)
        return next(call)

    return through


def _overrides(cls: type[Interceptor], hook: str) -> bool:
    return getattr(cls, hook) is not getattr(Interceptor, hook)


def _around(hook: Callable[..., Any], next: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda call: hook(call, next)


def returned(value: object, hook: str, what: str) -> object:
    """What a hook has returned. Raises TypeError where that is nothing, though it must be what `next` returned."""
    if value is None:
        raise TypeError(f"an interceptor's {hook} returned None for {what!r}: it must return what `next` returns")
    return value


def workflow_chains(interceptors: Sequence[Interceptor]) -> WorkflowChains:
    """What interceptors have for workflows."""
    return WorkflowChains(*[chain(interceptors, hook) for hook in _OF_WORKFLOWS])


def workflow_hooks(cls: type[Interceptor]) -> list[object]:
    """What a class has of its own for workflows."""
    return [getattr(cls, hook) for hook in _OF_WORKFLOWS if _overrides(cls, hook)]


# --- Headers --------------------------------------------------------------------------------------------
def encode_headers(headers: Mapping[str, str]) -> Header | None:
    """Headers as they travel. Raises TypeError where they are no texts, ValueError for a name of Perdure's own."""
    encoded: Header = {}
    for name, value in headers.items():
        if text(name, "the name of a header").startswith(RESERVED):
            raise ValueError(f"header {name!r}: names that begin with {RESERVED!r} are Perdure's own")
        encoded[name] = encode(text(value, f"header {name!r}"), f"header {name!r}")
    return encoded or None


def decode_headers(header: Header | None) -> dict[str, str]:
    """The headers that are texts, which all are that interceptors have set."""
    found: dict[str, str] = {}
    for name, payload in (header or {}).items():
        if not name.startswith(RESERVED):
            try:
                found[name] = cast(str, decode(payload, str, f"header {name!r}"))
            except DecodeError:
                continue  # somebody else's, from another kind of client
    return found


def own_headers(header: Header | None) -> Header | None:
    """Those of a header that are not Perdure's own."""
    own = {name: payload for name, payload in (header or {}).items() if not name.startswith(RESERVED)}
    return own or None


# --- Clients --------------------------------------------------------------------------------------------
async def client_call(
    through: Chain, request: Request[Reply], send: Callable[[Request[Reply]], Awaitable[Reply]]
) -> Reply:
    """Send a request through the interceptors of a client."""
    asked: Request[object] = request
    tag = cast(str, type(asked).__struct_config__.tag)
    starts = asked.schedule.start if isinstance(asked, CreateSchedule | UpdateSchedule) else asked
    name = starts.workflow_type if isinstance(starts, StartWorkflow) else getattr(asked, "name", "")
    call = ClientCall(tag, asked.workflow_id, name)
    reply = await through(call, lambda call: send(_with_headers(request, encode_headers(call.headers))))
    return cast(Reply, returned(reply, "client_call", tag))


def _with_headers(request: Request[Reply], header: Header | None) -> Request[Reply]:
    asked: Request[object] = request
    if header is not None and isinstance(asked, CreateSchedule | UpdateSchedule):
        start = _replaced(asked.schedule.start, header=header)
        return _replaced(request, schedule=_replaced(asked.schedule, start=start))
    if header is None or "header" not in type(asked).__struct_fields__:
        return request
    if isinstance(asked, StartWorkflow) and asked.message is not None:
        return _replaced(request, header=header, message=_replaced(asked.message, header=header))
    return _replaced(request, header=header)


S = TypeVar("S", bound=Struct)


def _replaced(struct: S, **changes: object) -> S:
    return replace(struct, **changes)
