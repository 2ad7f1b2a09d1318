"""Starting a workflow: its options, the request that they make, and starts with a message."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Generic, get_args, overload

from msgspec.structs import replace
from typing_extensions import ParamSpec, TypeVar

from perdure.durations import Duration, optional_microseconds
from perdure.errors import NotRunning, NotTaken
from perdure.model.events import WorkflowExecutionStarted
from perdure.model.requests import (
    GetHistory,
    IdConflictPolicy,
    StartSignal,
    StartUpdate,
    StartWorkflow,
    UpdateOutcome,
)
from perdure.sdk.client.handle import WorkflowHandle, answer_of
from perdure.sdk.names import class_name
from perdure.sdk.options import one_of, optional_name, text
from perdure.sdk.starting import READERS, Readers, SharedOptions, check_for, read_options
from perdure.sdk.workflow.calls import call_of
from perdure.sdk.workflow.definition import WorkflowDefinition
from perdure.sdk.workflow.handlers import Signal, Update
from perdure.sdk.workflow.sending import message_of

if TYPE_CHECKING:
    from perdure.sdk.client.client import Client

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


class StartOptions(SharedOptions, total=False):
    """What may be said of a start, beside the call. `Client.start` tells what each means."""

    start_delay: Duration | None
    id_conflict_policy: IdConflictPolicy
    request_id: str | None


def start_request(
    client: Client, call: object, options: StartOptions, request_id: str = ""
) -> tuple[StartWorkflow, WorkflowDefinition]:
    """The request that starts what a call records.

    Args:
        request_id: its own, where the options give none.

    Raises:
        TypeError: `call` is not a workflow's call.
        TypeError, ValueError: an option is not what it should be, or there is none of its name.
        EncodeError, PayloadTooLarge: an argument can't be stored.
    """
    definition, args, kwargs = call_of(call)
    given: dict[str, Any] = read_options(_OPTIONS, options, "a start")
    check_for(definition, given.get("retry_policy"))
    request = StartWorkflow(
        client.namespace,
        client.ids.new_id() if (id := given.pop("id", None)) is None else id,
        definition.name,
        given.pop("task_queue", "") or definition.task_queue or client.task_queue,
        definition.signature.encode(args, kwargs),
        given.pop("request_id", "") or request_id,
        client.identity,
        **given,
    )
    return request, definition


class WithStart(Generic[R_co]):
    """A workflow that is to be started together with a message. Made by `Client.with_start`; nothing was sent yet."""

    def __init__(self, client: Client, request: StartWorkflow, definition: WorkflowDefinition) -> None:
        self._client, self._request, self._definition = client, request, definition

    @property
    def id(self) -> str:
        """The workflow's id."""
        return self._request.workflow_id

    @property
    def handle(self) -> WorkflowHandle[R_co]:
        """The workflow of this id, its latest run. Of use once it was started."""
        return WorkflowHandle(self._client, self.id, None, self._definition)

    @overload
    async def signal(self, signal: Signal[P], /, *args: P.args, **kwargs: P.kwargs) -> WorkflowHandle[R_co]: ...
    @overload
    async def signal(self, signal: str, /, *args: object) -> WorkflowHandle[R_co]: ...
    async def signal(self, signal: object, /, *args: object, **kwargs: object) -> WorkflowHandle[R_co]:
        """Signal the workflow, and start it first if it isn't running. Both are on disk when this returns, or neither.

        Args:
            signal: the handler, such as `Onboarding.approve`; or the signal's name.

        Returns:
            The run that has the signal.

        Raises:
            WorkflowAlreadyStarted: the workflow is closed, and `id_reuse_policy` doesn't allow another run.
            TypeError: the handler is not of this workflow, or doesn't take these arguments.
            ValueError: `id_conflict_policy` is "fail", by which the signal would never reach a running workflow.
            EncodeError, PayloadTooLarge: an argument can't be stored.
            Unavailable: the engine could not be reached for an hour.
        """
        with self._client.room():
            name, input, _ = message_of("signal", signal, args, kwargs, self._definition)
        if self._request.id_conflict_policy == "fail":
            raise ValueError('a start with a signal takes id_conflict_policy="use_existing" or "terminate_existing"')
        return await self._send(self._own_id(), StartSignal(name, input))

    @overload
    async def update(self, update: Update[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    async def update(self, update: str, /, *args: object) -> object: ...
    async def update(self, update: object, /, *args: object, **kwargs: object) -> object:
        """Update the workflow, after starting it if it isn't running, and wait for the update's answer.

        The start and the update are on disk together. Where the validator refuses the update, the workflow was started
        nevertheless. Where the workflow was running, and its code ends before it could take the update, it is started.
        One that has answered an update of this `request_id`, and is closed, isn't started again.

        Args:
            update: the handler, such as `Onboarding.resize`; or the update's name.

        Raises:
            Exception: what the validator or the handler raised, as itself; see `WorkflowHandle.update`, also for what
                the handler may raise.
            WorkflowAlreadyStarted: the policies don't allow to start it, or to use the one that runs.
            NotTaken: it was started, and has ended without waiting for anything.
            TypeError: the handler is not of this workflow, or doesn't take these arguments.
            ValueError: the start has a `start_delay`: nobody could answer before it is over.
            EncodeError, PayloadTooLarge: an argument can't be stored.
            Unavailable: the engine could not be reached for an hour.
        """
        with self._client.room():
            name, input, handler = message_of("update", update, args, kwargs, self._definition)
        if self._request.start_delay:
            raise ValueError("a start with an update can't have a start_delay: nobody could answer before it is over")
        id = self._own_id()
        while True:
            run_id = (await self._send(id, StartUpdate(id, name, input))).run_id or ""
            # Of that run, and no later one: there it would be another update.
            handle = WorkflowHandle[object](self._client, self.id, run_id, self._definition, messages_to=run_id)
            try:
                outcome = await handle.outcome(id, name, input)
            except NotRunning:  # it was given to an earlier run; perhaps too late, and the latest was started instead
                if not await self._has_begun("", _following(id)):
                    raise
            else:
                if not _is_too_late(outcome) or await self._has_begun(run_id, id):  # which the next would do, too
                    return answer_of(outcome, name, handler)
            id = _following(id)

    def _own_id(self) -> str:
        """Each message is one of its own, unless the caller says what makes it the same."""
        return self._request.request_id or self._client.ids.new_id()

    async def _send(self, request_id: str, message: StartSignal | StartUpdate) -> WorkflowHandle[R_co]:
        started = await self._client.send(replace(self._request, request_id=request_id, message=message))
        return WorkflowHandle(self._client, self.id, started.run_id, self._definition)

    async def _has_begun(self, run_id: str, request_id: str) -> bool:
        """Whether the start of this request began a run, or an earlier one of its chain."""
        page = await self._client.send(GetHistory(self._client.namespace, self.id, run_id))
        first = page.events[0]
        return isinstance(first, WorkflowExecutionStarted) and first.request_id == request_id

    def __repr__(self) -> str:
        return f"<start of workflow {self._definition.name} with a message, id {self.id!r}>"


def _is_too_late(outcome: UpdateOutcome) -> bool:
    """Whether the workflow ended before it could take an update: no code of its own says so."""
    failure = outcome.failure
    return failure is not None and failure.kind == "engine" and failure.type == class_name(NotTaken)


def _following(request_id: str) -> str:
    """The id under which a request is made anew: the same, whoever repeats it."""
    return blake2b(request_id.encode(), digest_size=16).hexdigest()


_CONFLICT: Final = get_args(IdConflictPolicy)

_OPTIONS: Final[Readers] = {
    "id": lambda value: None if value is None else text(value, "id"),
    **READERS,
    "start_delay": lambda value: optional_microseconds(value, "start_delay") or 0,
    "id_conflict_policy": lambda value: one_of(value, "id_conflict_policy", _CONFLICT),
    "request_id": lambda value: optional_name(value, "request_id") or "",
}
"""What each of `StartOptions` becomes in the request, where all but `id` are fields of the same name."""
