"""What of an entity survives a roll-over, and what can't."""

from __future__ import annotations

import pytest

from perdure.model.payloads import Payload
from perdure.sdk.workflow.attributes import Attributes


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
