"""What `@workflow` makes of functions and classes, and what calling those does inside and outside a workflow."""

from __future__ import annotations

import abc
import asyncio
import copy
import gc
import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

import pytest

from perdure import ChildOptions, RetryPolicy, UnusedCallWarning, activity, workflow
from perdure.clock import HOUR, MINUTE, SECOND
from perdure.sdk.activity.api import definition_of as activity_definition
from perdure.sdk.converter import encode
from perdure.sdk.registry import REGISTRY, Registry
from perdure.sdk.workflow.calls import WorkflowCall, call_of, definition_of
from perdure.sdk.workflow.children import ChildTerms
from perdure.sdk.workflow.definition import WorkflowDefinition
from tests.sdk.immediate import ContinueAsNew, inside

T = TypeVar("T")


class QuotaExceeded(Exception):
    pass


@activity
async def not_a_workflow() -> None: ...


@workflow
async def provision_team(team: str, regions: Sequence[str] = ()) -> list[str]:
    return [team, *regions]


@workflow(name="test.entry", task_queue="slow", failure_exceptions=(QuotaExceeded,))
async def named() -> None: ...


@workflow
class Joining:
    """Gets somebody started."""

    def __init__(self, who: str, seats: int = 1) -> None:
        self.who = who
        self.seats = seats
        self.next = [] if who == "child" else [Joining("child")]

    async def run(self) -> dict[str, int]:
        return {self.who: self.seats}

    @workflow.signal
    def approve(self, by: str) -> None:
        self.who += by

    @workflow.signal(name="refuse")
    async def deny(self, by: str) -> None: ...

    @workflow.query
    def count(self) -> int:
        return self.seats

    @workflow.update
    async def resize(self, seats: int) -> int:
        self.seats = seats
        return seats

    @resize.validator
    def _(self, seats: int) -> None:
        if seats < 0:
            raise ValueError("negative")

    @workflow.update
    def rename(self, who: str) -> None:
        self.who = who


@workflow
class SpecialJoining(Joining):
    def __init__(self, who: str) -> None:
        super().__init__(who + "!", 2)

    @workflow.update
    async def resize(self, seats: int) -> int:
        return await super().resize(seats + 1)


# --- Workflows as functions -----------------------------------------------------------------------------
def test_the_definition_of_a_function() -> None:
    definition = definition_of(provision_team)
    assert (definition.name, definition.is_class, definition.is_async) == ("provision_team", False, True)
    assert definition.signature.result_type == list[str]
    assert REGISTRY.workflows["provision_team"] is definition
    other = definition_of(named)
    assert (other.name, other.task_queue, other.failure_exceptions) == ("test.entry", "slow", (QuotaExceeded,))
    assert repr(named) == "<workflow test.entry>"


async def test_a_call_records_its_arguments_and_runs_nothing() -> None:
    call = provision_team("a", regions=["eu"])
    assert isinstance(call, WorkflowCall)
    assert asyncio.iscoroutine(call)
    assert call_of(call) == (definition_of(provision_team), ("a",), {"regions": ["eu"]})
    with pytest.raises(RuntimeError, match=r"can be awaited inside a workflow only; .*client\.run\(provision_team"):
        await call


async def test_inside_a_workflow_awaiting_a_call_runs_a_child() -> None:
    with inside() as run:
        assert await provision_team("a") == ("provision_team", "", "a")
        assert await provision_team.options(id="c1", task_queue="q", run_timeout="5m")("b") == (
            "provision_team",
            "c1",
            "b",
        )
        assert await provision_team.start("c") == ("provision_team", "", "c")
        assert await workflow.run(provision_team.options(run_timeout=1)("d"), id="c2") == ("provision_team", "c2", "d")
        assert await workflow.start(provision_team("e")) == ("provision_team", "", "e")
        results = await asyncio.gather(provision_team("f"), asyncio.wait_for(provision_team("g"), 5))
        assert results == [("provision_team", "", "f"), ("provision_team", "", "g")]
        async with asyncio.TaskGroup() as group:
            task = group.create_task(provision_team("h"))
            assert "provision_team" in repr(task)
        assert task.result() == ("provision_team", "", "h")
    terms = [child[1] for child in run.children]
    assert terms[1] == ChildTerms(id="c1", task_queue="q", run_timeout=5 * MINUTE)
    assert terms[3] == ChildTerms(id="c2", run_timeout=SECOND)


