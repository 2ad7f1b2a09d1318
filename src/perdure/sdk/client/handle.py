"""One workflow, as seen from outside."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self, cast, overload

from typing_extensions import ParamSpec, TypeVar

from perdure.clock import SECOND
from perdure.durations import Duration, microseconds, optional_microseconds
from perdure.errors import (
    QueryFailed,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowTerminated,
    WorkflowTimedOut,
)
from perdure.limits import MAX_HISTORY_EVENTS
from perdure.model.events import HistoryEvent
from perdure.model.payloads import Payloads
from perdure.model.requests import (
    CancelWorkflowRequest,
    CompleteActivity,
    DescribeWorkflow,
    FailActivity,
    GetHistory,
    GetResult,
    Outcome,
    QueryWorkflow,
    ReleaseActivity,
    Reply,
    Request,
    ResetWorkflow,
    SignalWorkflow,
    Status,
    TerminateWorkflow,
    UpdateOutcome,
    UpdateWorkflow,
)
from perdure.sdk.client.description import WorkflowDescription, describe
from perdure.sdk.client.elsewhere import AsyncActivityHandle, encoded_result, reported_failure
from perdure.sdk.client.interventions import Interventions
from perdure.sdk.converter import decode
from perdure.sdk.failures import exception_of
from perdure.sdk.options import name as checked_name
from perdure.sdk.options import one_of, text, whole_number
from perdure.sdk.retry import RetryPolicy, optional_policy
from perdure.sdk.workflow.definition import HandlerDefinition, WorkflowDefinition
from perdure.sdk.workflow.handlers import Query, Signal, Update
from perdure.sdk.workflow.sending import decoded, message_of

if TYPE_CHECKING:
    from perdure.sdk.client.client import Client

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

_ENDS: Final[Mapping[Status, tuple[type[WorkflowFailed], str]]] = {
    "Canceled": (WorkflowCancelled, "was cancelled"),
    "Terminated": (WorkflowTerminated, "was terminated"),
    "TimedOut": (WorkflowTimedOut, "took longer than its timeout"),
}


class WorkflowHandle(Interventions, Generic[R_co]):
    """A workflow that was started, by this process or any other. Made by `Client.start` and `Client.get`.

    Messages go to the workflow's latest run, so that they arrive also after it has continued as new; unless the
    handle was got for one run.

    Every method raises `NotFound` where there is no such workflow (`NotRunning` where it is closed and takes no
    messages), and `Unavailable` where the engine could not be reached for an hour.
    """

    def __init__(
        self,
        client: Client,
        id: str,
        run_id: str | None,
        definition: WorkflowDefinition | None = None,
        *,
        messages_to: str = "",
    ) -> None:
        super().__init__(client, id, messages_to)
        self.run_id: Final = run_id
        """The run that `result` begins with and `history` shows; None: the latest."""
        self._definition = definition
        self._timeout: float | None = None
        self._request_id = ""

    def options(self, *, timeout: Duration | None = None, request_id: str | None = None) -> Self:
        """The same workflow, with options for what is called on the returned handle.

        Args:
            timeout: how long an answer may take; after it `TimeoutError` is raised. What was sent may still take
                effect.
            request_id: makes a signal or an update idempotent: of several with the same id, one takes effect.

        Raises:
            TypeError, ValueError: an option is not what it should be.
        """
        other = copy.copy(self)
        if timeout is not None:
            other._timeout = microseconds(timeout, "timeout") / SECOND
        if request_id is not None:
            other._request_id = checked_name(request_id, "request_id")
        return other

    # --- The end ------------------------------------------------------------------------------------
    async def result(self) -> R_co:
        """Wait for the workflow's end, and return its result: that of its last run, if it continues as new or is tried
        again by its retry policy.

        Raises:
            Exception: what failed the workflow, as itself; `ApplicationError` where its class isn't known here.
            WorkflowCancelled, WorkflowTerminated, WorkflowTimedOut: it ended that way.
            DecodeError: the result doesn't fit the type that the workflow has here.
        """
        return await self._in_time(self._result())

    async def cancel(self, reason: str = "") -> None:
        """Ask the workflow to stop: its code sees `CancelledError` and may clean up. Asking again changes nothing.

        Args:
            reason: why; it stands in the history.
        """
        client = self._client
        await self._call(
            CancelWorkflowRequest(
                client.namespace,
                self.id,
                self._messages_to,
                text(reason, "reason"),
                client.identity,
                client.ids.new_id(),
            )
        )

    async def terminate(self, reason: str = "") -> None:
        """End the workflow at once. Its code has no say, and cleans nothing up; its children follow their policies.

        Args:
            reason: why; `WorkflowTerminated` tells it to whoever waits for the result.
        """
        client = self._client
        await self._call(
            TerminateWorkflow(client.namespace, self.id, self._messages_to, text(reason, "reason"), client.identity)
        )

    # --- Messages -----------------------------------------------------------------------------------
    @overload
    async def signal(self, signal: Signal[P], /, *args: P.args, **kwargs: P.kwargs) -> None: ...
    @overload
    async def signal(self, signal: str, /, *args: object) -> None: ...
    async def signal(self, signal: object, /, *args: object, **kwargs: object) -> None:
        """Send a message that has no answer. When this returns, it is on disk.

        Args:
            signal: the handler, such as `Onboarding.approve`; or the signal's name.

        Raises:
            TypeError: the handler is not of this workflow, or doesn't take these arguments.
            EncodeError, PayloadTooLarge: an argument can't be stored.
        """
        with self._client.room():
            name, input, _ = message_of("signal", signal, args, kwargs, self._definition)
        client = self._client
        await self._call(
            SignalWorkflow(
                client.namespace, self.id, self._messages_to, name, input, self._new_request_id(), client.identity
            )
        )

    @overload
    async def query(self, query: Query[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def query(self, query: str, /, *args: object) -> object: ...
    async def query(self, query: object, /, *args: object, **kwargs: object) -> object:
        """Ask the workflow something. Changes nothing; a closed workflow answers too.

        Args:
            query: the handler, such as `Onboarding.status`; or the query's name.

        Raises:
            QueryFailed: the handler raised, or there is none; its own exception is the cause.
            TypeError: the handler is not of this workflow, or doesn't take these arguments.
            EncodeError, PayloadTooLarge: an argument can't be sent.
        """
        with self._client.room():
            name, input, handler = message_of("query", query, args, kwargs, self._definition)
        reply = await self._call(QueryWorkflow(self._client.namespace, self.id, self._messages_to, name, input))
        if reply.failure is not None:
            error = exception_of(reply.failure, of="workflow")
            if isinstance(error, QueryFailed):
                raise error
            text = f"query {name!r} of workflow {self.id!r} failed: {reply.failure.text}"
            raise QueryFailed(text) from error
        return decoded(handler, reply.result, name)

    @overload
    async def update(self, update: Update[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def update(self, update: str, /, *args: object) -> object: ...
    async def update(self, update: object, /, *args: object, **kwargs: object) -> object:
        """Change something in the workflow, and wait for its answer.

        Any other exception of the handler than those below is a bug of the workflow: it stops there, and this waits
        until the code is mended (`options(timeout=…)` waits for less; `describe` tells of the bug).

        Args:
            update: the handler, such as `Onboarding.resize`; or the update's name.

        Raises:
            Exception: what the validator raised, as itself; of the handler an `ApplicationError`, one of the workflow's
                `failure_exceptions`, or how an activity or a child has ended.
            TypeError: the handler is not of this workflow, or doesn't take these arguments.
            EncodeError, PayloadTooLarge: an argument can't be stored.
        """
        with self._client.room():
            name, input, handler = message_of("update", update, args, kwargs, self._definition)
        return answer_of(await self.outcome(self._new_request_id(), name, input), name, handler)

    async def outcome(self, update_id: str, name: str, input: Payloads) -> UpdateOutcome:
        """Wait for what becomes of an update, and send the update if it wasn't sent before.

        Args:
            update_id: names the update.
            name, input: what it is, with its arguments as they travel.
        """
        client = self._client
        request = UpdateWorkflow(client.namespace, self.id, self._messages_to, update_id, name, input, client.identity)
        reply = await self._call(request)
        while reply.stage == "accepted":  # an answer before its time, as a gateway may give
            reply = await self._call(request)
        return reply

    async def reset(
        self,
        *,
        event_id: int | None = None,
        to: Literal["first", "last"] | None = None,
        reason: str = "",
        reapply: bool = True,
    ) -> WorkflowHandle[R_co]:
        """Go back to an earlier workflow task: another run begins with the history up to there, and goes on.

        It runs that task's code again. The run that is open is terminated; a closed workflow can be reset, too.

        Activities that were pending at that point are started anew, with their attempts counted from 1; timers keep
        their times; children that were asked for before go on as the new run's, those asked for later end as their
        parent close policies say. Timeouts of the run and its activities begin again.

        Args:
            event_id: of a workflow task's started, completed, failed or timed out event, in the run that `history`
                shows.
            to: the "first" or the "last" workflow task that the latest run completed, instead of an event.
            reason: why; it stands in the journal, with who and when.
            reapply: whether signals, and updates that were accepted, that came later are given to the new run, too;
                those of later runs of the same chain included. Cancel requests are not.

        Returns:
            The new run.

        Raises:
            InvalidRequest: there is no such workflow task; the message says which there are.
            TypeError, ValueError: none or both of `event_id` and `to` are given, or are not what they should be.
        """
        if (event_id is None) == (to is None):
            raise TypeError("reset() takes either event_id=… or to=…, the first or the last workflow task")
        request = ResetWorkflow(
            self._client.namespace,
            self.id,
            self._messages_to if event_id is None else self.run_id or self._messages_to,
            self._new_request_id(),
            0 if event_id is None else whole_number(event_id, "event_id", 1, MAX_HISTORY_EVENTS * 2),
            "" if to is None else one_of(to, "to", ("first", "last")),
            text(reason, "the reason"),
            self._client.identity,
            reapply,
        )
        started = await self._call(request)
        return WorkflowHandle(self._client, self.id, started.run_id, self._definition)

    # --- Looking ------------------------------------------------------------------------------------
    async def describe(self) -> WorkflowDescription:
        """How the workflow is now: its status, what it waits for, what it fails on."""
        return describe(await self._call(DescribeWorkflow(self._client.namespace, self.id, self._messages_to)))

    async def history(self) -> AsyncIterator[HistoryEvent]:
        """The events of one run, in order: of the latest, unless the handle is of another. They are read page by page::

        async for event in handle.history():
            print(event.id, type(event).__name__)
        """
        run_id, token = self.run_id or "", 0
        while True:
            page = await self._call(GetHistory(self._client.namespace, self.id, run_id, token))
            for event in page.events:
                yield event
            if not page.next:
                return
            run_id, token = page.run_id, page.next

    # --- What waits for a person --------------------------------------------------------------------
    async def release(
        self,
        activity_id: str = "",
        *,
        note: str = "",
        retry_policy: RetryPolicy | None = None,
        start_to_close_timeout: Duration | None = None,
        schedule_to_close_timeout: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
    ) -> None:
        """Let held activities go on: they are tried again at once.

        A run that a hard limit holds goes on, too, with room for `limits.RELEASED_EVENTS` more events: enough to end,
        or to continue as new.

        Args:
            activity_id: which one; by default all that are held, and the run itself.
            note: what was done about it; it stands in the journal, with who and when.
            retry_policy: replaces the activity's own from now on, as do the timeouts.

        Raises:
            NotFound: nothing is held, or that activity neither is nor waits for its next attempt; `NotRunning` where
                the workflow is closed.
            TypeError, ValueError: an option is not what it should be; the message names it.
        """
        client = self._client
        await self._call(
            ReleaseActivity(
                client.namespace,
                self.id,
                self._messages_to,
                text(activity_id, "activity_id"),
                text(note, "note"),
                client.identity,
                optional_policy(retry_policy),
                optional_microseconds(start_to_close_timeout, "start_to_close_timeout"),
                optional_microseconds(schedule_to_close_timeout, "schedule_to_close_timeout"),
                optional_microseconds(heartbeat_timeout, "heartbeat_timeout"),
            )
        )

    def activity(self, activity_id: str) -> AsyncActivityHandle:
        """An activity of this workflow whose running attempt is completed from elsewhere. Asks nobody.

        Args:
            activity_id: which one; `describe` tells them, and `activity.info()` its own.

        Raises:
            TypeError, ValueError: that can be no activity's id.
        """
        return AsyncActivityHandle(self._client, self.id, self._messages_to, checked_name(activity_id, "activity_id"))

    async def complete_activity(self, activity_id: str, result: object = None, *, note: str = "") -> None:
        """Give an activity its result, in place of whatever it is doing.

        Args:
            activity_id: which one; `describe` tells them.
            result: what the workflow's code gets.
            note: why; it stands in the journal, with who and when.

        Raises:
            EncodeError, PayloadTooLarge: the result can't be stored, or is none that the activity could have, as far
                as its definition is known in this process. Elsewhere the workflow's code sees a `DecodeError`.
        """
        client = self._client
        activity_id, note = text(activity_id, "activity_id"), text(note, "note")
        definition = await self.activity(activity_id).definition()
        with client.room():
            payload = encoded_result(result, definition)
        await self._call(
            CompleteActivity(client.namespace, self.id, self._messages_to, activity_id, payload, note, client.identity)
        )

    async def fail_activity(self, activity_id: str, error: Exception | str, *, note: str = "") -> None:
        """Fail an activity for good, in place of whatever it is doing. No policy tries it again.

        Args:
            activity_id: which one; `describe` tells them.
            error: what the workflow's code sees; a text becomes an `ApplicationError`.
            note: why; it stands in the journal, with who and when.

        Raises:
            NotFound: there is no such pending activity; the message tells those there are.
            TypeError: the error is neither an exception nor a text.
        """
        client = self._client
        failure = reported_failure(error)
        activity_id, note = text(activity_id, "activity_id"), text(note, "note")
        await self._call(
            FailActivity(client.namespace, self.id, self._messages_to, activity_id, failure, note, client.identity)
        )

    def __repr__(self) -> str:
        return f"<WorkflowHandle {self.id!r}>"

    # --- Parts --------------------------------------------------------------------------------------
    async def _result(self) -> R_co:
        client, definition = self._client, self._definition
        run_id = self.run_id or ""
        while True:
            outcome = await client.send(GetResult(client.namespace, self.id, run_id))
            status = outcome.status
            if status == "Completed" and outcome.result is not None:
                if definition is None:
                    return cast("R_co", decode(outcome.result, object, f"the result of workflow {self.id!r}"))
                return cast("R_co", definition.signature.decode_result(outcome.result))
            if outcome.new_run_id:  # it continues as new, or is tried again
                run_id = outcome.new_run_id
            elif status != "Running":  # an answer before its time, as a gateway may give
                raise self._error(outcome)

    def _error(self, outcome: Outcome) -> Exception:
        failure = outcome.failure
        if outcome.status == "Failed" and failure is not None:
            return exception_of(failure, of="workflow")
        error, text = _ENDS.get(outcome.status, (WorkflowFailed, f"ended as {outcome.status}"))
        reason = f": {failure.message}" if failure is not None and failure.message else ""
        return error(f"workflow {self.id!r} {text}{reason}")

    def _new_request_id(self) -> str:
        return self._request_id or self._client.ids.new_id()

    async def _call(self, request: Request[Reply]) -> Reply:
        sent = self._client.send(request)
        return await (sent if self._timeout is None else self._in_time(sent))

    async def _in_time(self, answer: Coroutine[Any, Any, T]) -> T:
        if self._timeout is None:
            return await answer
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                return await answer
        except TimeoutError:
            if not limit.expired():
                raise  # it is itself the answer
            raise TimeoutError(f"no answer of workflow {self.id!r} within {self._timeout:g} s") from None


def answer_of(outcome: UpdateOutcome, name: str, handler: HandlerDefinition | None) -> object:
    """What an update has given. Raises what `WorkflowHandle.update` does.

    Args:
        handler: knows the answer's type; without it, the answer is a plain JSON value.
    """
    if outcome.failure is not None:
        raise exception_of(outcome.failure, of="workflow")
    return decoded(handler, outcome.result, name)
