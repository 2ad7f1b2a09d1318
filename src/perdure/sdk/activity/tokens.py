"""Task tokens: the name of one attempt as text, to be handed to whoever completes it.

It holds what `model.tasks.ActivityToken` does, and the activity's type, so that a result can be looked at where it is
reported. Opaque to users: what is in it may change.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple

from msgspec import DecodeError, msgpack

from perdure.model.tasks import ActivityToken
from perdure.sdk.options import text


class TaskToken(NamedTuple):
    """What a token names."""

    attempt: ActivityToken
    activity_type: str


def encode_token(attempt: ActivityToken, activity_type: str) -> str:
    """The text that names an attempt: letters, digits, "-" and "_"."""
    return urlsafe_b64encode(msgpack.encode(TaskToken(attempt, activity_type))).decode().rstrip("=")


def decode_token(token: object) -> TaskToken:
    """What a token names. Raises TypeError, or ValueError where it is none."""
    data = text(token, "the task token")
    try:
        return msgpack.decode(urlsafe_b64decode(data + "=" * (-len(data) % 4)), type=TaskToken)
    except (ValueError, DecodeError):  # no base64, or something else in it
        shown = data if len(data) <= 40 else f"{data[:40]}…"
        raise ValueError(
            f"{shown!r} is no task token: it is what activity.info().task_token was in the activity"
        ) from None