async def test_a_call_is_awaited_once() -> None:
    with inside():
        call = provision_team("a")
        await call
        with pytest.raises(RuntimeError, match=r"was awaited already: call provision_team\(\) again"):
            await call


async def test_a_call_whose_task_is_cancelled_before_it_begins() -> None:
    with inside() as run:
        task = asyncio.ensure_future(provision_team("a"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert run.children == []


async def test_a_call_that_dies_unused_in_a_workflow_warns() -> None:
    with inside():
        for make in (lambda: provision_team("a"), lambda: Joining("a")):
            with pytest.warns(UnusedCallWarning, match=r"the call (provision_team|Joining)\(…\) was neither awaited"):
                make()
                gc.collect()


async def test_a_replay_or_an_eviction_does_not_warn() -> None:
    with inside() as run, warnings.catch_warnings():
        warnings.simplefilter("error")
        run.logger.logger.disabled = True  # as a run's logger is while it is silent
        try:
            provision_team("a")
            gc.collect()
        finally:
            run.logger.logger.disabled = False


async def test_calls_that_are_used_or_made_outside_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        provision_team("a")
        Joining("a")
        with inside():
            await provision_team("a")
            workflow.start(Joining("a"))
            provision_team("a").close()
            call_of(provision_team("b"))
        gc.collect()


async def not_decorated() -> None: ...


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            provision_team,
            r"provision_team is the workflow itself: call it with its arguments, as in client.start(provision_team(…))",
        ),
        (Joining, r"Joining is the class itself: call it with its arguments"),
        (3, "3 is not a call of a workflow, such as provision(…)"),
        (not_a_workflow, "not_a_workflow is not a call of a workflow"),
        (provision_team.options(id="x")("a"), "has options for a child"),
    ],
    ids=str,
)
def test_what_is_no_call(call: object, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        call_of(call)
    assert message in str(caught.value)


def test_of_a_long_value_not_all_is_shown() -> None:
    with pytest.raises(TypeError) as caught:
        call_of("x" * 10_000)
    assert len(str(caught.value)) < 300


def test_the_coroutine_of_another_function_is_no_call() -> None:
    with pytest.raises(TypeError, match=r"not_decorated\(…\) is a coroutine, not a call of a workflow: decorate"):
        call_of(not_decorated())


def test_what_can_not_be_a_workflow() -> None:
    def generator() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="@workflow is for functions and classes, not for <built-in function len>"):
        workflow(len)
    with pytest.raises(
        TypeError, match=r"a lambda has no name to be found by: use `def`, or name it, @workflow\(name="
    ):
        workflow(lambda: 1)
    with pytest.raises(TypeError, match="@workflow is for functions and classes, not for 3"):
        workflow(cast("Callable[[], object]", 3))
    with pytest.raises(TypeError, match="workflow generator: a generator can't be a workflow"):
        workflow(generator)
    with pytest.raises(TypeError, match="failure_exceptions must hold exception classes, not 'x'"):
        workflow(failure_exceptions=cast("Sequence[type[Exception]]", ("x",)))
    with pytest.raises(TypeError, match="not_decorated is not a workflow: decorate it with @workflow"):
        definition_of(not_decorated)
    with pytest.raises(TypeError, match=r"Joining\(…\) is a call of a workflow, where .* is wanted: write Joining"):
        definition_of(Joining("ann", seats=3))


# --- Workflows as classes -------------------------------------------------------------------------------
def test_calling_a_class_records_its_arguments() -> None:
    call = Joining("ann", seats=3)
    assert isinstance(call, Joining)
    assert call_of(call) == (definition_of(Joining), ("ann",), {"seats": 3})
    assert repr(call) == "<call of workflow Joining>"
    for touch in (lambda: call.seats, lambda: call.approve, lambda: setattr(call, "seats", 1)):
        with pytest.raises(AttributeError, match=r"Joining\(…\) here is a call that was not run yet"):
            touch()


