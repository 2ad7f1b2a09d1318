"""Retries: what the policy says after a failure, and when the next attempt is."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from perdure.clock import HOUR, MINUTE, SECOND
from perdure.engine.core import effects as fx
from perdure.engine.core.retries import backoff, matches, wrong_policy
from perdure.limits import MAX_DURATION, RETRY_JITTER
from perdure.model import events as e
from perdure.model.failures import Failure
from perdure.model.retry import RetryPolicy
from tests.engine.core.harness import FAILURE, NOW, Run, effects

QUOTA = Failure("no room", ("app.errors.Quota", "app.errors.CloudError", "builtins.Exception"))


@pytest.mark.parametrize(
    ("policy", "attempts", "interval"),
    [
        (RetryPolicy(), 1, SECOND),
        (RetryPolicy(), 4, 8 * SECOND),
        (RetryPolicy(), 50, 100 * SECOND),  # a hundred initial intervals, unless it is said
        (RetryPolicy(initial_interval=MINUTE, backoff_coefficient=1.0), 9, MINUTE),
        (RetryPolicy(maximum_interval=3 * SECOND), 3, 3 * SECOND),
        (RetryPolicy(backoff_coefficient=10.0), 100_000, 100 * SECOND),  # beyond what a float can hold
        (RetryPolicy(initial_interval=0), 5, 0),
    ],
)
def test_a_backoff_grows_up_to_its_ceiling_and_is_shortened_by_the_jitter_at_most(
    policy: RetryPolicy, attempts: int, interval: int
) -> None:
    waits = [backoff(policy, attempts, f"seed {n}") for n in range(200)]
    assert all(interval * (1 - RETRY_JITTER) - 1 <= wait <= interval for wait in waits)
    if interval:
        assert max(waits) - min(waits) > interval * RETRY_JITTER * 0.9  # what failed together comes back apart
    assert backoff(policy, attempts, "seed 0") == waits[0]


def test_the_live_backoff_is_that_of_the_policy() -> None:
    run = Run.begin()
    token = run.running(retry_policy=RetryPolicy(initial_interval=10 * SECOND, maximum_interval=30 * SECOND))
    for interval in (10, 20, 30, 30):
        run.fail_activity(token)
        wait = run.execution.wake_at() - run.now
        assert interval * SECOND * (1 - RETRY_JITTER) <= wait <= interval * SECOND
        assert run.activity().next_attempt_at == run.execution.wake_at()
        run.wake(run.now + wait - 1)
        assert run.activity().status == "backing_off"
        tx = run.wake()
        (offer,) = effects(tx, fx.ActivityOffer)
        assert offer.attempt == run.activity().attempt
        token = run.start()
    assert token.attempt == 5


def test_what_fails_for_long_is_told_of_now_and_then() -> None:
    run = Run.begin()
    token = run.running(retry_policy=RetryPolicy(maximum_attempts=21))
    told: list[int] = []
    for attempt in range(1, 22):
        tx = run.fail_activity(token)
        told += [attempt for _ in effects(tx, fx.Tell)]
        if attempt < 21:
            run.wake()
            token = run.start()
    assert told == [1, 2, 4, 8, 16, 21]  # the last one ends it


def test_what_nobody_can_read_is_told_of_once() -> None:
    failure = replace(FAILURE, kind="unread")
    assert failure.is_news(None, 1)
    assert not failure.is_news(failure, 1)  # its attempts don't count, so there may be many first ones


def test_a_backoff_survives_a_crash() -> None:
    run = Run.begin()
    run.fail_activity(run.running())
    at, attempt = run.execution.wake_at(), run.activity().attempt
    run.crash()
    assert (run.execution.wake_at(), run.activity().attempt) == (at, attempt)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("app.errors.Quota", True),
        ("Quota", True),
        ("app.errors.CloudError", True),
        ("CloudError", True),
        ("Exception", True),
        ("errors.Quota", False),
        ("Quot", False),
        ("app.errors", False),
        ("", False),
    ],
)
def test_any_class_of_a_failure_is_matched_in_full_or_by_its_bare_name(name: str, found: bool) -> None:
    assert matches(("app.Other", name), QUOTA) is found


@pytest.mark.parametrize("name", ["app.errors.Quota", "CloudError"])
def test_non_retryable_fails_at_once(name: str) -> None:
    run = Run.begin()
    run.fail_activity(run.running(retry_policy=RetryPolicy(non_retryable=(name,))), QUOTA)
    failed = run.history[-2]
    assert isinstance(failed, e.ActivityTaskFailed) and failed.retry_state == "non_retryable"


def test_a_failure_may_say_itself_that_it_is_not_retryable() -> None:
    run = Run.begin()
    run.fail_activity(run.running(), Failure("never", ("app.X",), non_retryable=True))
    failed = run.history[-2]
    assert isinstance(failed, e.ActivityTaskFailed) and failed.retry_state == "non_retryable"


@pytest.mark.parametrize("listed", [True, False])
def test_what_is_not_retryable_may_hold_instead_of_failing(listed: bool) -> None:
    policy = RetryPolicy(non_retryable=("Quota",) if listed else (), hold_non_retryable=True)
    run = Run.begin()
    failure = Failure("full", ("app.errors.Quota",), non_retryable=not listed)
    run.fail_activity(run.running(retry_policy=policy), failure)
    assert run.activity().status == "held"
    assert run.activity().hold_reason == "not to be retried: app.errors.Quota: full"
    run.release()
    run.fail_activity(run.start(), failure)
    assert run.activity().status == "held"


def test_hold_on_goes_before_non_retryable() -> None:
    run = Run.begin()
    policy = RetryPolicy(non_retryable=("CloudError",), hold_on=("Quota",), maximum_attempts=1)
    run.fail_activity(run.running(retry_policy=policy), QUOTA)
    assert (run.activity().status, run.activity().hold_reason) == ("held", "no room")


@pytest.mark.parametrize("delay", [0, 90 * SECOND])
def test_a_failure_may_say_when_the_next_attempt_is(delay: int) -> None:
    run = Run.begin()
    tx = run.fail_activity(run.running(), Failure("later", ("app.X",), next_retry_delay=delay))
    if delay:
        assert run.activity().status == "backing_off" and run.execution.wake_at() == NOW + delay
    else:
        assert run.activity().status == "scheduled" and effects(tx, fx.ActivityOffer)


def test_a_delay_beyond_all_bounds_is_cut() -> None:
    run = Run.begin()
    run.fail_activity(run.running(), Failure("later", ("app.X",), next_retry_delay=1 << 62))
    assert run.execution.wake_at() == NOW + MAX_DURATION


@pytest.mark.parametrize("attempts", [1, 3])
def test_maximum_attempts_counts_the_first(attempts: int) -> None:
    run = Run.begin()
    run.schedule(retry_policy=RetryPolicy(maximum_attempts=attempts))
    for _ in range(attempts - 1):
        run.fail_activity(run.start())
        run.wake()
    run.fail_activity(run.start())
    started, failed = run.history[-3:-1]
    assert isinstance(started, e.ActivityTaskStarted) and started.attempt == attempts
    assert isinstance(failed, e.ActivityTaskFailed) and failed.retry_state == "maximum_attempts"


def test_there_is_no_attempt_after_schedule_to_close() -> None:
    run = Run.begin()
    policy = RetryPolicy(initial_interval=MINUTE, maximum_interval=MINUTE)
    run.schedule(schedule_to_close_timeout=2 * MINUTE, retry_policy=policy)
    run.now = NOW + MINUTE
    run.fail_activity(run.start())  # the next is due just within
    run.wake()
    run.fail_activity(run.start())
    failed = run.history[-2]
    assert isinstance(failed, e.ActivityTaskFailed) and failed.retry_state == "timeout"


def test_what_is_exhausted_may_hold_instead_of_failing() -> None:
    run = Run.begin()
    policy = RetryPolicy(maximum_attempts=1, on_exhausted="hold")
    run.fail_activity(run.running(retry_policy=policy))
    activity = run.activity()
    assert activity.status == "held"
    assert activity.hold_reason == "all 1 attempts failed; the last failure was app.errors.NoLuck: no luck"
    run = Run.begin()
    policy = RetryPolicy(initial_interval=HOUR, on_exhausted="hold")
    run.fail_activity(run.running(schedule_to_close_timeout=HOUR // 2, retry_policy=policy))
    assert run.activity().hold_reason.startswith("no time is left for another attempt")


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (RetryPolicy(), ""),
        (RetryPolicy(initial_interval=-1), "initial_interval"),
        (RetryPolicy(maximum_interval=MAX_DURATION + 1), "maximum_interval"),
        (RetryPolicy(backoff_coefficient=0.5), "backoff_coefficient"),
        (RetryPolicy(backoff_coefficient=float("nan")), "backoff_coefficient"),
        (RetryPolicy(backoff_coefficient=float("inf")), "backoff_coefficient"),
        (RetryPolicy(maximum_attempts=-1), "maximum_attempts"),
    ],
)
def test_a_policy_that_makes_no_sense_is_told_apart(policy: RetryPolicy, says: str) -> None:
    wrong = wrong_policy(policy)
    assert wrong.startswith(says) and bool(wrong) == bool(says)


def test_a_failed_attempt_is_no_news_for_the_code() -> None:
    run = Run.begin()
    run.fail_activity(run.running())
    assert run.state.task is None
    assert run.activity().last_failure == FAILURE


def test_what_a_worker_could_not_read_costs_no_attempts() -> None:
    unread = Failure("no key", ("perdure.errors.CodecError", "builtins.Exception"), "unread")
    run = Run.begin()
    policy = RetryPolicy(maximum_attempts=1, non_retryable=("Exception",), initial_interval=10 * SECOND)
    token = run.running(retry_policy=policy)
    for interval in (10, 20, 40):
        run.fail_activity(token, unread)
        assert run.activity().status == "backing_off"
        wait = run.activity().next_attempt_at - run.now
        assert interval * SECOND * (1 - RETRY_JITTER) <= wait <= interval * SECOND
        run.wake(run.activity().next_attempt_at)
        token = run.start()
    run.fail_activity(token, FAILURE)
    assert isinstance(run.history[-2], e.ActivityTaskFailed)


def test_what_a_worker_can_t_read_is_given_up_when_its_time_is_over() -> None:
    run = Run.begin()
    token = run.running(schedule_to_close_timeout=SECOND // 2)
    run.fail_activity(token, Failure("no key", kind="unread"))
    assert isinstance(run.history[-2], e.ActivityTaskFailed)
    assert run.history[-2].retry_state == "timeout"
