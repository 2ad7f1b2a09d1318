"""What the public API asks of the workflow run that it is called in.

The runtime sets the current context around an activation, per thread; outside there is none. API functions
call `current()`, or `require()` to raise a clear error outside a workflow.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, TypeAlias

from msgspec import Struct

from perdure.model.commands import RequestCancelExternalWorkflow, SignalExternalWorkflow
from perdure.model.payloads import Payload
from perdure.sdk.activity.definition import ActivityDefinition, ActivityOptions
from perdure.sdk.workflow.children import ChildTerms
from perdure.sdk.workflow.definition import WorkflowDefinition

if TYPE_CHECKING:
    from perdure.sdk.workflow.entities import Entity


class WorkflowInfo(Struct, frozen=True, gc=False):
    """Facts about the run that is executing."""

    namespace: str
    workflow_id: str
    run_id: str
    """The run; in what a reset has kept, the one that did it, so that a replay makes the same of it."""
    workflow_type: str
    """The name that it is started by."""
    task_queue: str
    """Whose workers run its code, and its activities unless they say another."""
    attempt: int
    """Which attempt of the workflow this run is, counted from 1, where it has a retry policy."""
    start_time: datetime
    """When the run began, in UTC."""
    history_length: int
    """Events so far, as its code has seen them; the same in a replay."""
    history_bytes: int
    """Their size."""
    continue_as_new_suggested: bool
    """Whether the history is so long that the run should go on as a new one soon (`workflow.continue_as_new`)."""
    parent_workflow_id: str | None
    """The workflow whose child it is."""
    is_replaying: bool
    """Whether what runs now has run before. Nothing but what leaves the workflow, such as a log, may depend on it."""
    schedule_id: str | None = None
    """The schedule that has started the workflow."""
    scheduled_time: datetime | None = None
    """The nominal time that it was started for, in UTC; whenever it really began."""


OpenSagas: TypeAlias = dict[object, tuple[asyncio.Task[Any], bool]]
"""The sagas whose block has not ended: the task that is in it, and whether it is ending, or was told to."""


class WorkflowContext(Protocol):
    """One run, while its code executes. Durations are microseconds.

    sagas: those whose block has not ended; the run ends after them.
    """

    logger: logging.LoggerAdapter[logging.Logger]
    sagas: OpenSagas

    def start_activity(
        self,
        definition: ActivityDefinition,
        options: ActivityOptions,
        args: Sequence[object],
        kwargs: dict[str, object],
    ) -> asyncio.Future[object]:
        """Schedule an activity. The future ends as the activity does; cancelling it asks for its end."""
        ...

    def start_local(
        self,
        definition: ActivityDefinition,
        options: ActivityOptions,
        args: Sequence[object],
        kwargs: dict[str, object],
    ) -> asyncio.Future[object]:
        """Run an activity in this worker, while the workflow task is open."""
        ...

    def start_child(
        self,
        definition: WorkflowDefinition,
        terms: ChildTerms,
        args: Sequence[object],
        kwargs: dict[str, object],
    ) -> asyncio.Future[object]:
        """Start a child workflow."""
        ...

    def send(self, command: SignalExternalWorkflow | RequestCancelExternalWorkflow) -> asyncio.Future[None]:
        """Send something to another workflow. The future is done when it has arrived."""
        ...

    def is_failure(self, error: BaseException, also: tuple[type[BaseException], ...] = ()) -> bool:
        """Whether an exception is an outcome, rather than a bug; those of `also` are, too."""
        ...

    def report_bug(self, error: BaseException) -> None:
        """Let the workflow task fail with this, whatever the code does about it."""
        ...

    async def wait_until(self, predicate: Callable[[], bool], timeout: int | None) -> None: ...

    def all_handlers_finished(self) -> bool: ...

    async def receive(self, name: str, type: object, timeout: int | None) -> object: ...

    def info(self) -> WorkflowInfo: ...
    def last_result(self) -> Payload | None: ...

    def now(self) -> datetime: ...

    def time(self) -> float:
        """Seconds since the epoch, of the current workflow task."""
        ...

    def random(self) -> random.Random: ...

    def uuid4(self) -> uuid.UUID: ...

    @property
    def entity(self) -> Entity:
        """The run as an entity. Raises RuntimeError where it is none."""
        ...

    def patched(self, id: str) -> bool: ...

    def deprecate_patch(self, id: str) -> None: ...

    def continue_as_new(
        self, definition: WorkflowDefinition, args: Sequence[object], kwargs: dict[str, object]
    ) -> NoReturn: ...


class _Thread(threading.local):
    context: WorkflowContext | None = None
    plain = False

    def __init__(self) -> None:
        self.stopped: dict[str, str] = {}


thread: Final = _Thread()
"""What this thread does; `thread.context` is what `current` returns, for those who ask often. `thread.plain`: it is in
the code of a plain function, which waits without `await` (see `plain`). `thread.stopped`: what the guard has raised in
this activation, by the line."""


def current() -> WorkflowContext | None:
    """The run whose code this thread is executing, if any."""
    return thread.context


def require(what: str) -> WorkflowContext:
    """The current run; raises RuntimeError naming `what` outside a workflow."""
    context = thread.context
    if context is None:
        raise RuntimeError(f"{what} can only be used inside a workflow")
    return context


def enter(context: WorkflowContext | None) -> WorkflowContext | None:
    """Set the current run of this thread; returns what it was before, to be set again after."""
    before, thread.context = thread.context, context
    return before
