"""Messages that a reset gives again: in the order in which they came, whatever happens meanwhile."""

from __future__ import annotations

from itertools import chain
from random import Random

import pytest

from perdure.clock import MINUTE
from perdure.engine.core import effects as fx
from perdure.engine.core.decisions import messages
from perdure.engine.core.decisions.postponing import updates_given
from perdure.engine.core.decisions.resets import Fork, added_by, earlier_updates, end_for_reset, left_by
from perdure.engine.core.queries import describe
from perdure.engine.core.transition import Transition
from perdure.errors import Unavailable
from perdure.limits import DEFAULT_RETENTION
from perdure.model import commands as c
from perdure.model import events as e
from tests.engine.core.harness import FAILURE, Run, effects, payload
from tests.engine.core.test_resets import forked, request

NEXT = c.ContinueAsNew("Type", "", ())


def send(run: Run, *names: str) -> None:
    """Somebody sends messages: `s…` is a signal, `u…` an update."""
    for name in names:
        if name.startswith("s"):
            run.signal(name)
        else:
            run.update(name)


def given(run: Run) -> tuple[list[str], list[str]]:
    """The signals and the updates of the workflow task, which a worker takes."""
    seen, position = run.state.seen.event_id, run.execution.taken or run.take()
    news = run.history[seen : position.event_id]
    signals = [event.signal_name for event in news if isinstance(event, e.WorkflowExecutionSignaled)]
    return signals, [update.update_id for update in updates_given(run.state)]


def hear(run: Run, *commands: c.Command) -> list[str]:
    """A workflow task, which accepts all updates: what the code hears in it."""
    signals, updates = given(run)
    run.complete(*(c.AcceptUpdate(id) for id in updates), *commands)
    return [*signals, *updates]


def hear_all(run: Run) -> list[list[str]]:
    """What the code hears, task by task, until there is nothing more."""
    heard: list[list[str]] = []
    while run.state.task is not None:
        heard.append(hear(run))
    return heard


def told(*tasks: list[str]) -> Run:
    """A run whose code has heard these messages, task by task, after its first one."""
    run = Run.begin()
    run.complete()
    for names in tasks:
        send(run, *names)
        assert hear(run) == names
    return run


def signals(run: Run) -> list[str]:
    return [event.signal_name for event in run.history if isinstance(event, e.WorkflowExecutionSignaled)]


TOLD = ["s1"], ["u1", "u2"], ["s2"], ["s3", "u3"], ["u4"], ["s4"]


def test_a_signal_is_given_after_the_updates_that_came_before_it() -> None:
    run = told(*TOLD)
    new = forked(run, "first")
    assert signals(new) == ["s1"] and list(new.state.admitted) == ["u1", "u2", "u3", "u4"]
    assert hear_all(new) == [["s1", "u1", "u2"], ["s2", "s3", "u3", "u4"], ["s4"]]
    assert not new.state.postponed


def test_what_comes_meanwhile_is_given_behind() -> None:
    new = forked(told(*TOLD), "first")
    send(new, "s5")
    new.take()
    send(new, "u5", "s6")
    new.crash()
    assert new.update("u5").reply is None and new.update("u4").reply is None
    assert [*chain(*hear_all(new))] == ["s1", "u1", "u2", "s2", "s3", "u3", "u4", "s4", "s5", "u5", "s6"]
    send(new, "s7")
    assert signals(new)[-1] == "s7" and not new.state.postponed


def test_a_rejected_update_and_a_failed_task_keep_the_order() -> None:
    new = forked(told(*TOLD), "first")
    new.fail_task()
    new.wake()
    assert given(new) == (["s1"], ["u1", "u2"])
    new.complete(c.RejectUpdate("u1", FAILURE))
    assert given(new) == ([], ["u2"])
    new.complete(c.RejectUpdate("u2", FAILURE))
    assert given(new) == (["s2", "s3"], ["u3", "u4"])


def test_code_that_wants_to_end_is_given_all_the_rest() -> None:
    new = forked(told(*TOLD), "first")
    new.complete(c.AcceptUpdate("u1"), c.AcceptUpdate("u2"), c.CompleteWorkflow(payload(1)))
    assert new.state.status == "Running"
    assert given(new) == (["s1", "s2", "s3", "s4"], ["u1", "u2", "u3", "u4"])
    new.complete(*(c.RejectUpdate(id, FAILURE) for id in list(new.state.admitted)), c.CompleteWorkflow(payload(1)))
    assert new.state.status == "Completed"


