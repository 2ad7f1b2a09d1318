"""What all stores share about listings: their order, their page tokens, and how attributes become rows."""

from __future__ import annotations

import base64
import binascii

import msgspec

from perdure.engine.storage.api import RunKey, Visibility
from perdure.errors import InvalidRequest
from perdure.model.events import SearchValue
from perdure.model.requests import ListedWorkflow

Position = tuple[int, str, int]
"""(start_time, workflow_id, run_no). Listings go from the highest to the lowest."""

Value = str | int | float | bool
"""One value of a search attribute."""

TRUTH, NUMBER, TEXT = 0, 1, 2
"""Kinds of values; values of different kinds are never equal, greater or less."""

_MAX_INTEGER = 2**63 - 1
_decoder: msgspec.msgpack.Decoder[Position] = msgspec.msgpack.Decoder(Position)


def token(position: Position) -> str:
    """The page token that goes on after a row."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(position)).decode()


def position(page: str) -> Position | None:
    """The position of the row that a page token goes on after; None for the first page.

    Raises:
        InvalidRequest: the token isn't one that a listing gave.
    """
    if not page:
        return None
    try:
        return _decoder.decode(base64.urlsafe_b64decode(page.encode()))
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise InvalidRequest(
            f"{page!r} is not a page token: send the one that the last page came with, or none for the first page"
        ) from None


def listed(key: RunKey, run_id: str, seen: Visibility) -> ListedWorkflow:
    """A row of a listing."""
    return ListedWorkflow(key.workflow_id, run_id, seen.workflow_type, seen.status, seen.start_time, seen.close_time)


def kind_of(value: Value) -> int:
    """TRUTH, NUMBER or TEXT."""
    if isinstance(value, str):
        return TEXT
    return TRUTH if isinstance(value, bool) else NUMBER


def attribute_values(value: SearchValue | None) -> tuple[Value, ...]:
    """The values that an attribute is found by, each once; none for None and NaN, which equals nothing."""
    if value is None:
        return ()
    if isinstance(value, list):
        return tuple(dict.fromkeys(value))
    if isinstance(value, float) and value != value:
        return ()
    if isinstance(value, int) and not isinstance(value, bool):
        # Databases count to 64 bits; a larger number still compares rightly with all that they can hold.
        return (min(max(value, -_MAX_INTEGER - 1), _MAX_INTEGER),)
    return (value,)
