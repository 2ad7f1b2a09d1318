"""The retry policy of an activity as the engine reads it."""

from __future__ import annotations

import zlib
from typing import Literal

from msgspec import Struct

from perdure.limits import DEFAULT_INITIAL_INTERVAL, DEFAULT_MAXIMUM_INTERVAL_FACTOR, MAX_DURATION, RETRY_JITTER
from perdure.model.failures import Failure

Exhausted = Literal["fail", "hold"]


class RetryPolicy(Struct, frozen=True, array_like=True, gc=False):
    """Intervals are microseconds; errors are named by class (any name in the failure's MRO matches).

    maximum_interval: 0 means a hundred initial intervals. maximum_attempts: 0 means without end.
    hold_non_retryable: what is not to be tried again waits for a person, instead of failing the activity.
    """

    initial_interval: int = DEFAULT_INITIAL_INTERVAL
    backoff_coefficient: float = 2.0
    maximum_interval: int = 0
    maximum_attempts: int = 0
    non_retryable: tuple[str, ...] = ()
    hold_on: tuple[str, ...] = ()
    on_exhausted: Exhausted = "fail"
    hold_non_retryable: bool = False


DEFAULT_RETRY = RetryPolicy()


def matches(names: tuple[str, ...], failure: Failure) -> bool:
    """Whether any class that the failure is an instance of is named, in full or by its bare name."""
    return any(
        name == type or ("." not in name and type.rpartition(".")[2] == name)
        for name in names
        for type in failure.types
    )


def backoff(policy: RetryPolicy, attempts: int, seed: str) -> int:
    """Microseconds until the next attempt, after so many; shortened by a jitter that depends on the seed."""
    ceiling = policy.maximum_interval or policy.initial_interval * DEFAULT_MAXIMUM_INTERVAL_FACTOR
    try:
        interval = policy.initial_interval * policy.backoff_coefficient ** (attempts - 1)
    except OverflowError:
        interval = ceiling
    jitter = zlib.crc32(seed.encode()) / 2**32 * RETRY_JITTER
    return int(min(interval, ceiling, MAX_DURATION) * (1 - jitter))
