"""What the engine refuses, as the code that asked for it gets it: as one of `perdure.errors`, which it may catch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from perdure import errors
from perdure.errors import (
    EngineStopped,
    InvalidRequest,
    NotFound,
    PerdureError,
    StoreError,
    Unavailable,
    WorkflowAlreadyStarted,
)
from perdure.model.failures import Failure
from perdure.model.requests import Status

REFUSALS: Final = (InvalidRequest, NotFound, WorkflowAlreadyStarted, Unavailable, EngineStopped, StoreError)
"""What the engine refuses with; the other errors are of code."""


def in_words(status: Status) -> str:
    """A status as it reads in a sentence: what a run is, or was."""
    return _WORDS.get(status) or status.lower()


def class_names(cls: type[PerdureError]) -> tuple[str, ...]:
    """The names of an error's class and its bases, as failures carry them."""
    return tuple([f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__ if issubclass(base, Exception)])


def refusal(error: PerdureError) -> Failure:
    """An error as a failure of its class."""
    return Failure(str(error), class_names(type(error)), "engine")


def refused(failure: Failure) -> PerdureError:
    """The error that a failure was made of; one of the engine's, whatever its names say."""
    kind = next((kind for name in failure.types if (kind := _CLASSES.get(name)) is not None), PerdureError)
    return kind.__new__(kind, failure.message)


_WORDS: Final[Mapping[Status, str]] = {"TimedOut": "timed out", "ContinuedAsNew": "continued as new"}

_CLASSES: Final[Mapping[str, type[PerdureError]]] = {
    class_names(kind)[0]: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, REFUSALS)
}
