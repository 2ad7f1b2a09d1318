"""Workflows as they are called: a call records what is to be run, and runs nothing.

`provision("payments")` is a call, as a coroutine function's call is a coroutine. A client starts it; awaiting it
inside a workflow runs it as a child.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import warnings
from collections.abc import Callable, Coroutine, Generator, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar, cast

from typing_extensions import ParamSpec, Unpack

from perdure.sdk.starting import check_for
from perdure.sdk.workflow.children import DEFAULT_TERMS, ChildOptions, ChildTerms, with_options
from perdure.sdk.workflow.classes import call_record, class_definition
from perdure.sdk.workflow.context import WorkflowContext, current, require
from perdure.sdk.workflow.definition import WorkflowDefinition
from perdure.sdk.workflow.futures import ChildHandle

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

Recorded: TypeAlias = tuple[WorkflowDefinition, Sequence[object], dict[str, object]]
"""What a call records: the workflow and its arguments."""


class UnusedCallWarning(RuntimeWarning):
    """A workflow made a call of another workflow, and neither awaited nor started it: nothing was run."""


class WorkflowCall(Coroutine[Any, Any, R_co]):
    """What calling a workflow function makes: the workflow and its arguments."""

    __slots__ = ("_child", "_fresh", "args", "definition", "kwargs", "terms")

    def __init__(
        self,
        definition: WorkflowDefinition,
        terms: ChildTerms,
        args: Sequence[object],
        kwargs: dict[str, object],
    ) -> None:
        self.definition = definition
        self.terms = terms
        self.args = args
        self.kwargs = kwargs
        self._child: Coroutine[Any, Any, R_co] | None = None
        self._fresh = current() is not None

    @property
    def __name__(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.definition.target.__name__

    def use(self) -> None:
        """The call is being carried out, or given up on purpose: no warning when it goes."""
        self._fresh = False

    def send(self, value: object, /) -> object:
        return (self._child or self._begin()).send(value)

    def throw(
        self, typ: type[BaseException] | BaseException, val: object = None, tb: TracebackType | None = None, /
    ) -> object:
        return (self._child or self._begin()).throw(val if isinstance(val, BaseException) else typ)

    def close(self) -> None:
        self.use()
        if self._child is not None:
            self._child.close()

    def __await__(self) -> Generator[object, None, R_co]:
        if self._child is not None:
            raise RuntimeError(f"{self!r} was awaited already: call {self.__name__}() again")
        return self._begin().__await__()

    def _begin(self) -> Coroutine[Any, Any, R_co]:
        self.use()
        context = current()
        if context is None:
            raise RuntimeError(
                f"{self!r} can be awaited inside a workflow only; elsewhere use `await client.run({self.__name__}(…))`"
            )
        child = _run(context, self.definition, self.terms, self.args, self.kwargs)
        self._child = cast("Coroutine[Any, Any, R_co]", child)
        return self._child

    def __repr__(self) -> str:
        return f"<call of workflow {self.definition.name}>"

    def __del__(self) -> None:
        if self._fresh:
            warn_unused(self.definition)


class WorkflowFunction(Generic[P, R_co]):
    """A function decorated with `@workflow`."""

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., object]

    def __init__(self, definition: WorkflowDefinition, terms: ChildTerms = DEFAULT_TERMS) -> None:
        functools.update_wrapper(self, definition.target)
        self.definition = definition
        self._terms = terms

    @property
    def name(self) -> str:
        """The workflow's name on the wire."""
        return self.definition.name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> WorkflowCall[R_co]:
        return WorkflowCall(self.definition, self._terms, args, kwargs)

    def start(self, *args: P.args, **kwargs: P.kwargs) -> ChildHandle[R_co]:
        """Start a child at once, from a workflow.

        Returns:
            A handle to await or cancel.

        Raises:
            RuntimeError: outside a workflow.
            TypeError, EncodeError, PayloadTooLarge: the arguments are not what the workflow takes.
        """
        context = current() or require(f"{self.__name__}.start()")
        return cast("ChildHandle[R_co]", context.start_child(self.definition, self._terms, args, kwargs))

    def options(self, **options: Unpack[ChildOptions]) -> Self:
        """The same workflow with options for the children that are started through what this returns.

        `perdure.ChildOptions` tells what each means. ::

            await cluster.options(id="cluster-eu", retry_policy=RetryPolicy(maximum_attempts=3))(vpc)

        Raises:
            TypeError, ValueError: an option is not what it should be.
            EncodeError, PayloadTooLarge: a value of the memo can't be stored.
        """
        return type(self)(self.definition, with_options(self._terms, options))

    def __repr__(self) -> str:
        return f"<workflow {self.name}>"


