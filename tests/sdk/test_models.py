"""Pydantic models travel by their own serialization and validation; what doesn't fit names the field."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    Secret,
    SecretStr,
    computed_field,
    field_validator,
)

from perdure.errors import DecodeError, EncodeError
from perdure.model.payloads import Payload
from perdure.sdk.converter import codec, decode, encode
from perdure.sdk.signatures import Signature
from perdure.sdk.workflow.attributes import Attributes

T = TypeVar("T")
HERE = "argument 'x' of activity f"


class Size(Enum):
    SMALL = "small"


class Subnet(BaseModel):
    cidr: str
    hosts: int = 0

    @field_validator("cidr")
    @classmethod
    def _has_a_mask(cls, value: str) -> str:
        if "/" not in value:
            raise ValueError("a mask is missing")
        return value


class Network(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str = Field(alias="networkName", min_length=1)
    subnets: list[Subnet] = []
    size: Size = Size.SMALL
    made: datetime | None = None
    lease: timedelta = timedelta(days=1)
    price: Decimal = Decimal("0.10")
    id: UUID = UUID(int=7)
    tags: set[str] = set()
    raw: bytes = b""
    other: dict[str, Any] = {}

    @computed_field
    @property
    def hosts(self) -> int:
        return sum(subnet.hosts for subnet in self.subnets)


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    barks: int


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Box(BaseModel, Generic[T]):
    content: T


class Names(RootModel[list[str]]):
    pass


@dataclasses.dataclass
class Plan:
    network: Network
    spare: Network | None = None
    more: list[Network] = dataclasses.field(default_factory=list[Network])


class Order(msgspec.Struct):
    networks: dict[str, Network]


class Pair(NamedTuple):
    pet: Dog
    number: int


class Options(TypedDict, total=False):
    pet: Cat


NETWORK = Network(
    networkName="eu",
    subnets=[Subnet(cidr="10.0.0.0/16", hosts=5)],
    made=datetime(2026, 1, 2, 3, tzinfo=UTC),
    tags={"a"},
    raw=b"abc",
    other={"deep": [1, None, {"x": 1.5}]},
)

VALUES: list[tuple[object, object]] = [
    (Network, NETWORK),
    (Subnet, Subnet(cidr="10.0.0.0/8")),
    (Network | None, NETWORK),
    (Network | None, None),
    (list[Network], [NETWORK, NETWORK]),
    (dict[str, Network], {"a": NETWORK}),
    (tuple[Network, int], (NETWORK, 5)),
    (Dog | Cat, Cat(lives=9)),
    (Dog | Cat | str, "none"),
    (list[Annotated[Dog | Cat, Field(discriminator="kind")]], [Dog(barks=1), Cat(lives=7)]),
    (Box[int], Box[int](content=5)),
    (Box[Dog], Box[Dog](content=Dog(barks=2))),
    (Names, Names(["a", "b"])),
    (Plan, Plan(NETWORK, None, [NETWORK])),
    (list[Plan], [Plan(NETWORK)]),
    (Order, Order({"a": NETWORK})),
    (tuple[Dog, Order], (Dog(barks=1), Order({"a": NETWORK}))),
    (Pair, Pair(Dog(barks=1), 2)),
    (Options, {"pet": Cat(lives=1)}),
]


@pytest.mark.parametrize(("hint", "value"), VALUES)
def test_a_model_comes_back_as_it_was(hint: object, value: object) -> None:
    payload = codec(hint).encode(value, HERE)
    assert payload.metadata is None
    back = decode(payload, hint, HERE)
    assert back == value and type(back) is type(value)


def test_without_a_hint_a_model_is_its_json() -> None:
    assert decode(encode([Dog(barks=1)], HERE), object, HERE) == [{"kind": "dog", "barks": 1}]


@pytest.mark.parametrize(
    ("hint", "data", "message"),
    [
        (
            Subnet,
            b'{"cidr":"10/8","hosts":"many"}',
            "a valid integer, unable to parse string as an integer at `$.hosts`",
        ),
        (Subnet, b'{"cidr":"10"}', "a mask is missing at `$.cidr`"),
        (Network, b'{"networkName":""}', "at least 1 character at `$.networkName`"),
        (Network, b'{"networkName":"x","subnets":[{"cidr":"/"},{}]}', "field required at `$.subnets[1].cidr`"),
        (Network, b'{"networkName":5}', "`$.networkName`"),
        (list[Subnet], b'[{"cidr":"/"},{"cidr":5}]', "at `$[1].cidr`"),
        (Order, b'{"networks":{"a":{"networkName":5}}}', "string at `$.networks[...].networkName`"),
        (Plan, b'{"network":5}', "at `$.network`"),
        (Dog | Cat, b'{"kind":"bird"}', "at `$.Dog.kind`"),
        (Subnet, b"nonsense", "invalid JSON"),
    ],
)
def test_what_doesn_t_fit_names_the_field(hint: object, data: bytes, message: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(Payload(data), hint, HERE)
    assert str(caught.value).startswith(f"{HERE} doesn't fit `")
    assert message in str(caught.value)


def test_what_would_not_come_back_is_refused_where_it_is_sent() -> None:
    wrong = Subnet.model_construct(cidr="10", hosts=1)
    with pytest.raises(EncodeError, match=r"a mask is missing at `\$.cidr`"):
        codec(Subnet).encode(wrong, HERE)
    with pytest.raises(EncodeError, match="doesn't fit `Subnet`"):
        codec(Subnet).encode({"hosts": 1}, HERE)
    with pytest.raises(EncodeError, match=r"holds nan at `\$.other\['x'\]`"):
        codec(Network).encode(Network(networkName="x", other={"x": float("nan")}), HERE)


def test_a_secret_is_refused_and_not_stored_as_asterisks() -> None:
    class Login(BaseModel):
        password: SecretStr
        stars: str = "**********"

    for hint in (object, Login, list[Login]):
        login = Login(password=SecretStr("pa55"))
        with pytest.raises(EncodeError, match=r"holds a secret at `\$(\[0\])?.password`") as caught:
            codec(hint).encode([login] if hint == list[Login] else login, HERE)
        assert "pa55" not in str(caught.value)
    assert codec(dict[str, str]).encode({"stars": "**********"}, HERE)


def test_what_pydantic_calls_a_secret_is_one_whatever_it_holds() -> None:
    class Login(BaseModel):
        token: Secret[str]

    with pytest.raises(EncodeError, match=r"holds a secret at `\$.token`"):
        codec(Login).encode(Login(token=Secret("t0ken")), HERE)


class Renamed(BaseModel):
    size: int = Field(8, validation_alias="CidrBlock", serialization_alias="cidrBlock")


class WrittenOnly(BaseModel):
    size: int = Field(8, serialization_alias="cidrBlock")
    inner: WrittenOnly | None = None


class Around(BaseModel):
    renamed: dict[str, list[Renamed]]


@pytest.mark.parametrize("hint", [Renamed, list[Renamed], Renamed | None, WrittenOnly, Around])
def test_a_field_that_is_not_read_by_the_name_that_it_is_written_by_is_refused(hint: object) -> None:
    with pytest.raises(TypeError, match=r"writes its field 'size' as 'cidrBlock' and reads it as '(CidrBlock|size)'"):
        codec(hint)


def test_fields_that_are_read_by_the_name_that_they_are_written_by() -> None:
    class Aliased(BaseModel):
        one: int = Field(1, alias="One")
        chosen: int = Field(2, validation_alias=AliasChoices("old", "new"), serialization_alias="new")
        read_only: int = Field(3, validation_alias=AliasPath("nested", 0))

    class ByName(BaseModel):
        model_config = ConfigDict(populate_by_name=True)
        size: int = Field(8, validation_alias="CidrBlock")

    class Generated(BaseModel):
        model_config = ConfigDict(alias_generator=str.upper)
        size: int = 8

    values = Aliased.model_validate({"One": 5, "new": 6}), ByName(size=24), Generated.model_validate({"SIZE": 24})
    for value in values:
        assert decode(encode(value, "x"), type(value), "x") == value


def test_models_are_attributes_of_entities() -> None:
    class Place:
        network: Network
        spare: list[Subnet] | None

    place = Place()
    place.network, place.spare = NETWORK, [Subnet(cidr="/")]
    kept = Attributes(Place)
    kept.check(place)
    assert vars(kept.restore(kept.encode(place))) == vars(place)


def test_arguments_and_results_are_models() -> None:
    def provision(network: Network, *, spare: Subnet | None = None) -> list[Subnet]: ...

    signature = Signature(provision, "activity provision")
    args, kwargs = signature.decode(signature.encode((NETWORK,), {"spare": Subnet(cidr="/")}))
    assert (args, kwargs) == ([NETWORK], {"spare": Subnet(cidr="/")})
    assert signature.decode_result(signature.encode_result([Subnet(cidr="/")])) == [Subnet(cidr="/")]


def test_perdure_itself_imports_no_pydantic(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom perdure.sdk.converter import encode, decode\n"
        "assert decode(encode({'a': 1}, 'x'), dict[str, int], 'x') == {'a': 1}\n"
        "import perdure.embedded, perdure.sdk.worker.worker\nsys.exit('pydantic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False).returncode == 0
