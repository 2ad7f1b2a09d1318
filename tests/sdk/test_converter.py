"""Values become payloads and come back as the hinted types; what doesn't fit is refused, and the error says where."""

from __future__ import annotations

import dataclasses
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import CodecError, DecodeError, EncodeError, PayloadTooLarge
from perdure.limits import MAX_PAYLOAD
from perdure.model.payloads import NULL, Payload
from perdure.sdk.converter import BINARY, codec, decode, encode, encode_all

HERE = "argument 'x' of activity f"


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 2


class Region(str):
    __slots__ = ()


class Port(int):
    pass


class Point(NamedTuple):
    x: int
    y: int


class Options(TypedDict, total=False):
    size: int


@dataclasses.dataclass
class Subnet:
    cidr: str
    tags: dict[str, str] = dataclasses.field(default_factory=dict[str, str])


@dataclasses.dataclass
class Network:
    name: str
    subnets: list[Subnet]


class Quota(msgspec.Struct, frozen=True):
    limit: int
    used: int = 0


class Opaque:
    pass


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Any, {"a": [1, 2.5, None, True, "x"]}),
        (object, [1]),
        (dict[str, object], {"a": 1}),
        (str, "ä\u2028"),
        (int, 2**70),
        (bool, False),
        (float, 1.5),
        (type(None), None),
        (bytes, b"\x00\xff"),
        (bytes | None, b"x"),
        (list[bytes], [b"\x00", b""]),
        (str | None, None),
        (int | str, "x"),
        (Literal["a", "b"], "b"),
        (Annotated[int, msgspec.Meta(ge=1)], 1),
        (list[int], [1, 2]),
        (set[int], {1, 2}),
        (frozenset[str], frozenset({"a"})),
        (tuple[int, str], (1, "x")),
        (tuple[int, ...], (1, 2)),
        (dict[int, str], {1: "a"}),
        (dict[date, int], {date(2026, 1, 2): 3}),
        (Sequence[int], [1]),
        (Mapping[str, int], {"a": 1}),
        (Iterable[date], [date(2026, 1, 2)]),
        (datetime, datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
        (timedelta, timedelta(days=1, microseconds=1)),
        (uuid.UUID, uuid.UUID(int=7)),
        (Decimal, Decimal("1.50")),
        (Path, Path("/etc/hosts")),
        (Path | None, Path("a")),
        (Colour, Colour.RED),
        (Level, Level.HIGH),
        (Region, Region("eu")),
        (Port, Port(80)),
        (Point, Point(1, 2)),
        (Options, {"size": 1}),
        (Quota, Quota(3, 1)),
        (Quota | None, Quota(3)),
        (Network, Network("n", [Subnet("10.0.0.0/8", {"a": "b"})])),
        (dict[str, Network], {"n": Network("n", [])}),
    ],
    ids=repr,
)
def test_a_value_comes_back_as_its_type(hint: object, value: object) -> None:
    back = decode(codec(hint).encode(value, HERE), hint, HERE)
    assert back == value
    assert type(back) is type(value)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_values_come_back_without_a_hint(value: object) -> None:
    assert decode(encode(value, HERE), Any, HERE) == value


def test_what_comes_back_without_a_hint_is_plain() -> None:
    assert decode(encode(Network("n", [Subnet("c")]), HERE), object, HERE) == {
        "name": "n",
        "subnets": [{"cidr": "c", "tags": {}}],
    }


def test_bytes_travel_as_they_are() -> None:
    payload = encode(b"\x00\xff", HERE)
    assert payload == Payload(b"\x00\xff", {"encoding": BINARY})
    assert decode(payload, Any, HERE) == b"\x00\xff"


def test_none_is_null() -> None:
    assert encode(None, HERE) == NULL