def test_the_engine_builds_the_object() -> None:
    definition = definition_of(Joining)
    live = definition.make("ann", seats=3)
    assert type(live) is Joining
    assert (live.who, live.seats) == ("ann", 3)
    assert call_of(live.next[0]) == (definition, ("child",), {})  # a call made by __init__ is one
    assert copy.deepcopy(definition.make("child")).__class__ is Joining
    assert (definition.is_class, definition.is_async) == (True, True)
    assert definition.signature.result_type == dict[str, int]
    assert definition.signature.decode(definition.signature.encode(("a",), {"seats": 2})) == (["a", 2], {})
    assert (Joining.__doc__, Joining.__name__) == ("Gets somebody started.", "Joining")
    assert str(inspect.signature(Joining)) == "(who: 'str', seats: 'int' = 1) -> 'None'"


def test_derived_classes() -> None:
    live = definition_of(SpecialJoining).make("bob")
    assert type(live) is SpecialJoining
    assert (live.who, live.seats) == ("bob!", 2)
    assert call_of(SpecialJoining("x")) == (definition_of(SpecialJoining), ("x",), {})

    class Undecorated(Joining):
        pass

    with pytest.raises(TypeError, match="Undecorated inherits from the workflow Joining but isn't one itself"):
        Undecorated("x")
    with pytest.raises(TypeError, match="Undecorated is not a workflow"):
        definition_of(Undecorated)


def test_other_kinds_of_classes() -> None:
    @workflow
    @dataclass
    class Data:
        x: int
        y: list[int] = field(default_factory=list[int])

        async def run(self) -> int:
            return self.x

    @workflow
    class Abstract(abc.ABC):  # noqa: B024  (a class with another metaclass)
        async def run(self) -> None:
            return None

    @workflow
    class Wrapping(Generic[T]):
        def __init__(self, item: T) -> None:
            self.item = item

        async def run(self) -> T:
            return self.item

    assert call_of(Data(1)) == (definition_of(Data), (1,), {})
    assert definition_of(Data).make(1) == definition_of(Data).make(1, [])
    assert Data(1) != Data(1)  # calls are not compared by what isn't there yet
    assert call_of(Abstract()) == (definition_of(Abstract), (), {})
    assert isinstance(definition_of(Abstract).make(), Abstract)
    with pytest.raises(TypeError, match="workflow Abstract: too many positional arguments"):
        definition_of(Abstract).signature.encode((1,), {})
    assert call_of(Wrapping[int](3))[1] == (3,)
    assert vars(definition_of(Wrapping).make(3)) == {"item": 3}


def test_what_can_not_be_a_workflow_class() -> None:
    def define(body: str) -> None:
        exec(f"@workflow\nclass Broken:\n    {body}", {"workflow": workflow})

    with pytest.raises(TypeError, match="Broken needs a method `async def run"):
        define("pass")
    with pytest.raises(TypeError, match=r"Broken\.run takes no arguments: a workflow's input goes to __init__"):
        define("async def run(self, x): ...")
    with pytest.raises(TypeError, match="Broken can't have __slots__"):
        define("__slots__ = ()\n    async def run(self): ...")
    with pytest.raises(TypeError, match="Joining is decorated with @workflow twice"):
        workflow(Joining)


def test_a_class_that_is_decorated_in_the_wrong_order() -> None:
    @dataclass
    @workflow
    class Wrong:
        x: int

        async def run(self) -> None: ...

    with pytest.raises(TypeError, match=r"Wrong: put @workflow above @dataclass"):
        Wrong(1)

    @workflow
    class Replaced:
        async def run(self) -> None: ...

    Replaced.__init__ = lambda self: None  # type: ignore[method-assign]
    with pytest.raises(TypeError, match=r"Replaced\(…\) made an object instead of a call: put @workflow above"):
        call_of(Replaced())


async def test_children_of_classes() -> None:
    with inside() as run:
        assert await workflow.run(Joining("ann"), id="x") == ("Joining", "x", "ann")
        assert await workflow.start(Joining("bob")) == ("Joining", "", "bob")
        with pytest.raises(ContinueAsNew) as caught:
            workflow.continue_as_new(Joining("eve"))
    assert caught.value.args == ("Joining", "eve")
    assert [child[2] for child in run.children] == [("ann",), ("bob",)]


