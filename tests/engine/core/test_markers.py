"""Markers: notes of the code to its own replays."""

from __future__ import annotations

import pytest

from perdure.limits import MAX_ID_LENGTH
from perdure.model import commands as c
from perdure.model import events as e
from tests.engine.core.harness import Run, payload


def test_a_marker_is_one_event_after_its_task() -> None:
    run = Run.begin()
    run.complete(c.RecordMarker("core_patch", {"patch-data": payload({"id": "x"})}), c.StartTimer("1", 5))
    assert run.names(2) == ["WorkflowTaskStarted", "WorkflowTaskCompleted", "MarkerRecorded", "TimerStarted"]
    marker = run.history[4]
    assert isinstance(marker, e.MarkerRecorded)
    assert (marker.marker_name, marker.workflow_task_completed_event_id) == ("core_patch", 4)
    assert marker.details == {"patch-data": payload({"id": "x"})}
    run.crash()
    run.signal()
    run.complete(c.CompleteWorkflow(payload(None)))


@pytest.mark.parametrize("name", ["", "x" * (MAX_ID_LENGTH + 1)])
def test_a_marker_needs_a_name(name: str) -> None:
    run = Run.begin()
    run.complete(c.RecordMarker(name, {}))
    assert isinstance(run.last, e.WorkflowTaskFailed)
    assert "marker_name must have between 1 and" in run.last.failure.message
