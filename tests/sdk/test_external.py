"""Other workflows, as the code of one sees them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import workflow
from perdure.model import events as e
from perdure.model.commands import RequestCancelExternalWorkflow, SignalExternalWorkflow
from perdure.model.failures import Failure
from tests.sdk.harness import Scenario, check_replay, fetch, fresh_registry, kinds, payloads, result

__all__ = ["fresh_registry"]

GONE = Failure("there is no workflow with the id 'other'", ("perdure.errors.NotFound",), "engine")


def answer(scenario: Scenario, kind: type[e.HistoryEvent], failure: Failure | None = None, which: int = 0) -> None:
    """What was sent has arrived, or has not."""
    id = scenario.open(kind)[which]
    signal = kind is e.SignalExternalWorkflowExecutionInitiated
    if failure is None:
        arrived = e.ExternalWorkflowExecutionSignaled if signal else e.ExternalWorkflowExecutionCancelRequested
        scenario.add(arrived(scenario.next_id, scenario.now, id))
    else:
        failed = e.SignalExternalWorkflowExecutionFailed if signal else e.RequestCancelExternalWorkflowExecutionFailed
        scenario.add(failed(scenario.next_id, scenario.now, id, failure))


def test_what_is_sent_is_waited_for() -> None:
    @workflow
    class Other:
        async def run(self) -> None: ...

        @workflow.signal
        def approve(self, by: str, times: int = 1) -> None: ...

    @workflow
    async def flow() -> str:
        other = workflow.external("other", Other, run_id="run")
        await other.signal(Other.approve, "ann", times=2)
        await other.signal("plain", 1, 2)
        await workflow.external("third").cancel()
        return repr(other)

    scenario = Scenario(flow)
    assert scenario.do() == [SignalExternalWorkflow("other", "run", "approve", payloads("ann", 2))]
    answer(scenario, e.SignalExternalWorkflowExecutionInitiated)
    assert scenario.do() == [SignalExternalWorkflow("other", "run", "plain", payloads(1, 2))]
    answer(scenario, e.SignalExternalWorkflowExecutionInitiated)
    assert scenario.do() == [RequestCancelExternalWorkflow("third", "")]
    answer(scenario, e.RequestCancelExternalWorkflowExecutionInitiated)
    scenario.do()
    assert result(scenario) == "<ExternalHandle 'other'>"
    check_replay(scenario)


def test_what_does_not_arrive_is_raised() -> None:
    @workflow
    async def flow() -> list[str]:
        other = workflow.external("other")
        said = await asyncio.gather(other.signal("s"), other.cancel(), return_exceptions=True)
        return [f"{type(each).__name__}: {each}" for each in said]

    scenario = Scenario(flow)
    assert kinds(scenario.do()) == ["SignalExternalWorkflow", "RequestCancelExternalWorkflow"]
    answer(scenario, e.RequestCancelExternalWorkflowExecutionInitiated, GONE)
    answer(scenario, e.SignalExternalWorkflowExecutionInitiated, GONE)
    scenario.do()
    assert result(scenario) == [f"NotFound: {GONE.message}"] * 2
    check_replay(scenario)


def test_whoever_is_cancelled_does_not_wait_for_the_answer() -> None:
    @workflow
    async def flow() -> str:
        try:
            await workflow.external("other").signal("s")
        except asyncio.CancelledError:
            return await fetch("a")
        return ""

    scenario = Scenario(flow)
    scenario.do()
    scenario.cancel()
    assert kinds(scenario.do()) == ["ScheduleActivity"]
    answer(scenario, e.SignalExternalWorkflowExecutionInitiated, GONE)
    assert scenario.do() == []
    scenario.complete("done")
    scenario.do()
    assert result(scenario) == "done"
    check_replay(scenario)


def test_the_answer_that_nobody_waits_for_changes_nothing() -> None:
    @workflow(name="sdk.external.child")
    async def child() -> None: ...

    looked: list[str] = []

    @workflow
    async def flow() -> None:
        handle = child.options(cancellation_type="try").start()
        await fetch("a")
        handle.cancel()
        await workflow.wait_until(lambda: bool(looked.append("")))

    scenario = Scenario(flow)
    scenario.do()
    scenario.complete()
    scenario.do()
    before = len(looked)
    answer(scenario, e.RequestCancelExternalWorkflowExecutionInitiated)
    scenario.do()
    assert len(looked) == before  # histories from before this was heard of depend on it


def test_a_changed_signal_is_noticed() -> None:
    @workflow(name="sdk.external.sends")
    async def before() -> None:
        await workflow.external("other").signal("s", 1)

    def changed(id: str, name: str) -> str:
        @workflow(name=f"sdk.external.{id}.{name}")
        async def after() -> None:
            await workflow.external(id).signal(name, 1)

        scenario = Scenario(before)
        scenario.do()
        answer(scenario, e.SignalExternalWorkflowExecutionInitiated)
        definition = Scenario(after).definitions[f"sdk.external.{id}.{name}"]
        scenario.definitions = {"sdk.external.sends": definition}
        scenario.live = False
        return scenario.broken().message

    assert "signal s to workflow other" in changed("another", "s")
    assert "signal t to workflow other" in changed("other", "t")


def test_bad_input_is_refused() -> None:
    @workflow
    class One:
        async def run(self) -> None: ...

        @workflow.signal
        def go(self, n: int) -> None: ...

    @workflow
    class Two:
        async def run(self) -> None: ...

        @workflow.signal
        def stop(self) -> None: ...

        @workflow.query
        def status(self) -> str:
            return ""

    said: list[str] = []

    @workflow
    async def flow() -> None:
        for id in ("", "x" * 2000):
            with pytest.raises(ValueError, match="id must have between 1 and"):
                workflow.external(id)
        with pytest.raises(TypeError, match="is not a workflow"):
            workflow.external("x", str)  # type: ignore[arg-type, type-var]  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="signal must have between 1 and"):
            await workflow.external("x").signal("")
        signal: Any = workflow.external("x", One).signal
        for handler, args in ((Two.stop, ()), (Two.status, ()), (One.go, ("many", 2)), (flow, ())):
            with pytest.raises(TypeError) as caught:
                await signal(handler, *args)
            said.append(str(caught.value))

    assert kinds(Scenario(flow).do()) == ["CompleteWorkflow"]
    assert ["One" in said[0], "is a query" in said[1], "is not a signal" in said[3]] == [True] * 3
    with pytest.raises(RuntimeError, match=r"workflow\.external\(\) can only be used inside a workflow"):
        workflow.external("x")
