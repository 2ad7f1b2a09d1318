"""What an attempt's end means for the node, wherever it ran."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

from msgspec.structs import replace

from perdure.errors import ApplicationError, CodecError, CompleteLater, InvalidRequest
from perdure.model.failures import Failure
from perdure.model.tasks import (
    ActivityCancellation,
    ActivityCompletion,
    ActivityDetached,
    ActivityEvicted,
    ActivityFailure,
    ActivityTask,
)
from perdure.sdk.activity.definition import ActivityDefinition
from perdure.sdk.failures import exception_of, failure_of

Outcome: TypeAlias = ActivityCompletion | ActivityFailure | ActivityCancellation | ActivityEvicted | ActivityDetached


def returned(task: ActivityTask, definition: ActivityDefinition, result: object) -> Outcome:
    """The outcome of an attempt that returned."""
    try:
        payload = definition.signature.encode_result(result)
    except InvalidRequest as error:
        return ActivityFailure(task.token, encoding_failure(error))
    return ActivityCompletion(task.token, payload)


def raised(task: ActivityTask, error: BaseException, *, asked: bool, reason: str) -> Outcome:
    """The outcome of an attempt that raised. asked: it was told to stop, for a reason ("": its worker stops)."""
    if isinstance(error, CompleteLater):
        return ActivityDetached(task.token)
    if isinstance(error, asyncio.CancelledError):
        if reason == "cancel_requested":
            return ActivityCancellation(task.token)
        if asked:
            return ActivityEvicted(task.token)  # it timed out, or the worker or the loop stops
        message = f"activity {task.activity_type!r} raised CancelledError, but nobody asked it to stop"
        unasked = ApplicationError(message, type="CancelledError")
        unasked.__cause__ = error
        error = unasked
    return ActivityFailure(task.token, failure_of(error))


def encoding_failure(error: InvalidRequest) -> Failure:
    """Arguments, or a result, that are not what they should be: they won't be at the next attempt either."""
    return replace(failure_of(error), kind="encoding", non_retryable=True)


def value_of(definition: ActivityDefinition, outcome: Outcome) -> object:
    """What an attempt has returned elsewhere. Raises what it has raised."""
    if isinstance(outcome, ActivityCompletion):
        return definition.signature.decode_result(outcome.result)
    if isinstance(outcome, ActivityFailure):
        raise exception_of(outcome.failure, of="activity")
    raise CompleteLater if isinstance(outcome, ActivityDetached) else asyncio.CancelledError


def unread_failure(error: CodecError) -> Failure:
    """Of an attempt that has not begun, since what it was given can't be decoded here."""
    return replace(failure_of(error), kind="unread")
