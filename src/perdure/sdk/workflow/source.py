"""Where in the user's code something happened.

Frames of Perdure's SDK and of asyncio are not what a person looks for; these functions skip them.
"""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
from types import CodeType, CoroutineType, FrameType
from typing import Final, NamedTuple, cast

from perdure.sdk.workflow.plain import frame_of

_SDK: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_ASYNCIO: Final = os.path.dirname(os.path.abspath(asyncio.__file__)) + os.sep

_LIBRARIES: Final = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib"))

LOOP: Final = "run_until_idle"
"""The method of the workflow's loop from which all of its code is called."""

_OUTERMOST: Final = frozenset({"_step", "query", "evict"})
"""The runtime's functions through which all of a workflow's code is called: what is further out is the program."""

_ours: dict[str, bool] = {}


class Line(NamedTuple):
    """Where a frame is. `own`: in the user's own code, not in a library's."""

    file: str
    number: int
    function: str
    own: bool

    def __str__(self) -> str:
        return f'  File "{self.file}", line {self.number}, in {self.function}'


def is_ours(code: CodeType) -> bool:
    """Whether a function is part of the SDK or of asyncio, not of the user's code."""
    ours = _ours.get(code.co_filename)
    if ours is None:
        file = os.path.abspath(code.co_filename)
        ours = _ours[code.co_filename] = file.startswith((_SDK, _ASYNCIO))
    return ours


def is_library(code: CodeType) -> bool:
    """Whether a function is part of Python, or of what is installed beside it."""
    return code.co_filename.startswith(("<frozen", *_LIBRARIES))


def user_line() -> str:
    """The innermost line of the workflow's own code that is executing, as "file:line"; "" where there is none."""
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # inspect's way costs 100 times as much
    while frame is not None:
        code = frame.f_code
        if not is_ours(code):
            return f"{code.co_filename}:{frame.f_lineno}"
        if code.co_name == LOOP:
            break  # what is further out is the program around the workflow
        frame = frame.f_back
    return ""


def user_stack(frame: FrameType | None) -> list[Line]:
    """The lines of a workflow's code, and of libraries that it uses, at which a frame is, outermost first."""
    lines: list[Line] = []
    while frame is not None:
        if not is_ours(frame.f_code):
            lines.append(_line(frame))
        elif frame.f_code.co_name in _OUTERMOST:
            break
        frame = frame.f_back
    return lines[::-1]


def awaited_lines(coroutine: object) -> list[Line]:
    """The lines at which a suspended coroutine waits, outermost first, without the SDK's and asyncio's."""
    lines: list[Line] = []
    while isinstance(coroutine, CoroutineType):
        awaited = cast("CoroutineType[object, object, object]", coroutine)
        frame = awaited.cr_frame
        if frame is not None and not is_ours(frame.f_code):
            lines.append(_line(frame))
        plain = frame_of(frame) if frame is not None else None
        if plain is not None:
            return lines + user_stack(plain)
        coroutine = awaited.cr_await
    return lines


def place_of(stack: list[Line]) -> str:
    """The innermost line of the user's own code, or else of a library, as "file:line"; "" of an empty stack."""
    lines = [line for line in stack if line.own] or stack
    return f"{lines[-1].file}:{lines[-1].number}" if lines else ""


def _line(frame: FrameType) -> Line:
    code = frame.f_code
    return Line(code.co_filename, frame.f_lineno, code.co_qualname, not is_library(code))
