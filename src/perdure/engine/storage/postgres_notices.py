"""What nodes tell each other through PostgreSQL's notifications: short JSON texts."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec

from perdure.engine.storage.api import (
    BacklogGrew,
    ChainKey,
    MembersChanged,
    Notice,
    NoticesLost,
    QuestionsMoved,
    QueueKey,
    RunMoved,
)
from perdure.limits import CACHED_KEYS

_LONGEST: Final = 7_900
"""Bytes: the server takes less than 8,000. Ids of a thousand characters of several bytes each can be more."""

_TOO_LONG: Final = '["?"]'
MEMBERS: Final = '["m"]'
QUESTIONS: Final = '["q"]'
_decoder = msgspec.json.Decoder(list[str])


def encode_moved(chain: ChainKey) -> str:
    """A run of this workflow id was written."""
    return _encoded(["r", *chain])


@lru_cache(CACHED_KEYS)
def encode_grown(queue: QueueKey) -> str:
    """A task waits in this queue."""
    return _encoded(["b", *queue])


def _encoded(parts: list[str]) -> str:
    payload = msgspec.json.encode(parts)
    return payload.decode() if len(payload) <= _LONGEST else _TOO_LONG


def decode(payload: str) -> Notice:
    """The notice in a payload; `NoticesLost` where it can't be told what it was about."""
    try:
        what, *parts = _decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError):
        return NoticesLost()
    match what, parts:
        case "m", []:
            return MembersChanged()
        case "q", []:
            return QuestionsMoved()
        case "r", [namespace, workflow_id]:
            return RunMoved(ChainKey(namespace, workflow_id))
        case "b", [namespace, ("workflow" | "activity") as kind, task_queue, task_type]:
            return BacklogGrew(QueueKey(namespace, kind, task_queue, task_type))
        case _:
            return NoticesLost()
