"""The `workflow` namespace: the decorators, and what workflow code may ask for."""

from __future__ import annotations

import inspect
import logging
import random
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Concatenate, Final, Literal, NoReturn, TypeVar, cast, overload

from typing_extensions import ParamSpec, Unpack, deprecated

from perdure.clock import from_datetime, to_datetime
from perdure.durations import Duration, optional_microseconds
from perdure.sdk.converter import decode
from perdure.sdk.coroutines import Coro, close
from perdure.sdk.names import named
from perdure.sdk.options import exception_classes, optional_name
from perdure.sdk.options import name as checked_name
from perdure.sdk.registry import REGISTRY
from perdure.sdk.signatures import Signature
from perdure.sdk.workflow.calls import (
    WorkflowCall,
    WorkflowFunction,
    definition_of,
    next_run_of,
    start_child,
    warn_unused,
)
from perdure.sdk.workflow.children import ChildOptions
from perdure.sdk.workflow.classes import define_class
from perdure.sdk.workflow.context import WorkflowInfo, current, require
from perdure.sdk.workflow.decorators import (
    AlarmDecorator,
    Class,
    ClassWorkflow,
    Decorator,
    EntityDecorator,
    NotAWorkflow,
    PlainClassWorkflow,
    QueryDecorator,
    SignalDecorator,
    UpdateDecorator,
)
from perdure.sdk.workflow.definition import WorkflowDefinition
from perdure.sdk.workflow.external import ExternalHandle
from perdure.sdk.workflow.futures import ChildHandle
from perdure.sdk.workflow.handlers import (
    AsyncAlarm,
    AsyncSignal,
    AsyncUpdate,
    PlainAlarm,
    PlainQuery,
    PlainSignal,
    PlainUpdate,
)
from perdure.sdk.workflow.plain import block
from perdure.sdk.workflow.saga import Saga
from perdure.sdk.workflow.shielding import shielded

if TYPE_CHECKING:
    from typing_extensions import TypeForm

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
T = TypeVar("T")

__all__ = [
    "ChildHandle",
    "ClassWorkflow",
    "NotAWorkflow",
    "PlainClassWorkflow",
    "WorkflowCall",
    "WorkflowFunction",
    "WorkflowNamespace",
    "workflow",
]


_OUTSIDE: Final = logging.LoggerAdapter(logging.getLogger("perdure.workflow"), {})


