"""Entities: what survives a roll-over, when there is one, and what is refused."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, cast

import msgspec
import pytest

from perdure import workflow
from perdure.clock import SECOND
from perdure.model import commands as c
from perdure.model import events as e
from perdure.sdk.workflow import attributes, entities, facts
from tests.sdk.harness import BEGIN, REF, Scenario, check_replay, fetch, kinds, payloads, value
from tests.sdk.harness import fresh_registry as fresh_registry


class Connection:
    """Something that can't be stored."""


MANY = 200


@pytest.fixture(autouse=True)
def suggested_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "SUGGEST_CONTINUE_AS_NEW_EVENTS", MANY)


def fill(scenario: Scenario) -> None:
    """The history grows until continue-as-new is suggested."""
    while len(scenario.history) < MANY:
        scenario.signal("noise")


def succession(scenario: Scenario) -> tuple[c.ContinueAsNew, Scenario]:
    """A step that must roll over; and the next run, as the engine begins it."""
    (*_, command) = scenario.do()
    assert isinstance(command, c.ContinueAsNew)
    check_replay(scenario)
    (definition,) = scenario.definitions.values()
    begun = scenario.history[0]
    assert isinstance(begun, e.WorkflowExecutionStarted)
    args, _ = definition.signature.decode(begun.input)
    following = Scenario(definition.target, *args)
    following.now = scenario.now
    following.history.clear()
    del following.positions[1:]
    started = e.WorkflowExecutionStarted(
        1, scenario.now, definition.name, "default", command.input, REF.run_id, header=command.header
    )
    following.add(started)
    for signal in command.signals:
        following.add(e.WorkflowExecutionSignaled(following.next_id, following.now, signal.signal_name, signal.input))
    return command, following


def decided(scenario: Scenario) -> tuple[list[str], bool]:
    """The names that an environment has, and whether it is patched."""
    names, _, _, _, patched = cast("tuple[list[str], int, int, int, bool]", scenario.ask("state"))
    return names, patched


def environment() -> type[Any]:
    @workflow(name="environment", entity=True)
    class Environment:
        names: list[str]
        size: int = 1
        rung: int
        patched: bool | None
        begun: ClassVar[int] = 0

        def __init__(self, name: str) -> None:
            self.names = [name]
            self.rung = 0
            self.patched = None
            self.gone = False
            self.begun_here = 0

        gone: bool
        begun_here: int

        async def run(self) -> list[str]:
            self.begun_here += 1
            while not self.gone:
                await workflow.idle()
            return self.names

        @workflow.signal
        def noise(self) -> None: ...

        @workflow.signal
        def add(self, name: str) -> None:
            self.names.append(name)

        @workflow.signal
        async def build(self, name: str) -> None:
            self.names.append(await fetch(name))

        @workflow.signal
        def remind(self, seconds: float) -> None:
            workflow.alarm("renew", after=seconds)

        @workflow.signal
        def forget(self) -> None:
            self.names.append(f"{workflow.cancel_alarm('renew')}")

        @workflow.signal
        def decide(self) -> None:
            self.patched = workflow.patched("change")
            self.names.append(f"{workflow.random().random()}")

        @workflow.signal
        def end(self) -> None:
            self.gone = True

        @workflow.on_alarm("renew")
        def renew(self) -> None:
            self.rung += 1

        @workflow.query
        def state(self) -> tuple[list[str], int, int, int, bool | None]:
            return self.names, self.size, self.rung, self.begun_here, self.patched

        @workflow.query
        def set_alarms(self) -> list[str]:
            return sorted(workflow.alarms())

    return Environment


def test_attributes_survive_and_run_begins_again() -> None:
    scenario = Scenario(environment(), "eu")
    scenario.do()
    fill(scenario)
    scenario.signal("add", "us")
    command, following = succession(scenario)
    assert command.keep_children
    assert command.input == payloads("eu")
    following.do()
    assert following.ask("state") == [["eu", "us"], 1, 0, 2, None]
    following.signal("add", "asia")
    following.signal("end")
    (completed,) = following.do()
    assert isinstance(completed, c.CompleteWorkflow)
    assert value(completed.result) == ["eu", "us", "asia"]
    check_replay(following)


def test_before_it_is_suggested_nothing_happens() -> None:
    scenario = Scenario(environment(), "eu")
    scenario.do()
    for _ in range(50):
        scenario.signal("noise")
    assert scenario.do() == []