def call_of(call: object) -> Recorded:
    """What a call records, to start it from outside.

    Raises:
        TypeError: it is no call of a workflow, or one with options for a child; the message says what to write.
    """
    if _terms_of(call) != DEFAULT_TERMS:
        raise TypeError(f"{call!r} has options for a child: give them to the client, as in client.start(…, id=…)")
    return recorded(call)


def next_run_of(call: object) -> Recorded:
    """What a call records, to go on with it as a new run. Raises TypeError as `call_of` does."""
    what = recorded(call)
    if _terms_of(call) != DEFAULT_TERMS:
        raise TypeError(f"{call!r} has options for a child, and the next run keeps those of this one: leave them out")
    return what


def definition_of(workflow: object) -> WorkflowDefinition:
    """The definition of a function or class decorated with `@workflow`. Raises TypeError for anything else."""
    if isinstance(workflow, WorkflowFunction):
        return cast("WorkflowFunction[..., object]", workflow).definition
    definition = class_definition(workflow) if isinstance(workflow, type) else None
    if definition is None:
        call = cast(object, workflow)
        if isinstance(workflow, WorkflowCall) or call_record(call) is not None:
            name = recorded(call)[0].target.__name__
            raise TypeError(f"{name}(…) is a call of a workflow, where the workflow itself is wanted: write {name}")
        raise TypeError(f"{_shown(workflow)} is not a workflow: decorate it with @workflow")
    return definition


def start_child(call: object, options: ChildOptions) -> asyncio.Future[object]:
    """Start what a call records as a child of the current run; the options come over those of the call."""
    context = current() or require("workflow.start()")
    definition, args, kwargs = recorded(call)
    terms = with_options(_terms_of(call), options)
    check_for(definition, terms.retry_policy)
    return context.start_child(definition, terms, args, kwargs)


def recorded(call: object) -> Recorded:
    """What a call records, whatever options it has; it then counts as used. Raises TypeError as `call_of` does."""
    if isinstance(call, WorkflowCall):
        made = cast("WorkflowCall[object]", call)
        made.use()
        return made.definition, made.args, made.kwargs
    record = call_record(call)
    if record is not None:
        record.fresh = False
        return record.definition, record.args, record.kwargs
    raise TypeError(_not_a_call(call))


def _terms_of(call: object) -> ChildTerms:
    return cast("WorkflowCall[object]", call).terms if isinstance(call, WorkflowCall) else DEFAULT_TERMS


def _not_a_call(call: object) -> str:
    inside = current() is not None
    who = "workflow" if inside else "client"
    if isinstance(call, WorkflowFunction):
        name = cast("WorkflowFunction[..., object]", call).__name__
        return f"{name} is the workflow itself: call it with its arguments, as in {who}.start({name}(…))"
    if isinstance(call, type) and class_definition(call) is not None:
        name = call.__name__
        return f"{name} is the class itself: call it with its arguments, as in {who}.start({name}(…))"
    if class_definition(type(call)) is not None:
        return (
            f"{type(call).__name__}(…) made an object instead of a call: put @workflow above all other decorators "
            f"of the class"
        )
    if asyncio.iscoroutine(call):
        call.close()
        if inside:
            return f"{_shown(call)}(…) is a coroutine, not a call of a workflow: await it as it is"
        return f"{_shown(call)}(…) is a coroutine, not a call of a workflow: decorate the function with @workflow"
    return f"{_shown(call)} is not a call of a workflow, such as provision(…)"


def _shown(value: object) -> str:
    name = getattr(value, "__qualname__", None)
    text = str(name) if name else f"{value!r}"
    return text if len(text) <= 200 else f"{text[:200]}…"


async def _run(
    context: WorkflowContext,
    definition: WorkflowDefinition,
    terms: ChildTerms,
    args: Sequence[object],
    kwargs: dict[str, object],
) -> object:
    return await context.start_child(definition, terms, args, kwargs)


def warn_unused(definition: WorkflowDefinition) -> None:
    """Warn of a call that dies unused while the run's code executes, unless that is a replay or an eviction."""
    context = current()
    if context is None or not context.logger.isEnabledFor(logging.WARNING):
        return
    name = definition.target.__name__
    warnings.warn(
        f"the call {name}(…) was neither awaited nor started, so nothing was run", UnusedCallWarning, stacklevel=3
    )
