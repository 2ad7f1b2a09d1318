"""How a child workflow is run: the options of `workflow.start`, `workflow.run` and `WorkflowFunction.options`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, get_args

from perdure.model.events import IdReusePolicy, ParentClosePolicy
from perdure.model.payloads import Payload
from perdure.model.retry import RetryPolicy as EnginePolicy
from perdure.sdk.activity.definition import CancellationType
from perdure.sdk.options import cancellation_type, name, one_of
from perdure.sdk.starting import READERS, Readers, SharedOptions, read_options


class ChildOptions(SharedOptions, total=False):
    """What may be said of a child, beside the call. What is None counts as not said.

    id: the child's workflow id; by default one that is made up.
    task_queue: whose workers run it; by default the definition's, or the parent's.
    execution_timeout: how long the child may take, all its runs together.
    run_timeout: how long one run of it may take.
    task_timeout: how long a worker may take to answer a task of its code before another one gets it; by default 10 s,
        at most `limits.MAX_WORKFLOW_TASK_TIMEOUT`.
    retry_policy: what follows a run of it that fails or exceeds its `run_timeout`: another run, with the same input.
        The parent waits for the last one. By default, none. It can't hold.
    id_reuse_policy: whether the id of a workflow that is closed may be used again: "allow_duplicate", the default,
        "allow_duplicate_failed_only" (not that of a completed one), or "reject_duplicate".
    memo: values to be shown with the child; its code doesn't see them.
    parent_close_policy: what becomes of the child when its parent has ended before it. "terminate", the default: it is
        ended at once; "request_cancel": it is asked to stop, and may clean up; "abandon": it goes on.
    cancellation_type: what cancelling the call means. "wait", the default: the child is asked to stop, and waited for;
        if it ends otherwise all the same, that is what the call gives, and `CancelledError` comes at the next wait.
        "try": it is asked, and `CancelledError` is raised at once. "abandon": it is not asked.
    """

    parent_close_policy: ParentClosePolicy | None
    cancellation_type: CancellationType | None


@dataclass(frozen=True, slots=True)
class ChildTerms:
    """The same as they are stored. Durations are microseconds, 0: none. An empty id is made up."""

    id: str = ""
    task_queue: str = ""
    execution_timeout: int = 0
    run_timeout: int = 0
    task_timeout: int = 0
    retry_policy: EnginePolicy | None = None
    id_reuse_policy: IdReusePolicy = "allow_duplicate"
    memo: dict[str, Payload] | None = None
    parent_close_policy: ParentClosePolicy = "terminate"
    cancellation_type: CancellationType = "wait"


DEFAULT_TERMS: Final = ChildTerms()


def with_options(terms: ChildTerms, options: ChildOptions) -> ChildTerms:
    """The terms, but for what the options say.

    Raises:
        TypeError, ValueError: an option is not what it should be, or there is none of its name.
        EncodeError, PayloadTooLarge: a value of the memo can't be stored.
    """
    said = {name: value for name, value in options.items() if value is not None}
    if not said:
        return terms
    read: dict[str, Any] = read_options(_READERS, said, "a child")
    return replace(terms, **read)


_READERS: Final[Readers] = {
    "id": lambda value: name(value, "id"),
    **READERS,
    "parent_close_policy": lambda value: one_of(value, "parent_close_policy", get_args(ParentClosePolicy)),
    "cancellation_type": cancellation_type,
}