async def test_what_may_be_said_of_a_child() -> None:
    policy = RetryPolicy(maximum_attempts=3)
    with inside() as run:
        await workflow.run(
            Joining("ann"),
            id="x",
            task_queue="side",
            execution_timeout="2h",
            run_timeout="1h",
            task_timeout="30s",
            retry_policy=policy,
            id_reuse_policy="reject_duplicate",
            memo={"team": "web"},
            parent_close_policy="abandon",
            cancellation_type="try",
        )
        await workflow.start(provision_team.options(id="y", run_timeout="1h")("a"), run_timeout="2h", memo=None)
    said = ChildTerms(
        "x",
        "side",
        2 * HOUR,
        HOUR,
        30 * SECOND,
        policy.for_engine,
        "reject_duplicate",
        {"team": encode("web", "")},
        "abandon",
        "try",
    )
    assert [child[1] for child in run.children] == [said, ChildTerms("y", run_timeout=2 * HOUR)]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"id": " x"}, "id must neither begin nor end with white space"),
        ({"run_timeout": "soon"}, "run_timeout is 'soon', which is not a duration"),
        ({"task_timeout": "3m"}, "task_timeout must be at most 120 s, not '3m'"),
        ({"retry_policy": 3}, "retry_policy must be a perdure.RetryPolicy, not int"),
        ({"retry_policy": RetryPolicy(on_exhausted="hold")}, "a workflow that has failed is closed"),
        ({"id_reuse_policy": "never"}, 'id_reuse_policy must be "allow_duplicate" or'),
        ({"memo": ["web"]}, "memo must be a mapping of names to values, not list"),
        ({"parent_close_policy": "keep"}, 'parent_close_policy must be "terminate" or'),
        ({"cancellation_type": "now"}, 'cancellation_type must be "try" or'),
        ({"start_delay": "1h"}, "a child has no option 'start_delay'; it has id, task_queue"),
    ],
)
def test_what_is_wrong_about_a_child(options: ChildOptions, told: str) -> None:
    with inside():
        for say in (
            lambda: workflow.start(Joining("ann"), **options),
            lambda: provision_team.options(**options),
        ):
            with pytest.raises((TypeError, ValueError), match=re.escape(told)):
                say()


# --- Messages -------------------------------------------------------------------------------------------
def test_handlers_by_kind_and_name() -> None:
    handlers = definition_of(Joining).handlers
    assert {(*key, handler.is_async) for key, handler in handlers.items()} == {
        ("signal", "approve", False),
        ("signal", "refuse", True),
        ("query", "count", False),
        ("update", "resize", True),
        ("update", "rename", False),
    }
    approve = handlers["signal", "approve"]
    assert Joining.approve.definition is approve
    assert approve.signature.decode(approve.signature.encode(("bob",), {})) == (["bob"], {})
    assert approve.signature.name == "signal approve"
    assert (Joining.deny.name, repr(Joining.resize)) == ("refuse", "<update resize>")


async def test_handlers_are_methods_of_the_object() -> None:
    live = definition_of(Joining).make("ann")
    assert isinstance(live, Joining)
    live.approve("!")
    assert (live.who, live.count(), await live.resize(5), live.seats) == ("ann!", 1, 5, 5)


def test_validators() -> None:
    resize = definition_of(Joining).handlers["update", "resize"]
    assert resize.validator is not None
    with pytest.raises(ValueError, match="negative"):
        resize.validator(definition_of(Joining).make("ann"), -1)
    assert definition_of(Joining).handlers["update", "rename"].validator is None


async def test_an_override_has_its_own_validator_or_none() -> None:
    handlers = definition_of(SpecialJoining).handlers
    assert handlers.keys() == definition_of(Joining).handlers.keys()
    assert handlers["update", "resize"].validator is None
    assert handlers["signal", "approve"] is definition_of(Joining).handlers["signal", "approve"]
    live = definition_of(SpecialJoining).make("bob")
    assert isinstance(live, SpecialJoining)
    assert await live.resize(1) == 2
    with pytest.raises(TypeError, match=r"Joining\.resize is a base's update: override it"):

        class Another(Joining):
            @Joining.resize.validator
            def _(self, seats: int) -> None: ...

        assert Another


