"""Continue-as-new: what a run was told of and has not used goes over to the next."""

from __future__ import annotations

import asyncio

from perdure import workflow
from perdure.model import commands as c
from tests.sdk.harness import Scenario, check_replay, payloads
from tests.sdk.harness import fresh_registry as fresh_registry


@workflow(name="sdk_mailbox")
async def mailbox(n: int) -> None:
    await workflow.receive("go", bool)
    workflow.continue_as_new(mailbox(n + 1))


def successor(scenario: Scenario) -> c.ContinueAsNew:
    (*_, command) = scenario.do()
    assert isinstance(command, c.ContinueAsNew)
    return command


def carried(*signals: tuple[str, object]) -> tuple[c.CarriedSignal, ...]:
    return tuple(c.CarriedSignal(name, payloads(value)) for name, value in signals)


def test_options_for_a_child_are_none_of_the_next_run() -> None:
    @workflow
    async def moving() -> None:
        workflow.continue_as_new(mailbox.options(task_queue="eu")(1))

    assert "the next run keeps those of this one: leave them out" in Scenario(moving).broken().message


def test_unreceived_signals_go_over_in_their_order() -> None:
    scenario = Scenario(mailbox, 1)
    scenario.signal("other", 1)
    scenario.do()
    scenario.signal("more", 2)
    scenario.do()
    scenario.signal("other", 3)
    scenario.signal("go", True)
    scenario.signal("go", False)
    scenario.signal("other", 4)
    command = successor(scenario)
    assert command.input == payloads(2)
    assert command.signals == carried(("other", 1), ("more", 2), ("other", 3), ("go", False), ("other", 4))
    check_replay(scenario)


@workflow(name="sdk_counter")
class Counter:
    def __init__(self, heard: list[int]) -> None:
        self.heard = heard
        self.over = False

    async def run(self) -> None:
        await workflow.wait_until(lambda: self.over)
        workflow.continue_as_new(Counter(self.heard))

    @workflow.signal
    def tell(self, n: int) -> None:
        self.heard.append(n)

    @workflow.signal
    def stop(self) -> None:
        self.over = True

    @workflow.update
    def add(self, n: int) -> int:
        return n


def test_signals_after_the_end_go_over_instead_of_to_a_handler() -> None:
    scenario = Scenario(Counter, [])
    scenario.signal("tell", 1)
    scenario.signal("stop")
    scenario.signal("tell", 2)
    command = successor(scenario)
    assert command.input == payloads([1])
    assert command.signals == carried(("tell", 2))
    check_replay(scenario)


def test_updates_after_the_end_are_left_unanswered() -> None:
    scenario = Scenario(Counter, [])
    scenario.update("u", "add", 1)
    scenario.signal("stop")
    assert [type(command) for command in scenario.do()] == [c.ContinueAsNew]
    assert not scenario.answers


def test_a_request_to_stop_that_the_code_has_not_heard_goes_over() -> None:
    for first, unheard in (("stop", True), ("tell", False)):
        scenario = Scenario(Counter, [])
        scenario.signal(first, *([] if first == "stop" else [1]))
        scenario.cancel()
        (command,) = scenario.do()
        assert isinstance(command, c.ContinueAsNew) is unheard
        assert getattr(command, "pass_cancel", False) is unheard
        check_replay(scenario)


def test_a_receiver_that_was_just_woken_has_used_nothing() -> None:
    @workflow
    async def racing() -> None:
        async def receive() -> None:
            await workflow.receive("a", int)

        waiting = asyncio.create_task(receive())
        await workflow.receive("b", int)
        waiting.cancel()
        workflow.continue_as_new(racing())

    scenario = Scenario(racing)
    scenario.do()
    scenario.signal("b", 1)
    scenario.signal("a", 2)
    assert successor(scenario).signals == carried(("a", 2))
