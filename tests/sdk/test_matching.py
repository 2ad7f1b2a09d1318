"""Replays by other versions of the code: what still fits, and how what doesn't is shown."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence

import msgspec
import pytest

from perdure import ApplicationError, activity, workflow
from perdure.model.commands import CompleteWorkflow, ScheduleActivity
from perdure.model.events import ActivityTaskCancelRequested, WorkflowExecutionCompleted
from perdure.model.payloads import Payload
from perdure.model.tasks import WorkflowTaskCompletion, WorkflowTaskFailure
from perdure.sdk.workflow.matching import Scene, match
from tests.sdk.harness import (
    Scenario,
    definition_of,
    fetch,
    first_line,
    kinds,
    replay,
    result,
    store,
    value,
)
from tests.sdk.harness import (
    fresh_registry as fresh_registry,
)


def continued(scenario: Scenario, target: object) -> Scenario:
    """The scenario goes on with another version of the workflow, as after a deploy."""
    scenario.definitions = {definition_of(target).name: definition_of(target)}
    scenario.live = False
    return scenario


def complaint(scenario: Scenario, target: object) -> str:
    """How the next task fails with another version."""
    failure = continued(scenario, target).broken()
    assert failure.kind == "nondeterminism"
    return failure.message


@activity(name="matching.check")
async def check(hosts: Sequence[str], where: str = "") -> int:
    return len(hosts)


def test_sets_are_the_same_in_whatever_order_a_process_writes_them(caplog: pytest.LogCaptureFixture) -> None:
    """A list stands for a set, whose order nobody can choose."""

    @workflow(name="flow")
    async def before() -> list[int]:
        return list(await asyncio.gather(check(["a", "b"]), check(["x", "y", "z"]), check(["a", "b"], where="eu")))

    @workflow(name="flow")
    async def after() -> list[int]:
        return list(await asyncio.gather(check(["b", "a"]), check(["z", "x", "y"]), check(["b", "a"], where="eu")))

    scenario = Scenario(before)
    scenario.do()
    scenario.complete(3, which=1)
    scenario.do()
    continued(scenario, after)
    scenario.complete(2, which=0)
    scenario.do()
    scenario.complete(20, which=0)
    scenario.do()
    assert result(scenario) == [2, 3, 20]
    assert not caplog.records


def test_the_order_in_a_result_counts() -> None:
    ours = CompleteWorkflow(Payload(b'["b","a"]')), None, ""
    theirs = WorkflowExecutionCompleted(5, 0, Payload(b'["a","b"]'), 4)
    (change,) = match([ours], [theirs], Scene("w", 0)).changed
    assert change.told.endswith('is now completion of the workflow(["b","a"])')


def test_other_contents_are_another_call_however_they_are_ordered() -> None:
    @workflow(name="flow")
    async def before() -> list[int]:
        return list(await asyncio.gather(check(["a", "b"]), check(["x", "y"])))

    @workflow(name="flow")
    async def after() -> list[int]:
        return list(await asyncio.gather(check(["a", "a"]), check(["x", "x", "y"])))

    scenario = Scenario(before)
    scenario.do()
    assert "does something else than its history says" in complaint(scenario, after)


def test_a_gather_may_be_reordered_and_results_stay_with_their_calls() -> None:
    @workflow(name="flow")
    async def before() -> list[str]:
        return list(await asyncio.gather(fetch("a"), fetch("b"), store("a")))

    @workflow(name="flow")
    async def after() -> list[str]:
        c, b, a = await asyncio.gather(store("a"), fetch("b"), fetch("a"))
        return [a, b, c]

    scenario = Scenario(before)
    scenario.do()
    scenario.complete("fetched b", which=1)
    scenario.do()
    continued(scenario, after)
    scenario.complete("fetched a", which=0)
    assert scenario.do() == []
    scenario.complete("stored a")
    (command,) = scenario.do()
    assert isinstance(command, CompleteWorkflow)
    assert value(command.result) == ["fetched a", "fetched b", "stored a"]


def test_identical_calls_match_in_order() -> None:
    @workflow(name="flow")
    async def same() -> list[str]:
        return list(await asyncio.gather(*(fetch("a") for _ in range(5))))

    scenario = Scenario(same, live=False)
    scenario.do()
    for n in (3, 0, 2, 0, 0):
        scenario.complete(f"{len(scenario.history)}", which=n)
    (command,) = scenario.do()
    assert isinstance(command, CompleteWorkflow)
    results = value(command.result)
    assert isinstance(results, list)
    assert len(set(results)) == 5  # pyright: ignore[reportUnknownArgumentType]
    assert results[3] == "9"


def test_the_names_of_the_history_are_used_for_cancellation() -> None:
    @workflow(name="flow")
    async def before() -> None:
        a, b = fetch.start("a"), fetch.start("b")
        await asyncio.sleep(1)
        a.cancel()
        await b

    @workflow(name="flow")
    async def after() -> None:
        b, a = fetch.start("b"), fetch.start("a")
        await asyncio.sleep(1)
        a.cancel()
        await b

    scenario = Scenario(before)
    scheduled = scenario.do()[0]
    assert isinstance(scheduled, ScheduleActivity)
    assert scheduled.activity_id == "1"
    continued(scenario, after)
    scenario.fire()
    assert str(scenario.do()[0]) == "RequestCancelActivity(activity_id='1')"
    # And that is what a copy of the old version replays, too.
    continued(scenario, before)
    scenario.complete("b", which=-1)
    assert kinds(scenario.do()) == ["CompleteWorkflow"]


def test_later_names_do_not_repeat_those_of_the_history() -> None:
    @workflow(name="flow")
    async def before() -> None:
        fetch.start("dropped").cancel()
        await fetch("a")

    @workflow(name="flow")
    async def after() -> None:
        call = fetch.start("a")
        await asyncio.sleep(0)
        await asyncio.gather(call, fetch("more"))

    @workflow(name="flow")
    async def longer() -> None:
        await fetch("a")
        await fetch("b")

    scenario = Scenario(before)
    scenario.do()  # activity "2": "1" was dropped
    continued(scenario, longer)
    scenario.complete()
    (command,) = scenario.do()
    assert isinstance(command, ScheduleActivity)
    assert command.activity_id == "3"
    assert "fetch" in complaint(scenario, after)


def test_one_changed_input_is_reported_and_the_recorded_one_counts(caplog: pytest.LogCaptureFixture) -> None:
    @workflow(name="flow")
    async def before() -> str:
        return "".join(await asyncio.gather(fetch("a"), store("a")))

    @workflow(name="flow")
    async def after() -> str:
        return "".join(await asyncio.gather(fetch("other"), store("a")))

    scenario = Scenario(before)
    scenario.do()
    scenario.complete("x")
    scenario.complete("y")
    continued(scenario, after)
    with caplog.at_level(logging.WARNING):
        (command,) = scenario.do()
    assert isinstance(command, CompleteWorkflow)
    assert value(command.result) == "xy"
    assert 'activity sdk_fetch("a") (event 5) is now activity sdk_fetch("other")' in caplog.text
    assert "test_matching.py" in caplog.text


def test_children_with_made_up_ids_may_be_reordered_and_others_are_told_apart_by_theirs() -> None:
    """An id that somebody chose is not taken for a made-up one, though it ends with a number."""

    @workflow(name="sdk_leaf")
    async def leaf(text: str) -> str:
        return text

    @workflow(name="flow")
    async def before() -> list[str]:
        return list(await asyncio.gather(leaf("a"), leaf.options(id="x/1")("b"), leaf.options(id="x/2")("b")))

    @workflow(name="flow")
    async def after() -> list[str]:
        third, second, first = await asyncio.gather(leaf.options(id="x/2")("b"), leaf.options(id="x/1")("b"), leaf("a"))
        return [first, second, third]

    scenario = Scenario(before)
    scenario.do()
    continued(scenario, after)
    for told in ("A", "B1", "B2"):
        scenario.child_completed(told)
    (command,) = scenario.do()
    assert isinstance(command, CompleteWorkflow)
    assert value(command.result) == ["A", "B1", "B2"]


def test_a_changed_timer_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    @workflow(name="flow")
    async def before() -> None:
        await asyncio.sleep(10)

    @workflow(name="flow")
    async def after() -> None:
        await asyncio.sleep(20)

    scenario = Scenario(before)
    scenario.do()
    continued(scenario, after)
    scenario.fire()
    with caplog.at_level(logging.WARNING):
        assert kinds(scenario.do()) == ["CompleteWorkflow"]
    assert "timer of 10.0 s (event 5) is now timer of 20.0 s" in caplog.text


def in_turn(*texts: str) -> object:
    """A workflow that fetches one after another."""

    @workflow(name="flow")
    async def one_after_another() -> list[str]:
        return [await fetch(text) for text in texts]

    return one_after_another


def test_a_loop_in_another_order_is_not_taken_for_changed_inputs(caplog: pytest.LogCaptureFixture) -> None:
    """As over a set of strings, in another process: the result of one would be taken for that of another."""
    scenario = Scenario(in_turn("a", "b", "c"))
    for _ in range(2):
        scenario.do()
        scenario.complete()
    message = complaint(scenario, in_turn("b", "a", "c"))
    assert "in another order" in message
    assert 'activity sdk_fetch("a") (event 5) is now activity sdk_fetch("b")' in message
    assert "sorted(" in message


def test_another_order_is_noticed_before_anything_is_done_again() -> None:
    scenario = Scenario(in_turn("a", "b", "c"))
    scenario.do()
    scenario.complete()
    message = complaint(scenario, in_turn("b", "a", "c"))
    assert 'activity sdk_fetch("a") (event 5) is now activity sdk_fetch("b")' in message


def test_children_in_another_order_are_noticed_too() -> None:
    @workflow(name="sdk_leaf")
    async def leaf(text: str) -> str:
        return text

    def flow(*texts: str) -> object:
        @workflow(name="flow")
        async def flow() -> list[str]:
            return [await leaf(text) for text in texts]

        return flow

    scenario = Scenario(flow("a", "b"))
    scenario.do()
    scenario.child_completed("A")
    assert "in another order" in complaint(scenario, flow("b", "a"))


def test_inputs_that_all_have_changed_still_match(caplog: pytest.LogCaptureFixture) -> None:
    scenario = Scenario(in_turn("a", "a", "b"))
    for _ in range(2):
        scenario.do()
        scenario.complete()
    continued(scenario, in_turn("c", "c", "b"))
    scenario.do()
    scenario.complete()
    with caplog.at_level(logging.WARNING):
        assert kinds(scenario.do()) == ["CompleteWorkflow"]
    assert caplog.text.count("is now activity") == 2


def test_timers_may_be_exchanged() -> None:
    def flow(*seconds: int) -> object:
        @workflow(name="flow")
        async def flow() -> None:
            for each in seconds:
                await asyncio.sleep(each)

        return flow

    scenario = Scenario(flow(1, 2))
    for _ in range(2):
        scenario.do()
        scenario.fire()
    continued(scenario, flow(2, 1))
    assert kinds(scenario.do()) == ["CompleteWorkflow"]


def test_two_changed_inputs_do_not_match() -> None:
    @workflow(name="flow")
    async def before() -> None:
        await asyncio.gather(fetch("a"), fetch("b"))

    @workflow(name="flow")
    async def after() -> None:
        await asyncio.gather(fetch("c"), fetch("d"))

    scenario = Scenario(before)
    scenario.do()
    scenario.complete()
    message = complaint(scenario, after)
    for part in ('event 5: activity sdk_fetch("a")', 'event 6: activity sdk_fetch("b")', 'activity sdk_fetch("c")'):
        assert part in message


def test_another_activity_shows_both_sides_and_the_line() -> None:
    @workflow(name="flow")
    async def before() -> None:
        await fetch("a")

    @workflow(name="flow")
    async def after() -> None:
        await store("a")

    scenario = Scenario(before)
    scenario.do()
    scenario.complete()
    message = complaint(scenario, after)
    line = first_line(after) + 2
    assert 'event 5: activity sdk_fetch("a")' in message
    assert f'activity sdk_store("a") at {__file__}:{line}' in message
    # The old code still fits.
    continued(scenario, before)
    assert kinds(scenario.do()) == ["CompleteWorkflow"]


def test_the_line_of_a_call_in_a_gather_is_that_of_the_gather() -> None:
    @workflow(name="flow")
    async def before() -> None:
        await asyncio.sleep(1)

    @workflow(name="flow")
    async def after() -> None:
        await asyncio.gather(fetch("a"), fetch("b"))

    scenario = Scenario(before)
    scenario.do()
    scenario.fire()
    message = complaint(scenario, after)
    line = first_line(after) + 2
    assert f'activity sdk_fetch("b") at {__file__}:{line}' in message


def test_code_that_asks_for_less() -> None:
    @workflow(name="flow")
    async def before() -> None:
        await fetch("a")
        await fetch("b")

    @workflow(name="flow")
    async def after() -> None:
        await fetch("a")

    scenario = Scenario(before)
    scenario.do()
    scenario.complete()
    scenario.do()
    scenario.complete()
    message = complaint(scenario, after)
    assert 'activity sdk_fetch("b")' in message
    assert "completion of the workflow" in message


def test_code_that_asks_for_more() -> None:
    @workflow(name="flow")
    async def before() -> None:
        await fetch("a")

    @workflow(name="flow")
    async def after() -> None:
        await asyncio.gather(fetch("a"), fetch("b"))

    scenario = Scenario(before)
    scenario.do()
    scenario.complete()
    message = complaint(scenario, after)
    assert "asked for by the code, but not recorded" in message
    assert "recorded, but" not in message


def test_long_inputs_are_cut() -> None:
    @workflow(name="flow")
    async def before() -> None:
        await fetch("a" * 10_000)

    @workflow(name="flow")
    async def after() -> None:
        await store("b" * 10_000)

    scenario = Scenario(before)
    scenario.do()
    scenario.complete()
    assert len(complaint(scenario, after)) < 1_000


def test_of_long_inputs_it_is_shown_where_they_differ(caplog: pytest.LogCaptureFixture) -> None:
    scenario = Scenario(in_turn("a" * 1_000 + "b" + "d" * 1_000))
    scenario.do()
    scenario.complete()
    assert kinds(continued(scenario, in_turn("a" * 1_000 + "c" + "d" * 1_000)).do()) == ["CompleteWorkflow"]
    assert "aaabddd" in caplog.text and "aaacddd" in caplog.text
    assert len(caplog.records[0].getMessage()) < 1_000


def test_children_match_by_an_id_only_if_it_was_given(caplog: pytest.LogCaptureFixture) -> None:
    @workflow
    async def child(name: str) -> str:
        return name

    @workflow(name="flow")
    async def before() -> list[str]:
        return list(await asyncio.gather(child("a"), child("b")))

    @workflow(name="flow")
    async def after() -> list[str]:
        b, a = await asyncio.gather(child("b"), child("a"))
        return [a, b]

    @workflow(name="flow")
    async def named() -> list[str]:
        return list(await asyncio.gather(child.options(id="one")("a"), child("b")))

    @workflow(name="flow")
    async def renamed() -> list[str]:
        return list(await asyncio.gather(child.options(id="two")("a"), child("b")))

    scenario = Scenario(before)
    scenario.do()
    scenario.child_started()
    scenario.child_completed("A")
    scenario.child_completed("B")
    (command,) = continued(scenario, after).do()
    assert isinstance(command, CompleteWorkflow)
    assert value(command.result) == ["A", "B"]

    scenario = Scenario(named)
    scenario.do()
    scenario.child_completed("A")
    # Changed, but the only one of its kind that is unmatched; the other child has not.
    assert continued(scenario, renamed).do() == []
    was, now = "with the id 'one' (event 5)", "with the id 'two' at "
    assert re.search(rf'child\("a"\) {re.escape(was)} is now .*child\("a"\) {re.escape(now)}', caplog.text)


def test_the_cancellation_of_an_activity_that_had_just_ended_matches() -> None:
    @workflow(name="flow")
    async def flow() -> None:
        call = fetch.start("a")
        await asyncio.sleep(1)
        call.cancel()
        await asyncio.sleep(1)

    scenario = Scenario(flow, live=False)
    scenario.do()
    scenario.fire()
    scenario.do()
    # The engine had the outcome already, so it does not know the activity any more.
    place = next(i for i, x in enumerate(scenario.history) if isinstance(x, ActivityTaskCancelRequested))
    event = scenario.history[place]
    assert isinstance(event, ActivityTaskCancelRequested)
    scenario.history[place] = msgspec.structs.replace(event, scheduled_event_id=0)
    scenario.fire()
    assert kinds(scenario.do()) == ["CompleteWorkflow"]


def test_a_thousand_calls_in_another_order() -> None:
    @workflow(name="flow")
    async def before() -> None:
        await asyncio.gather(*(fetch(f"{n}") for n in range(1000)))

    @workflow(name="flow")
    async def after() -> None:
        await asyncio.gather(*(fetch(f"{n}") for n in reversed(range(1000))))

    @workflow(name="flow")
    async def wrong() -> None:
        await asyncio.gather(*(store(f"{n}") for n in range(1000)))

    scenario = Scenario(before)
    scenario.do()
    scenario.complete()
    assert continued(scenario, after).do() == []
    assert 'event 5: activity sdk_fetch("0")' in complaint(scenario, wrong)


def test_a_failure_with_another_traceback_matches() -> None:
    @workflow(name="flow")
    async def before() -> None:
        raise ApplicationError("no")

    @workflow(name="flow")
    async def after() -> None:
        async def deeper() -> None:
            raise ApplicationError("still no")

        await deeper()

    scenario = Scenario(before)
    scenario.do()
    run = replay(scenario, after)
    assert all(isinstance(outcome, WorkflowTaskCompletion) for outcome in run)


def test_an_update_that_the_class_no_longer_has() -> None:
    @workflow(name="flow")
    class Before:
        async def run(self) -> None:
            await fetch("a")
            await fetch("b")

        @workflow.update
        async def change(self) -> None: ...

    @workflow(name="flow")
    class After:
        async def run(self) -> None:
            await fetch("a")
            await fetch("b")

    scenario = Scenario(Before)
    scenario.update("u", "change")
    assert kinds(scenario.do()) == ["ScheduleActivity", "AcceptUpdate", "CompleteUpdate"]
    scenario.complete()
    scenario.do()
    scenario.complete()
    assert "no update 'change'" in complaint(scenario, After)


def test_a_workflow_that_the_worker_does_not_have() -> None:
    @workflow(name="flow")
    async def flow() -> None: ...

    @workflow(name="other")
    async def other() -> None: ...

    scenario = continued(Scenario(flow), other)
    outcome = scenario.step()
    assert isinstance(outcome, WorkflowTaskFailure)
    assert outcome.failure.message == "this worker has no workflow 'flow'; it has other"
