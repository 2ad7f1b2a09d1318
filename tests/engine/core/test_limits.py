"""The bounds of `perdure.limits` that the core keeps, each made small."""

from __future__ import annotations

import pytest

from perdure.clock import HOUR
from perdure.engine.core import effects as fx
from perdure.engine.core import interventions, queries
from perdure.engine.core.decisions import carrying, checks, messages, pauses, resets
from perdure.errors import LimitExceeded, Unavailable
from perdure.limits import (
    DEFAULT_INITIAL_INTERVAL,
    DEFAULT_MAXIMUM_INTERVAL_FACTOR,
    MAX_ATTEMPTS,
    MAX_PRIORITY,
    RETRY_JITTER,
)
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import tasks as t
from perdure.model.failures import Failure
from perdure.model.retry import RetryPolicy
from tests.engine.core.harness import Run, effects, payload, schedule
from tests.engine.core.test_resets import forked

WAIT = ": let the code wait for some of them before it asks for more"


def failure_of(run: Run) -> str:
    """Why the last workflow task was refused."""
    failed = run.last
    assert isinstance(failed, e.WorkflowTaskFailed), run.names()
    return failed.failure.message


@pytest.mark.parametrize(
    ("limit", "commands"),
    [
        ("MAX_PENDING_ACTIVITIES", [schedule("a"), schedule("b"), schedule("c")]),
        ("MAX_PENDING_TIMERS", [c.StartTimer(id, HOUR) for id in "abc"]),
        ("MAX_PENDING_CHILDREN", [c.StartChildWorkflow(id, "Type", "", ()) for id in "abc"]),
        ("MAX_PENDING_MESSAGES", [c.SignalExternalWorkflow(id, "", "s", ()) for id in "abc"]),
        ("MAX_PENDING_MESSAGES", [c.RequestCancelExternalWorkflow(id, "") for id in "abc"]),
    ],
)
def test_what_may_be_pending_in_one_run(monkeypatch: pytest.MonkeyPatch, limit: str, commands: list[c.Command]) -> None:
    monkeypatch.setattr(checks, limit, 2)
    run = Run.begin()
    run.complete(commands[0])
    run.signal()
    run.complete(commands[1])
    run.signal("again")
    run.complete(commands[2])
    assert failure_of(run) == f"3 would be pending; limits.{limit} is 2" + WAIT
    run.wake()
    run.complete()  # mended
    assert run.state.task is None


def test_children_that_an_entity_has_kept_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MAX_PENDING_CHILDREN", 2)
    run = Run.begin()
    run.complete(*(c.StartChildWorkflow(id, "Type", "", ()) for id in "ab"))
    run.signal()
    run.complete(c.ContinueAsNew("Type", "", (), keep_children=True))
    following = run.continued()
    following.complete(c.StartChildWorkflow("c", "Type", "", ()))
    assert failure_of(following) == "3 would be pending; limits.MAX_PENDING_CHILDREN is 2" + WAIT


def test_commands_in_one_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MAX_COMMANDS", 2)
    run = Run.begin()
    run.complete(schedule("a"), schedule("b"), schedule("c"))
    assert failure_of(run) == "3 commands at once; limits.MAX_COMMANDS is 2" + WAIT
    assert isinstance(run.last, e.WorkflowTaskFailed) and run.last.failure.text.startswith("LimitExceeded: 3 commands")
    run.wake()
    run.complete(schedule("a"), schedule("b"))
    assert len(run.state.activities) == 2


@pytest.mark.parametrize(
    ("allowed", "beyond", "says"),
    [
        (schedule(priority=MAX_PRIORITY), schedule(priority=MAX_PRIORITY + 1), "limits.MAX_PRIORITY"),
        (schedule(priority=-MAX_PRIORITY), schedule(priority=-MAX_PRIORITY - 1), "limits.MAX_PRIORITY"),
        (
            schedule(retry_policy=RetryPolicy(maximum_attempts=MAX_ATTEMPTS)),
            schedule(retry_policy=RetryPolicy(maximum_attempts=MAX_ATTEMPTS + 1)),
            "limits.MAX_ATTEMPTS",
        ),
    ],
)
def test_numbers_that_an_activity_may_name(allowed: c.Command, beyond: c.Command, says: str) -> None:
    run = Run.begin()
    run.complete(beyond)
    assert says in failure_of(run)
    run.wake()
    run.complete(allowed)
    assert len(run.state.activities) == 1


def test_an_activity_without_a_policy_waits_for_the_usual_intervals() -> None:
    run = Run.begin()
    token, waits = run.running(), list[int]()
    for _ in range(10):
        run.fail_activity(token)
        waits.append(run.execution.wake_at() - run.now)
        run.wake()
        token = run.start()
    longest = DEFAULT_INITIAL_INTERVAL * DEFAULT_MAXIMUM_INTERVAL_FACTOR
    for wait, interval in ((waits[0], DEFAULT_INITIAL_INTERVAL), (waits[-1], longest)):
        assert interval * (1 - RETRY_JITTER) <= wait <= interval
    assert waits[-1] < DEFAULT_INITIAL_INTERVAL * 2**9 * (1 - RETRY_JITTER), "it has not grown so far: it is bounded"


