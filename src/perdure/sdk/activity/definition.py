"""What `@activity` makes of a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from perdure.model.retry import DEFAULT_RETRY, RetryPolicy
from perdure.sdk.signatures import Signature

CancellationType = Literal["try", "wait", "abandon"]
"""What cancelling a call means: see `perdure.sdk.workflow.futures`."""


Executor = Literal["thread", "process"]
"""Where a plain function runs."""


@dataclass(frozen=True, slots=True)
class ActivityOptions:
    """How an activity is run. Durations are microseconds; 0: none. An empty queue is the workflow's own."""

    task_queue: str = ""
    schedule_to_close_timeout: int = 0
    schedule_to_start_timeout: int = 0
    start_to_close_timeout: int = 0
    heartbeat_timeout: int = 0
    retry_policy: RetryPolicy = DEFAULT_RETRY
    priority: int = 0
    cancellation_type: CancellationType = "try"

    def changed(self, **changes: object) -> ActivityOptions:
        """A copy with those of the changes that are not None."""
        return replace(self, **{k: v for k, v in changes.items() if v is not None})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class ActivityDefinition:
    """One activity: its name on the wire, its function, and how it is run unless a call says otherwise."""

    name: str
    function: Callable[..., object]
    is_async: bool
    signature: Signature
    options: ActivityOptions
    executor: Executor = "thread"
