"""Sizes as people write them."""

from __future__ import annotations

import re
from typing import Final, cast

Size = int | str
"""Bytes, or text such as "64KiB"."""

_UNITS: Final = {"": 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "kB": 1000, "MB": 1000**2}
_SIZE: Final = re.compile(r"(\d+) ?([A-Za-z]*)")


def size(value: Size, what: str) -> int:
    """Bytes. Raises TypeError or ValueError, which name the option."""
    given = cast(object, value)
    if isinstance(given, bool) or not isinstance(given, int | str):
        raise TypeError(f'{what} must be a number of bytes or text such as "64KiB", not {type(given).__name__}')
    match = _SIZE.fullmatch(str(given))
    if match is None or match[2] not in _UNITS:
        raise ValueError(f'{what} must be a number of bytes or text such as "64KiB", not {given!r}')
    return int(match[1]) * _UNITS[match[2]]
