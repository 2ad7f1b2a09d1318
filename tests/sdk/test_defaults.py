"""Mutable defaults in the bodies of workflow classes: no two runs share them."""

from __future__ import annotations

import threading
import typing
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from perdure import workflow
from perdure.sdk.workflow.attributes import Attributes
from tests.sdk.harness import Scenario, check_replay, result
from tests.sdk.harness import fresh_registry as fresh_registry


@dataclass
class Box:
    things: list[str] = field(default_factory=list[str])


class Base:
    tags: list[str] = []  # noqa: RUF012  (what is tested)
    nested: tuple[list[str], ...] = ([],)
    box: Box = Box()
    names: typing.ClassVar[list[str]] = []
    marks: list[str]

    def __init__(self, first: str) -> None:
        self.tags.append(first)
        self.gone = False

    gone: bool

    @workflow.signal
    def put(self, what: str) -> None:
        for each in (self.tags, self.nested[0], self.box.things, self.names, self.marks):
            each.append(what)

    @workflow.signal
    def end(self) -> None:
        self.gone = True

    @workflow.query
    def shown(self) -> list[list[str]]:
        return [self.tags, self.nested[0], self.box.things, self.marks]


@pytest.mark.parametrize("entity", [True, False])
def test_each_run_has_its_own(entity: bool) -> None:
    class Derived(Base):
        marks = ["ready"]  # noqa: RUF012
        names: ClassVar[list[str]] = []

        async def run(self) -> list[str]:
            await workflow.wait_until(lambda: self.gone)
            return [*self.tags, *self.nested[0], *self.box.things, *self.marks]

    cls = workflow(name="derived", entity=True)(Derived) if entity else workflow(name="derived")(Derived)
    one, other = Scenario(cls, "one"), Scenario(cls, "other")
    one.do()
    one.signal("put", "x")
    one.do()
    other.do()
    assert other.ask("shown") == [["other"], [], [], ["ready"]]
    assert one.ask_replayed("shown") == one.ask("shown") == [["one", "x"], ["x"], ["x"], ["ready", "x"]]
    one.signal("end")
    one.do()
    assert result(one) == ["one", "x", "x", "x", "ready", "x"]
    check_replay(one)
    assert (Base.tags, Base.box, Derived.marks) == ([], Box(), ["ready"])
    assert "x" in Derived.names  # a ClassVar is shared, as it says
    assert Base.names == []


class Later:
    kept: list[str] = ["here"]  # noqa: RUF012
    added: dict[str, list[str]] = {"in a later version": []}  # noqa: RUF012


def test_what_is_restored_has_its_own_too() -> None:
    attributes = Attributes(Later)
    left = attributes.restore({})
    assert isinstance(left, Later)
    left.kept.append("and there")
    payloads = attributes.encode(left)
    del payloads["added"]
    restored = attributes.restore(payloads)
    assert isinstance(restored, Later)
    assert restored.kept == ["here", "and there"]
    assert restored.added == {"in a later version": []}
    restored.added["in a later version"].append("x")
    assert Later.added == {"in a later version": []}
    attributes.check(restored)


def test_one_that_cant_be_copied_is_named() -> None:
    @workflow(name="sharing")
    class Sharing:
        locks: list[object] = [threading.Lock()]  # noqa: RUF012

        async def run(self) -> None: ...

    message = Scenario(Sharing).broken().message
    assert "the default of attribute 'locks' in the body of workflow class" in message
    assert "cannot pickle" in message
    assert "Make it in __init__, or annotate it as a ClassVar" in message
