"""The retry policy of an activity as the engine reads it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from perdure.limits import DEFAULT_INITIAL_INTERVAL

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