def test_a_handler_that_runs_delays_it() -> None:
    scenario = Scenario(environment(), "eu")
    scenario.do()
    fill(scenario)
    scenario.signal("build", "vpc")
    assert kinds(scenario.do()) == ["ScheduleActivity"]
    scenario.signal("noise")
    assert scenario.do() == []
    scenario.complete("vpc-1")
    _, following = succession(scenario)
    following.do()
    assert following.ask("state") == [["eu", "vpc-1"], 1, 0, 2, None]


def test_what_nobody_waits_for_but_is_under_way_delays_it_too() -> None:
    @workflow(name="careless", entity=True)
    class Careless:
        async def run(self) -> None:
            await workflow.idle(lambda: False)

        @workflow.signal
        def noise(self) -> None: ...

        @workflow.signal
        def activity(self) -> None:
            fetch.start("x")

        @workflow.signal
        def task(self) -> None:
            self.waits = asyncio.ensure_future(asyncio.sleep(1))
            del self.waits

    for what in ("activity", "task"):
        scenario = Scenario(Careless)
        scenario.do()
        fill(scenario)
        scenario.signal(what)
        assert "ContinueAsNew" not in kinds(scenario.do())
        scenario.complete() if what == "activity" else scenario.fire()
        assert kinds(scenario.do()) == ["ContinueAsNew"]


def test_a_child_that_has_not_begun_delays_it_and_one_that_has_goes_on() -> None:
    @workflow(name="kid")
    async def kid() -> None: ...

    @workflow(name="parental", entity=True)
    class Parental:
        async def run(self) -> None:
            await workflow.idle(lambda: False)

        @workflow.signal
        def noise(self) -> None: ...

        @workflow.signal
        def adopt(self) -> None:
            kid.start()

    scenario = Scenario(Parental)
    scenario.do()
    fill(scenario)
    scenario.signal("adopt")
    assert kinds(scenario.do()) == ["StartChildWorkflow"]
    scenario.child_started()
    (command,) = scenario.do()
    assert isinstance(command, c.ContinueAsNew)
    assert command.keep_children


def test_random_state_and_patches_survive() -> None:
    first = Scenario(environment(), "eu")
    first.signal("decide")
    assert kinds(first.do()) == ["RecordMarker"]
    first.signal("decide")
    first.do()
    fill(first)
    _, following = succession(first)
    following.signal("decide")
    assert following.do() == []  # the branch was taken, once and for all
    names, patched = decided(following)
    straight = Scenario(environment(), "eu")
    for _ in range(3):
        straight.signal("decide")
    straight.do()
    assert names == decided(straight)[0]
    assert patched is True


def test_a_patch_that_a_replay_took_for_old_stays_old() -> None:
    scenario = Scenario(environment(), "eu")
    scenario.signal("decide")
    scenario.do()
    memory = entities.Memory(patches={"change": False})
    fill(scenario)
    command, following = succession(scenario)
    assert command.header is not None
    header = command.header | {"perdure.entity": payloads(memory)[0]}
    following.history[0] = msgspec.structs.replace(following.history[0], header=header)
    following.signal("decide")
    assert following.do() == []
    assert decided(following)[1] is False


# --- Alarms ---------------------------------------------------------------------------------------------
def test_an_alarm_rings_once() -> None:
    scenario = Scenario(environment(), "eu")
    scenario.signal("remind", 60)
    assert scenario.do() == [c.StartTimer("1", 60 * SECOND)]
    assert scenario.ask("set_alarms") == ["renew"]
    scenario.fire()
    assert scenario.do() == []
    assert scenario.ask("state") == [["eu"], 1, 1, 1, None]
    assert scenario.ask("set_alarms") == []
    check_replay(scenario)


def test_an_alarm_of_the_same_name_is_replaced_and_one_can_be_taken_back() -> None:
    scenario = Scenario(environment(), "eu")
    scenario.signal("remind", 60)
    scenario.do()
    scenario.signal("remind", 30)
    assert scenario.do() == [c.CancelTimer("1"), c.StartTimer("2", 30 * SECOND)]
    scenario.signal("forget")
    scenario.signal("forget")
    assert scenario.do() == [c.CancelTimer("2")]
    assert scenario.ask("state") == [["eu", "True", "False"], 1, 0, 1, None]
    check_replay(scenario)


