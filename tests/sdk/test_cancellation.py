"""Cancellation inside a workflow: who hears of it when, by type; and that nothing is lost by it."""

from __future__ import annotations

import asyncio

import pytest

from perdure import ActivityCancelled, ApplicationError, WorkflowCancelled, workflow
from perdure.model import events as e
from perdure.model.commands import (
    CompleteWorkflow,
    RequestCancelActivity,
    RequestCancelExternalWorkflow,
    ScheduleActivity,
    StartChildWorkflow,
)
from perdure.model.failures import Failure
from perdure.sdk.activity.definition import CancellationType
from tests.sdk.harness import Scenario, check_replay, fetch, fresh_registry, kinds, result, store

__all__ = ["fresh_registry"]


@workflow(name="sdk.cancellation.child")
async def child(name: str) -> str:
    return name


async def one(kind: CancellationType) -> str:
    try:
        await fetch.options(cancellation_type=kind)("a")
    except asyncio.CancelledError:
        await store("cleaned up")
        return "cancelled"
    return "not cancelled"


def cancelled(target: object, *args: object) -> Scenario:
    """A run that was asked to stop while it waited; after the task that hears of it."""
    scenario = Scenario(target, *args)
    scenario.do()
    scenario.cancel()
    scenario.do()
    return scenario


# --- Types ----------------------------------------------------------------------------------------------
def test_try_asks_and_does_not_wait() -> None:
    @workflow
    async def flow() -> str:
        return await one("try")

    scenario = cancelled(flow)
    assert kinds(scenario.tasks[-1][1].commands) == ["RequestCancelActivity", "ScheduleActivity"]
    scenario.complete(name="sdk_store")
    scenario.do()
    assert result(scenario) == "cancelled"
    check_replay(scenario)


def test_abandon_does_not_ask() -> None:
    @workflow
    async def flow() -> str:
        return await one("abandon")

    scenario = cancelled(flow)
    assert kinds(scenario.tasks[-1][1].commands) == ["ScheduleActivity"]
    scenario.complete(name="sdk_fetch")  # nobody waits for it
    assert scenario.do() == []
    scenario.complete(name="sdk_store")
    scenario.do()
    assert result(scenario) == "cancelled"
    check_replay(scenario)


def test_wait_asks_and_waits_for_the_end() -> None:
    @workflow
    async def flow() -> str:
        return await one("wait")

    scenario = cancelled(flow)
    assert scenario.tasks[-1][1].commands == (RequestCancelActivity("1"),)
    scenario.cancel_activity()
    assert kinds(scenario.do()) == ["ScheduleActivity"]
    scenario.complete()
    scenario.do()
    assert result(scenario) == "cancelled"
    check_replay(scenario)


def test_what_was_waited_for_may_end_otherwise_and_the_cancellation_comes_after() -> None:
    @workflow
    async def flow() -> list[str]:
        said = [await fetch.options(cancellation_type="wait")("a")]
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            said.append("cancelled")
        said.append(await store("b"))
        return said

    scenario = cancelled(flow)
    scenario.complete("made all the same")
    assert kinds(scenario.do()) == ["ScheduleActivity"]
    scenario.complete("b")
    scenario.do()
    assert result(scenario) == ["made all the same", "cancelled", "b"]
    check_replay(scenario)


def test_a_failure_that_was_waited_for_is_raised_and_the_cancellation_comes_after() -> None:
    @workflow
    async def flow() -> list[str]:
        said: list[str] = []
        try:
            await fetch.options(cancellation_type="wait")("a")
        except ApplicationError as error:
            said.append(str(error))
        try:
            await fetch("b")
        except asyncio.CancelledError:
            said.append("cancelled")
        return said

    scenario = cancelled(flow)
    scenario.fail(ApplicationError("no luck"))
    scenario.do()
    assert result(scenario) == ["no luck", "cancelled"]
    check_replay(scenario)


def test_the_end_that_is_waited_for_may_be_in_the_same_task() -> None:
    @workflow
    async def flow() -> str:
        return await fetch.options(cancellation_type="wait")("a")

    scenario = Scenario(flow)
    scenario.do()
    scenario.cancel()
    scenario.complete("just in time")
    assert kinds(scenario.do()) == ["CompleteWorkflow"]
    assert result(scenario) == "just in time"
    check_replay(scenario)


