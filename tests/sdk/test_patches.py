"""Changing code while it runs: patches, and flags of the SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
import pytest

from perdure import NondeterminismError, workflow
from perdure.limits import MAX_ID_LENGTH
from perdure.model import events as e
from perdure.model import flags
from perdure.model.payloads import Payload
from perdure.model.tasks import WorkflowTaskFailure
from perdure.sdk.workflow.context import require
from perdure.sdk.workflow.patches import PATCH, Patch
from perdure.sdk.workflow.runtime import WorkflowRun
from tests.sdk.harness import Scenario, check_replay, definition_of, fetch, kinds, replay, result, store
from tests.sdk.harness import fresh_registry as fresh_registry


def _versions() -> tuple[object, ...]:
    """One workflow, before a change and after it. All have one name, so they are defined in a function."""

    @workflow(name="flow")
    async def old() -> str:
        await asyncio.sleep(1)
        return await fetch("letter")

    @workflow(name="flow")
    async def both() -> str:
        await asyncio.sleep(1)
        return await (store("mail") if workflow.patched("mail") else fetch("letter"))

    @workflow(name="flow")
    async def deprecated() -> str:
        await asyncio.sleep(1)
        workflow.deprecate_patch("mail")
        return await store("mail")

    @workflow(name="flow")
    async def new() -> str:
        await asyncio.sleep(1)
        return await store("mail")

    return old, both, deprecated, new


old, both, deprecated, new = _versions()


def deployed(scenario: Scenario, target: object) -> Scenario:
    """Another version of the workflow runs from now on."""
    scenario.definitions = {definition_of(target).name: definition_of(target)}
    scenario.live = False
    return scenario


def markers(scenario: Scenario) -> list[e.MarkerRecorded]:
    return [event for event in scenario.history if isinstance(event, e.MarkerRecorded)]


def as_recorded(target: object) -> Scenario:
    """A run of some version that waits for its activity."""
    scenario = Scenario(target)
    scenario.do()
    scenario.fire()
    scenario.do()
    return scenario


def test_a_run_that_comes_to_a_patch_takes_the_new_branch_and_records_it_once() -> None:
    @workflow(name="flow")
    async def asks_often() -> list[bool]:
        answers = [workflow.patched("x"), workflow.patched("x")]
        await asyncio.sleep(1)
        return [*answers, workflow.patched("x"), workflow.patched("y")]

    scenario = Scenario(asks_often)
    assert kinds(scenario.do()) == ["RecordMarker", "StartTimer"]
    scenario.fire()
    assert kinds(scenario.do()) == ["RecordMarker", "CompleteWorkflow"]
    assert result(scenario) == [True, True, True, True]
    (x, y) = markers(scenario)
    assert (x.marker_name, msgspec.json.decode(x.details["patch-data"].data)) == (
        "core_patch",
        {"id": "x", "deprecated": False},
    )
    assert b'"y"' in y.details["patch-data"].data
    check_replay(scenario)


def test_a_run_from_before_the_change_stays_on_the_old_branch() -> None:
    scenario = deployed(as_recorded(old), both)
    scenario.complete("sent")
    assert kinds(scenario.do()) == ["CompleteWorkflow"]
    assert not markers(scenario)


def test_a_run_that_had_not_come_to_the_change_takes_the_new_branch() -> None:
    scenario = Scenario(old)
    scenario.do()
    scenario.fire()
    assert kinds(deployed(scenario, both).do()) == ["RecordMarker", "ScheduleActivity"]
    scenario.complete("sent", "sdk_store")
    scenario.do()
    assert result(scenario) == "sent"
    check_replay(scenario)


def test_the_answer_is_the_same_for_the_whole_run() -> None:
    """Also where a replay was told the old branch, and comes to the patch again when it is live."""

    @workflow(name="flow")
    async def in_a_loop() -> list[bool]:
        answers: list[bool] = []
        for _ in range(3):
            answers.append(workflow.patched("x"))
            await asyncio.sleep(1)
        return answers

    @workflow(name="flow")
    async def before() -> None:
        for _ in range(3):
            await asyncio.sleep(1)

    scenario = Scenario(before)
    scenario.do()
    deployed(scenario, in_a_loop)
    for _ in range(3):
        scenario.fire()
        scenario.do()
    assert result(scenario) == [False, False, False]
    assert not markers(scenario)


@pytest.mark.parametrize("target", [both, deprecated])
def test_history_with_a_marker_fits(target: object) -> None:
    scenario = deployed(as_recorded(both), target)
    scenario.complete("sent")
    scenario.do()
    assert result(scenario) == "sent"


def test_a_deprecated_patch_records_a_marker_that_no_call_need_answer() -> None:
    scenario = as_recorded(deprecated)
    (marker,) = markers(scenario)
    assert msgspec.json.decode(marker.details["patch-data"].data) == {"id": "mail", "deprecated": True}
    check_replay(scenario)
    for target in (both, new):  # also the one before it, if the deploy is taken back
        outcomes = replay(scenario, target)
        assert not [outcome for outcome in outcomes if isinstance(outcome, WorkflowTaskFailure)]
    deployed(scenario, new).complete("sent")
    scenario.do()
    assert result(scenario) == "sent"


def test_a_deprecated_patch_fits_a_history_without_a_marker() -> None:
    scenario = deployed(as_recorded(new), deprecated)
    scenario.complete("sent")
    assert kinds(scenario.do()) == ["CompleteWorkflow"]


def test_a_patch_that_is_gone_while_a_run_needs_it_is_a_nondeterminism_error() -> None:
    scenario = deployed(as_recorded(both), new)
    scenario.complete("sent")
    failure = scenario.broken()
    assert failure.kind == "nondeterminism"
    assert "patch 'mail'" in failure.message


def test_old_code_on_a_new_history_is_told_of_the_patch() -> None:
    scenario = deployed(as_recorded(both), old)
    scenario.complete("sent")
    message = scenario.broken().message
    assert "patch 'mail'" in message
    assert message.endswith("needs its workflow.patched() or workflow.deprecate_patch(), as long as it runs")


def test_markers_may_come_in_another_order_within_a_task() -> None:
    @workflow(name="flow")
    async def before() -> None:
        workflow.patched("a")
        workflow.patched("b")
        await asyncio.gather(fetch("x"), fetch("y"))

    @workflow(name="flow")
    async def after() -> None:
        workflow.patched("b")
        first = fetch("y")
        workflow.patched("a")
        await asyncio.gather(first, fetch("x"))

    scenario = Scenario(before)
    scenario.do()
    scenario.complete("x")
    deployed(scenario, after)
    assert scenario.do() == []


def test_one_id_used_in_two_ways_is_refused_with_both_lines() -> None:
    @workflow(name="flow")
    async def torn() -> None:
        workflow.patched("x")
        workflow.deprecate_patch("x")

    @workflow(name="flow")
    async def torn_too() -> None:
        workflow.deprecate_patch("x")
        await asyncio.sleep(1)
        workflow.patched("x")

    message = Scenario(torn).broken().message
    assert "patch 'x' is used in two ways: workflow.patched() at " in message
    assert message.count(f"{__file__}:") == 2
    scenario = Scenario(torn_too)
    scenario.do()
    scenario.fire()
    assert "workflow.deprecate_patch() at " in scenario.broken().message


@pytest.mark.parametrize(
    ("id", "says"),
    [
        ("", "between 1 and"),
        ("x" * (MAX_ID_LENGTH + 1), "between 1 and"),
        ("\ud800", "no valid text"),
        (7, "must be text, not int"),
    ],
)
@pytest.mark.parametrize("use", [workflow.patched, workflow.deprecate_patch])
def test_what_is_no_id_is_refused(use: Callable[[str], object], id: str, says: str) -> None:
    @workflow(name="flow")
    async def flow() -> None:
        use(id)

    failure = Scenario(flow).broken()
    assert "a patch's id" in failure.message
    assert says in failure.message


def test_outside_a_workflow_there_are_no_patches() -> None:
    for use in (workflow.patched, workflow.deprecate_patch):
        with pytest.raises(RuntimeError, match="can only be used inside a workflow"):
            use("x")


def test_a_query_may_ask_for_what_is_decided_and_decides_nothing() -> None:
    @workflow(name="flow")
    class Flow:
        async def run(self) -> None:
            workflow.patched("x")
            await asyncio.sleep(1)

        @workflow.query
        def decided(self) -> bool:
            return workflow.patched("x")

        @workflow.query
        def undecided(self) -> bool:
            return workflow.patched("y")

    scenario = Scenario(Flow)
    scenario.do()
    assert scenario.ask("decided") is scenario.ask_replayed("decided") is True
    answer = scenario.query("undecided")
    assert answer.failure is not None
    assert "must only read" in answer.failure.message
    scenario.fire()
    scenario.do()


def test_a_marker_that_names_no_patch_fails_the_task() -> None:
    scenario = as_recorded(both)
    (marker,) = markers(scenario)
    scenario.complete("sent")
    no_details: dict[str, Payload] = {}
    for details in (no_details, {"patch-data": Payload(b"{")}):
        spoilt = msgspec.structs.replace(marker, details=details)
        scenario.history[marker.id - 1] = spoilt
        scenario.live = False
        failure = scenario.broken()
        assert failure.kind == "nondeterminism"
        assert "names no patch" in failure.message


def test_a_marker_of_somebody_else_is_not_ours() -> None:
    scenario = as_recorded(both)
    (marker,) = markers(scenario)
    scenario.history[marker.id - 1] = msgspec.structs.replace(marker, marker_name="Version")
    scenario.live = False
    scenario.complete("sent")
    assert "marker Version" in scenario.broken().message


def test_the_marker_s_form_is_fixed() -> None:
    assert PATCH == "core_patch"
    assert msgspec.json.encode(Patch("x")) == b'{"id":"x","deprecated":false}'


# --- Flags ----------------------------------------------------------------------------------------------
MAIL: Final = 9_998
"""Stands for a change of behaviour: the code that has it sends mails, not letters."""


def mails(monkeypatch: pytest.MonkeyPatch, *, knows: bool, sends: bool) -> None:
    """From here on it is another version of Perdure."""
    monkeypatch.setattr(flags, "KNOWN", frozenset({MAIL} if knows else ()))
    monkeypatch.setattr(flags, "CURRENT", (MAIL,) if sends else ())


@workflow(name="sdk_flagged")
async def flagged() -> None:
    """Looks at the flags in force, as code of the SDK does where a behaviour has changed."""
    for _ in range(2):
        run = require("this")
        assert isinstance(run, WorkflowRun)
        await (store if MAIL in run.flags else fetch)("it")
        await asyncio.sleep(1)


@pytest.mark.parametrize("sends", [True, False])
def test_each_workflow_task_is_replayed_by_its_own_flags(monkeypatch: pytest.MonkeyPatch, *, sends: bool) -> None:
    scenario = Scenario(flagged)
    scenario.do()
    scenario.complete("letter")
    scenario.do()
    mails(monkeypatch, knows=True, sends=True)
    scenario.fire()
    scenario.do()
    asked = [event.activity_type for event in scenario.history if isinstance(event, e.ActivityTaskScheduled)]
    assert asked == [fetch.definition.name, store.definition.name]
    mails(monkeypatch, knows=True, sends=sends)
    scenario.complete("mail")
    scenario.live = False
    assert kinds(scenario.do()) == ["StartTimer"]
    recorded = [event.flags for event in scenario.history if isinstance(event, e.WorkflowTaskCompleted)]
    assert recorded == [(), (), (MAIL,), (MAIL,) if sends else ()]


def test_an_unknown_flag_fails_the_task() -> None:
    scenario = Scenario(old)
    scenario.do()
    scenario.fire()
    (index,) = [n for n, event in enumerate(scenario.history) if isinstance(event, e.WorkflowTaskCompleted)]
    completed = scenario.history[index]
    scenario.history[index] = msgspec.structs.replace(completed, flags=(9_999,))
    scenario.live = False
    failure = scenario.broken()
    assert failure.kind == "nondeterminism"
    assert failure.types[0].endswith(NondeterminismError.__name__)
    assert "recorded by a later version of Perdure" in failure.message
    assert "9999" in failure.message
