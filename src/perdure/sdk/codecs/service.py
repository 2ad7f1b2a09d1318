"""A Service that encodes all payloads of what goes to another one, and decodes those of what comes back.

It stands between the engine and clients or workers, so outside of workflow code: what that compares and replays is
decoded. What concerns one run stays in order; runs don't wait for each other; what has no payloads isn't touched.

What can't be decoded here never reaches a worker: the task is answered with a failure that says what is missing, and
the engine gives it out again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from msgspec.structs import replace

from perdure.clock import SECOND
from perdure.errors import PayloadTooLarge, PerdureError
from perdure.limits import SHUTDOWN_GRACE, STORE_RETRY_INITIAL, STORE_RETRY_MAXIMUM
from perdure.model.failures import Failure
from perdure.model.requests import Reply, Request, Service, WorkerLink
from perdure.model.shapes import check_quickly
from perdure.model.tasks import (
    ActivityCompletion,
    ActivityEvicted,
    ActivityFailure,
    ActivityHeartbeat,
    ActivityTask,
    EvictWorkflow,
    FromWorker,
    QueryAnswer,
    QueryTask,
    RunRef,
    ToWorker,
    WorkerHello,
    WorkerLeaving,
    WorkerServes,
    WorkflowTask,
    WorkflowTaskCompletion,
    WorkflowTaskFailure,
)
from perdure.sdk.codecs.chain import Chain
from perdure.sdk.converter import roomy
from perdure.sdk.failures import failure_of

_log: Final = logging.getLogger(__name__)

Message = TypeVar("Message", bound=ToWorker | FromWorker)


class EncodedService:
    """Another Service, seen through codecs."""

    def __init__(self, service: Service, chain: Chain) -> None:
        self._service, self._chain = service, chain

    async def call(self, request: Request[Reply], /) -> Reply:
        """See `Service.call`. Raises CodecError or PayloadTooLarge where the request can't be encoded; then nothing was
        changed."""
        check_quickly(request)  # or bytes would be made of what is none
        reply = await self._service.call(await self._chain.encoded(request))
        return await self._chain.decoded(reply, lenient=True)

    async def attach(self, hello: WorkerHello, receive: Callable[[ToWorker], None], /) -> WorkerLink:
        """See `Service.attach`."""
        link = _Link(self._chain, receive)
        link.opened(await self._service.attach(hello, link.arrives))
        return link


class _Link:
    """The worker's end of a connection."""

    def __init__(self, chain: Chain, receive: Callable[[ToWorker], None]) -> None:
        self._chain, self._receive = chain, receive
        self._link: WorkerLink | None = None
        self._early: list[FromWorker] = []  # what is sent before `attach` has returned
        self._leaving = False
        self._incoming = _Stream[ToWorker](chain.touches, self._decoded, self._deliver)
        self._outgoing = _Stream[FromWorker](chain.touches, self._encoded, self._to_engine)
        self.send = self._outgoing.send

    def opened(self, link: WorkerLink) -> None:
        self._link = link
        early, self._early = self._early, []
        for message in early:
            link.send(message)

    def arrives(self, message: ToWorker) -> None:
        """The engine sends something."""
        if self._leaving:
            self._refuse(message)
        else:
            self._incoming.send(message)

    async def detach(self) -> None:
        """See `WorkerLink.detach`. What was sent before arrives, if it can be encoded in time."""
        self._leaving = True
        for message in self._incoming.close():
            self._refuse(message)
        await self._outgoing.drained(SHUTDOWN_GRACE)
        self._outgoing.close()
        if self._link is not None:
            await self._link.detach()

    def _deliver(self, message: ToWorker) -> None:
        with roomy(self._chain.room):
            self._receive(message)

    def _refuse(self, message: ToWorker) -> None:
        if isinstance(message, ActivityTask):
            self._to_engine(ActivityEvicted(message.token, begun=False))

    def _to_engine(self, message: FromWorker) -> None:
        if self._link is None:
            self._early.append(message)
        else:
            self._link.send(message)

    async def _decoded(self, message: ToWorker) -> ToWorker | None:
        try:
            return await self._chain.decoded(message)
        except Exception as error:
            answer = unread(message, error)
            if answer is None:
                raise
            self._to_engine(answer)
            return None

    async def _encoded(self, message: FromWorker) -> FromWorker | None:
        delay = STORE_RETRY_INITIAL
        while True:
            try:
                return await self._chain.encoded(message)
            except PerdureError as error:
                if not error.retryable:
                    return self._unsent(message, error)
            except Exception as error:
                return self._unsent(message, error)
            await asyncio.sleep(delay / SECOND)
            delay = min(delay * 2, STORE_RETRY_MAXIMUM)

    def _unsent(self, message: FromWorker, error: Exception) -> FromWorker | None:
        if isinstance(message, WorkflowTaskCompletion):
            self._receive(EvictWorkflow(message.run))  # its code has gone on from what nobody will record
        answer = unsent(message, error)
        if answer is None:
            _log.warning("a %s could not be encoded, and is not sent: %s", type(message).__name__, error)
        return answer


