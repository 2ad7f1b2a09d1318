"""What a run's code may know of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from perdure.limits import SUGGEST_CONTINUE_AS_NEW_BYTES, SUGGEST_CONTINUE_AS_NEW_EVENTS
from perdure.model.events import WorkflowExecutionStarted
from perdure.model.tasks import RunRef
from perdure.sdk.workflow.context import WorkflowInfo

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def info_of(
    ref: RunRef, run_id: str, started: WorkflowExecutionStarted, length: int, size: int, *, is_replaying: bool
) -> WorkflowInfo:
    """Facts about a run, whose history has so many events and bytes. run_id: what it is called at this point of it."""
    parent, scheduled_by = started.parent, started.scheduled_by
    return WorkflowInfo(
        namespace=ref.namespace,
        workflow_id=ref.workflow_id,
        run_id=run_id,
        workflow_type=started.workflow_type,
        task_queue=started.task_queue,
        attempt=started.attempt,
        start_time=EPOCH + timedelta(microseconds=started.time),
        history_length=length,
        history_bytes=size,
        continue_as_new_suggested=length >= SUGGEST_CONTINUE_AS_NEW_EVENTS or size >= SUGGEST_CONTINUE_AS_NEW_BYTES,
        parent_workflow_id=parent.workflow_id if parent is not None else None,
        is_replaying=is_replaying,
        schedule_id=None if scheduled_by is None else scheduled_by.schedule_id,
        scheduled_time=None if scheduled_by is None else EPOCH + timedelta(microseconds=scheduled_by.time),
    )