def test_messages_that_wait_for_the_open_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_BUFFERED_INPUTS", 2)
    run = Run.begin()
    token = run.running("a")
    run.signal("0")
    run.take()
    run.signal("1")
    run.signal("2")
    for send in (run.signal, run.update):
        with pytest.raises(Unavailable, match="MAX_BUFFERED_INPUTS"):
            send()
    run.decide(t.ActivityCompletion(token, payload(1)))  # what a worker has done is never refused
    run.complete()
    run.signal("3")
    names = [event.signal_name for event in run.history if isinstance(event, e.WorkflowExecutionSignaled)]
    assert names == ["0", "1", "2", "3"]


def test_updates_that_are_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_PENDING_UPDATES", 2)
    run = Run.begin()
    run.update("1")
    run.complete(c.AcceptUpdate("1"))
    run.update("2")
    with pytest.raises(Unavailable, match="MAX_PENDING_UPDATES"):
        run.update("3")
    run.update("2")  # was taken before
    run.complete(c.RejectUpdate("2", Failure("no")))
    run.update("3")
    assert list(run.state.admitted) == ["3"]


@pytest.mark.parametrize("limit", ["MAX_HISTORY_EVENTS", "MAX_HISTORY_BYTES"])
def test_a_history_that_is_too_long_holds_its_run(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    run = Run.begin()
    bound = {"MAX_HISTORY_EVENTS": 8, "MAX_HISTORY_BYTES": run.state.history_bytes + 150}[limit]
    monkeypatch.setattr(messages, limit, bound)
    run.complete(schedule("a"))
    assert not run.state.held
    token = run.start("a")
    run.signal()
    run.complete(schedule("b"))
    assert "limits.MAX_HISTORY_EVENTS" in run.state.held
    run.crash()
    tx = run.decide(t.ActivityCompletion(token, payload(1)))  # what is under way is not lost
    assert not effects(tx, fx.OfferWorkflowTask)
    with pytest.raises(LookupError):
        run.take()
    for send in (run.signal, run.update):
        with pytest.raises(LimitExceeded, match=f"takes no more messages.*limits.{limit}"):
            send()
    run.terminate()
    assert run.state.status == "Terminated"


def test_a_history_that_grows_by_messages_alone_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_HISTORY_EVENTS", 4)
    run = Run.begin()
    run.signal("1")
    run.signal("2")
    with pytest.raises(LimitExceeded):
        run.signal("3")


@pytest.mark.parametrize(
    ("hard", "limit", "room"),
    [("MAX_HISTORY_EVENTS", "RELEASED_EVENTS", 8), ("MAX_HISTORY_BYTES", "RELEASED_BYTES", 400)],
)
def test_a_run_that_is_released_may_write_so_much_more(
    monkeypatch: pytest.MonkeyPatch, hard: str, limit: str, room: int
) -> None:
    def written() -> int:
        return run.state.last_event_id if limit == "RELEASED_EVENTS" else run.state.history_bytes

    run = Run.begin()
    run.complete(*(schedule(name) for name in "abcde"))
    tokens = [run.start(name) for name in "abcde"]
    for module in (messages, pauses):
        monkeypatch.setattr(module, hard, written() + 1)
    monkeypatch.setattr(pauses, limit, room)
    run.signal("the last")
    run.complete()
    for token in tokens:  # are under way, and are written whatever it takes
        run.decide(t.ActivityCompletion(token, payload(1)))
    for number in range(2):
        assert run.state.held
        before = written()
        run.release()
        while not run.state.held:
            assert written() < before + room
            run.signal(f"{number} at {written()}")
            run.complete()
        assert written() >= before + room


def test_answers_of_updates_that_go_over_to_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying, "MAX_REMEMBERED_UPDATES", 2)
    run = Run.begin()
    for id in "123":
        run.update(id)
        run.complete(c.AcceptUpdate(id), c.CompleteUpdate(id, payload(id)))
    run.signal()
    run.complete(c.ContinueAsNew("Type", "", ()))
    assert list(run.continued().state.finished) == ["2", "3"]


def test_answers_of_updates_that_go_over_to_the_run_that_a_reset_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resets, "MAX_REMEMBERED_UPDATES", 2)
    run = Run.begin()
    for id in "123":
        run.update(id)
        run.complete(c.RejectUpdate(id, Failure("no")))
    assert list(forked(run).state.finished) == ["2", "3"]


def test_interventions_that_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interventions, "MAX_INTERVENTIONS", 2)
    run = Run.begin()
    run.schedule()
    for note in "123":
        run.fail_activity(run.start())
        run.release("a", note=note)
    assert [intervention.note for intervention in run.state.interventions] == ["2", "3"]


def test_a_description_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "SHOWN_ACTIVITIES", 2)
    monkeypatch.setattr(queries, "SHOWN_TIMERS", 1)
    run = Run.begin()
    run.complete(*(schedule(name) for name in "abc"), c.StartTimer("t", 2), c.StartTimer("u", 1))
    description = queries.describe(run.execution)
    assert [activity.activity_id for activity in description.activities] == ["a", "b"]
    assert description.timers == (run.now + 1,)
    assert (description.pending_activities, description.pending_timers) == (3, 2)


def test_what_waits_for_a_person_is_not_cut_from_a_description(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "SHOWN_ACTIVITIES", 2)
    run = Run.begin()
    run.complete(*(schedule(name) for name in "abcde"))
    run.fail_activity(run.start("d"))
    run.fail_activity(run.start("e"), Failure("raise the quota", ("perdure.errors.Hold",), "hold"))
    description = queries.describe(run.execution)
    assert [(each.activity_id, each.status) for each in description.activities] == [("e", "held"), ("d", "backing_off")]
