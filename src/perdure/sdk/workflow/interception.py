"""Interceptors inside workflows: around the code that runs, and around what it asks for."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

from msgspec.structs import replace

from perdure.model.commands import RequestCancelExternalWorkflow, SignalExternalWorkflow
from perdure.sdk.activity.definition import ActivityDefinition, ActivityOptions
from perdure.sdk.interceptors import Chain, Header, InboundCall, OutboundCall, decode_headers, encode_headers, returned
from perdure.sdk.workflow.children import ChildTerms
from perdure.sdk.workflow.definition import HandlerDefinition, WorkflowDefinition
from perdure.sdk.workflow.endings import continue_with, main_code
from perdure.sdk.workflow.futures import ActivityFuture, AnswerFuture, ChildFuture
from perdure.sdk.workflow.ledger import Ledger
from perdure.sdk.workflow.local import LocalFuture, Locals
from perdure.sdk.workflow.plain import run_plain


def intercepted_main(
    through: Chain,
    definition: WorkflowDefinition,
    target: object,
    args: list[object],
    kwargs: dict[str, object],
    header: Header | None,
) -> Coroutine[Any, Any, object]:
    """What the main task runs, with the interceptors around it."""
    call = InboundCall("run", definition.name, args, kwargs, decode_headers(header))
    return through(call, lambda call: main_code(definition, target, call.args, call.kwargs))


def intercepted_handler(
    through: Chain,
    handler: HandlerDefinition,
    target: object,
    args: list[object],
    kwargs: dict[str, object],
    header: Header | None,
    *,
    blocks: bool,
) -> Coroutine[Any, Any, object]:
    """A signal's or update's handler, with the interceptors around it. blocks: it may wait without `await`."""

    async def run(call: InboundCall) -> object:
        if handler.is_async:
            return await cast("Coroutine[Any, Any, object]", handler.function(target, *call.args, **call.kwargs))
        if blocks:
            return await run_plain(handler.function, target, *call.args, **call.kwargs)
        return handler.function(target, *call.args, **call.kwargs)

    kind = "update" if handler.kind == "update" else "signal"
    return through(InboundCall(kind, handler.name, args, kwargs, decode_headers(header)), run)


def intercepted_query(through: Chain, handler: HandlerDefinition, header: Header | None) -> Callable[..., object]:
    """A query's handler, with the interceptors around it."""

    def ask(target: object, *args: object, **kwargs: object) -> object:
        call = InboundCall("query", handler.name, list(args), kwargs, decode_headers(header))
        return through(call, lambda call: handler.function(target, *call.args, **call.kwargs))

    return ask


class Outbound:
    """What a run asks for, through the interceptors."""

    def __init__(self, through: Chain, ledger: Ledger) -> None:
        self._ledger = ledger
        self._chain = through

    def _through(self, call: OutboundCall, innermost: Callable[[OutboundCall], object]) -> Any:
        return returned(self._chain(call, innermost), "workflow_call", call.name)

    def activity(
        self,
        definition: ActivityDefinition,
        options: ActivityOptions,
        args: Sequence[object],
        kwargs: dict[str, object],
    ) -> ActivityFuture:
        """An activity."""

        def schedule(call: OutboundCall) -> ActivityFuture:
            payloads = definition.signature.encode(call.args, call.kwargs)
            return self._ledger.schedule(definition, options, payloads, encode_headers(call.headers))

        return self._through(OutboundCall("activity", definition.name, "", list(args), kwargs, {}), schedule)

    def local(
        self,
        locals: Locals,
        definition: ActivityDefinition,
        options: ActivityOptions,
        args: Sequence[object],
        kwargs: dict[str, object],
    ) -> LocalFuture:
        """A local activity."""

        def start(call: OutboundCall) -> LocalFuture:
            payloads = definition.signature.encode(call.args, call.kwargs)
            return locals.start(definition, options, payloads, encode_headers(call.headers))

        return self._through(OutboundCall("local_activity", definition.name, "", list(args), kwargs, {}), start)

    def child(
        self, definition: WorkflowDefinition, terms: ChildTerms, args: Sequence[object], kwargs: dict[str, object]
    ) -> ChildFuture:
        """A child workflow."""

        def start(call: OutboundCall) -> ChildFuture:
            payloads = definition.signature.encode(call.args, call.kwargs)
            return self._ledger.start_child(definition, terms, payloads, encode_headers(call.headers))

        return self._through(OutboundCall("child", definition.name, terms.id, list(args), kwargs, {}), start)

    def send(self, command: SignalExternalWorkflow | RequestCancelExternalWorkflow) -> AnswerFuture:
        """A signal to another workflow; a request to stop has no headers."""
        if not isinstance(command, SignalExternalWorkflow):
            return self._ledger.send(command)
        call = OutboundCall("signal", command.signal_name, command.workflow_id, [], {}, {})
        return self._through(
            call, lambda call: self._ledger.send(replace(command, header=encode_headers(call.headers)))
        )

    def continue_as_new(
        self,
        definition: WorkflowDefinition,
        args: Sequence[object],
        kwargs: dict[str, object],
        header: Header | None,
    ) -> None:
        """Another run in the place of this one."""
        call = OutboundCall("continue_as_new", definition.name, "", list(args), kwargs, decode_headers(header))
        self._through(
            call, lambda call: continue_with(definition, call.args, call.kwargs, encode_headers(call.headers))
        )
