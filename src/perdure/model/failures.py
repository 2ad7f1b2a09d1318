"""A failure as it travels and is stored."""

from __future__ import annotations

import re
from typing import Final, Literal

from msgspec import Struct, json

from perdure.model.payloads import ENCODING, Payload

GROUP: Final = "failures"
"""Value of the `encoding` metadata of an exception group's args: its message, and its members as failures."""

HIDDEN: Final = "(encoded)"
"""The message of a failure whose own one is in `encoded`."""

_FRAME: Final = re.compile(r'File "(.+?)", line (\d+)')
_NOT_USER_CODE: Final = re.compile(r"^<frozen |[/\\](perdure[/\\]sdk|lib[/\\]python3\.\d+)[/\\]")
_WELL_KNOWN: Final = re.compile(r"^(builtins|perdure\.errors)\.")

FailureKind = Literal[
    "application",  # an exception that user code raised
    "hold",  # the activity asked for a person
    "timeout",  # the engine gave up waiting; `types` starts with the name of the timeout
    "cancelled",
    "terminated",
    "worker_lost",
    "encoding",  # a value that could not be encoded or decoded
    "unread",  # a worker could not decode what it was given, and so has not begun
    "nondeterminism",
    "engine",  # a refusal of the engine, such as a bound that was reached
]


class Failure(Struct, frozen=True, array_like=True, gc=False):
    """What went wrong.

    types: names of the exception's class and all its bases, "module.qualname", most derived first.
    args, state: the exception's `args` and `__dict__`, encoded; None where they could not be.
    next_retry_delay: microseconds until the next attempt, instead of the policy's backoff; -1: unset.
    encoded: message and traceback, where they are to be read only with the right codecs.
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
    encoded: Payload | None = None

    @property
    def type(self) -> str:
        """The most derived class's name, or the kind where there is no class."""
        return self.types[0] if self.types else self.kind

    @property
    def members(self) -> tuple[Failure, ...]:
        """Of an exception group: what is in it."""
        if self.args is None or (self.args.metadata or {}).get(ENCODING) != GROUP:
            return ()
        return json.decode(self.args.data, type=tuple[str, tuple[Failure, ...]])[1]

    # --- For people -------------------------------------------------------------------------------------
    @property
    def text(self) -> str:
        """What it is, in a line or more: "ValueError: 5 is too much"."""
        types = self.types[1:] if self.kind == "timeout" else self.types  # which begins with the timeout's name
        parts = [_WELL_KNOWN.sub("", types[0])] if types else []
        parts += [self.message] if self.message else []
        members = "; ".join(member.text for member in self.members)
        return ": ".join(parts) + (f" [{members}]" if members else "")

    @property
    def location(self) -> str:
        """The last line of the user's code in its traceback, as "file:line"; of a group, that of its first member."""
        for member in self.members:
            return member.location
        frames = [match.groups() for match in _FRAME.finditer(self.traceback)]
        users = [frame for frame in frames if not _NOT_USER_CODE.search(frame[0])]
        return ":".join((users or frames)[-1]) if frames else ""

    @property
    def located(self) -> str:
        """What it is, and where, as a log line tells it."""
        where = self.location
        return f"{self.text} at {where}" if where else self.text

    @property
    def story(self) -> str:
        """Its traceback, with those of its members and of its cause."""
        parts = [self.traceback.rstrip()]
        parts += [f"{member.text}\n{member.story}" for member in self.members]
        if self.cause is not None:
            parts.append(f"caused by {self.cause.text}\n{self.cause.story}")
        return "\n".join(filter(None, parts))

    def is_news(self, before: Failure | None, attempt: int) -> bool:
        """Whether the log tells of it: where it is another one than that of the attempt before; and of attempts 1, 2,
        4, 8, and so on, so that what fails for long is neither forgotten nor all that there is to read. (What is unread
        counts as no attempt.)"""
        return not self.repeats(before) or (self.kind != "unread" and attempt & (attempt - 1) == 0)

    def repeats(self, other: Failure | None) -> bool:
        """Whether a person who has heard of the other one learns nothing from this."""
        if other is None or (self.kind, self.types) != (other.kind, other.types):
            return False
        # The engine's own messages count the attempts.
        return self.kind in ("timeout", "worker_lost") or (self.message, self.location) == (
            other.message,
            other.location,
        )
