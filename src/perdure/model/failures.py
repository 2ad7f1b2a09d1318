"""A failure as it travels and is stored."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from perdure.model.payloads import Payload

FailureKind = Literal[
    "application",  # an exception that user code raised
    "hold",  # the activity asked for a person
    "timeout",  # the engine gave up waiting; `types` starts with the name of the timeout
    "cancelled",
    "terminated",
    "worker_lost",
    "encoding",  # a value that could not be encoded or decoded
    "nondeterminism",
    "engine",  # a refusal of the engine, such as a bound that was reached
]


class Failure(Struct, frozen=True, array_like=True, gc=False):
    """What went wrong.

    types: names of the exception's class and all its bases, "module.qualname", most derived first.
    args, state: the exception's `args` and `__dict__`, encoded; None where they could not be.
    next_retry_delay: microseconds until the next attempt, instead of the policy's backoff; -1: unset.
    """

    message: str
    types: tuple[str, ...] = ()
    kind: FailureKind = "application"
    args: Payload | None = None
    state: Payload | None = None
    traceback: str = ""
    cause: Failure | None = None
    non_retryable: bool = False
    next_retry_delay: int = -1

    @property
    def type(self) -> str:
        """The most derived class's name, or the kind where there is no class."""
        return self.types[0] if self.types else self.kind