def test_several_values() -> None:
    assert encode_all(["a", 1], HERE) == (Payload(b'"a"'), Payload(b"1"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Opaque(), "holds a value of type test_converter.Opaque, which can't be stored"),
        ({"a": [1, Opaque()]}, "Opaque at `$['a'][1]`"),
        (Network("n", [Subnet("c", {"k": Opaque()})]), "Opaque at `$.subnets[0].tags['k']`"),  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
        (Quota(Opaque()), "Opaque at `$.limit`"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        (OrderedDict({(1, 2): 3}), "keys that JSON can't have"),
        ({"a": MappingProxyType({"x": 1})}, "a value of type mappingproxy at `$['a']`, which can't be stored"),
        ([10**5000], "a number at `$[0]` with more digits than Python makes text of: send it as hex()"),
        ("\ud800", "not valid Unicode"),
        (["\ud800"], "not valid Unicode at `$[0]`"),
        (float("nan"), "holds nan at `$`"),
        ({"a": [None, float("-inf")]}, "holds -inf at `$['a'][1]`"),
        (lambda: 1, "holds a value of type function"),
    ],
)
def test_what_has_no_encoding_is_named_with_its_place(value: object, message: str) -> None:
    with pytest.raises(EncodeError) as caught:
        encode(value, HERE)
    assert str(caught.value).startswith(HERE)
    assert message.replace("test_converter", __name__) in str(caught.value)


async def test_what_was_to_be_awaited_is_told_of() -> None:
    async def fetch() -> int:
        return 1

    forgotten = fetch()
    with pytest.raises(EncodeError, match=r"holds a coroutine at `\$\[0\]` instead of what it gives: await it"):
        encode([forgotten], HERE)
    assert await forgotten == 1


def test_a_value_that_contains_itself() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(EncodeError, match="contains itself"):
        encode(value, HERE)


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (str, 1, "doesn't fit `str`: expected `str`, got `int`"),
        (int, True, "expected `int`, got `bool`"),
        (float, 2**2000, "number out of range"),
        (str, b"x", "expected `str`, got `bytes`"),
        (list[int], [1, "x"], "at `$[1]`"),
        (Network, {"name": "n"}, "missing required field `subnets`"),
        (Annotated[int, msgspec.Meta(ge=1)], 0, ">= 1"),
        (Opaque, {}, "use a dataclass"),
        (None, 1, "expected `null`, got `int`"),
    ],
)
def test_a_value_that_would_not_fit_is_not_sent(hint: object, value: object, message: str) -> None:
    with pytest.raises(EncodeError) as caught:
        codec(hint).encode(value, HERE)
    assert str(caught.value).startswith(HERE)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("hint", "payload", "message"),
    [
        (int, Payload(b'"x"'), "doesn't fit `int`: expected `int`, got `str`"),
        (Network, Payload(b'{"name":"n","subnets":[{"cidr":1}]}'), "at `$.subnets[0].cidr`"),
        (int, Payload(b"12x"), "malformed"),
        (int, Payload(b""), "truncated"),
        (str, Payload(b'"\xff"'), "doesn't fit `str`"),
        (int, Payload(b"x", {"encoding": BINARY}), "expected `int`, got `bytes`"),
        (Any, Payload(b"[" * 100_000), "doesn't fit"),
    ],
)
def test_a_payload_that_does_not_fit(hint: object, payload: Payload, message: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(payload, hint, HERE)
    assert str(caught.value).startswith(HERE)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (Payload(b"1", {"encoding": "zstd"}), f"{HERE} can't be decoded: it is encoded as 'zstd': give the codecs"),
        (Payload(b"1", {"encoding": "zstd", "unreadable": "no key"}), f"{HERE} can't be decoded: no key"),
    ],
)
def test_a_payload_that_a_codec_has_left_as_it_was_is_no_misfit(payload: Payload, message: str) -> None:
    with pytest.raises(CodecError) as caught:
        decode(payload, int, HERE)
    assert str(caught.value).startswith(message)


def test_the_limit_of_a_payload_is_exact() -> None:
    assert len(encode("x" * (MAX_PAYLOAD - 2), HERE).data) == MAX_PAYLOAD
    with pytest.raises(PayloadTooLarge, match=rf"{HERE} is 2,097,153 bytes when encoded; the limit is 2,097,152"):
        encode("x" * (MAX_PAYLOAD - 1), HERE)
    assert len(encode(b"x" * MAX_PAYLOAD, HERE).data) == MAX_PAYLOAD
    with pytest.raises(PayloadTooLarge):
        encode(b"x" * (MAX_PAYLOAD + 1), HERE)


def test_types_that_can_not_be_stored_are_refused_with_a_reason() -> None:
    with pytest.raises(TypeError, match=r"can't be stored: .*more than one dataclass"):
        codec(Subnet | Network)


def test_a_codec_is_made_once() -> None:
    assert codec(list[int]) is codec(list[int])
    assert codec(NoReturn).encode(1, HERE) == Payload(b"1")
