"""Attempts of activities that are completed from elsewhere than the worker that began them.

An activity raises `activity.CompleteLater`, having told somebody its task token; a client reports what becomes of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from perdure.errors import ApplicationError
from perdure.model.failures import Failure
from perdure.model.payloads import Payload
from perdure.model.requests import AttemptState, DescribeWorkflow, HeartbeatAttempt, SettleAttempt
from perdure.sdk.activity.definition import ActivityDefinition
from perdure.sdk.activity.tokens import TaskToken, decode_token
from perdure.sdk.converter import encode, encode_all
from perdure.sdk.failures import failure_of
from perdure.sdk.registry import REGISTRY

if TYPE_CHECKING:
    from perdure.sdk.client.client import Client


class AsyncActivityHandle:
    """An attempt of an activity that goes on elsewhere. Made by `Client.activity`, from its task token, and by
    `WorkflowHandle.activity`, from the activity's id: then whichever attempt is running is meant.

    Every method raises `NotFound` where that attempt is not running (any more): it has timed out, has an outcome, or
    was lost before its worker could let go of it, so that another one has another token; `NotRunning` where the
    workflow is closed; and `Unavailable` where the engine could not be reached for an hour. What is reported stands in
    the journal when a method returns; sent again by the client, it counts once.
    """

    def __init__(
        self, client: Client, workflow_id: str, run_id: str, activity_id: str = "", token: TaskToken | None = None
    ) -> None:
        self.workflow_id: Final = workflow_id
        """The workflow that the activity is of."""
        self._client = client
        self._run_id = run_id
        self._activity_id = activity_id
        self._token = token

    async def complete(self, result: object = None) -> None:
        """The attempt has returned.

        Args:
            result: what the workflow's code gets.

        Raises:
            EncodeError, PayloadTooLarge: the result can't be stored, or is none that the activity could have, as far
                as its definition is known in this process. Elsewhere the workflow's code sees a `DecodeError`.
        """
        definition = await self.definition()
        with self._client.room():
            payload = encoded_result(result, definition)
        await self._settle(payload, None)

    async def fail(self, error: Exception | str) -> None:
        """The attempt has raised. The activity's retry policy decides what follows, as after any failed attempt.
        Another one begins at a worker, with another token.

        Args:
            error: what it raised; a text becomes an `ApplicationError`. `activity.Hold` makes it wait for a person.
        """
        with self._client.room():
            failure = reported_failure(error)
        await self._settle(None, failure)

    async def cancelled(self) -> None:
        """The attempt has stopped, since a heartbeat's answer said that it should. Where its cancellation was asked
        for, the activity ends as cancelled; where it was paused or reset, another attempt follows, and this one doesn't
        count.

        Raises:
            InvalidRequest: nobody asked it to stop.
        """
        await self._settle(None, None)

    async def heartbeat(self, *details: object) -> AttemptState:
        """Say that the attempt is alive, and how far it came. Each is journaled: send no more than the heartbeat
        timeout needs.

        Args:
            details: what the next attempt needs to go on from here (see `activity.heartbeat_details`). Without any, the
                attempt is alive, and what was told last is kept.

        Returns:
            Whether the attempt should stop: its cancellation was requested, it (or its workflow) is paused, or it was
            reset.

        Raises:
            EncodeError, PayloadTooLarge: the details can't be stored.
        """
        with self._client.room():
            payloads = encode_all(details, "a heartbeat detail")
        client, id, event, attempt = self._client, *self._place()
        request = HeartbeatAttempt(client.namespace, self.workflow_id, self._run_id, payloads, id, event, attempt)
        return await client.send(request)

    async def definition(self) -> ActivityDefinition | None:
        """What the activity is in this process; None where that isn't known."""
        if self._token is not None:
            return REGISTRY.activities.get(self._token.activity_type)
        client = self._client
        reply = await client.send(DescribeWorkflow(client.namespace, self.workflow_id, self._run_id))
        for each in reply.activities:
            if each.activity_id == self._activity_id:
                return REGISTRY.activities.get(each.activity_type)
        return None

    async def _settle(self, result: Payload | None, failure: Failure | None) -> None:
        client = self._client
        request = SettleAttempt(
            client.namespace,
            self.workflow_id,
            self._run_id,
            client.ids.new_id(),
            result,
            failure,
            *self._place(),
            client.identity,
        )
        await client.send(request)

    def _place(self) -> tuple[str, int, int]:
        if self._token is None:
            return self._activity_id, 0, 0
        return "", self._token.attempt.scheduled_event_id, self._token.attempt.attempt

    def __repr__(self) -> str:
        what = self._activity_id or (self._token.activity_type if self._token is not None else "")
        return f"<AsyncActivityHandle {what!r} of workflow {self.workflow_id!r}>"


def attempt_of(client: Client, task_token: object) -> AsyncActivityHandle:
    """The attempt that a token names. Raises TypeError, ValueError where it is none of the client's namespace."""
    token = decode_token(task_token)
    run = token.attempt.run
    if run.namespace != client.namespace:
        raise ValueError(f"the task token is of namespace {run.namespace!r}; this client is of {client.namespace!r}")
    return AsyncActivityHandle(client, run.workflow_id, run.run_id, token=token)


def encoded_result(result: object, definition: ActivityDefinition | None) -> Payload:
    """A result that is reported from outside. Raises EncodeError, PayloadTooLarge."""
    return encode(result, "the result") if definition is None else definition.signature.encode_result(result)


def reported_failure(error: Exception | str) -> Failure:
    """A failure that is reported from outside. Raises TypeError where it is none."""
    if not isinstance(cast(object, error), Exception | str):
        raise TypeError(f"error must be an exception or a text, not {type(error).__name__}")
    return failure_of(ApplicationError(error) if isinstance(error, str) else error)
