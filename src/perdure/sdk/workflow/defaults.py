"""Defaults in a workflow class's body that can change: each object has its own.

`tags: list[str] = []` is one list for all objects of a class. What one run puts there, all others would see, and a
replay, and nobody would store it.
"""

from __future__ import annotations

import copy
import inspect
import re
from functools import lru_cache
from typing import Final, cast

_NOT_OWN: Final = re.compile(r"([\w.]+\.)?(ClassVar|InitVar)\b")


def own_defaults(instance: object) -> None:
    """Give an object copies of those defaults that can change, where it has nothing of its own yet.

    Raises:
        TypeError: one can't be copied.
    """
    cls = type(instance)
    for name in _changeable(cls):
        if name in vars(instance):
            continue
        try:
            vars(instance)[name] = copy.deepcopy(cast("object", getattr(cls, name)))
        except Exception as error:
            raise TypeError(
                f"the default of attribute {name!r} in the body of workflow class {cls.__qualname__} would be shared "
                f"by all its runs, since it can't be copied: {error}. Make it in __init__, or annotate it as a ClassVar"
            ) from error


@lru_cache(maxsize=4096)
def _changeable(cls: type[object]) -> tuple[str, ...]:
    """The annotated attributes with a default that can change: one that has no hash, by which `dataclasses` tells, too.
    The annotations are not evaluated: in most classes nobody else needs them."""
    values: dict[str, object] = {}
    hints: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        values |= vars(base)
        hints |= inspect.get_annotations(base)
    return tuple([name for name, hint in hints.items() if _is_own(hint) and not _has_hash(values.get(name))])


def _is_own(hint: object) -> bool:
    """Whether what is annotated belongs to each object."""
    return _NOT_OWN.match(str(hint)) is None


def _has_hash(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
