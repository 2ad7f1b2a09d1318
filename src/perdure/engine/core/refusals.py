"""What the engine refuses, as the code that asked for it gets it: as one of `perdure.errors`, which it may catch."""

from __future__ import annotations

from perdure.errors import PerdureError
from perdure.model.failures import Failure


def class_names(cls: type[PerdureError]) -> tuple[str, ...]:
    """The names of an error's class and its bases, as failures carry them."""
    return tuple([f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__ if issubclass(base, Exception)])


def refusal(error: PerdureError) -> Failure:
    """An error as a failure of its class."""
    return Failure(str(error), class_names(type(error)), "engine")
