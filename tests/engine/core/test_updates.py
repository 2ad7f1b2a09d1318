"""Updates: admitted, accepted or rejected, completed; and asked for again."""

from __future__ import annotations

import pytest

from perdure.engine.core import effects as fx
from perdure.errors import InvalidRequest, NotRunning
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import requests as q
from perdure.model.failures import Failure
from perdure.model.requests import UpdateOutcome
from tests.engine.core.harness import FAILURE, NAMESPACE, NOW, WORKFLOW, Run, effects, payload

REJECTION = Failure("too many seats", ("builtins.ValueError",))


def outcomes(run: Run, *commands: c.Command) -> list[UpdateOutcome]:
    """What callers hear when the code answers so."""
    return [effect.outcome for effect in effects(run.complete(*commands), fx.UpdateProgressed)]


def test_an_update_waits_for_the_code_and_is_no_event_yet() -> None:
    run = Run.begin()
    run.complete()
    length = len(run.history)
    tx = run.update("u", "resize")
    assert tx.reply is None
    assert run.names(length) == ["WorkflowTaskScheduled"]
    assert effects(tx, fx.OfferWorkflowTask)
    admitted = run.state.admitted["u"]
    assert (admitted.name, admitted.input, admitted.time) == ("resize", (payload("u"),), NOW)


def test_an_accepted_update_is_an_event_and_then_a_completed_one() -> None:
    run = Run.begin()
    run.update("u", "resize")
    assert outcomes(run, c.AcceptUpdate("u")) == [UpdateOutcome("u", "accepted")]
    accepted = run.last
    assert accepted == e.WorkflowExecutionUpdateAccepted(5, NOW, "u", "resize", (payload("u"),), "", 4)
    run.signal()
    completed = UpdateOutcome("u", "completed", payload(20))
    assert outcomes(run, c.CompleteUpdate("u", payload(20))) == [completed]
    assert run.last == e.WorkflowExecutionUpdateCompleted(run.last.id, NOW, "u", 5, payload(20), None, run.last.id - 1)
    assert run.update("u").reply == completed


def test_an_update_may_be_accepted_and_fail_in_one_task() -> None:
    run = Run.begin()
    run.update("u")
    heard = outcomes(run, c.AcceptUpdate("u"), c.CompleteUpdate("u", None, FAILURE))
    assert heard == [UpdateOutcome("u", "accepted"), UpdateOutcome("u", "completed", None, FAILURE)]


def test_a_rejected_update_leaves_no_update_event() -> None:
    run = Run.begin()
    run.update("u")
    rejected = UpdateOutcome("u", "rejected", None, REJECTION)
    assert outcomes(run, c.RejectUpdate("u", REJECTION)) == [rejected]
    assert run.names(2) == ["WorkflowTaskStarted", "WorkflowTaskCompleted"]
    run.crash()
    assert run.update("u").reply == rejected


def test_a_repeated_update_changes_nothing_at_any_stage() -> None:
    run = Run.begin()
    run.update("u", "resize")
    again = run.update("u", "another name")
    assert not again.changed and again.reply is None
    assert run.state.admitted["u"].name == "resize"
    run.complete(c.AcceptUpdate("u"))
    again = run.update("u")
    assert not again.changed and again.reply == UpdateOutcome("u", "accepted")
    run.signal()
    run.complete(c.CompleteUpdate("u", payload(1)), c.CompleteWorkflow(payload("end")))
    again = run.update("u")
    assert not again.changed and again.reply == UpdateOutcome("u", "completed", payload(1))


def test_an_update_during_a_task_is_for_the_next() -> None:
    run = Run.begin()
    run.take()
    assert not effects(run.update("u"), fx.OfferWorkflowTask)
    tx = run.complete()
    assert effects(tx, fx.OfferWorkflowTask) and isinstance(run.last, e.WorkflowTaskScheduled)
    run.complete(c.AcceptUpdate("u"))
    assert list(run.state.accepted) == ["u"]


def test_an_update_survives_a_crash_and_a_failing_task() -> None:
    run = Run.begin()
    run.update("u")
    run.fail_task()
    run.crash()
    run.wake()
    run.complete(c.AcceptUpdate("u"))
    assert list(run.state.accepted) == ["u"] and not run.state.admitted


@pytest.mark.parametrize("stage", ["admitted", "accepted"])
def test_whoever_waits_for_an_update_hears_of_the_end_of_the_run(stage: str) -> None:
    run = Run.begin()
    run.update("u")
    if stage == "accepted":
        run.complete(c.AcceptUpdate("u"))
    (progressed,) = effects(run.terminate(), fx.UpdateProgressed)
    assert progressed.outcome.stage == "rejected" and progressed.outcome.failure is not None
    assert "closed before it completed" in progressed.outcome.failure.message
    with pytest.raises(NotRunning):
        run.update("u")


def test_an_update_without_an_id_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="needs an update_id"):
        Run.begin().decide(q.UpdateWorkflow(NAMESPACE, WORKFLOW, "", "", "resize", ()))
