"""What happens after an attempt of an activity failed: another attempt, a wait for a person, or the end."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from perdure.clock import SECOND
from perdure.engine.core.deadlines import limits_of
from perdure.limits import MAX_ATTEMPTS, MAX_DURATION
from perdure.model.events import RetryState
from perdure.model.failures import Failure
from perdure.model.retry import RetryPolicy, backoff, matches
from perdure.model.state import PendingActivity


class Retry(NamedTuple):
    """There is another attempt, at this time."""

    at: int


class HoldFor(NamedTuple):
    """The activity waits for a person, for this reason."""

    reason: str


class GiveUp(NamedTuple):
    """The activity has failed."""

    why: RetryState


def after_failure(run_id: str, activity: PendingActivity, failure: Failure, now: int) -> Retry | HoldFor | GiveUp:
    """What the activity's policy says of this failure."""
    policy = activity.retry_policy or activity.event.retry_policy
    if activity.cancel_requested:
        return GiveUp("cancel_requested")
    if failure.kind == "unread":
        return _until_read(run_id, activity, now)
    if failure.kind == "hold":
        return HoldFor(failure.message)
    if matches(policy.hold_on, failure):
        return HoldFor(failure.message)
    if failure.non_retryable or matches(policy.non_retryable, failure):
        return HoldFor(f"not to be retried: {failure.text}") if policy.hold_non_retryable else GiveUp("non_retryable")
    made = activity.attempt - activity.attempts_before
    if policy.maximum_attempts and made >= policy.maximum_attempts:
        return _exhausted(policy, failure, "maximum_attempts", f"all {made} attempts failed")
    at = now + (
        min(failure.next_retry_delay, MAX_DURATION)
        if failure.next_retry_delay >= 0
        else backoff(policy, made, f"{run_id}/{activity.event.id}/{activity.attempt}")
    )
    limit, *_ = limits_of(activity)
    if limit and at >= activity.event.time + limit + activity.held_for:
        return _exhausted(policy, failure, "timeout", "no time is left for another attempt")
    return Retry(at)


def _until_read(run_id: str, activity: PendingActivity, now: int) -> Retry | GiveUp:
    """The attempt has not begun, since its worker could not decode what it was given: it costs none of the attempts
    that the policy gives. Only its time may end."""
    policy = activity.retry_policy or activity.event.retry_policy
    at = now + backoff(policy, activity.attempt, f"{run_id}/{activity.event.id}/{activity.attempt}")
    limit, *_ = limits_of(activity)
    return GiveUp("timeout") if limit and at >= activity.event.time + limit + activity.held_for else Retry(at)


def told(verdict: Retry | HoldFor | GiveUp, now: int) -> str:
    """A verdict in words."""
    match verdict:
        case Retry(at):
            return f"tried again in {max(0, at - now) / SECOND:.3g} s"
        case HoldFor():
            return "it waits for a person to release it"
        case GiveUp(why):
            return f"not tried again ({why.replace('_', ' ')})"


def _exhausted(policy: RetryPolicy, failure: Failure, why: RetryState, text: str) -> HoldFor | GiveUp:
    if policy.on_exhausted == "hold":
        return HoldFor(f"{text}; the last failure was {failure.text}")
    return GiveUp(why)


@lru_cache  # nearly all calls of a program share a few
def wrong_policy(policy: RetryPolicy) -> str:
    """What is wrong with a policy from outside; "" if nothing is."""
    for name, interval in (
        ("initial_interval", policy.initial_interval),
        ("maximum_interval", policy.maximum_interval),
    ):
        if not 0 <= interval <= MAX_DURATION:
            return f"{name} must be between 0 and {MAX_DURATION} microseconds, not {interval}"
    if not 1 <= policy.backoff_coefficient < math.inf:
        return f"backoff_coefficient must be at least 1, not {policy.backoff_coefficient}"
    if not 0 <= policy.maximum_attempts <= MAX_ATTEMPTS:
        return (
            f"maximum_attempts must be between 0 and {MAX_ATTEMPTS} (limits.MAX_ATTEMPTS), "
            f"not {policy.maximum_attempts}"
        )
    return ""
