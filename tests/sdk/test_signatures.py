"""Arguments become payloads by the function's parameters, and come back as the hinted types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from perdure.errors import DecodeError, EncodeError, PayloadTooLarge
from perdure.limits import MAX_PAYLOAD
from perdure.model.payloads import Payload, Payloads
from perdure.sdk.signatures import Signature

if TYPE_CHECKING:
    from decimal import Decimal


def create(region: str, size: int = 16, *, labels: dict[str, str] | None = None) -> Vpc:
    raise NotImplementedError


def collect(first: int, *rest: date, **named: float) -> None: ...


def keyword_only(*, region: str) -> None: ...


UNTYPED: Callable[..., object] = eval("lambda a, b=1: None")


def unreadable(price: Decimal) -> None: ...


def nothing() -> None: ...


@dataclass
class Vpc:  # after the functions that name it
    id: str


class Workflow:
    def __init__(self, on: date) -> None: ...

    async def run(self) -> Vpc:
        raise NotImplementedError


CREATE = Signature(create, "activity create")
COLLECT = Signature(collect, "activity collect")


def test_positional_arguments_in_order() -> None:
    assert CREATE.encode(("eu", 3), {}) == (Payload(b'"eu"'), Payload(b"3"))
    assert CREATE.encode(("eu",), {}) == (Payload(b'"eu"'),)
    assert Signature(nothing, "activity nothing").encode((), {}) == ()


def test_keywords_follow_with_their_names() -> None:
    payloads = CREATE.encode(("eu",), {"labels": {"a": "b"}})
    assert payloads == (Payload(b'"eu"'), Payload(b'{"a":"b"}', {"keyword": "labels"}))
    assert CREATE.decode(payloads) == (["eu"], {"labels": {"a": "b"}})


def test_two_ways_of_writing_one_call_give_the_same_payloads() -> None:
    assert CREATE.encode((), {"size": 3, "region": "eu"}) == CREATE.encode(("eu", 3), {})


def test_binary_keywords() -> None:
    def upload(*, data: bytes) -> None: ...

    signature = Signature(upload, "activity upload")
    payloads = signature.encode((), {"data": b"\x00"})
    assert payloads == (Payload(b"\x00", {"encoding": "binary", "keyword": "data"}),)
    assert signature.decode(payloads) == ([], {"data": b"\x00"})


def test_variable_parameters() -> None:
    args, kwargs = (1, date(2026, 1, 2), date(2026, 1, 3)), {"a": 1.5, "first_one": 2.0}
    assert COLLECT.decode(COLLECT.encode(args, kwargs)) == ([*args], kwargs)


def test_self_is_skipped_and_the_result_may_be_of_another_function() -> None:
    signature = Signature(Workflow.__init__, "workflow W", skip_first=True, result_of=Workflow.run)
    assert signature.decode(signature.encode((date(2026, 1, 2),), {})) == ([date(2026, 1, 2)], {})
    assert signature.result_type is Vpc


def test_what_has_no_annotation_is_plain() -> None:
    signature = Signature(UNTYPED, "activity untyped")
    assert signature.decode(signature.encode((Vpc("v"),), {})) == ([{"id": "v"}], {})
    assert signature.result_type is Any


def test_results() -> None:
    payload = CREATE.encode_result(Vpc("v"))
    assert CREATE.decode_result(payload) == Vpc("v")
    with pytest.raises(EncodeError, match="the result of activity create doesn't fit `Vpc`: expected `object`"):
        CREATE.encode_result("v")
    with pytest.raises(DecodeError, match=r"the result of activity create doesn't fit `Vpc`: .*`id`"):
        CREATE.decode_result(Payload(b"{}"))


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "activity create: missing a required argument: 'region'"),
        (("eu", 1, 2), {}, "activity create: too many positional arguments"),
        (("eu",), {"sise": 3}, "activity create: got an unexpected keyword argument 'sise'"),
        (("eu",), {"region": "us"}, "activity create: multiple values for argument 'region'"),
    ],
)
def test_calls_that_do_not_fit_the_parameters(
    args: tuple[object, ...], kwargs: dict[str, object], message: str
) -> None:
    with pytest.raises(TypeError) as caught:
        CREATE.encode(args, kwargs)
    assert str(caught.value) == message


def test_a_required_keyword_is_missed() -> None:
    signature = Signature(keyword_only, "activity k")
    assert signature.encode((), {"region": "eu"}) == (Payload(b'"eu"', {"keyword": "region"}),)
    with pytest.raises(TypeError, match=r"activity k: missing a required .*'region'"):
        signature.encode((), {})
    with pytest.raises(DecodeError, match=r"activity k: missing a required .*'region'"):
        signature.decode(())


def test_wrong_values_name_the_parameter() -> None:
    with pytest.raises(EncodeError, match=r"argument 'size' of activity create doesn't fit `int`: .* got `str`"):
        CREATE.encode(("eu", "large"), {})
    with pytest.raises(EncodeError, match=r"argument 'labels' of activity create doesn't fit .*at `\$\[...\]`"):
        CREATE.encode(("eu",), {"labels": {"a": 1}})
    with pytest.raises(PayloadTooLarge, match="argument 'region' of activity create is 2,097,154 bytes"):
        CREATE.encode(("x" * MAX_PAYLOAD,), {})


@pytest.mark.parametrize(
    ("payloads", "message"),
    [
        ((), "activity create: missing a required argument: 'region'. Was a parameter added"),
        ((Payload(b"1"),), "argument 'region' of activity create doesn't fit `str`: expected `str`, got `int`"),
        (
            (Payload(b'"eu"'), Payload(b"1"), Payload(b"2")),
            "activity create takes 2 positional arguments, but was sent 3: did",
        ),
        ((Payload(b'"eu"'), Payload(b"1", {"keyword": "gone"})), "activity create has no parameter 'gone'"),
        ((Payload(b'"eu"'), Payload(b'"us"', {"keyword": "region"})), "multiple values for argument 'region'"),
    ],
)
def test_payloads_that_do_not_fit_the_parameters(payloads: Payloads, message: str) -> None:
    with pytest.raises(DecodeError) as caught:
        CREATE.decode(payloads)
    assert message in str(caught.value)


def test_annotations_that_can_not_be_read_name_the_function() -> None:
    signature = Signature(unreadable, "activity unreadable")  # the definition alone doesn't read them
    with pytest.raises(TypeError, match="activity unreadable: the annotations can't be read: name 'Decimal'"):
        signature.encode((1,), {})


def test_types_that_can_not_be_stored_name_the_parameter() -> None:
    def ambiguous(x: Vpc | Workflow) -> None: ...

    with pytest.raises(TypeError, match=r"argument 'x' of activity a: values of type .* can't be stored"):
        Signature(ambiguous, "activity a").encode((1,), {})
