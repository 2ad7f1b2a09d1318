"""Chains of runs: whether the end of one is followed by another attempt, by the workflow's retry policy."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from msgspec.structs import replace

from perdure.engine.core.deadlines import execution_deadline
from perdure.engine.core.decisions.closing import close
from perdure.engine.core.effects import ContinueRun
from perdure.engine.core.retries import backoff, matches
from perdure.engine.core.transition import Transition
from perdure.limits import MAX_DURATION
from perdure.model import events as e
from perdure.model.events import RetryState
from perdure.model.failures import Failure
from perdure.model.state import State

TIMED_OUT: Final = Failure(
    "the run took longer than its timeout", ("perdure.errors.WorkflowTimedOut", "builtins.TimeoutError"), "timeout"
)
"""What the next attempt is told of a run whose time was over; policies may name its classes."""


def next_run_id(run_id: str, event_id: int) -> str:
    """The id of the run that follows this one, by what an event of it says.

    Derived, not drawn: the core has no randomness, and a decision made again must give the same id.
    """
    return blake2b(f"{run_id}/{event_id}".encode(), digest_size=16).hexdigest()


def retry_delay(state: State, failure: Failure) -> int:
    """Microseconds between a failed run and the next attempt, by its policy."""
    started = state.started
    if failure.next_retry_delay >= 0:
        return min(failure.next_retry_delay, MAX_DURATION)
    assert started.retry_policy is not None
    return backoff(started.retry_policy, started.attempt, f"{started.run_id}/{started.attempt}")


def retry_state(state: State, failure: Failure, now: int) -> RetryState:
    """Whether another attempt follows ("in_progress"), or why not; "" without a policy."""
    started, policy = state.started, state.started.retry_policy
    if policy is None:
        return ""
    if state.cancel_requested:
        return "cancel_requested"
    if failure.non_retryable or matches(policy.non_retryable, failure):
        return "non_retryable"
    if policy.maximum_attempts and started.attempt >= policy.maximum_attempts:
        return "maximum_attempts"
    deadline = execution_deadline(state)
    if deadline and now + retry_delay(state, failure) >= deadline:
        return "timeout"
    return "in_progress"


def end_or_retry(tx: Transition, event: e.WorkflowExecutionFailed | e.WorkflowExecutionTimedOut) -> None:
    """End the run with this event; where its policy says so, the next attempt begins in the same commit.

    A cancelled or terminated run, and one that continues as new, are not failures: no other attempt follows them.
    """
    verdict = retry_state(tx.state, failure_of(event), tx.now)
    if verdict != "in_progress":
        close(tx, replace(event, retry_state=verdict))
        return
    close(tx, replace(event, retry_state=verdict, new_run_id=next_run_id(tx.execution.ref.run_id, tx.next_id)))
    tx.effects.append(ContinueRun())


def failure_of(event: e.WorkflowExecutionFailed | e.WorkflowExecutionTimedOut) -> Failure:
    """What a run has failed with, as policies see it."""
    return event.failure if isinstance(event, e.WorkflowExecutionFailed) else TIMED_OUT
