"""Options as users give them, looked at where they are given: a wrong one is an error of that line.

Each function returns the value in its plain form: a member of a `StrEnum` is text, and travels as such.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar, cast, get_args

from perdure.limits import MAX_ID_LENGTH, MAX_PRIORITY
from perdure.sdk.activity.definition import CancellationType

Item = TypeVar("Item")
Word = TypeVar("Word", bound=str)


def text(value: object, what: str) -> str:
    """Any text. Raises TypeError, naming `what` it should be."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be text, not {type(value).__name__}")
    return str.__str__(value)


def optional_text(value: object, what: str) -> str:
    """The same; "" for None."""
    return "" if value is None else text(value, what)


def name(value: object, what: str) -> str:
    """A name on the wire. Raises TypeError, or ValueError where it is empty, too long or no valid Unicode, or begins or
    ends with white space."""
    plain = text(value, what)
    if not 0 < len(plain) <= MAX_ID_LENGTH:
        raise ValueError(f"{what} must have between 1 and {MAX_ID_LENGTH} characters, not {len(plain)}")
    if plain != plain.strip():
        raise ValueError(f"{what} must neither begin nor end with white space, as {plain!r} does: nobody sees it there")
    try:
        plain.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} is no valid text: {plain!r} ({error.reason})") from None
    return plain


def optional_name(value: object, what: str) -> str | None:
    """The same, where it need not be given."""
    return None if value is None else name(value, what)


def several(values: Iterable[Item], what: str) -> list[Item]:
    """Some values. Raises TypeError where they are one, given by itself."""
    if not isinstance(cast(object, values), Iterable):
        shown = getattr(values, "__name__", None) or f"{type(values).__name__}(…)"
        raise TypeError(f"{what} must be a list: [{shown}]")
    return list(values)


def exception_classes(classes: object, what: str) -> tuple[type[BaseException], ...]:
    """Exception classes. Raises TypeError where they are something else."""
    if not isinstance(classes, Sequence):
        raise TypeError(f"{what} must be a tuple of exception classes, not {classes!r}")
    for cls in cast("Sequence[object]", classes):
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise TypeError(f"{what} must hold exception classes, not {cls!r}")
    return tuple(cast("Sequence[type[BaseException]]", classes))


def whole_number(value: object, what: str, smallest: int, largest: int) -> int:
    """A number between two others. Raises TypeError or ValueError."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what} must be a whole number, not {type(value).__name__}")
    if not smallest <= value <= largest:
        raise ValueError(f"{what} must be between {smallest} and {largest}, not {value}")
    return int(value)


def priority(value: object) -> int | None:
    """An activity's priority, if it is given."""
    return None if value is None else whole_number(value, "priority", -MAX_PRIORITY, MAX_PRIORITY)


def one_of(value: Word, what: str, allowed: Collection[Word]) -> Word:
    """One of some words. Raises ValueError that tells them."""
    if value not in allowed:
        words = " or ".join(f'"{word}"' for word in allowed)
        raise ValueError(f"{what} must be {words}, not {value!r}")
    return value


def cancellation_type(value: CancellationType | None) -> CancellationType | None:
    """What cancelling a call means, if it is given. Raises ValueError."""
    return None if value is None else one_of(value, "cancellation_type", get_args(CancellationType))
