"""Messages for names that nobody has registered."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

_SHOWN = 20


def unknown_name(where: str, what: str, name: str, known: Iterable[str]) -> str:
    """Says that a name is unknown, and which ones are known, the most similar first.

    Args:
        where: who was asked, for example "this worker".
        what: "activity", "workflow", "signal" and so on.
        name: what was asked for.
        known: what there is.
    """
    names = sorted(known)
    close = get_close_matches(name, names)
    others = (each for each in names if each not in close)
    shown = ", ".join([*close, *islice(others, _SHOWN - len(close))])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{where} has no {what} {name!r}; it has: {shown or 'none'}{more}"