def test_what_nobody_heard_of_is_dropped() -> None:
    @workflow
    async def flow() -> None:
        for kind in ("try", "wait", "abandon"):
            handle = fetch.options(cancellation_type=kind).start("a")
            assert handle.cancel()
            assert handle.cancelled()

    scenario = Scenario(flow)
    assert kinds(scenario.do()) == ["CompleteWorkflow"]


def test_asking_twice_asks_once() -> None:
    @workflow
    async def flow() -> bool:
        handle = fetch.options(cancellation_type="wait").start("a")
        await asyncio.sleep(1)
        assert handle.cancel()
        assert handle.cancel()
        assert not handle.done()
        await asyncio.wait([handle])
        return handle.cancelled()

    scenario = Scenario(flow)
    scenario.do()
    scenario.fire()
    assert scenario.do() == [RequestCancelActivity("1")]
    scenario.cancel_activity()
    scenario.do()
    assert result(scenario) is True
    check_replay(scenario)


def test_a_timeout_is_kept_to_when_what_it_cancels_waits() -> None:
    @workflow
    async def flow() -> list[str]:
        said: list[str] = []
        async with asyncio.timeout(5):
            said.append(await fetch.options(cancellation_type="wait")("a"))
        said.append(await fetch("b"))  # the timeout was the first call's
        return said

    scenario = Scenario(flow)
    scenario.do()
    scenario.fire()
    assert kinds(scenario.do()) == ["RequestCancelActivity"]
    scenario.complete("late")
    assert kinds(scenario.do()) == ["ScheduleActivity"]
    scenario.complete("b")
    scenario.do()
    assert result(scenario) == ["late", "b"]
    check_replay(scenario)


def test_a_cancellation_passes_through_tasks_that_wait() -> None:
    @workflow
    async def flow() -> str:
        inner = asyncio.create_task(one("wait"))
        said = await inner
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return f"{said}, then cancelled"
        return said

    scenario = cancelled(flow)
    scenario.complete("made")
    scenario.do()
    assert result(scenario) == "not cancelled, then cancelled"
    check_replay(scenario)


def test_a_wrong_type_is_refused() -> None:
    with pytest.raises(ValueError, match='cancellation_type must be "try" or "wait" or "abandon", not \'never\''):
        fetch.options(cancellation_type="never")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match='parent_close_policy must be "terminate" or "request_cancel" or "abandon"'):
        child.options(parent_close_policy="kill")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_an_activity_cancelled_from_outside_is_a_failure() -> None:
    @workflow
    async def flow() -> str:
        try:
            await fetch.options(cancellation_type="wait")("a")
        except ActivityCancelled:
            return "from outside"
        return ""

    scenario = Scenario(flow)
    scenario.do()
    scenario.cancel_activity()
    scenario.do()
    assert result(scenario) == "from outside"


# --- Children -------------------------------------------------------------------------------------------
CANCELLED = Failure("child workflow 'c' was cancelled", kind="cancelled")


def test_a_child_is_asked_and_waited_for() -> None:
    @workflow
    async def flow() -> str:
        try:
            await child.options(id="c")("a")
        except asyncio.CancelledError:
            return "cancelled"
        return ""

    scenario = Scenario(flow)
    scenario.do()
    scenario.child_started()
    scenario.do()
    scenario.cancel()
    assert scenario.do() == [RequestCancelExternalWorkflow("c", "child-run", 5)]
    scenario.child_failed(CANCELLED)
    scenario.do()
    assert result(scenario) == "cancelled"
    check_replay(scenario)


@pytest.mark.parametrize("kind", ["try", "abandon"])
def test_a_child_that_is_not_waited_for(kind: CancellationType) -> None:
    @workflow
    async def flow() -> str:
        try:
            await child.options(id="c", cancellation_type=kind)("a")
        except asyncio.CancelledError:
            return "cancelled"
        return ""

    scenario = Scenario(flow)
    scenario.do()
    scenario.cancel()
    assert isinstance(scenario.do()[-1], CompleteWorkflow)
    asked = [x for x in scenario.tasks[-1][1].commands if isinstance(x, RequestCancelExternalWorkflow)]
    assert len(asked) == (kind == "try")
    check_replay(scenario)


