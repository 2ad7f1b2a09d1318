"""Functions of the standard library that do something else inside workflows.

A dispatcher stands in place of such a function. It asks whether this thread is executing a workflow: if so, the run
answers, or the guard; if not, the original does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

from perdure.sdk.workflow.context import current

Function = Callable[..., Any]

originals: Final[dict[str, Function]] = {}
"""What was replaced, by "module.name"."""


def replace(owner: object, name: str, dispatch: Function) -> str:
    """Put a dispatcher in place of an attribute of a module or a class; its "module.name"."""
    known = f"{getattr(owner, '__name__', owner)}.{name}"
    originals[known] = getattr(owner, name)
    setattr(owner, name, dispatch)
    return known


def dispatcher(original: Function, instead: Function) -> Function:
    """For a function that has another form inside workflows."""

    @functools.wraps(original)
    def dispatch(*args: object, **kwargs: object) -> object:
        return (original if current() is None else instead)(*args, **kwargs)

    return dispatch
