"""The client: starts workflows, finds them again, lists them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, overload

from typing_extensions import TypeVar, Unpack

from perdure.ids import IdSource, RandomIds
from perdure.model.requests import ListWorkflows, Reply, Request, Service
from perdure.sdk.client.description import WorkflowRow, row
from perdure.sdk.client.elsewhere import AsyncActivityHandle, attempt_of
from perdure.sdk.client.handle import WorkflowHandle
from perdure.sdk.client.requests import send
from perdure.sdk.client.schedules import Schedules
from perdure.sdk.client.starts import StartOptions, WithStart, start_request
from perdure.sdk.identity import identity as default_identity
from perdure.sdk.interceptors import Interceptor, chain, checked, client_call
from perdure.sdk.options import name, optional_text, several, text
from perdure.sdk.workflow.calls import WorkflowCall, WorkflowFunction, definition_of
from perdure.sdk.workflow.decorators import ClassWorkflow, PlainClassWorkflow

if TYPE_CHECKING:
    from perdure.sdk.codecs.api import PayloadCodec
    from perdure.sdk.codecs.offload import Offload

R = TypeVar("R")


class Client(Schedules):
    """Talks to the engine through a Service.

    Args:
        service: an engine's node, or what stands for a distant one.
        namespace: the namespace that all of its workflows are in.
        task_queue: the queue of workflows that name none themselves.
        identity: who asks; it stands in histories. By default "pid@host".
        ids: where workflow ids and request ids come from.
        codecs: what becomes of payloads on their way to the engine, in this order, such as
            ``[Zstd(), AesGcm(key="env:PERDURE_KEY"), Offload()]``; undone on their way back. Workers made with this
            client have them, too.
        encode_failures: whether messages and tracebacks of failures go through the codecs, too.
        interceptors: what is called around its requests, and in the workers that are made with it.

    Raises:
        TypeError, ValueError: an option is not what it should be.
    """

    def __init__(
        self,
        service: Service,
        *,
        namespace: str = "default",
        task_queue: str = "default",
        identity: str | None = None,
        ids: IdSource | None = None,
        codecs: Iterable[PayloadCodec | Offload] = (),
        encode_failures: bool = False,
        interceptors: Sequence[Interceptor] | None = None,
    ) -> None:
        self.namespace = name(namespace, "namespace")
        self.service, self.room = _through(service, self.namespace, codecs, encode_failures=encode_failures)
        self.task_queue = name(task_queue, "task_queue")
        self.identity = default_identity() if identity is None else name(identity, "identity")
        self.ids = RandomIds() if ids is None else ids
        self.interceptors = checked(interceptors)
        self._chain = chain(self.interceptors, "client_call")

    async def send(self, request: Request[Reply]) -> Reply:
        """Send a request to the engine until it is answered, through the interceptors."""
        if self._chain is None:
            return await send(self.service, request, self.ids)
        return await client_call(self._chain, request, lambda request: send(self.service, request, self.ids))

    def _client(self) -> Client:
        return self

    @overload
    async def start(
        self, call: WorkflowCall[R] | ClassWorkflow[R], /, **options: Unpack[StartOptions]
    ) -> WorkflowHandle[R]: ...
    @overload
    async def start(self, call: PlainClassWorkflow[R], /, **options: Unpack[StartOptions]) -> WorkflowHandle[R]: ...
    async def start(self, call: object, /, **options: Unpack[StartOptions]) -> WorkflowHandle[object]:
        """Start a workflow. When this returns, the start is on disk.

        Args:
            call: what to run: `provision("payments")`, or `Onboarding(request)` for a class.
            id: the workflow's id, by which it is found again; by default a new one.
            task_queue: whose workers run it; by default the definition's, or the client's.
            execution_timeout: how long the workflow may take, all its runs together.
            run_timeout: how long one run may take.
            task_timeout: how long a worker may take to answer a task of the workflow's code before another one gets it;
                by default 10 s, at most `limits.MAX_WORKFLOW_TASK_TIMEOUT`.
            start_delay: how long the code waits before it begins; the timeouts begin then, too. Signals wait as well,
                unless they come with another start (`with_start`), which ends the delay, as a cancel request does.
            retry_policy: what follows a run that fails or exceeds its `run_timeout`: another run, with the same input
                and `workflow.info().attempt` one higher. By default, none. It can't hold.
            id_reuse_policy: whether the id of a workflow that is closed may be used again: "allow_duplicate",
                "allow_duplicate_failed_only" (not that of a completed one), or "reject_duplicate".
            id_conflict_policy: what happens if a workflow with the id is running: "fail", "use_existing" (that one is
                returned), or "terminate_existing".
            memo: values to be shown with the workflow; its code doesn't see them.
            request_id: makes the start idempotent: of several with the same id, one takes effect, with the message that
                it brings, if any.

        Raises:
            WorkflowAlreadyStarted: the id is taken, and the policies don't allow to use it.
            TypeError: `call` is not a workflow's call.
            TypeError, ValueError: an option is not what it should be; the message names it.
            EncodeError: an argument can't be encoded.
            PayloadTooLarge: an argument is over its limit.
            Unavailable: the engine could not be reached for an hour.
        """
        drawn = self.ids.new_id() if options.get("request_id") is None else ""
        with self.room():
            request, definition = start_request(self, call, options, drawn)
        started = await self.send(request)
        return WorkflowHandle(self, request.workflow_id, started.run_id, definition)

    @overload
    async def run(self, call: WorkflowCall[R] | ClassWorkflow[R], /, **options: Unpack[StartOptions]) -> R: ...
    @overload
    async def run(self, call: PlainClassWorkflow[R], /, **options: Unpack[StartOptions]) -> R: ...
    async def run(
        self, call: WorkflowCall[object] | PlainClassWorkflow[object], /, **options: Unpack[StartOptions]
    ) -> object:
        """Start a workflow and wait for its result: `start`, then `WorkflowHandle.result`.

        Takes and raises what these two do.
        """
        handle = await self.start(call, **options)
        return await handle.result()

    @overload
    def with_start(
        self, call: WorkflowCall[R] | ClassWorkflow[R], /, **options: Unpack[StartOptions]
    ) -> WithStart[R]: ...
    @overload
    def with_start(self, call: PlainClassWorkflow[R], /, **options: Unpack[StartOptions]) -> WithStart[R]: ...
    def with_start(self, call: object, /, **options: Unpack[StartOptions]) -> WithStart[object]:
        """Send a message to a workflow that is started first if it isn't running, both by one commit.

        Takes what `start` does; but by default the `id_conflict_policy` is "use_existing". Sends nothing itself.

        ::

            start = client.with_start(Onboarding(request), id="onboard-ann")
            handle = await start.signal(Onboarding.approve, "bob")
            seats = await start.update(Onboarding.resize, 20)

        Raises:
            TypeError: `call` is not a workflow's call.
            TypeError, ValueError: an option is not what it should be; the message names it.
            EncodeError, PayloadTooLarge: an argument can't be stored.
        """
        options.setdefault("id_conflict_policy", "use_existing")
        with self.room():
            request, definition = start_request(self, call, options)
        return WithStart(self, request, definition)

    @overload
    def get(
        self, id: str, workflow: WorkflowFunction[..., R], /, *, run_id: str | None = None
    ) -> WorkflowHandle[R]: ...
    @overload
    def get(self, id: str, workflow: type[ClassWorkflow[R]], /, *, run_id: str | None = None) -> WorkflowHandle[R]: ...
    @overload
    def get(
        self, id: str, workflow: type[PlainClassWorkflow[R]], /, *, run_id: str | None = None
    ) -> WorkflowHandle[R]: ...
    @overload
    def get(self, id: str, /, *, run_id: str | None = None) -> WorkflowHandle[object]: ...
    def get(self, id: str, workflow: object = None, /, *, run_id: str | None = None) -> WorkflowHandle[object]:
        """A handle to a workflow that was started before. Asks nobody: a wrong id shows at the first use.

        Args:
            id: the workflow's id.
            workflow: the function or class that it runs; without it, results are plain JSON values.
            run_id: one run of it; by default the latest.

        Raises:
            TypeError: `workflow` is not decorated with `@workflow`, or an id is no text.
        """
        definition = None if workflow is None else definition_of(workflow)
        run = optional_text(run_id, "run_id")
        return WorkflowHandle(self, text(id, "id"), run or None, definition, messages_to=run)

    def activity(self, task_token: str) -> AsyncActivityHandle:
        """An attempt of an activity that has raised `activity.CompleteLater`, to report how it ends. Asks nobody.

        Args:
            task_token: what `activity.info().task_token` was there.

        Raises:
            TypeError, ValueError: it is no such token, or of another namespace than this client's.
        """
        return attempt_of(self, task_token)

    async def list(self, query: str = "") -> AsyncIterator[WorkflowRow]:
        """Workflows, the latest started first.

        Args:
            query: such as "WorkflowType = 'provision' AND ExecutionStatus = 'Running'"; by default all. The fields are
                WorkflowType, WorkflowId, RunId, ExecutionStatus, StartTime, CloseTime, TaskQueue, ScheduledById and
                ScheduledStartTime.

        Raises:
            TypeError: the query is no text.
            InvalidRequest: the query can't be read, or compares a field with what it never is; the message says where.
            Unavailable: the engine could not be reached for an hour.
        """
        page, query = "", text(query, "the query")
        while True:
            reply = await self.send(ListWorkflows(self.namespace, "", query, page))
            for listed in reply.rows:
                yield row(listed)
            if not reply.next:
                return
            page = reply.next


def _through(
    service: Service, namespace: str, codecs: Iterable[PayloadCodec | Offload], *, encode_failures: bool
) -> tuple[Service, Callable[[], AbstractContextManager[None]]]:
    """A Service seen through codecs; and what to encode values in, which may be larger then."""
    listed = several(codecs, "codecs")
    if not listed:
        if encode_failures:
            raise ValueError("encode_failures=True needs codecs=[…] to encode them with")
        return service, nullcontext
    from perdure.sdk.codecs.chain import Chain
    from perdure.sdk.codecs.offload import split
    from perdure.sdk.codecs.service import EncodedService
    from perdure.sdk.converter import roomy

    listed, offload = split(listed)
    offloading = None if offload is None else offload.over(service, namespace)
    chain = Chain(listed, offloading, encode_failures=encode_failures)
    return EncodedService(service, chain), partial(roomy, chain.room)