class _Stream(Generic[Message]):
    """One direction of a connection.

    Args:
        touches: whether a message has to be changed at all.
        change: changes it; None: it is not to be delivered.
        deliver: takes the messages, those of one run in the order in which they were sent.
    """

    def __init__(
        self,
        touches: Callable[[Message], bool],
        change: Callable[[Message], Awaitable[Message | None]],
        deliver: Callable[[Message], None],
    ) -> None:
        self._touches, self._change, self._deliver = touches, change, deliver
        self._last: dict[RunRef, asyncio.Task[None]] = {}
        self._tasks: dict[asyncio.Task[None], Message] = {}

    def send(self, message: Message, /) -> None:
        """Take a message."""
        run = run_of(message)
        before = None if run is None else self._last.get(run)
        if run is None or (before is None and not self._touches(message)):
            self._deliver(message)
            return
        task = asyncio.get_running_loop().create_task(self._pass(message, before))
        self._last[run] = task
        self._tasks[task] = message
        task.add_done_callback(lambda done: self._passed(run, done))

    async def _pass(self, message: Message, before: asyncio.Task[None] | None) -> None:
        changed = await self._change(message)
        if before is not None and not before.done():
            await asyncio.wait([before])
        if changed is not None:
            self._deliver(changed)

    def _passed(self, run: RunRef, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if self._last.get(run) is task:
            del self._last[run]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a message of workflow %r is lost", run.workflow_id, exc_info=error)

    async def drained(self, timeout: float) -> None:
        """Wait until all that was sent is delivered, for so many seconds at most."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout)

    def close(self) -> list[Message]:
        """Drop what is on its way."""
        return [message for task, message in self._tasks.items() if task.cancel()]


def run_of(message: ToWorker | FromWorker) -> RunRef | None:
    """The run that a message is about."""
    match message:
        case WorkerLeaving() | WorkerServes():
            return None
        case _:
            run = getattr(message, "run", None)
            return run if isinstance(run, RunRef) else getattr(message, "token").run  # noqa: B009


def unread(message: ToWorker, error: Exception) -> FromWorker | None:
    """What the engine is told of a task that can't be decoded: it is given out again."""
    failure = _bare(error)
    match message:
        case WorkflowTask(run=run):
            return WorkflowTaskFailure(run, message.attempt, message.position, failure, message.given)
        case QueryTask(run=run):
            return QueryAnswer(run, message.query_id, None, failure)
        case ActivityTask(token=token):
            return ActivityFailure(token, replace(failure, kind="unread"))
        case _:
            return None


def unsent(message: FromWorker, error: Exception) -> FromWorker | None:
    """What is sent in place of a message that can't be encoded."""
    failure = replace(_bare(error), kind="encoding", non_retryable=isinstance(error, PayloadTooLarge))
    match message:
        case WorkflowTaskCompletion(run=run):
            return WorkflowTaskFailure(run, message.attempt, message.position, failure, message.given)
        case WorkflowTaskFailure() | ActivityFailure():
            return replace(message, failure=failure)
        case QueryAnswer():
            return replace(message, result=None, failure=failure)
        case ActivityCompletion(token=token):
            return ActivityFailure(token, failure)
        case ActivityHeartbeat():
            return None
        case _:
            return None


def _bare(error: Exception) -> Failure:
    """A failure without payloads, which would have to be encoded."""
    return replace(failure_of(error), args=None, state=None, cause=None)