def test_alarms_survive_and_ring_in_time() -> None:
    scenario = Scenario(environment(), "eu")
    scenario.signal("remind", 60)
    scenario.do()
    due = scenario.now + 60 * SECOND
    fill(scenario)
    scenario.now += 20 * SECOND
    _, following = succession(scenario)
    (timer,) = following.do()
    assert isinstance(timer, c.StartTimer)
    assert following.now + timer.duration == due
    following.fire()
    following.do()
    assert following.ask("state") == [["eu"], 1, 1, 2, None]
    check_replay(following)


def test_an_alarm_that_came_due_between_the_runs_rings_at_once() -> None:
    scenario = Scenario(environment(), "eu")
    scenario.signal("remind", 60)
    scenario.do()
    fill(scenario)
    _, following = succession(scenario)
    following.now += 3_600 * SECOND
    assert following.do() == []
    assert following.ask("state") == [["eu"], 1, 1, 2, None]


def test_an_alarm_may_be_set_where_the_entity_is_made_and_at_a_time() -> None:
    @workflow(name="made", entity=True)
    class Made:
        def __init__(self) -> None:
            workflow.alarm("a", at=workflow.now() + timedelta(seconds=5))
            workflow.alarm("b", at=workflow.now() - timedelta(days=5))

        rung: str = ""

        async def run(self) -> str:
            await workflow.idle(lambda: len(self.rung) == 2)
            return self.rung

        @workflow.on_alarm("a")
        async def ring_a(self) -> None:
            self.rung += await fetch("a")

        @workflow.on_alarm("b")
        def ring_b(self) -> None:
            self.rung += "b"

    scenario = Scenario(Made)
    assert scenario.do() == [c.StartTimer("1", 5 * SECOND)]
    scenario.fire()
    scenario.do()
    scenario.complete("a")
    (completed,) = scenario.do()
    assert isinstance(completed, c.CompleteWorkflow)
    assert value(completed.result) == "ba"
    assert scenario.now >= BEGIN + 5 * SECOND
    check_replay(scenario)


# --- What is refused ------------------------------------------------------------------------------------
def first_failure(cls: type[object]) -> str:
    return Scenario(cls).broken().message


def test_an_attribute_that_cant_be_stored_fails_the_first_task() -> None:
    @workflow(name="by-value", entity=True)
    class ByValue:
        lock: object

        def __init__(self) -> None:
            self.lock = asyncio.Lock()

        async def run(self) -> None:
            await workflow.idle()

    message = first_failure(ByValue)
    assert "attribute 'lock' of entity" in message
    assert "ByValue holds a value of type asyncio.locks.Lock" in message


@pytest.mark.parametrize("hint", [Connection, Connection | None, dict[str, list[Connection]]])
def test_also_where_its_value_comes_later(hint: object) -> None:
    @workflow(name="by-hint", entity=True)
    class ByHint:
        async def run(self) -> None:
            await workflow.idle()

    ByHint.__annotations__["conn"] = hint
    message = first_failure(ByHint)
    assert "attribute 'conn' of entity" in message
    assert "ByHint may hold a value of type tests.sdk.test_entities.Connection, which can't be stored" in message


def test_an_attribute_of_another_type_than_it_says() -> None:
    @workflow(name="wrong", entity=True)
    class Wrong:
        n: int

        def __init__(self) -> None:
            self.n = "x"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]

        async def run(self) -> None:
            await workflow.idle()

    assert "attribute 'n' of entity" in first_failure(Wrong)


def test_an_attribute_that_the_class_doesnt_annotate() -> None:
    @workflow(name="loose", entity=True)
    class Loose:
        def __init__(self) -> None:
            self.cache = {"a": 1}

        async def run(self) -> None:
            await workflow.idle()

    message = first_failure(Loose)
    assert "attribute 'cache' of entity" in message
    assert "write `cache: dict` in the class body" in message


@workflow(name="shelf", entity=True)
class Shelf:
    things: dict[str, Any]

    def __init__(self) -> None:
        self.things = {}

    async def run(self) -> None:
        while True:
            await workflow.idle()

    @workflow.signal
    def put(self, name: str) -> None:
        self.things[name] = {"connection": Connection(), "pair": (1, 2)}.get(name, name)


def test_what_would_come_back_as_something_else_is_refused() -> None:
    scenario = Scenario(Shelf)
    scenario.do()
    scenario.signal("put", "pair")
    with pytest.raises(AssertionError, match=r"attribute 'things' of entity.* come back .*\[1, 2\].*tuple\[str, ...\]"):
        scenario.do()


