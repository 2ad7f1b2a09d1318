"""Attempts that a worker has let go of, and that a client completes."""

from __future__ import annotations

import pytest

from perdure.clock import HOUR, MINUTE, SECOND
from perdure.engine.core import effects as fx
from perdure.engine.core import inputs as i
from perdure.engine.core.deduplication import dedup_id
from perdure.errors import InvalidRequest, NotFound, NotRunning
from perdure.limits import HEARTBEAT_JOURNAL_INTERVAL
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import records as r
from perdure.model import requests as q
from perdure.model import tasks as t
from perdure.model.failures import Failure
from perdure.model.payloads import Payload
from perdure.model.retry import RetryPolicy
from tests.engine.core.harness import FAILURE, NAMESPACE, NOW, RUN, WORKFLOW, Run, effects, payload


def settle(
    token: t.ActivityToken | str, result: Payload | None = None, failure: Failure | None = None, request_id: str = "r"
) -> q.SettleAttempt:
    """A report of a token's attempt, or of that which runs of an activity."""
    if isinstance(token, str):
        return q.SettleAttempt(NAMESPACE, WORKFLOW, "", request_id, result, failure, token, identity="ann")
    place = token.scheduled_event_id, token.attempt
    return q.SettleAttempt(NAMESPACE, WORKFLOW, RUN, request_id, result, failure, "", *place, "ann")


def beat(token: t.ActivityToken, *details: object) -> q.HeartbeatAttempt:
    payloads = tuple(payload(each) for each in details)
    return q.HeartbeatAttempt(NAMESPACE, WORKFLOW, RUN, payloads, "", token.scheduled_event_id, token.attempt)


def detached(run: Run, **fields: object) -> t.ActivityToken:
    token = run.running("a", "worker-1", **fields)
    run.decide(t.ActivityDetached(token))
    return token


def test_nobody_s_death_ends_it() -> None:
    run = Run.begin()
    token = detached(run)
    assert run.state.running == 0
    run.decide(i.WorkersLost(lambda worker, since: False))
    run.crash()
    run.decide(i.WorkersLost(lambda worker, since: False))
    assert run.activity().status == "started"
    run.now = NOW + HOUR
    report = settle(token, payload("vpc"))
    tx = run.decide(report)
    assert tx.dedup == (dedup_id(report),)
    scheduled = token.scheduled_event_id
    id = run.state.last_event_id
    assert run.history[-3:-1] == [
        e.ActivityTaskStarted(id - 2, NOW + HOUR, scheduled, 1, "worker-1", NOW),
        e.ActivityTaskCompleted(id - 1, NOW + HOUR, scheduled, id - 2, payload("vpc"), "ann"),
    ]
    assert not run.state.activities and run.state.running == 0


def test_letting_go_twice_changes_nothing() -> None:
    run = Run.begin()
    token = detached(run)
    assert not run.decide(t.ActivityDetached(token)).changed


def test_a_report_may_be_faster_than_the_worker() -> None:
    run = Run.begin()
    token = run.running()
    run.decide(settle(token, payload(1)))
    with pytest.raises(NotFound):
        run.decide(t.ActivityDetached(token))
    assert isinstance(run.history[-2], e.ActivityTaskCompleted)


def test_its_policy_judges_its_failure() -> None:
    run = Run.begin()
    token = detached(run, retry_policy=RetryPolicy(maximum_attempts=2))
    run.decide(settle(token, failure=FAILURE))
    assert run.activity().status == "backing_off"
    for request in (settle(token, payload(1)), beat(token)):  # of the attempt before
        with pytest.raises(NotFound, match="attempt 1 of activity 'a' of workflow 'wf' is not running"):
            run.decide(request)
    run.wake()
    again = run.start()
    assert not run.activity().detached and run.state.running == 1
    with pytest.raises(NotFound):
        run.decide(settle(token, payload(1)))
    run.decide(t.ActivityDetached(again))
    run.decide(settle("a", failure=FAILURE))
    assert isinstance(run.history[-2], e.ActivityTaskFailed)
    with pytest.raises(NotFound, match="attempt 1 of the activity of event 5 of workflow 'wf' is not running"):
        run.decide(settle(token, payload(1)))


