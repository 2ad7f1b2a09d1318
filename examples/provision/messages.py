"""What the provisioning process tells, and the order that it takes: a JSON message on a line each."""

from __future__ import annotations

import msgspec

from examples.provision.progress import Step
from examples.provision.workflow import Environment


class Progress(msgspec.Struct, frozen=True, tag=True):
    """How far each step is."""

    steps: list[Step]


class Finished(msgspec.Struct, frozen=True, tag=True):
    """The run returned."""

    environment: Environment
    steps: list[Step]


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The run failed."""

    problem: str


Message = Progress | Finished | Failed
messages: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
"""Reads what this process tells."""


class Release(msgspec.Struct, frozen=True):
    """An order: let what is held go on."""

    note: str
