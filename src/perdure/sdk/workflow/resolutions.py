"""How what a run has asked others for ends, in its live copy: a table from the event's type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from perdure.model import events as e
from perdure.model.failures import Failure
from perdure.sdk.failures import Ended, ExceptionResolver, exception_of
from perdure.sdk.workflow.ledger import Ledger


def activity_completed(ledger: Ledger, _: ExceptionResolver, event: e.ActivityTaskCompleted) -> None:
    """It returned."""
    ledger.complete(event.scheduled_event_id, event.result)


def activity_failed(
    ledger: Ledger, resolver: ExceptionResolver, event: e.ActivityTaskFailed | e.ActivityTaskTimedOut
) -> None:
    """It raised, or had no time left."""
    ledger.fail(event.scheduled_event_id, _exception(event.failure, resolver, "activity"))


def activity_cancelled(ledger: Ledger, resolver: ExceptionResolver, event: e.ActivityTaskCanceled) -> None:
    """It has ended because somebody wanted it to."""
    failure = Failure("the activity was cancelled from outside the workflow", kind="cancelled")
    ledger.stop(event.scheduled_event_id, _exception(failure, resolver, "activity"))


def timer_fired(ledger: Ledger, _: ExceptionResolver, event: e.TimerFired) -> None:
    """Its time has come."""
    ledger.fire(event.started_event_id)


def child_started(ledger: Ledger, _: ExceptionResolver, event: e.ChildWorkflowExecutionStarted) -> None:
    """It exists."""
    ledger.child_started(event)


def child_completed(ledger: Ledger, _: ExceptionResolver, event: e.ChildWorkflowExecutionCompleted) -> None:
    """It returned."""
    ledger.complete(event.initiated_event_id, event.result)


def child_failed(
    ledger: Ledger,
    resolver: ExceptionResolver,
    event: e.ChildWorkflowExecutionFailed | e.StartChildWorkflowExecutionFailed,
) -> None:
    """It ended otherwise, or was never begun."""
    end = ledger.stop if event.failure.kind == "cancelled" else ledger.fail
    end(event.initiated_event_id, _exception(event.failure, resolver, "workflow"))


def arrived(
    ledger: Ledger,
    _: ExceptionResolver,
    event: e.ExternalWorkflowExecutionSignaled | e.ExternalWorkflowExecutionCancelRequested,
) -> bool:
    """Another workflow has what was sent to it."""
    return ledger.answer(event.initiated_event_id, None)


def not_arrived(
    ledger: Ledger,
    resolver: ExceptionResolver,
    event: e.SignalExternalWorkflowExecutionFailed | e.RequestCancelExternalWorkflowExecutionFailed,
) -> bool:
    """There is nobody to whom it could be sent."""
    return ledger.answer(event.initiated_event_id, _exception(event.failure, resolver, "workflow"))


def _exception(failure: Failure, resolver: ExceptionResolver, of: Ended) -> Callable[[], BaseException]:
    return lambda: exception_of(failure, resolver, of=of)


RESOLVE: Final[dict[type[Any], Callable[[Ledger, ExceptionResolver, Any], bool | None]]] = {
    e.ActivityTaskCompleted: activity_completed,
    e.ActivityTaskFailed: activity_failed,
    e.ActivityTaskTimedOut: activity_failed,
    e.ActivityTaskCanceled: activity_cancelled,
    e.TimerFired: timer_fired,
    e.ChildWorkflowExecutionStarted: child_started,
    e.StartChildWorkflowExecutionFailed: child_failed,
    e.ChildWorkflowExecutionCompleted: child_completed,
    e.ChildWorkflowExecutionFailed: child_failed,
    e.ExternalWorkflowExecutionSignaled: arrived,
    e.SignalExternalWorkflowExecutionFailed: not_arrived,
    e.ExternalWorkflowExecutionCancelRequested: arrived,
    e.RequestCancelExternalWorkflowExecutionFailed: not_arrived,
}
"""What each does; False: nothing that the code could hear of."""