def test_it_may_ask_for_a_person() -> None:
    run = Run.begin()
    run.decide(settle(detached(run), failure=Failure("look at it", kind="hold")))
    assert (run.activity().status, run.activity().hold_reason) == ("held", "look at it")
    run.release("a")
    assert run.start().attempt == 2


def test_its_timeouts_hold() -> None:
    run = Run.begin()
    token = detached(run, start_to_close_timeout=HOUR, heartbeat_timeout=MINUTE)
    for _ in range(3):
        run.now += 50 * SECOND
        run.decide(beat(token, "alive"))
        run.crash()  # what somebody was told is known is known
    assert run.activity().heartbeat == (payload("alive"),)
    tx = run.wake()
    assert run.now == NOW + 150 * SECOND + MINUTE
    assert run.activity().status == "backing_off"
    with pytest.raises(NotFound):
        run.decide(beat(token))
    assert effects(tx, fx.Tell)[0].failure.types[0] == "heartbeat"


def test_what_its_worker_knew_of_how_far_it_came_is_kept() -> None:
    run = Run.begin()
    token = run.running(heartbeat_timeout=MINUTE)
    run.now += HEARTBEAT_JOURNAL_INTERVAL // 2
    run.decide(t.ActivityHeartbeat(token, (payload(3),)))
    run.decide(t.ActivityDetached(token))
    run.crash()
    assert run.activity().heartbeat == (payload(3),)


def test_a_heartbeat_is_answered() -> None:
    run = Run.begin()
    token = detached(run)
    assert run.decide(beat(token)).reply == q.AttemptState()
    run.decide(q.PauseActivity(NAMESPACE, WORKFLOW, "", "a"))
    assert run.decide(beat(token)).reply == q.AttemptState(paused=True)
    run.decide(q.UnpauseActivity(NAMESPACE, WORKFLOW, "", "a"))
    run.decide(q.ResetActivity(NAMESPACE, WORKFLOW, "", "a"))
    run.signal()
    run.complete(c.RequestCancelActivity("a"))
    run.crash()
    assert run.decide(beat(token, 1)).reply == q.AttemptState(cancel_requested=True, reset=True)
    run.decide(settle(token))
    assert isinstance(run.history[-2], e.ActivityTaskCanceled)


def test_a_paused_attempt_may_be_given_back() -> None:
    run = Run.begin()
    token = detached(run)
    run.decide(q.PauseWorkflow(NAMESPACE, WORKFLOW, ""))
    run.decide(settle(token))
    assert run.activity().status == "scheduled" and run.activity().attempts_before == 1
    run.decide(q.ResumeWorkflow(NAMESPACE, WORKFLOW, ""))
    assert run.start().attempt == 2


def test_nobody_stops_who_was_not_asked_to() -> None:
    run = Run.begin()
    token = detached(run)
    with pytest.raises(InvalidRequest, match="nobody asked activity 'a' to stop"):
        run.decide(settle(token))
    with pytest.raises(InvalidRequest, match="not both"):
        run.decide(settle(token, payload(1), FAILURE))


def test_it_is_named_by_its_id_while_it_runs() -> None:
    run = Run.begin()
    run.schedule()
    with pytest.raises(NotFound, match="activity 'a' is scheduled: no attempt of it is running"):
        run.decide(settle("a", payload(1)))
    with pytest.raises(NotFound, match=r"no pending activity 'b'; pending: a \(create_vpc, scheduled\)"):
        run.decide(settle("b", payload(1)))
    run.start()
    run.decide(settle("a", payload(1)))
    run.terminate()
    with pytest.raises(NotRunning):
        run.decide(settle("a", payload(1)))


def test_a_person_may_settle_it_as_any_other() -> None:
    run = Run.begin()
    detached(run)
    run.decide(q.CompleteActivity(NAMESPACE, WORKFLOW, "", "a", payload("by hand")))
    assert isinstance(run.history[-2], e.ActivityTaskCompleted)
    assert run.state.running == 0
    assert any(isinstance(record, r.ActivityAttemptDetached) for record in run.journaled())
