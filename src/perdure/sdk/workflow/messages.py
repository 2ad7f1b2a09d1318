"""Signals, updates and queries of one run, and the handlers that take them.

Handlers run beside the workflow's main task: an `async def` as a task of its own, a plain function at once.

::

    signal → its handler, or a mailbox that `workflow.receive` empties
    update → validator (reads only) → rejected | accepted → handler → completed
    query  → handler (reads only) → answer
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from typing import Final, Protocol, cast

from msgspec.structs import replace

from perdure.clock import SECOND
from perdure.errors import DecodeError, NondeterminismError, NotFound, NotTaken
from perdure.model.commands import AcceptUpdate, CarriedSignal, CompleteUpdate, RejectUpdate, ScheduleActivity
from perdure.model.events import WorkflowExecutionSignaled
from perdure.model.payloads import NULL, Payload, Payloads
from perdure.model.tasks import AdmittedUpdate
from perdure.sdk.converter import codec
from perdure.sdk.failures import failure_of
from perdure.sdk.interceptors import WorkflowChains
from perdure.sdk.workflow.definition import HandlerDefinition, HandlerKind, WorkflowDefinition
from perdure.sdk.workflow.endings import ChangedByReader, first_line
from perdure.sdk.workflow.interception import intercepted_handler, intercepted_query
from perdure.sdk.workflow.ledger import Header, Ledger
from perdure.sdk.workflow.logs import WorkflowLogger
from perdure.sdk.workflow.matching import Issued
from perdure.sdk.workflow.plain import run_plain

UNFINISHED: Final = (
    "workflow %r ends while handlers still run: %s; to let them end, it can await "
    "workflow.wait_until(workflow.all_handlers_finished) before it returns"
)
UNAWAITED: Final = (
    "workflow %r ends in the same step in which it calls activities, so they never run: %s; await what is to be done"
)
UNREAD: Final = (
    "workflow %r ends with signals that nobody has read: %s; its code has no handler for them, and has not come to a "
    "workflow.receive of that name"
)


class Ending(Protocol):
    """What the handlers of a run need of it."""

    @property
    def closing(self) -> bool:
        """Whether the run has ended, in this very task."""
        ...

    def end_with(self, error: BaseException) -> None:
        """A handler has raised. Raises the error where it is a bug, else ends the run with it."""
        ...

    def is_failure(self, error: BaseException) -> bool:
        """Whether an exception is an outcome, not a bug."""
        ...


class Messages:
    """What others send to a run.

    Args:
        run: what ends by an exception of a handler.
        definition: the workflow's handlers.
        target: the live object that they are methods of; None for a function, and for a class that has failed to make
            one.
    """

    __slots__ = (
        "_around", "_around_queries", "_context", "_definition", "_ledger", "_left", "_logger", "_mailboxes",
        "_run", "_running", "_target", "handled",
    )  # fmt: skip

    def __init__(
        self,
        run: Ending,
        definition: WorkflowDefinition,
        target: object,
        ledger: Ledger,
        context: Context,
        logger: WorkflowLogger,
        chains: WorkflowChains,
    ) -> None:
        self._run = run
        self._definition = definition
        self._target = target
        self._ledger = ledger
        self._context = context
        self._logger = logger
        self._around, self._around_queries = chains.message, chains.query
        self._mailboxes: defaultdict[str, asyncio.Queue[WorkflowExecutionSignaled]] = defaultdict(asyncio.Queue)
        self._left: list[WorkflowExecutionSignaled] = []  # for the next run
        self._running: dict[asyncio.Task[object], str] = {}
        self.handled = 0
        """How many signals, updates and alarms have been handled to the end."""

    @property
    def unfinished(self) -> list[str]:
        """The handlers that still run."""
        return list(self._running.values())

    # --- Signals ----------------------------------------------------------------------------------------
    def signal(self, event: WorkflowExecutionSignaled) -> None:
        """A signal has arrived. One that nobody can take is logged and dropped: it must not stop the run."""
        handler = self._definition.handlers.get(("signal", event.signal_name))
        if handler is None:
            self._mailboxes[event.signal_name].put_nowait(event)
            return
        try:
            self._require_target()
            args, kwargs = handler.signature.decode(event.input)
        except (NotFound, DecodeError) as error:
            self._dropped(event.signal_name, error)
            return
        self._start(handler, args, kwargs, self._signal_done, None, event.header)

    def leave(self, event: WorkflowExecutionSignaled) -> None:
        """A signal has arrived, but the code goes on as another run, which is to have it."""
        self._left.append(event)

    def take_unused(self) -> tuple[CarriedSignal, ...]:
        """The signals that nobody has used, in the order in which they came. Nobody can use them after this."""
        unused = self._left
        for mailbox in self._mailboxes.values():
            while not mailbox.empty():
                unused.append(mailbox.get_nowait())
        unused.sort(key=lambda event: event.id)
        return tuple([CarriedSignal(event.signal_name, event.input, event.identity, event.header) for event in unused])

    def warn(self, issued: Sequence[Issued], *, going_on: bool) -> None:
        """The run ends: say what ends with it unfinished, and what nobody has looked at.

        issued: what it has asked for in the same workflow task. going_on: the next run has the signals.
        """
        workflow_id = (self._logger.extra or {})["workflow_id"]
        if self._running:
            self._logger.warning(UNFINISHED, workflow_id, ", ".join(self.unfinished))
        calls = [command.activity_type for command, *_ in issued if type(command) is ScheduleActivity]
        if calls:
            self._logger.warning(UNAWAITED, workflow_id, ", ".join(calls))
        unread = [f"{name!r} ({mailbox.qsize()})" for name, mailbox in self._mailboxes.items() if mailbox.qsize()]
        if unread and not going_on:
            self._logger.warning(UNREAD, workflow_id, ", ".join(unread))

    def ring(self, name: str) -> None:
        """An alarm's time has come. Raises NotFound where the class has lost its handler."""
        handler = self._definition.handlers.get(("alarm", name))
        if handler is None:
            raise NotFound(self._unknown("alarm", name))
        self._start(handler, [], {}, self._signal_done, None)

    def _signal_done(self, error: BaseException | None, result: object) -> None:
        if error is not None and not isinstance(error, asyncio.CancelledError):
            self._run.end_with(error)

    def _dropped(self, name: str, error: NotFound | DecodeError) -> None:
        workflow_id = (self._logger.extra or {})["workflow_id"]
        self._logger.warning("signal %r of workflow %r is dropped: %s", name, workflow_id, error)

    async def receive(self, name: str, type: object, timeout: int | None) -> object:
        """The next signal of that name, as a value of that type. Raises DecodeError where it is none, and
        TimeoutError after `timeout` microseconds."""
        mailbox = self._mailboxes[name]
        limit = None if timeout is None else timeout / SECOND
        try:
            async with asyncio.timeout(limit):
                payloads = (await mailbox.get()).input
        except TimeoutError:
            raise TimeoutError(f"receive: no signal {name!r} came within {limit:g} s") from None
        return _value(payloads, type, f"signal {name!r}")

    # --- Updates ----------------------------------------------------------------------------------------
    def admit(self, update: AdmittedUpdate) -> bool:
        """Reject an update, or accept it and start its handler; whether it was accepted."""
        rejection = self._rejection(update)
        if rejection is not None:
            failure = failure_of(rejection)
            if self._run.closing:
                failure = replace(failure, kind="engine")  # none that the workflow's code could have raised
            self._ledger.issue(RejectUpdate(update.update_id, failure))
        else:
            self.accept(update.update_id, update.name, update.input, update.header)
        return rejection is None

    def _rejection(self, update: AdmittedUpdate) -> Exception | None:
        if self._run.closing:
            return NotTaken("the workflow ended before it could take the update")
        handler = self._definition.handlers.get(("update", update.name))
        if handler is None:
            return NotFound(self._unknown("update", update.name))
        try:
            args, kwargs = handler.signature.decode(update.input)
        except DecodeError as error:
            return error
        if handler.validator is not None:
            with _Reading(self._ledger, f"the validator of update {update.name}", handler.validator):
                try:
                    self._context.copy().run(handler.validator, self._target, *args, **kwargs)
                except Exception as error:
                    return error
        return None

    def accept(self, update_id: str, name: str, payloads: Payloads, header: Header = None) -> None:
        """Start the handler of an update that was let through, now or when this was recorded."""
        handler = self._definition.handlers.get(("update", name))
        if handler is None:
            raise NondeterminismError(f"the history has an accepted update, but {self._unknown('update', name)}")
        args, kwargs = handler.signature.decode(payloads)
        self._ledger.issue(AcceptUpdate(update_id))

        def done(error: BaseException | None, result: object) -> None:
            if error is None:
                self._ledger.issue(CompleteUpdate(update_id, handler.signature.encode_result(result)))
            elif isinstance(error, asyncio.CancelledError) or self._run.is_failure(error):
                self._ledger.issue(CompleteUpdate(update_id, None, failure_of(error)))
            else:
                self._run.end_with(error)

        self._start(handler, args, kwargs, done, update_id, header)

    def _start(
        self,
        handler: HandlerDefinition,
        args: list[object],
        kwargs: dict[str, object],
        done: Callable[[BaseException | None, object], None],
        update_id: str | None,
        header: Header = None,
    ) -> None:
        context = self._context.copy()
        around = self._around if handler.kind != "alarm" else None
        if around is None and not handler.is_async and self._definition.is_async:
            try:
                result = context.run(handler.function, self._target, *args, **kwargs)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                done(error, None)
            else:
                done(None, result)
            self.handled += 1
            return
        if around is not None:
            blocks = not self._definition.is_async
            code = intercepted_handler(around, handler, self._target, args, kwargs, header, blocks=blocks)
        elif handler.is_async:
            code = handler.function(self._target, *args, **kwargs)
        else:
            code = run_plain(handler.function, self._target, *args, **kwargs)  # it may wait, as `run` may
        coroutine = cast("Coroutine[object, object, object]", code)
        name = f"{handler.kind} {handler.name}" + (f" ({update_id})" if update_id else "")
        task = self._ledger.loop.create_task(coroutine, name=name, context=context)
        self._running[task] = name

        def finish(task: asyncio.Task[object]) -> None:
            del self._running[task]
            self.handled += 1
            if task.cancelled():
                done(asyncio.CancelledError(f"the handler of {name} was cancelled"), None)
            else:
                error = task.exception()
                done(error, None if error is not None else task.result())

        task.add_done_callback(finish)

    # --- Queries ----------------------------------------------------------------------------------------
    def query(self, name: str, payloads: Payloads, header: Header = None) -> Payload:
        """The answer to a query. Raises NotFound, DecodeError, or what the handler raises."""
        handler = self._definition.handlers.get(("query", name))
        if handler is None:
            raise NotFound(self._unknown("query", name))
        self._require_target()
        args, kwargs = handler.signature.decode(payloads)
        with _Reading(self._ledger, f"query {name}", handler.function):
            ask: Callable[..., object] = handler.function
            if self._around_queries is not None:
                ask = intercepted_query(self._around_queries, handler, header)
            value = self._context.copy().run(ask, self._target, *args, **kwargs)
            return handler.signature.encode_result(value)

    def _require_target(self) -> None:
        if self._target is None and self._definition.is_class:
            raise NotFound(f"workflow {self._definition.name} failed in its __init__, so that there is no object of it")

    def _unknown(self, kind: HandlerKind, name: str) -> str:
        known = sorted(n for k, n in self._definition.handlers if k == kind)
        return f"workflow {self._definition.name} has no {kind} {name!r}; it has {', '.join(known) or 'none'}"


class _Reading:
    """For code that must not change anything: what it asks for is refused, and what it wakes is noticed."""

    def __init__(self, ledger: Ledger, what: str, code: Callable[..., object]) -> None:
        self._ledger, self._what, self._code = ledger, what, code

    def __enter__(self) -> None:
        self._ledger.refusal = self._what

    def __exit__(self, *_: object) -> None:
        self._ledger.refusal = ""
        if not self._ledger.loop.idle:
            text = f"{self._what} woke or started a task of the workflow: it must only read"
            raise ChangedByReader(text, first_line(self._code))


def _value(payloads: Payloads, hint: object, where: str) -> object:
    """A signal's input as one value; None where it has none."""
    if len(payloads) > 1:
        raise DecodeError(f"{where} has {len(payloads)} arguments, but `receive` takes one")
    return codec(hint).decode(payloads[0] if payloads else NULL, where)
