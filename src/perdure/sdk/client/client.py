"""The client: starts workflows, finds them again, lists them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Final, cast, get_args, overload

from typing_extensions import TypeVar

from perdure.durations import Duration, microseconds
from perdure.ids import IdSource, RandomIds
from perdure.model.payloads import Payload
from perdure.model.requests import IdConflictPolicy, IdReusePolicy, ListWorkflows, Service, StartWorkflow
from perdure.sdk.client.description import WorkflowRow, row
from perdure.sdk.client.handle import WorkflowHandle
from perdure.sdk.client.requests import send
from perdure.sdk.converter import encode
from perdure.sdk.identity import identity as default_identity
from perdure.sdk.options import name, one_of, optional_text, text
from perdure.sdk.workflow.api import ClassWorkflow, PlainClassWorkflow
from perdure.sdk.workflow.calls import WorkflowCall, WorkflowFunction, call_of, definition_of

R = TypeVar("R")

_REUSE: Final = get_args(IdReusePolicy)
_CONFLICT: Final = get_args(IdConflictPolicy)


class Client:
    """Talks to the engine through a Service.

    Args:
        service: an engine's node, or what stands for a distant one.
        namespace: the namespace that all of its workflows are in.
        task_queue: the queue of workflows that name none themselves.
        identity: who asks; it stands in histories. By default "pid@host".
        ids: where workflow ids and request ids come from.
    """

    def __init__(
        self,
        service: Service,
        *,
        namespace: str = "default",
        task_queue: str = "default",
        identity: str | None = None,
        ids: IdSource | None = None,
    ) -> None:
        self.service = service
        self.namespace = name(namespace, "namespace")
        self.task_queue = name(task_queue, "task_queue")
        self.identity = default_identity() if identity is None else name(identity, "identity")
        self.ids = RandomIds() if ids is None else ids

    @overload
    async def start(
        self,
        call: WorkflowCall[R] | ClassWorkflow[R],
        /,
        *,
        id: str | None = None,
        task_queue: str | None = None,
        execution_timeout: Duration | None = None,
        run_timeout: Duration | None = None,
        id_reuse_policy: IdReusePolicy = "allow_duplicate",
        id_conflict_policy: IdConflictPolicy = "fail",
        memo: Mapping[str, object] | None = None,
        request_id: str | None = None,
    ) -> WorkflowHandle[R]: ...
    @overload
    async def start(
        self,
        call: PlainClassWorkflow[R],
        /,
        *,
        id: str | None = None,
        task_queue: str | None = None,
        execution_timeout: Duration | None = None,
        run_timeout: Duration | None = None,
        id_reuse_policy: IdReusePolicy = "allow_duplicate",
        id_conflict_policy: IdConflictPolicy = "fail",
        memo: Mapping[str, object] | None = None,
        request_id: str | None = None,
    ) -> WorkflowHandle[R]: ...
    async def start(
        self,
        call: object,
        /,
        *,
        id: str | None = None,
        task_queue: str | None = None,
        execution_timeout: Duration | None = None,
        run_timeout: Duration | None = None,
        id_reuse_policy: IdReusePolicy = "allow_duplicate",
        id_conflict_policy: IdConflictPolicy = "fail",
        memo: Mapping[str, object] | None = None,
        request_id: str | None = None,
    ) -> WorkflowHandle[object]:
        """Start a workflow. When this returns, the start is on disk.

        Args:
            call: what to run: `provision("payments")`, or `Onboarding(request)` for a class.
            id: the workflow's id, by which it is found again; by default a new one.
            task_queue: whose workers run it; by default the definition's, or the client's.
            execution_timeout: how long the workflow may take, all its runs together.
            run_timeout: how long one run may take.
            id_reuse_policy: whether the id of a workflow that is closed may be used again.
            id_conflict_policy: what happens if a workflow with the id is running.
            memo: values to be shown with the workflow; its code doesn't see them.
            request_id: makes the start idempotent: of several with the same id, one takes effect.

        Raises:
            WorkflowAlreadyStarted: the id is taken, and the policies don't allow to use it.
            TypeError: `call` is not a workflow's call.
            TypeError, ValueError: an option is not what it should be; the message names it.
            EncodeError: an argument can't be encoded.
            PayloadTooLarge: an argument is over its limit.
            Unavailable: the engine could not be reached for an hour.
        """
        definition, args, kwargs = call_of(call)
        ids = self.ids
        workflow_id = ids.new_id() if id is None else text(id, "id")
        started = await send(
            self.service,
            StartWorkflow(
                self.namespace,
                workflow_id,
                definition.name,
                optional_text(task_queue, "task_queue") or definition.task_queue or self.task_queue,
                definition.signature.encode(args, kwargs),
                optional_text(request_id, "request_id") or ids.new_id(),
                self.identity,
                0 if execution_timeout is None else microseconds(execution_timeout, "execution_timeout"),
                0 if run_timeout is None else microseconds(run_timeout, "run_timeout"),
                one_of(id_reuse_policy, "id_reuse_policy", _REUSE),
                one_of(id_conflict_policy, "id_conflict_policy", _CONFLICT),
                None if memo is None else _encoded(memo),
            ),
            ids,
        )
        return WorkflowHandle(self, workflow_id, started.run_id, definition)

    @overload
    async def run(
        self,
        call: WorkflowCall[R] | ClassWorkflow[R],
        /,
        *,
        id: str | None = None,
        task_queue: str | None = None,
        execution_timeout: Duration | None = None,
        run_timeout: Duration | None = None,
        id_reuse_policy: IdReusePolicy = "allow_duplicate",
        id_conflict_policy: IdConflictPolicy = "fail",
        memo: Mapping[str, object] | None = None,
        request_id: str | None = None,
    ) -> R: ...
    @overload
    async def run(
        self,
        call: PlainClassWorkflow[R],
        /,
        *,
        id: str | None = None,
        task_queue: str | None = None,
        execution_timeout: Duration | None = None,
        run_timeout: Duration | None = None,
        id_reuse_policy: IdReusePolicy = "allow_duplicate",
        id_conflict_policy: IdConflictPolicy = "fail",
        memo: Mapping[str, object] | None = None,
        request_id: str | None = None,
    ) -> R: ...
    async def run(
        self,
        call: WorkflowCall[object] | PlainClassWorkflow[object],
        /,
        *,
        id: str | None = None,
        task_queue: str | None = None,
        execution_timeout: Duration | None = None,
        run_timeout: Duration | None = None,
        id_reuse_policy: IdReusePolicy = "allow_duplicate",
        id_conflict_policy: IdConflictPolicy = "fail",
        memo: Mapping[str, object] | None = None,
        request_id: str | None = None,
    ) -> object:
        """Start a workflow and wait for its result: `start`, then `WorkflowHandle.result`.

        Takes and raises what these two do.
        """
        handle = await self.start(
            call,
            id=id,
            task_queue=task_queue,
            execution_timeout=execution_timeout,
            run_timeout=run_timeout,
            id_reuse_policy=id_reuse_policy,
            id_conflict_policy=id_conflict_policy,
            memo=memo,
            request_id=request_id,
        )
        return await handle.result()

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

    async def list(self, query: str = "") -> AsyncIterator[WorkflowRow]:
        """Workflows, the latest started first.

        Args:
            query: such as "WorkflowType = 'provision' AND ExecutionStatus = 'Running'"; by default all.

        Raises:
            TypeError: the query is no text.
            InvalidRequest: the query can't be read; the message says where.
            Unavailable: the engine could not be reached for an hour.
        """
        page, query = "", text(query, "the query")
        while True:
            reply = await send(self.service, ListWorkflows(self.namespace, "", query, page), self.ids)
            for listed in reply.rows:
                yield row(listed)
            if not reply.next:
                return
            page = reply.next


def _encoded(memo: object) -> dict[str, Payload]:
    if not isinstance(memo, Mapping):
        raise TypeError(f"memo must be a mapping of names to values, not {type(memo).__name__}")
    items = cast("Mapping[object, object]", memo).items()
    return {text(key, "a name in the memo"): encode(value, f"memo {key!r}") for key, value in items}
