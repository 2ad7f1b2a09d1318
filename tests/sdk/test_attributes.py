"""What of an entity survives a roll-over, and what can't."""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar
from zoneinfo import ZoneInfo

import pydantic
import pytest

from perdure.model.payloads import Payload
from perdure.sdk.workflow.attributes import Attributes

T = TypeVar("T")


class Shelf:
    things: dict[str, str]


def test_slots_are_refused() -> None:
    class Base:
        __slots__ = ("size",)

    class Slotted(Base):
        things: dict[str, str]

    with pytest.raises(TypeError, match=r"the __slots__ of .*Base \(size\) would not survive"):
        Attributes(Slotted).check(Slotted())


def test_an_attribute_that_the_code_has_no_more_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    kept = Attributes(Shelf)
    for _ in range(2):
        kept.restore({"boxes": Payload(b"3")})
    assert caplog.text.count("no attribute 'boxes' any more") == 1


class Level(enum.IntEnum):
    LOW = 1


class Name(str):
    __slots__ = ()


class Stack(list[int]):
    pass


@dataclass
class Node:
    sizes: dict[str, int]
    parts: tuple[Node, ...] = ()


class Box(pydantic.BaseModel, Generic[T]):
    thing: T
    shade: str = pydantic.Field(default="red", exclude=True)


Pair = TypedDict("Pair", {"left": int})  # noqa: UP013  (its module's annotations are text)


@pytest.mark.parametrize(
    ("hint", "value", "says"),
    [
        (
            dict[str, int],
            defaultdict(int, a=1),
            r"as {'a': 1} \(dict\), not .* \(collections.defaultdict\)",
        ),
        (dict[str, int], Counter("a"), r"as {'a': 1} \(dict\), not Counter\(.* \(collections.Counter\)"),
        (int, Level.LOW, r"as 1 \(int\), not <Level.LOW: 1> \(tests.sdk.test_attributes.Level\)"),
        (str, Name("x"), r"as 'x' \(str\), not 'x' \(tests.sdk.test_attributes.Name\)"),
        (list[int], Stack([1]), r"as \[1\] \(list\), not \[1\] \(tests.sdk.test_attributes.Stack\)"),
        (list[list[str]], [["x"], [Name("x")]], r" at `\$\[1\]\[0\]` as 'x' \(str\)"),
        (dict[str, int], {Name("x"): 1}, r" at `\$.keys\(\)\[0\]` as 'x' \(str\)"),
        (dict[str, Any], {"x": {1: 2}}, r" at `\$\['x'\].keys\(\)\[0\]` as '1' \(str\), not 1 \(int\)"),
        (set[int], {2, Level.LOW}, r" at `\$\[...\]` as 1 \(int\)"),
        (Sequence[int], (1, 2), r"as \[1, 2\] \(list\), not \(1, 2\) \(tuple\)"),
        (Node, Node({}, (Node(defaultdict(int)),)), r" at `\$.parts\[0\].sizes` as {} \(dict\)"),
        (Box[int], Box[int].model_construct(thing=Level.LOW), r" at `\$.thing` as 1 \(int\)"),
        (Box[int], Box[int](thing=1, shade="blue"), r" at `\$.shade` as 'red' \(str\), not 'blue' \(str\)"),
        (Pair, {"left": 1, "right": 2}, r"as {'left': 1} \(dict\), not {'left': 1, 'right': 2} \(dict\)"),
        (Path, "x", r"as PosixPath\('x'\) \(pathlib.PosixPath\), not 'x' \(str\)"),
    ],
)
def test_what_would_come_back_as_something_else_is_refused(hint: object, value: object, says: str) -> None:
    attributes, shelf = shelf_of(hint, value)
    with pytest.raises(
        TypeError, match=r"attribute 'held' of entity .*Shelf would come back from a roll-over.*" + says
    ):
        attributes.check(shelf)


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (float, 0),
        (list[float], [1, 2.5]),
        (dict[int, Level], {1: Level.LOW}),
        (set[Level | None], {Level.LOW, None}),
        (Name, Name("x")),
        (Path, Path("x")),
        (Any, {"a": [1, None, {"b": 1.5}]}),
        (list[Node], [Node({"a": 1}, (Node({}),))]),
        (Box[int], Box(thing=1)),
        (tuple[datetime, timedelta], (datetime.now(ZoneInfo("Europe/Berlin")), timedelta(days=1))),
        (frozenset[tuple[str, ...]], frozenset({("a", "b"), ()})),
    ],
)
def test_what_comes_back_as_it_was(hint: object, value: object) -> None:
    attributes, shelf = shelf_of(hint, value)
    attributes.check(shelf)


def test_linked_nodes_are_looked_at_as_deep_as_is_cheap() -> None:
    node = Node({})
    for _ in range(110):
        node = Node({}, (node,))
    attributes, shelf = shelf_of(Node, node)
    attributes.check(shelf)


def shelf_of(hint: object, value: object) -> tuple[Attributes, object]:
    shelf = type("Shelf", (), {"__annotations__": {"held": hint}})
    instance = shelf()
    vars(instance)["held"] = value
    return Attributes(shelf), instance