def test_a_child_cancelled_by_others_is_a_failure() -> None:
    @workflow
    async def flow() -> str:
        try:
            await child.options(id="c")("a")
        except WorkflowCancelled as error:
            return str(error)
        return ""

    scenario = Scenario(flow)
    scenario.do()
    scenario.child_failed(CANCELLED)
    scenario.do()
    assert result(scenario) == CANCELLED.message


def test_the_policy_for_the_parents_end_is_the_callers() -> None:
    @workflow
    async def flow() -> None:
        child.options(id="a", parent_close_policy="abandon").start("a")
        child.options(id="b", parent_close_policy="request_cancel").start("b")
        child.options(id="c").start("c")

    policies = [x.parent_close_policy for x in Scenario(flow).do() if isinstance(x, StartChildWorkflow)]
    assert policies == ["abandon", "request_cancel", "terminate"]


# --- Shielding ------------------------------------------------------------------------------------------
def test_what_is_shielded_ends_before_the_cancellation_is_raised() -> None:
    async def clean_up() -> str:
        await store("first")
        async with asyncio.timeout(60):
            return await store("second")

    @workflow
    async def flow() -> list[str]:
        said = [await workflow.shielded(clean_up())]
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            said.append("cancelled")
        return said

    scenario = cancelled(flow)
    assert scenario.tasks[-1][1].commands == ()
    scenario.complete("first")
    assert kinds(scenario.do()) == ["StartTimer", "ScheduleActivity"]
    scenario.complete("second")
    scenario.do()
    assert result(scenario) == ["second", "cancelled"]
    check_replay(scenario)


def test_clean_up_may_be_shielded_against_a_second_request() -> None:
    @workflow
    async def flow() -> str:
        work = asyncio.create_task(cleaning())
        await asyncio.sleep(1)
        work.cancel()
        await asyncio.sleep(1)
        work.cancel()
        await asyncio.wait([work])
        return "cancelled" if work.cancelled() else work.result()

    async def cleaning() -> str:
        try:
            await asyncio.sleep(60)
        finally:
            await workflow.shielded(store("cleaned up"))
        return ""

    scenario = Scenario(flow)
    scenario.do()
    scenario.fire()
    assert ScheduleActivity in [type(x) for x in scenario.do()]
    scenario.fire()
    assert scenario.do() == []
    scenario.complete()
    scenario.do()
    assert result(scenario) == "cancelled"
    check_replay(scenario)


def test_a_failure_of_what_is_shielded_is_raised() -> None:
    @workflow
    async def flow() -> str:
        try:
            await workflow.shielded(fetch("a"))
        except ApplicationError as error:
            return str(error)
        return ""

    scenario = cancelled(flow)
    scenario.fail(ApplicationError("no luck"))
    scenario.do()
    assert result(scenario) == "no luck"


def test_asyncio_shield_lets_what_it_shields_go_on() -> None:
    @workflow
    async def flow() -> str:
        inner = asyncio.ensure_future(fetch("a"))
        try:
            await asyncio.shield(inner)
        except asyncio.CancelledError:
            return "cancelled, but " + await inner
        return ""

    scenario = cancelled(flow)
    assert scenario.tasks[-1][1].commands == ()
    scenario.complete("done")
    scenario.do()
    assert result(scenario) == "cancelled, but done"
    check_replay(scenario)


def test_a_shielded_run_can_be_evicted() -> None:
    @workflow
    async def flow() -> str:
        return await workflow.shielded(one("wait"))

    scenario = cancelled(flow)
    scenario.run.evict()
    assert scenario.do() == []
    assert not any(isinstance(event, e.ActivityTaskCancelRequested) for event in scenario.history)


def test_nothing_is_shielded_outside_a_workflow() -> None:
    with pytest.raises(RuntimeError, match=r"workflow\.shielded\(\) can only be used inside a workflow"):
        asyncio.run(workflow.shielded(one("try")))