def test_the_next_run_is_given_what_is_left() -> None:
    new = forked(told(*TOLD), "first")
    send(new, "s5")
    new.complete(c.AcceptUpdate("u1"), NEXT)
    following = new.continued()
    assert hear(following) == ["u2"]
    assert hear(following, NEXT) == ["s2", "s3", "u3", "u4"]
    last = following.continued()
    assert signals(last) == ["s4", "s5"] and hear_all(last) == [["s4", "s5"]]
    again = {event.signal_name: event.again for event in last.history if isinstance(event, e.WorkflowExecutionSignaled)}
    assert again == {"s4": True, "s5": False}


@pytest.mark.parametrize("end", ["terminate", "time out"])
def test_the_history_of_a_run_that_ends_tells_all_signals(end: str) -> None:
    run = Run.begin(run_timeout=MINUTE)
    run.complete()
    for names in TOLD:
        send(run, *names)
        hear(run)
    new = forked(run, "first")
    send(new, "s5")
    if end == "terminate":
        new.terminate()
    else:
        new.wake()
    assert signals(new) == ["s1", "s2", "s3", "s4", "s5"]
    assert not new.execution.open and not new.state.postponed


def test_a_reset_meanwhile_keeps_the_order() -> None:
    run = told(*TOLD)
    second = forked(run, "first")
    hear(second)
    send(second, "s5", "u5", "s6")
    third = forked(second, run_id="run-3")
    assert [*chain(*hear_all(third))] == ["s1", "u1", "u2", "s2", "s3", "u3", "u4", "s4", "s5", "u5", "s6"]
    assert signals(second) == ["s1", "s2", "s3", "s4", "s5", "s6"]  # for who reads them there
    for of_base in (False, True):
        added = added_by(second.history, run.history, run.history, repeats=of_base)
        told_again = [event.signal_name for event in added if isinstance(event, e.WorkflowExecutionSignaled)]
        assert told_again == (["s5", "s6"] if of_base else ["s2", "s3", "s4", "s5", "s6"])


def test_messages_that_wait_count_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    new = forked(told(*TOLD), "first")
    assert describe(new.execution).buffered == 3
    monkeypatch.setattr(messages, "MAX_BUFFERED_INPUTS", 7)
    with pytest.raises(Unavailable):
        new.signal("one too many")


@pytest.mark.parametrize("seed", range(60))
def test_any_order_stays(seed: int) -> None:
    """Through resets, runs that continue as new, crashes, failed tasks, and more messages."""
    random = Random(seed)
    sent: list[str] = []
    run = Run.begin(seed=seed)
    run.complete()

    def some() -> list[str]:
        names = [f"{random.choice('su')}{len(sent) + n}" for n in range(random.randint(0, 3))]
        sent.extend(names)
        return names

    for _ in range(8):  # one by one, since in one task signals come first
        for name in some():
            send(run, name)
            hear(run)
    heard: list[str] = []
    run = forked(run, "first")
    while run.state.task is not None:
        if random.random() < 0.3:
            run.crash()
        if run.state.postponed and random.random() < 0.4:
            send(run, *some())
        if random.random() < 0.2:
            run.fail_task()
            run.wake()
        if random.random() < 0.2:
            heard += hear(run, NEXT)
            run = run.continued()
            continue
        heard += hear(run)
    assert heard == sent


def test_an_update_that_is_older_than_the_run_that_is_reset_does_not_wait_for_the_new_one() -> None:
    """An earlier run was reset, and the one in its place was to be given the update again."""
    first = told(["u1"])
    send(first, "s1")
    hear(first, c.CompleteUpdate("u1", payload(1)), NEXT)
    base = first.continued()
    base.complete()
    latest = forked(first, "first")
    send(latest, "u2")
    assert earlier_updates(base.history, base.state.finished) == {"u1"}
    left = left_by(latest.state, is_base=False, repeats=True, earlier={"u1"})
    fork = Fork(request(), base.history[:3], base.history[3:], "run-3", 4, base.now, DEFAULT_RETENTION)
    end = Transition(latest.execution, latest.now)
    buffered = end_for_reset(end, request(), "run-3", fork.spares(left), fork.takes(left))
    latest.keep(end)
    assert [effect.outcome.update_id for effect in effects(end, fx.UpdateProgressed)] == ["u1"]
    new = Run(fork.go_on(left, buffered), now=base.now)
    assert hear_all(new) == [["u2"]]
