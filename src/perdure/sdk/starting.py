"""What may be said of a workflow's start, whoever starts it: a client, or its parent. How each option is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypedDict, cast, get_args

from perdure.durations import Duration, optional_microseconds
from perdure.limits import MAX_WORKFLOW_TASK_TIMEOUT, SECOND
from perdure.model.events import IdReusePolicy
from perdure.model.payloads import Payload
from perdure.model.retry import RetryPolicy as EnginePolicy
from perdure.sdk.converter import encode
from perdure.sdk.options import one_of, optional_name, text
from perdure.sdk.retry import RetryPolicy, optional_policy
from perdure.sdk.workflow.definition import WorkflowDefinition


class SharedOptions(TypedDict, total=False):
    """What a client and a parent may say alike."""

    id: str | None
    task_queue: str | None
    execution_timeout: Duration | None
    run_timeout: Duration | None
    task_timeout: Duration | None
    retry_policy: RetryPolicy | None
    id_reuse_policy: IdReusePolicy
    memo: Mapping[str, object] | None


Readers = Mapping[str, Callable[[Any], object]]
"""What each option becomes, by its name."""


def read_options(readers: Readers, options: Mapping[str, object], what: str) -> dict[str, object]:
    """The options that are given, as they are stored.

    Args:
        what: whose options they are, for the error.

    Raises:
        TypeError, ValueError: one is not what it should be, or there is none of its name.
        EncodeError, PayloadTooLarge: a value of the memo can't be stored.
    """
    given: dict[str, object] = {}
    for name, value in options.items():
        read = readers.get(name)
        if read is None:
            raise TypeError(f"{what} has no option {name!r}; it has {', '.join(readers)}")
        given[name] = read(value)
    return given


def check_for(definition: WorkflowDefinition, policy: EnginePolicy | None) -> None:
    """Raises ValueError for an entity with a retry policy: its next attempt would begin with what the last run of its
    history began with, and nobody sees how long ago that was."""
    if definition.attributes is not None and policy is not None:
        raise ValueError(
            f"{definition.name} is an entity, which takes no retry_policy: what may fail belongs into its activities, "
            "or is caught in its `run`"
        )


def _task_timeout(value: Duration | None) -> int:
    timeout = optional_microseconds(value, "task_timeout") or 0
    if timeout > MAX_WORKFLOW_TASK_TIMEOUT:
        raise ValueError(f"task_timeout must be at most {MAX_WORKFLOW_TASK_TIMEOUT // SECOND} s, not {value!r}")
    return timeout


def _retry_policy(policy: object) -> EnginePolicy | None:
    checked = optional_policy(policy)
    if checked is not None and (checked.hold_on or checked.on_exhausted == "hold"):
        raise ValueError(
            'retry_policy: hold_on and on_exhausted="hold" are for activities: a workflow that has failed is closed'
        )
    return checked


def _memo(memo: object) -> dict[str, Payload] | None:
    if memo is None:
        return None
    if not isinstance(memo, Mapping):
        raise TypeError(f"memo must be a mapping of names to values, not {type(memo).__name__}")
    items = cast("Mapping[object, object]", memo).items()
    return {text(key, "a name in the memo"): encode(value, f"memo {key!r}") for key, value in items}


_REUSE: Final = get_args(IdReusePolicy)

READERS: Final[Readers] = {
    "task_queue": lambda value: optional_name(value, "task_queue") or "",
    "execution_timeout": lambda value: optional_microseconds(value, "execution_timeout") or 0,
    "run_timeout": lambda value: optional_microseconds(value, "run_timeout") or 0,
    "task_timeout": _task_timeout,
    "retry_policy": _retry_policy,
    "id_reuse_policy": lambda value: one_of(value, "id_reuse_policy", _REUSE),
    "memo": _memo,
}
"""How those are read, but for the id: a child's is checked where it is written."""
