"""The retry policy as users write it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast, get_args

from perdure.durations import Duration, microseconds
from perdure.limits import DEFAULT_MAXIMUM_INTERVAL_FACTOR, MAX_ATTEMPTS
from perdure.model.retry import Exhausted
from perdure.model.retry import RetryPolicy as EnginePolicy
from perdure.sdk.names import class_name
from perdure.sdk.options import name, one_of, whole_number


@dataclass(frozen=True)
class RetryPolicy:
    """When an activity that failed is tried again.

    Args:
        initial_interval: duration until the second attempt.
        backoff_coefficient: by what each further interval is longer; at least 1.
        maximum_interval: the longest interval; by default a hundred initial intervals.
        maximum_attempts: how many attempts there are, the first one included; 0: without end. One that is lost with its
            worker counts. One that a worker lets go when it is stopped in good order doesn't, unless it is the only.
        non_retryable: exception classes that fail the activity at once. Subclasses count. A string is a class's
            full name ("app.errors.QuotaExceeded"), or the `type` of an ApplicationError.
        hold_on: exception classes (or names) after which the activity waits for a person; also those of
            `non_retryable`.
        on_exhausted: what happens after the last attempt: "fail", or "hold" to wait for a person.

    Raises:
        TypeError, ValueError: an option is not what it should be; the message names it.
    """

    initial_interval: Duration = "1s"
    backoff_coefficient: float = 2.0
    maximum_interval: Duration | None = None
    maximum_attempts: int = 0
    non_retryable: Sequence[type[Exception] | str] = ()
    hold_on: Sequence[type[Exception] | str] = ()
    on_exhausted: Exhausted = "fail"

    for_engine: EnginePolicy = field(init=False, repr=False, compare=False)
    """The same as the engine reads it."""

    def __post_init__(self) -> None:
        initial = microseconds(self.initial_interval, "initial_interval")
        if initial == 0:
            raise ValueError("initial_interval must be longer than 0")
        maximum = 0
        if self.maximum_interval is not None:
            maximum = microseconds(self.maximum_interval, "maximum_interval")
            if maximum < initial:
                raise ValueError(
                    f"maximum_interval {self.maximum_interval!r} is shorter than initial_interval "
                    f"{self.initial_interval!r}; by default it is {DEFAULT_MAXIMUM_INTERVAL_FACTOR} times that"
                )
        coefficient = cast(object, self.backoff_coefficient)
        if not isinstance(coefficient, int | float) or isinstance(coefficient, bool):
            raise TypeError(f"backoff_coefficient must be a number, not {type(coefficient).__name__}")
        if not (math.isfinite(coefficient) and coefficient >= 1):
            raise ValueError(f"backoff_coefficient must be at least 1, not {coefficient!r}")
        attempts = whole_number(self.maximum_attempts, "maximum_attempts", 0, MAX_ATTEMPTS)
        one_of(self.on_exhausted, "on_exhausted", get_args(Exhausted))
        policy = EnginePolicy(
            initial_interval=initial,
            backoff_coefficient=float(coefficient),
            maximum_interval=maximum,
            maximum_attempts=attempts,
            non_retryable=_names(self.non_retryable, "non_retryable"),
            hold_on=_names(self.hold_on, "hold_on"),
            on_exhausted=self.on_exhausted,
        )
        object.__setattr__(self, "for_engine", policy)


def _names(classes: object, what: str) -> tuple[str, ...]:
    # A lone string or class would otherwise be taken apart, or fail without saying why.
    if not isinstance(classes, Sequence) or isinstance(classes, str):
        raise TypeError(
            f"{what} must be a tuple of exception classes, such as ({what}=(QuotaExceeded,)), not {classes!r}"
        )
    names: list[str] = []
    for item in classes:  # pyright: ignore[reportUnknownVariableType]
        if isinstance(item, type) and issubclass(item, Exception):
            names.append(class_name(item))
        elif isinstance(item, str):
            names.append(name(item, f"a name in {what}"))
        else:
            raise TypeError(f"{what} must hold exception classes or their names, not {item!r}")
    return tuple(names)


def optional_policy(policy: object) -> EnginePolicy | None:
    """A policy as the engine reads it, where one is given. Raises TypeError."""
    if policy is None:
        return None
    if not isinstance(policy, RetryPolicy):
        raise TypeError(f"retry_policy must be a perdure.RetryPolicy, not {type(policy).__name__}")
    return policy.for_engine