@pytest.mark.parametrize("before", [0, 5, 20])
def test_what_is_set_later_and_cant_be_stored_shows_soon(before: int) -> None:
    scenario = Scenario(Shelf)
    scenario.do()
    for _ in range(before):
        scenario.signal("put", "book")
        scenario.do()
    scenario.signal("put", "connection")
    length = len(scenario.history)
    with pytest.raises(AssertionError, match=r"attribute 'things' of entity.*Connection"):
        while len(scenario.history) < 2 * length + 5:
            scenario.do()
            scenario.signal("put", "book")


def test_attributes_are_not_looked_at_in_each_task(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[object] = []
    check = attributes.Attributes.check

    def counted(self: attributes.Attributes, instance: object) -> None:
        looks.append(instance)
        check(self, instance)

    monkeypatch.setattr(attributes.Attributes, "check", counted)
    scenario = Scenario(Shelf)
    for _ in range(45):
        scenario.signal("put", "book")
        scenario.do()
    assert 3 < len(looks) < 10


def test_dataclasses_and_structs_are_fine() -> None:
    @dataclasses.dataclass
    class Inner:
        when: datetime
        sizes: tuple[int, ...]

    globals()["Inner"] = Inner

    @workflow(name="nested", entity=True)
    @dataclasses.dataclass
    class Nested:
        inner: Inner | None = None
        data: bytes = b"\xff"

        async def run(self) -> None:
            await workflow.idle(lambda: False)

        @workflow.signal
        def noise(self) -> None: ...

    scenario = Scenario(Nested)
    scenario.do()
    fill(scenario)
    command, following = succession(scenario)
    assert command.header is not None
    assert command.header["perdure.entity.data"].data == b"\xff"
    assert following.do() == []


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda: workflow.alarm("nope", after=1), "there is no alarm 'nope'"),
        (lambda: workflow.alarm("a"), "give either at= or after="),
        (lambda: workflow.alarm("a", at=workflow.now(), after=1), "give either at= or after="),
        (lambda: workflow.alarm("a", at=datetime(2030, 1, 1)), "must say its time zone"),  # noqa: DTZ001
        (lambda: workflow.alarm("a", at=cast("datetime", "tomorrow")), "at must be a datetime, not str"),
        (lambda: workflow.alarm("a", after="soon"), "after"),
        (lambda: workflow.alarm("a", after=10.0**12), "over the limit of 100 years"),
        (lambda: workflow.alarm("a", at=datetime(9000, 1, 1, tzinfo=UTC)), "the time until alarm 'a' is "),
    ],
)
def test_alarms_that_make_no_sense(use: Callable[[], None], says: str) -> None:
    @workflow(name="alarmed", entity=True)
    class Alarmed:
        async def run(self) -> None:
            use()
            await workflow.idle()

        @workflow.on_alarm("a")
        def ring(self) -> None: ...

    assert says in first_failure(Alarmed)


def test_what_is_only_for_entities() -> None:
    async def idle() -> None:
        await workflow.idle()

    async def alarm() -> None:
        workflow.alarm("a", after=1)

    async def cancel_alarm() -> None:
        workflow.cancel_alarm("a")

    async def alarms() -> None:
        workflow.alarms()

    for use in (idle, alarm, cancel_alarm, alarms):
        assert "is no entity" in Scenario(workflow(name=use.__name__)(use)).broken().message


def test_idle_is_for_run() -> None:
    @workflow(name="elsewhere", entity=True)
    class Elsewhere:
        async def run(self) -> None:
            await asyncio.gather(workflow.idle())

    assert "is for the entity's `run` itself" in first_failure(Elsewhere)


def test_definitions_that_make_no_sense() -> None:
    untyped: Any = workflow
    with pytest.raises(TypeError, match="only a class has attributes"):

        @untyped(entity=True)
        async def function() -> None: ...

    with pytest.raises(TypeError, match="only entities have alarms"):

        @workflow
        class Plain:
            async def run(self) -> None: ...

            @workflow.on_alarm("a")
            def ring(self) -> None: ...

    def ring(self: object, n: int) -> None: ...

    with pytest.raises(TypeError, match="takes nothing but self"):
        untyped.on_alarm("a")(ring)

    with pytest.raises(TypeError, match="both first and second are the alarm 'a'"):

        @workflow(entity=True)
        class Twice:
            async def run(self) -> None: ...

            @workflow.on_alarm("a")
            def first(self) -> None: ...

            @workflow.on_alarm("a")
            def second(self) -> None: ...

    with pytest.raises(TypeError, match="entity must be True or False"):
        untyped(entity="yes")
