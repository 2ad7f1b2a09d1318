"""A message that holds something wrong is refused; and the quick look finds all that the thorough one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from perdure.errors import InvalidRequest
from perdure.model import commands as c
from perdure.model.payloads import Payload
from perdure.model.retry import DEFAULT_RETRY
from perdure.model.shapes import Shape, check_quickly, shape_of
from tests.engine.core.test_encoding import examples

VALUES: list[Any] = [
    None, True, 7, -1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1, 1.0, 1.5,
    "text", "Ïßé", "\ud800", "fail", b"bytes", b"\xcf", (), [], {}, ("text",), ["text"], (7,), {"a": b"b"}, {1: "b"},
    Payload(b"x"), Payload(b"\xcf"), Payload(7), (Payload(b"x"),), (Payload("x"),), [Payload(b"x")],  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    {"a": Payload(b"x")}, {7: Payload(b"x")}, {"\ud800": Payload(b"x")}, Payload(b"x", {"a": 7}),  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    DEFAULT_RETRY, replace(DEFAULT_RETRY, maximum_attempts="many"), replace(DEFAULT_RETRY, backoff_coefficient=2),
    replace(DEFAULT_RETRY, maximum_interval=2**63), replace(DEFAULT_RETRY, on_exhausted="perhaps"), object(),
]  # fmt: skip


def said(check: Callable[[msgspec.Struct], None], struct: msgspec.Struct) -> str:
    """What a check has to say against a struct."""
    try:
        check(struct)
    except InvalidRequest as error:
        return str(error)
    return ""


def changed(command: msgspec.Struct) -> Iterator[msgspec.Struct]:
    """A command with each of the values in each of its fields."""
    for field in command.__struct_fields__:
        for value in VALUES:
            yield replace(command, **{field: value})


@pytest.mark.parametrize("command", list(examples(c.Command)), ids=lambda command: type(command).__name__)
def test_the_quick_look_says_what_the_thorough_one_says(command: msgspec.Struct) -> None:
    thorough = shape_of(type(command)).check
    assert said(check_quickly, command) == said(thorough, command) == ""
    refused = 0
    for other in changed(command):
        objection = said(thorough, other)
        assert said(check_quickly, other) == objection, other
        refused += bool(objection)
    assert refused >= 20 * len(command.__struct_fields__)


def test_a_struct_that_holds_itself_is_refused() -> None:
    inner: list[object] = []
    inner.append(inner)
    with pytest.raises(InvalidRequest, match="timer_id must be text, not list"):
        check_quickly(c.CancelTimer(inner))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_only_a_large_number_costs_the_thorough_look(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[type[msgspec.Struct]] = []

    def look(cls: type[msgspec.Struct]) -> Shape:
        looked.append(cls)
        return shape_of(cls)

    monkeypatch.setattr("perdure.model.shapes.shape_of", look)
    check_quickly(c.StartTimer("t", 7))
    check_quickly(c.StartTimer("t", 2**32 - 1))
    assert looked == []
    check_quickly(c.StartTimer("t", 2**32))
    assert looked == [c.StartTimer]