class WorkflowNamespace:
    """`perdure.workflow`: the decorator `@workflow`, those of messages, and functions for use inside workflows.

    The functions raise RuntimeError outside a workflow.
    """

    @overload
    def __call__(self, target: Class, /) -> Class: ...  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
    @overload
    def __call__(self, target: Callable[P, Coro[R]], /) -> WorkflowFunction[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    @deprecated("a workflow class needs `async def run(self)`, without parameters")
    def __call__(self, target: type[object], /) -> NotAWorkflow: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, target: Callable[P, R], /) -> WorkflowFunction[P, R]: ...
    @overload
    def __call__(
        self,
        *,
        name: str | None = None,
        task_queue: str | None = None,
        failure_exceptions: Sequence[type[BaseException]] = (),
        entity: Literal[False] = False,
    ) -> Decorator: ...
    @overload
    def __call__(
        self,
        *,
        name: str | None = None,
        task_queue: str | None = None,
        failure_exceptions: Sequence[type[BaseException]] = (),
        entity: Literal[True],
    ) -> EntityDecorator: ...
    def __call__(
        self,
        target: object = None,
        *,
        name: str | None = None,
        task_queue: str | None = None,
        failure_exceptions: Sequence[type[BaseException]] = (),
        entity: bool = False,
    ) -> object:
        """Make a function, or a class with a method `run`, a workflow.

        Args:
            target: an `async def`; or a plain `def`, which waits without `await` (`time.sleep`, `….start(…).result()`);
                or a class, whose `__init__` takes the input, with either as `run`.
            name: its name on the wire; by default the function's or class's.
            task_queue: whose workers run it; by default the client's, or the parent's.
            failure_exceptions: exceptions that fail the workflow, beside ApplicationError. Any other is a bug: the
                workflow waits for a version that doesn't raise it.
            entity: the class lives as long as what it mirrors. Its history is begun anew now and then, while `run`
                waits in `workflow.idle()` and no handler runs: then `run` is called from its top. What survives are the
                attributes that the class annotates, alarms, and all that others see; locals and tasks don't.

        Raises:
            TypeError, ValueError: it can't be a workflow, an option is not what it should be, or the name is taken.
        """
        failures = exception_classes(failure_exceptions, "failure_exceptions")
        if not isinstance(cast(object, entity), bool):
            raise TypeError(f"entity must be True or False, not {entity!r}")
        name, queue = optional_name(name, "name"), optional_name(task_queue, "task_queue") or ""

        def decorate(target: object) -> object:
            if isinstance(target, type):
                definition = define_class(target, name or target.__name__, queue, failures, warn_unused, entity=entity)
                REGISTRY.add_workflow(definition)
                return target
            if entity:
                raise TypeError(f"{target!r} can't be an entity: only a class has attributes that survive")
            definition = _define_function(target, name, queue, failures)
            REGISTRY.add_workflow(definition)
            return WorkflowFunction[..., object](definition)

        return decorate if target is None else decorate(target)

    # --- Messages ---------------------------------------------------------------------------------------
    @overload
    def signal(self, function: Callable[Concatenate[S, P], Coro[None]], /) -> AsyncSignal[P]: ...
    @overload
    def signal(self, function: Callable[Concatenate[S, P], None], /) -> PlainSignal[P]: ...
    @overload
    def signal(self, *, name: str | None = None) -> SignalDecorator: ...
    def signal(self, function: object = None, *, name: str | None = None) -> object:
        """Make a method take a signal: a message that has no answer.

        Args:
            function: the method, plain or `async`; it runs beside `run`.
            name: the signal's name on the wire; by default the method's.
        """

        def decorate(function: object) -> object:
            method = _method(function, "signal")
            kind = AsyncSignal[...] if inspect.iscoroutinefunction(method) else PlainSignal[...]
            return kind(method, name)

        return decorate if function is None else decorate(function)

    @overload
    def query(self, function: Callable[Concatenate[S, P], R], /) -> PlainQuery[P, R]: ...
    @overload
    def query(self, *, name: str | None = None) -> QueryDecorator: ...
    def query(self, function: object = None, *, name: str | None = None) -> object:
        """Make a method answer a query: a question, which must not change anything.

        Args:
            function: the method, not `async`.
            name: the query's name on the wire; by default the method's.

        Raises:
            TypeError: the method is `async`.
        """

        def decorate(function: object) -> object:
            return PlainQuery[..., object](_method(function, "query"), name)

        return decorate if function is None else decorate(function)

    @overload
    def update(self, function: Callable[Concatenate[S, P], Coro[R]], /) -> AsyncUpdate[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def update(self, function: Callable[Concatenate[S, P], R], /) -> PlainUpdate[P, R]: ...
    @overload
    def update(self, *, name: str | None = None) -> UpdateDecorator: ...
    def update(self, function: object = None, *, name: str | None = None) -> object:
        """Make a method take an update: a message that changes something and has an answer.

        What it makes has a decorator `validator`, for a method that may refuse the update, by any exception. The caller
        gets what is an outcome (`ApplicationError`, `failure_exceptions`, how an activity or a child has ended); any
        other exception of the handler is a bug, and the workflow waits for a version that doesn't raise it.

        Args:
            function: the method, plain or `async`; it runs beside `run`.
            name: the update's name on the wire; by default the method's.
        """

        def decorate(function: object) -> object:
            method = _method(function, "update")
            kind = AsyncUpdate[..., object] if inspect.iscoroutinefunction(method) else PlainUpdate[..., object]
            return kind(method, name)

        return decorate if function is None else decorate(function)

    # --- Entities ---------------------------------------------------------------------------------------
    async def idle(self, predicate: Callable[[], bool] | None = None) -> None:
        """Wait in an entity's `run` for what comes: the place where its history may be begun anew. Then this call never
        returns, and `run` is called from its top::

            async def run(self) -> None:
                while not self.deleted:
                    await workflow.idle()

        Args:
            predicate: what to wait for; by default, until a signal, an update or an alarm was handled. Must not change
                anything.

        Raises:
            RuntimeError: outside an entity, or elsewhere than in its `run`.
        """
        await require("workflow.idle()").entity.idle(predicate)

    def on_alarm(self, name: str) -> AlarmDecorator:
        """Make a method of an entity handle an alarm.

        Args:
            name: the alarm's, as it is given to `workflow.alarm`.
        """
        name = checked_name(name, "an alarm's name")

        def decorate(function: object) -> object:
            method = _method(function, "on_alarm")
            return (AsyncAlarm if inspect.iscoroutinefunction(method) else PlainAlarm)(method, name)

        return cast("AlarmDecorator", decorate)

    def alarm(self, name: str, *, at: datetime | None = None, after: Duration | None = None) -> None:
        """Have the method called that handles an alarm, once, at a time or after a while::

            workflow.alarm("renew", after="60d")

        It waits through restarts and through the entity's runs. An alarm of the same name that is set is replaced.

        Args:
            name: that of a method decorated with `@workflow.on_alarm(name)`.
            at: when, with a time zone; at once, if that is over.
            after: after how long.

        Raises:
            RuntimeError: outside an entity.
            TypeError, ValueError: not exactly one of `at` and `after`, one that is no time, or an unknown name.
        """
        entity = require("workflow.alarm()").entity
        if (at is None) == (after is None):
            raise TypeError(f"alarm {name!r}: give either at= or after=")
        due = _moment(at) if at is not None else entity.after(optional_microseconds(after, "after") or 0)
        entity.set_alarm(name, due)

    def cancel_alarm(self, name: str) -> bool:
        """Take an alarm back; whether it was set.

        Raises:
            RuntimeError: outside an entity.
        """
        return require("workflow.cancel_alarm()").entity.cancel_alarm(name)

    def alarms(self) -> dict[str, datetime]:
        """When each alarm rings that is set, in UTC.

        Raises:
            RuntimeError: outside an entity.
        """
        alarms = require("workflow.alarms()").entity.alarms()
        return {name: to_datetime(due) for name, due in alarms.items()}

    # --- Children ---------------------------------------------------------------------------------------
    @overload
    def start(self, call: WorkflowCall[R] | ClassWorkflow[R], /, **options: Unpack[ChildOptions]) -> ChildHandle[R]: ...
    @overload
    def start(self, call: PlainClassWorkflow[R], /, **options: Unpack[ChildOptions]) -> ChildHandle[R]: ...
    def start(self, call: object, /, **options: Unpack[ChildOptions]) -> object:
        """Start a child workflow.

        Args:
            call: what to run, such as `Onboarding(request)`.
            options: `perdure.ChildOptions` tells what each means; they come over those that the call has.

        Returns:
            A handle to await or cancel.

        Raises:
            TypeError, EncodeError, PayloadTooLarge: it is no call, or its arguments are not what the workflow takes.
            TypeError, ValueError: an option is not what it should be.
        """
        return start_child(call, options)

    @overload
    async def run(self, call: WorkflowCall[R] | ClassWorkflow[R], /, **options: Unpack[ChildOptions]) -> R: ...
    @overload
    async def run(self, call: PlainClassWorkflow[R], /, **options: Unpack[ChildOptions]) -> R: ...
    async def run(self, call: object, /, **options: Unpack[ChildOptions]) -> object:
        """Run a child workflow, and wait for its result. See `start`."""
        return await start_child(call, options)

    def external(
        self,
        id: str,
        workflow: WorkflowFunction[..., object] | type[PlainClassWorkflow[object]] | None = None,
        /,
        *,
        run_id: str | None = None,
    ) -> ExternalHandle:
        """Another workflow, to be signalled or cancelled: one that is no child of this one, or was started elsewhere.

        Asks nobody: a wrong id shows when something is sent. ::

            await workflow.external("onboard-ann", Onboarding).signal(Onboarding.approve, "bob")

        Args:
            id: the workflow's id.
            workflow: the function or class that it runs; with it, signals of other classes are refused.
            run_id: one run of it; by default the latest when something is sent.

        Raises:
            TypeError, ValueError: `workflow` is not decorated with `@workflow`, or an id is none.
        """
        require("workflow.external()")
        return ExternalHandle(id, run_id, None if workflow is None else definition_of(workflow))

    def continue_as_new(self, call: WorkflowCall[object] | PlainClassWorkflow[object], /) -> NoReturn:
        """End this run, and go on in a new one with the call's input and an empty history. Never returns.

        Children that run end as their `parent_close_policy` says: by default they are terminated.

        Raises:
            RuntimeError: outside a workflow; or in a query or a validator, which must only read.
            TypeError: it is no call of a workflow, or one with options for a child.
            EncodeError, PayloadTooLarge: the arguments are not what the workflow takes.
        """
        context = require("workflow.continue_as_new()")
        context.continue_as_new(*next_run_of(call))

    # --- Changing code ----------------------------------------------------------------------------------
    def patched(self, id: str) -> bool:
        """Whether a run takes the new branch of code that was changed while it runs.

        A run that comes here for the first time takes it, and so does every replay of that run; a run that had come
        past here before the change doesn't. The answer is the same for the whole run::

            if workflow.patched("notify-by-mail"):
                await send_mail(team)
            else:
                await send_letter(team)      # until no run needs it: then deprecate_patch("notify-by-mail")

        Args:
            id: names the change, once and for all, in this workflow.

        Raises:
            RuntimeError: outside a workflow; or for the first time in a query or a validator, which must only read.
            ValueError, TypeError: it is no text of 1 to `limits.MAX_ID_LENGTH` characters, or the same id is used with
                `deprecate_patch`, too.
        """
        return require("workflow.patched()").patched(id)

    def deprecate_patch(self, id: str) -> None:
        """Say that a patch's old branch is gone. Put it where `patched` stood; it goes, too, when all runs that had
        asked `patched` are over.

        Args:
            id: the patch's, as it was given to `patched`.

        Raises:
            RuntimeError: outside a workflow; or for the first time in a query or a validator, which must only read.
            ValueError, TypeError: it is no text of 1 to `limits.MAX_ID_LENGTH` characters, or the same id is used with
                `patched`, too.
        """
        require("workflow.deprecate_patch()").deprecate_patch(id)

    # --- Time, chance, waiting --------------------------------------------------------------------------
    def now(self) -> datetime:
        """The workflow's time, in UTC. It stands still between two awaits that wait for something."""
        return require("workflow.now()").now()

    def info(self) -> WorkflowInfo:
        """Facts about the run."""
        return require("workflow.info()").info()

    def last_result(self, type: TypeForm[T]) -> T | None:
        """What the workflow that its schedule has started before, and that was completed last, has returned.

        Args:
            type: what it is decoded to.

        Returns:
            None where there is none, or no schedule has started this workflow.

        Raises:
            DecodeError: the result doesn't fit the type.
        """
        result = require("workflow.last_result()").last_result()
        return None if result is None else cast(T, decode(result, type, "the last result"))

    def random(self) -> random.Random:
        """Random numbers that are the same in a replay."""
        return require("workflow.random()").random()

    def uuid4(self) -> uuid.UUID:
        """A random UUID that is the same in a replay."""
        return require("workflow.uuid4()").uuid4()

    async def wait_until(self, predicate: Callable[[], bool], *, timeout: Duration | None = None) -> None:
        """Wait until a condition on the workflow's own state holds.

        Args:
            predicate: looked at after everything that happens to the workflow; must not change anything.
            timeout: how long to wait at most.

        Raises:
            TimeoutError: the time is over.
            TypeError: the predicate is no plain function.
        """
        context = require("workflow.wait_until()")
        await context.wait_until(predicate, optional_microseconds(timeout, "timeout"))

    def all_handlers_finished(self) -> bool:
        """Whether no handler of a signal, an update or an alarm runs. What runs when the workflow returns is cut off,
        and updates that it was to answer are refused; so a workflow with handlers that wait ends like this::

            await workflow.wait_until(workflow.all_handlers_finished)
            return self.report

        In a handler it is never true: that one runs.

        Raises:
            RuntimeError: outside a workflow, or before its code has begun.
        """
        return require("workflow.all_handlers_finished()").all_handlers_finished()

    def block(self, awaitable: Awaitable[T]) -> T:
        """Wait in a plain `def` workflow for what an async one would await::

            @workflow
            def approval(team: str) -> bool:
                return workflow.block(workflow.receive("approved", bool, timeout="7d"))

        Args:
            awaitable: a handle, or a coroutine such as `workflow.wait_until(…)` or `asyncio.gather(…)`.

        Returns:
            What `await` would give.

        Raises:
            RuntimeError: elsewhere than in the code of a plain workflow and its plain handlers.
            TypeError: it can't be awaited.
        """
        return block(awaitable)

    async def receive(self, name: str, type: TypeForm[T], *, timeout: Duration | None = None) -> T:
        """Wait for the next signal of a name that has no handler.

        Args:
            name: the signal's name.
            type: what its one argument is decoded to.
            timeout: how long to wait at most.

        Raises:
            TimeoutError: the time is over.
            DecodeError: the argument doesn't fit the type. The signal is used up, so the next call gets the next one.
        """
        context, name = require("workflow.receive()"), checked_name(name, "the signal's name")
        return cast(T, await context.receive(name, type, optional_microseconds(timeout, "timeout")))

    async def shielded(self, awaitable: Awaitable[T], /) -> T:
        """Wait for something that is not to be cancelled, such as clean-up, and that is to end before anything else.

        Whoever is cancelled meanwhile gets the outcome all the same, and `CancelledError` when it waits the next time.
        (`asyncio.shield` works, too: it raises at once, and leaves what it shields to itself.) ::

            try:
                await asyncio.sleep(3600)
            finally:
                await workflow.shielded(delete_vpc(vpc))

        Args:
            awaitable: a call, a coroutine, a task or a handle.

        Raises:
            Exception: what `awaitable` raises.
        """
        try:
            require("workflow.shielded()")
        except RuntimeError:
            close(awaitable)
            raise
        return await shielded(awaitable)

    def saga(self, *, undo_on: Sequence[type[Exception]] = ()) -> Saga:
        """Steps that are undone, the last first, when a later one fails, or the workflow is cancelled. ::

            async with workflow.saga() as saga:
                vpc = await saga.do(create_vpc("eu"), undo=delete_vpc)
                await saga.do(create_cluster(vpc), undo=lambda cluster: delete_cluster(cluster, force=True))

        Undos are durable, and nothing interrupts them. Activities in them hold rather than fail, until a person
        releases or completes them. When all are done, what ended the block is raised again. An undo that fails all the
        same, by a person's decision or since it is a child workflow that fails, is told of in a note of that exception
        and in the log, and the others go on.

        Only failures are undone: what fails a workflow (see `@workflow`), TimeoutError, and cancellation. Any other
        exception that leaves the block is a bug: the workflow task fails, even where the code outside catches it, and
        the next version goes on in the block. `workflow.continue_as_new` leaves the block without undoing anything.

        In a plain `def` workflow: `with workflow.saga() as saga:`, and `workflow.block(saga.do(…))`.

        Args:
            undo_on: further exceptions that are failures of the block.

        Raises:
            TypeError: `undo_on` holds something else than exception classes.
        """
        require("workflow.saga()")
        return Saga(cast("Sequence[type[Exception]]", exception_classes(undo_on, "undo_on")))

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """Logs with the run's identity, and not again in a replay. Outside a workflow, a plain logger."""
        context = current()
        return _OUTSIDE if context is None else context.logger


workflow: WorkflowNamespace = WorkflowNamespace()


def _define_function(
    target: object, name: str | None, task_queue: str, failure_exceptions: tuple[type[BaseException], ...]
) -> WorkflowDefinition:
    if not inspect.isroutine(target) or inspect.isbuiltin(target):
        raise TypeError(f"@workflow is for functions and classes, not for {target!r}")
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise TypeError(f"workflow {target.__name__}: a generator can't be a workflow")
    function = cast("Callable[..., object]", target)
    name = name or named(function, "workflow")
    return WorkflowDefinition(
        name=name,
        target=function,
        is_class=False,
        is_async=inspect.iscoroutinefunction(function),
        signature=Signature(function, f"workflow {name}"),
        make=function,
        task_queue=task_queue,
        failure_exceptions=failure_exceptions,
    )


def _method(function: object, kind: str) -> Callable[..., object]:
    if not inspect.isfunction(function):
        raise TypeError(f"@workflow.{kind} is for methods of a workflow class, not for {function!r}")
    return function


def _moment(at: object) -> int:
    """A time in microseconds since the epoch."""
    if not isinstance(at, datetime):
        raise TypeError(f"at must be a datetime, not {type(at).__name__}")
    if at.tzinfo is None:
        raise ValueError(f"at must say its time zone, as in workflow.now() + timedelta(days=1), not {at!r}")
    return from_datetime(at)