def test_handlers_that_can_not_be() -> None:
    with pytest.raises(TypeError, match=r"Plain\.approve overrides a signal: decorate it with @workflow\.signal"):

        @workflow
        class Plain(Joining):
            def approve(self, by: str) -> None: ...  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]

        assert Plain
    with pytest.raises(TypeError, match="both one and two are the signal 'x'"):

        @workflow
        class Twice:
            async def run(self) -> None: ...

            @workflow.signal(name="x")
            def one(self) -> None: ...

            @workflow.signal(name="x")
            def two(self) -> None: ...

        assert Twice
    with pytest.raises(TypeError, match="query slow: a query can't be an `async def`"):

        @workflow.query
        async def slow(self: object) -> None: ...

        assert slow
    with pytest.raises(TypeError, match="update up: its validator must be a plain function"):

        @workflow.update
        def up(self: object) -> None: ...

        async def check(self: object) -> None: ...

        up.validator(cast("Callable[[object], None]", check))
    with pytest.raises(TypeError, match=r"@workflow\.signal is for methods"):
        workflow.signal(cast("Callable[[object], None]", 3))


# --- The namespaces -------------------------------------------------------------------------------------
async def test_what_a_workflow_may_ask() -> None:
    with inside() as run:
        assert workflow.now() == run.now()
        assert workflow.uuid4() == run.uuid4()
        assert workflow.random().random() == run.random().random()
        assert workflow.logger is run.logger
        await workflow.wait_until(lambda: True, timeout="5m")
        assert run.waited == 5 * MINUTE
        assert await workflow.receive("ok", int | None, timeout=1) == ("ok", int | None, SECOND)


async def test_outside_a_workflow_it_may_not() -> None:
    for ask in (workflow.now, workflow.info, workflow.random, workflow.uuid4):
        with pytest.raises(RuntimeError, match=rf"workflow\.{ask.__name__}\(\) can only be used inside a workflow"):
            ask()
    with pytest.raises(RuntimeError, match=r"workflow\.wait_until\(\) can only"):
        await workflow.wait_until(lambda: True)
    with pytest.raises(RuntimeError, match=r"workflow\.start\(\) can only"):
        workflow.start(provision_team("a"))
    with pytest.raises(RuntimeError, match=r"workflow\.continue_as_new\(\) can only"):
        workflow.continue_as_new(provision_team("a"))
    assert workflow.logger.logger.name == "perdure.workflow"


# --- The registry ---------------------------------------------------------------------------------------
def _module_level(name: str, module: str = "app") -> WorkflowDefinition:
    async def function() -> None: ...

    function.__module__, function.__qualname__ = module, name
    made = definition_of(workflow(name=f"{__name__}.{name}.{module}")(function))
    return WorkflowDefinition(**{f: getattr(made, f) for f in made.__slots__ if f != "name"}, name="flow")


def test_names_are_unique() -> None:
    registry = Registry()
    first = _module_level("one")
    registry.add_workflow(first)
    with pytest.raises(ValueError, match=r"two workflow definitions are named 'flow': app\.one and app\.two\. Rename"):
        registry.add_workflow(_module_level("two"))
    with pytest.raises(ValueError, match=r"app\.one and other\.one"):
        registry.add_workflow(_module_level("one", "other"))
    assert registry.workflows == {"flow": first}


def test_a_reloaded_module_replaces_its_definitions() -> None:
    registry = Registry()
    registry.add_workflow(_module_level("one"))
    again = _module_level("one")
    registry.add_workflow(again)
    assert registry.workflows["flow"] is again


def test_what_is_defined_in_a_function_may_be_defined_again() -> None:
    def define() -> object:
        @activity(name="local")
        async def local() -> None: ...

        return local

    define()
    last = define()
    assert REGISTRY.activities["local"] is activity_definition(last)
