"""A workflow's context for tests of the public API: it carries out at once what it is asked for."""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NoReturn, cast

from perdure.model.commands import RequestCancelExternalWorkflow, SignalExternalWorkflow
from perdure.model.payloads import Payload
from perdure.sdk.activity.definition import ActivityDefinition, ActivityOptions
from perdure.sdk.coroutines import Coro
from perdure.sdk.workflow import context
from perdure.sdk.workflow.children import ChildTerms
from perdure.sdk.workflow.context import OpenSagas, WorkflowInfo
from perdure.sdk.workflow.definition import WorkflowDefinition
from perdure.sdk.workflow.entities import Entity


class Immediate:
    """Runs activities as tasks of the test's loop, and keeps what it was asked for."""

    logger = logging.LoggerAdapter(logging.getLogger("immediate"), {})

    def __init__(self) -> None:
        self.activities: list[tuple[ActivityDefinition, ActivityOptions, tuple[object, ...], dict[str, object]]] = []
        self.children: list[tuple[WorkflowDefinition, ChildTerms, tuple[object, ...], dict[str, object]]] = []
        self.gates: list[asyncio.Future[Any]] = []
        self.gated = False
        self.sagas: OpenSagas = {}

    def start_activity(
        self,
        definition: ActivityDefinition,
        options: ActivityOptions,
        args: Sequence[object],
        kwargs: dict[str, object],
    ) -> asyncio.Future[object]:
        self.activities.append((definition, options, tuple(args), kwargs))
        future = asyncio.get_running_loop().create_future()
        if self.gated:
            self.gates.append(future)
        elif definition.is_async:
            return asyncio.ensure_future(cast("Coro[object]", definition.function(*args, **kwargs)))
        else:
            future.set_result(definition.function(*args, **kwargs))
        return future

    def start_local(
        self,
        definition: ActivityDefinition,
        options: ActivityOptions,
        args: Sequence[object],
        kwargs: dict[str, object],
    ) -> asyncio.Future[object]:
        return self.start_activity(definition, options, args, kwargs)

    def start_child(
        self,
        definition: WorkflowDefinition,
        terms: ChildTerms,
        args: Sequence[object],
        kwargs: dict[str, object],
    ) -> asyncio.Future[object]:
        self.children.append((definition, terms, tuple(args), kwargs))
        future = asyncio.get_running_loop().create_future()
        future.set_result((definition.name, terms.id, *args))
        return future

    def send(self, command: SignalExternalWorkflow | RequestCancelExternalWorkflow) -> asyncio.Future[None]:
        raise NotImplementedError

    def is_failure(self, error: BaseException, also: tuple[type[BaseException], ...] = ()) -> bool:
        raise NotImplementedError

    def report_bug(self, error: BaseException) -> None:
        raise NotImplementedError

    async def wait_until(self, predicate: Callable[[], bool], timeout: int | None) -> None:
        assert predicate()
        self.waited = timeout

    def all_handlers_finished(self) -> bool:
        raise NotImplementedError

    async def receive(self, name: str, type: object, timeout: int | None) -> object:
        return name, type, timeout

    def info(self) -> WorkflowInfo:
        raise NotImplementedError

    def last_result(self) -> Payload | None:
        return None

    def now(self) -> datetime:
        return datetime(2026, 1, 2, tzinfo=UTC)

    def time(self) -> float:
        return 1.0

    def random(self) -> random.Random:
        return random.Random(1)

    def uuid4(self) -> uuid.UUID:
        return uuid.UUID(int=1)

    @property
    def entity(self) -> Entity:
        raise RuntimeError("this is no entity")

    def patched(self, id: str) -> bool:
        return True

    def deprecate_patch(self, id: str) -> None:
        raise NotImplementedError

    def continue_as_new(
        self, definition: WorkflowDefinition, args: Sequence[object], kwargs: dict[str, object]
    ) -> NoReturn:
        raise ContinueAsNew(definition.name, *args)


class ContinueAsNew(BaseException):
    pass


@contextmanager
def inside() -> Generator[Immediate]:
    """The body is a workflow's code."""
    run = Immediate()
    before = context.enter(run)
    try:
        yield run
    finally:
        context.enter(before)
