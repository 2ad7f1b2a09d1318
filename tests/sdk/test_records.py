"""A value that would arrive as one of another class, or without some of it, is refused where it is sent."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Generic, Literal, TypedDict, TypeVar

import msgspec
import pydantic
import pytest
from pydantic import BaseModel, Field, SerializeAsAny
from typing_extensions import TypeAliasType

from perdure.errors import EncodeError
from perdure.sdk.converter import codec, decode
from perdure.sdk.signatures import Signature
from perdure.sdk.workflow.attributes import Attributes

T = TypeVar("T")
HERE = "argument 'x' of activity f"


@dataclass
class Pet:
    name: str


@dataclass
class Cat(Pet):
    lives: int = 9
    indoors: bool = True


@dataclass
class Stray(Pet):
    pass


class Machine(msgspec.Struct):
    name: str


class Router(Machine):
    ports: int = 4


class Network(BaseModel):
    cidr: str


class Subnet(Network):
    hosts: int = 0


class Vpc(BaseModel):
    network: Network
    more: dict[str, list[Network]] = {}
    spare: SerializeAsAny[Network] | None = None


@pydantic.dataclasses.dataclass
class Zone:
    network: Network


class Labels(TypedDict):
    raw: bytes


@dataclass(frozen=True)
class Key:
    text: str


@dataclass(frozen=True)
class LongKey(Key):
    bits: int


@dataclass
class Home:
    pets: list[Pet]
    next: Home | None = None


@dataclass
class Tree:
    kids: list[Tree]


@dataclass
class Box(Generic[T]):
    content: T


class Tray(BaseModel, Generic[T]):
    content: T


class Eur(BaseModel):
    amount: int


class Usd(BaseModel):
    amount: int


class Priced(BaseModel):
    price: Eur | Usd


class Small(BaseModel):
    a: int


class Large(BaseModel):
    a: int
    b: int = 3


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    age: int


class Fish(BaseModel):
    kind: Literal["fish"] = "fish"
    age: int


class Plain(BaseModel):
    age: int = 0


class Up(msgspec.Struct, tag=True):
    by: int


class Down(msgspec.Struct, tag=True):
    by: int


class Raw(BaseModel):
    data: bytes


Animal = TypeAliasType("Animal", Dog | Fish)
Prices = TypeAliasType("Prices", list[Eur | Usd])

CAT, SUBNET = Cat("tom"), Subnet(cidr="10/8")


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (Pet, CAT, f"a `{__name__}.Cat` would arrive as a `{__name__}.Pet`, without 'lives', 'indoors'. Annotate it"),
        (Pet, Stray("x"), f"a `{__name__}.Stray` would arrive as a `{__name__}.Pet`. Annotate it"),
        (Machine, Router("r"), "without 'ports'"),
        (Network, SUBNET, "without 'hosts'"),
        (Pet | None, CAT, "without 'lives', 'indoors'"),
        (list[Pet], [Pet("x"), CAT], f"a `{__name__}.Cat` at `$[1]` would"),
        (Sequence[Pet], (Pet("x"), CAT), "Cat` at `$[1]` would"),
        (dict[str, list[Network]], {"a": [SUBNET]}, "Subnet` at `$['a'][0]` would"),
        (frozenset[Key], frozenset({Key("a"), LongKey("a", 2)}), "LongKey` at `$[...]` would"),
        (tuple[int, Network], (1, SUBNET), "Subnet` at `$[1]` would"),
        (Vpc, Vpc(network=SUBNET), "Subnet` at `$.network` would"),
        (Vpc, Vpc(network=Network(cidr="/"), more={"a": [SUBNET]}), "Subnet` at `$.more['a'][0]` would"),
        (Vpc, Vpc(network=Network(cidr="/"), spare=SUBNET), "Subnet` at `$.spare` would"),
        (list[Zone | Network], [Zone(SUBNET)], "Subnet` at `$[0].network` would"),
        (Home, Home([], Home([CAT])), "Cat` at `$.next.pets[0]` would"),
        (Box[Pet], Box(CAT), "Cat` at `$.content` would"),
        (Tray[Network], Tray[Network](content=SUBNET), "Subnet` at `$.content` would"),
        (Eur | Usd, Usd(amount=1), f"a `{__name__}.Usd` would arrive as a `{__name__}.Eur`. Annotate it"),
        (list[Eur | Usd], [Usd(amount=1)], "Usd` at `$[0]` would"),
        (Priced, Priced(price=Usd(amount=1)), "Usd` at `$.price` would"),
        (Prices, [Usd(amount=1)], "Usd` at `$[0]` would"),
        (Network | Path | str, "10/8", "a `str` would arrive as a `pathlib.PosixPath`. Annotate it"),
        (Plain | dict[int, int], {1: 1}, f"a `dict` would arrive as a `{__name__}.Plain`. Annotate it"),
        (Network, Pet("x"), "field required"),
        (Pet, Machine("x"), "Machine` would arrive as a"),
    ],
)
def test_a_value_that_would_arrive_as_one_of_another_class_is_refused(
    hint: object, value: object, message: str
) -> None:
    with pytest.raises(EncodeError) as caught:
        codec(hint).encode(value, HERE)
    assert str(caught.value).startswith(f"{HERE} doesn't fit `")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Cat, CAT),
        (list[Cat], [CAT]),
        (Home, Home([Pet("x")], Home([], None))),
        (Vpc, Vpc(network=Network(cidr="/"), more={"a": [Network(cidr="/")]})),
        (Eur | Usd, Eur(amount=1)),
        (Dog | Fish, Fish(age=1)),
        (list[Dog | Fish | None], [Dog(age=1), Fish(age=1), None]),
        (Up | Down, Down(1)),
        (list[Up | Down], [Up(1), Down(1)]),
        (Tray[int], Tray[int](content=1)),
        (set[Key], {Key("a"), Key("b")}),
        (tuple[Network, bytes], (Network(cidr="/"), b"\x00\xfb\xff")),
        (tuple[Network, Labels], (Network(cidr="/"), {"raw": b"\xff"})),
        (Network | bytes, b"\xff"),
    ],
)
def test_what_JSON_tells_apart_comes_back(hint: object, value: object) -> None:
    back = decode(codec(hint).encode(value, HERE), hint, HERE)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("hint", "value", "back"),
    [
        (Any, CAT, {"name": "tom", "lives": 9, "indoors": True}),
        (list[Any], [CAT], [{"name": "tom", "lives": 9, "indoors": True}]),
        (Box, Box(Pet("x")), Box({"name": "x"})),
        (Pet, {"name": "x"}, Pet("x")),
        (list[Pet], [{"name": "x"}], [Pet("x")]),
        (float, 1, 1.0),
        (Tray[int], Tray(content=1), Tray[int](content=1)),
    ],
)
def test_what_is_plain_by_its_hint_or_before_loses_nothing(hint: object, value: object, back: object) -> None:
    assert decode(codec(hint).encode(value, HERE), hint, HERE) == back


def test_the_order_of_a_union_counts_and_not_which_was_seen_first() -> None:
    """Both are `{"a": 1}`; pydantic takes the first that fits."""
    small = Small(a=1)
    for one, other in ((Small | Large, Large | Small), (list[Small | Large], list[Large | Small])):
        value = small if one == Small | Large else [small]
        assert decode(codec(one).encode(value, HERE), one, HERE) == value
        with pytest.raises(EncodeError, match=r"a `.*Small`.* would arrive as a `.*Large`"):
            codec(other).encode(value, HERE)
        assert decode(codec(one).encode(value, HERE), one, HERE) == value


def test_a_class_that_was_defined_again_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    again = type("Pet", (Pet,), {"__module__": __name__, "__qualname__": "Pet"})
    assert decode(codec(Pet).encode(again("x"), HERE), Pet, HERE) == Pet("x")
    main = ModuleType("__main__")
    main.__file__ = f"/somewhere/{__name__}.py"
    monkeypatch.setitem(sys.modules, "__main__", main)
    script = type("Pet", (Pet,), {"__module__": "__main__", "__qualname__": "Pet"})
    assert decode(codec(Pet).encode(script("x"), HERE), Pet, HERE) == Pet("x")


def test_deep_values_are_looked_at_as_far_as_is_of_use() -> None:
    tree = Tree([])
    for _ in range(350):
        tree = Tree([tree])
    assert codec(Tree).encode(tree, HERE)


def test_what_is_refused_is_named_wherever_it_is_sent() -> None:
    def feed(pet: Pet) -> Pet: ...

    class House:
        pet: Pet

    signature = Signature(feed, "activity feed")
    with pytest.raises(EncodeError, match="argument 'pet' of activity feed doesn't fit `Pet`: a "):
        signature.encode((CAT,), {})
    with pytest.raises(EncodeError, match="the result of activity feed doesn't fit `Pet`: a "):
        signature.encode_result(CAT)
    house = House()
    house.pet = CAT
    with pytest.raises(EncodeError, match=r"attribute 'pet' of entity .*House doesn't fit `Pet`: a "):
        Attributes(House).encode(house)


@pytest.mark.parametrize("hint", [Any, dict, dict[str, int], dict[int | str, int]])
def test_keys_that_are_the_same_in_JSON_are_refused(hint: object) -> None:
    with pytest.raises(EncodeError, match=f"{HERE} has the keys 1 and '1', which are the same in JSON"):
        codec(hint).encode({"a": 0, 1: 1, "1": 2}, HERE)


def test_a_model_that_can_not_be_JSON_says_why() -> None:
    with pytest.raises(EncodeError, match=r"Raw at `\$\[0\]` that pydantic makes no JSON of: .*utf-8"):
        codec(list[Raw]).encode([Raw(data=b"\xff")], HERE)

    class Linked(Raw):
        url: pydantic.HttpUrl

    with pytest.raises(EncodeError, match=r"Linked at `\$\[0\]` that pydantic makes no JSON of: .*utf-8"):
        codec(list[Linked]).encode([Linked(data=b"\xff", url=pydantic.HttpUrl("http://a"))], HERE)


def test_types_that_JSON_can_not_tell_apart_are_refused_with_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"more than one dataclass.* JSON doesn't tell such values apart: use tagged"):
        codec(Pet | Home)
    with pytest.raises(TypeError, match="can't be stored: Model 'Network' needs a discriminator field"):
        codec(list[Annotated[Network | Vpc, Field(discriminator="kind")]])


def test_a_name_for_a_type_may_be_used_and_one_that_is_made_of_itself_is_refused() -> None:
    assert decode(codec(list[Animal]).encode([Fish(age=1)], HERE), list[Animal], HERE) == [Fish(age=1)]
    with pytest.raises(TypeError, match="can't be stored: it is made of itself"):
        codec(Endless())


class Endless:
    """As `type Tree = list[Tree]` is."""

    @property
    def __value__(self) -> object:
        return self
