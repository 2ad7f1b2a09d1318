"""Exceptions as failures, and back.

An exception crosses as itself: a failure carries the names of its class and of all its bases, its `args` and its
attributes as far as they can be encoded. On the other side the class is looked up among what is imported already
and the exception is rebuilt without running its `__init__`; where the class isn't known, `ApplicationError` stands
for it, with the class's name as its `type`. `ExceptionResolver` remembers which of the two it was, so that a
replay does the same.
"""

from __future__ import annotations

import asyncio
import linecache
import os
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType, MemberDescriptorType, TracebackType
from typing import Final, Literal, cast, get_type_hints

import msgspec

from perdure.durations import Duration, microseconds
from perdure.errors import (
    ActivityCancelled,
    ActivityError,
    ActivityTimedOut,
    ApplicationError,
    CodecError,
    DecodeError,
    EncodeError,
    Hold,
    NondeterminismError,
    PayloadTooLarge,
    PerdureError,
    WorkerLost,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowTerminated,
    WorkflowTimedOut,
)
from perdure.limits import MAX_FAILURE_CAUSES, MAX_FAILURE_MESSAGE, MAX_ID_LENGTH, MAX_PAYLOAD, MAX_TRACEBACK
from perdure.model.failures import GROUP, Failure, FailureKind
from perdure.model.payloads import ENCODING, Payload
from perdure.sdk.converter import MSGPACK, decode, encode
from perdure.sdk.names import class_name, find_exception, mro_names

Ended = Literal["activity", "workflow"]
"""What a failure is the end of."""

_PACKAGE: Final = f"{Path(__file__).resolve().parents[1]}{os.sep}"
_APPLICATION_ERROR: Final = class_name(ApplicationError)
_ORIGIN: Final = "__perdure_failure__"
"""Attribute of a rebuilt exception: the failure that it came from."""

_NOTE: Final = "Raised at:\n"
"""How the note begins that shows where a rebuilt exception was raised."""

_KINDS: Final[tuple[tuple[tuple[type[BaseException], ...], FailureKind], ...]] = (
    ((Hold,), "hold"),
    ((asyncio.CancelledError,), "cancelled"),
    ((EncodeError, DecodeError, PayloadTooLarge), "encoding"),
    ((NondeterminismError,), "nondeterminism"),
)
_CARRIED: Final = frozenset({"message", "details", "non_retryable", "next_retry_delay"})
"""Attributes of an ApplicationError that the failure has fields for."""


class ClassNotImported(PerdureError, LookupError):
    """A replay meets a failure whose class was known when it was recorded, and isn't now.

    The workflow may have caught it by its class, so nothing else can stand for it: import the module.
    """


class ExceptionResolver:
    """Finds classes of failures for one run, and remembers which were known.

    `seen` holds what the current task has met for the first time: its completion records it. What was recorded
    is given back by `replay`, and then is decided as it was, whatever is imported now.
    """

    __slots__ = ("_recorded", "seen")

    def __init__(self) -> None:
        self.seen: dict[str, bool] = {}
        self._recorded: dict[str, bool] = {}

    def replay(self, recorded: Mapping[str, bool] | None) -> None:
        """Take over what a completed task has recorded; what it met is no longer news."""
        if recorded:
            self._recorded.update(recorded)
        self.take()

    def take(self) -> dict[str, bool] | None:
        """What was met for the first time since the last call; None for nothing."""
        if not self.seen:
            return None
        seen, self.seen = self.seen, {}
        self._recorded.update({name: found for name, found in seen.items() if name not in self._recorded})
        return seen

    def find(self, name: str) -> type[Exception] | None:
        """The class of that name, or None where ApplicationError stands for it.

        Raises:
            ClassNotImported: it was known when this was recorded, and isn't now.
        """
        known = self._recorded.get(name)
        if known is None:
            known = self.seen.get(name)
        if known is False:
            return None
        found = find_exception(name)
        if known is None:
            self.seen[name] = found is not None
        elif found is None:
            module = name.rpartition(".")[0]
            raise ClassNotImported(
                f"the history of this run knows the exception {name}, but it isn't imported here: import {module} "
                f"where the workflow is defined"
            )
        return found


def origin_of(exception: BaseException) -> Failure | None:
    """The failure that an exception was rebuilt from, if it was."""
    return cast("Failure | None", _attributes(exception).get(_ORIGIN))


def _attributes(exception: BaseException) -> dict[str, object]:
    """An exception's attributes, past what its class makes of attribute access: it was rebuilt without its
    `__init__`, on which that may rely."""
    return cast("dict[str, object]", object.__getattribute__(exception, "__dict__"))


def _slots(cls: type[BaseException]) -> dict[str, MemberDescriptorType]:
    """The attributes for which the classes have slots."""
    classes = [base for base in reversed(cls.__mro__) if "__slots__" in vars(base)]
    return {k: v for base in classes for k, v in vars(base).items() if isinstance(v, MemberDescriptorType)}


# --- Exception → failure --------------------------------------------------------------------------------
def failure_of(exception: BaseException) -> Failure:
    """An exception, with its causes, as a failure.

    Arguments that can't be encoded are left out, attributes are None; what is too long is cut. Never raises.
    """
    return _Writer().write(exception)


class _Writer:
    """Writes one failure and its causes, within the bounds of all of them together."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._bytes = MAX_PAYLOAD

    def write(self, exception: BaseException) -> Failure:
        self._seen.add(id(exception))
        message = _message(exception)
        types, args, state = mro_names(type(exception)), self._args(exception), self._state(exception)
        non_retryable, delay = False, -1
        if isinstance(exception, ApplicationError):
            # A class of the user's may not have called this one's __init__.
            non_retryable = bool(getattr(exception, "non_retryable", False))
            delay, complaint = _delay(getattr(exception, "next_retry_delay", None))
            message += complaint + _lost_details(exception)
            if type(exception) is ApplicationError and exception.type != "ApplicationError":
                types = (_cut(str(exception.type), MAX_ID_LENGTH), *types)
        origin = origin_of(exception)
        if origin is not None and type(exception) is ApplicationError:
            types, args, state = origin.types, origin.args, origin.state  # of the class that it stands for
        return Failure(
            message=_cut(message, MAX_FAILURE_MESSAGE),
            types=types,
            kind=_kind(exception),
            args=args,
            state=state,
            traceback=_cut(_traceback(exception.__traceback__, origin), MAX_TRACEBACK),
            cause=self._cause(exception),
            non_retryable=non_retryable,
            next_retry_delay=delay,
        )

    def _cause(self, exception: BaseException) -> Failure | None:
        cause = exception.__cause__
        if cause is None and not exception.__suppress_context__:
            cause = exception.__context__
        return None if cause is None else self._related(cause)

    def _related(self, exception: BaseException) -> Failure | None:
        if id(exception) in self._seen or len(self._seen) >= MAX_FAILURE_CAUSES:
            return None
        return self.write(exception)

    def _args(self, exception: BaseException) -> Payload | None:
        if isinstance(exception, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", exception)
            members = [m for m in map(self._related, group.exceptions) if m is not None]
            return Payload(msgspec.json.encode((group.message, members)), {ENCODING: GROUP})
        args: object = exception.args
        if isinstance(exception, OSError):
            # `args` is without the file's name; what the exception is pickled by is complete.
            args = cast("tuple[object, tuple[object, ...]]", OSError.__reduce__(exception))[1]
        if any(type(arg) is bytes for arg in exception.args):  # which JSON has not
            return self._within(_encoded_binary(args))
        return self._encoded(args)

    def _state(self, exception: BaseException) -> Payload | None:
        carried = _CARRIED if isinstance(exception, ApplicationError) else frozenset[str]()
        attributes = _attributes(exception)
        state = {k: v for k, v in attributes.items() if k not in carried and not k.startswith("__")}
        for name, slot in _slots(type(exception)).items():
            with suppress(AttributeError):  # it is not set
                state[name] = slot.__get__(exception)
        notes = _notes(exception)
        if notes:
            state["__notes__"] = notes
        if not state:
            return None
        payload = self._encoded(state)
        if payload is None:
            # Not left out: code that meets the exception may expect an attribute to be there.
            payload = self._encoded({k: None if _encoded(v) is None else v for k, v in state.items()})
        return payload

    def _encoded(self, value: object) -> Payload | None:
        return self._within(_encoded(value))

    def _within(self, payload: Payload | None) -> Payload | None:
        if payload is None or len(payload.data) > self._bytes:
            return None
        self._bytes -= len(payload.data)
        return payload


def _encoded(value: object) -> Payload | None:
    try:
        return encode(value, "")
    except Exception:
        return None


def _encoded_binary(value: object) -> Payload | None:
    try:
        return Payload(msgspec.msgpack.encode(value), {ENCODING: MSGPACK})
    except Exception:
        return None


def _lost_details(exception: ApplicationError) -> str:
    try:
        encode(exception.args, "it")
    except (EncodeError, PayloadTooLarge) as error:
        return f" (and its details are not kept: {error})" if len(exception.args) > 1 else ""
    return ""


def _notes(exception: BaseException) -> list[str]:
    """The user's notes, without the one that a rebuilt exception has from us."""
    notes = _attributes(exception).get("__notes__")
    if not isinstance(notes, list):
        return []
    return [n for n in cast("list[object]", notes) if isinstance(n, str) and not n.startswith(_NOTE)]


def _kind(exception: BaseException) -> FailureKind:
    for classes, kind in _KINDS:
        if isinstance(exception, classes):
            return kind
    return "application"


def _message(exception: BaseException) -> str:
    try:
        # Without an ApplicationError's type, and without the number of a group's members.
        short = isinstance(exception, ApplicationError | BaseExceptionGroup)
        text = str(getattr(cast(object, exception), "message", "") if short else exception)
    except Exception as error:
        return f"(its __str__ raised {type(error).__name__})"
    return text


def _delay(value: object) -> tuple[int, str]:
    if value is None:
        return -1, ""
    try:
        return microseconds(cast(Duration, value), "next_retry_delay"), ""
    except (TypeError, ValueError) as error:
        return -1, f" (and its delay is not used: {error})"


def _traceback(tb: TracebackType | None, origin: Failure | None) -> str:
    """The frames of the user's code. A rebuilt exception's begin where it was raised at first."""
    here = "".join([_frame(frame, line) for frame, line in traceback.walk_tb(tb)])
    if origin is None or not origin.traceback:
        return here
    return f"{origin.traceback}\nwhich arrived at:\n\n{here}" if here else origin.traceback


def _frame(frame: FrameType, line: int) -> str:
    code = frame.f_code
    if code.co_filename.startswith(_PACKAGE):
        return ""
    try:
        source = linecache.getline(code.co_filename, line, frame.f_globals).strip()
    except Exception:  # a file that can't be read, or not here
        source = ""
    return f'  File "{code.co_filename}", line {line}, in {code.co_qualname}\n' + (f"    {source}\n" if source else "")


def _cut(text: str, limit: int) -> str:
    text = text if text.isascii() else text.encode(errors="replace").decode()  # lone surrogates can't be stored
    if len(text) <= limit:
        return text
    half = limit // 2 - 20
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


# --- Failure → exception --------------------------------------------------------------------------------
def exception_of(failure: Failure, resolver: ExceptionResolver | None = None, *, of: Ended = "activity") -> Exception:
    """A failure as the exception to raise for it.

    Args:
        failure: what was recorded.
        resolver: decides which classes are known; by default whatever is imported.
        of: what ended that way, for the ends that the engine decides (a timeout, a termination, …).

    Raises:
        ClassNotImported: see `ExceptionResolver.find`.
    """
    resolver = resolver or ExceptionResolver()
    exception = _engines(failure, of) or _rebuilt(failure, resolver) or _stand_in(failure)
    if failure.cause is not None:
        object.__setattr__(exception, "__cause__", exception_of(failure.cause, resolver, of=of))
    attributes = _attributes(exception)
    if failure.traceback:
        attributes["__notes__"] = [*_notes(exception), _NOTE + failure.traceback.rstrip()]
    attributes[_ORIGIN] = failure
    return exception


def _engines(failure: Failure, of: Ended) -> Exception | None:
    """Ends that the engine decides, which no user code raised."""
    message, workflow = failure.message, of == "workflow"
    match failure.kind:
        case "timeout":
            return WorkflowTimedOut(message) if workflow else ActivityTimedOut(message, failure.type)
        case "cancelled":
            return WorkflowCancelled(message) if workflow else ActivityCancelled(message)
        case "terminated":
            return WorkflowTerminated(message) if workflow else ActivityError(message)
        case "worker_lost":
            return WorkflowFailed(message) if workflow else WorkerLost(message)
        case _:
            return None


def _rebuilt(failure: Failure, resolver: ExceptionResolver) -> Exception | None:
    if "." not in failure.type:  # the type that an ApplicationError was given
        return None
    cls = resolver.find(failure.type)
    if cls is None or cls is ApplicationError:
        return None
    if _APPLICATION_ERROR in failure.types and not issubclass(cls, ApplicationError):
        return None  # a type that happens to be some class's name
    try:
        exception = _bare(cls, failure, resolver)
        slots = _slots(cls)
        for name, value in _state(cls, failure.state).items():
            if name in slots:
                slots[name].__set__(exception, value)
            else:
                _attributes(exception)[name] = value
        if isinstance(exception, ApplicationError):
            _fill(exception, failure)
    except (ClassNotImported, CodecError):
        raise
    except Exception:  # such arguments make no such exception
        return None
    return exception


def _bare(cls: type[Exception], failure: Failure, resolver: ExceptionResolver) -> Exception:
    """The exception with its args. No code of the user's runs: only the builtin class below makes it, and what is
    Perdure's or Python's own makes itself."""
    builtin = next(base for base in cls.__mro__ if base.__module__ == "builtins")
    new = cast("Callable[..., Exception]", builtin.__new__)
    if failure.args is not None and (failure.args.metadata or {}).get(ENCODING) == GROUP:
        message, members = msgspec.json.decode(failure.args.data, type=tuple[str, list[Failure]])
        exceptions = [exception_of(member, resolver) for member in members]
        return new(cls, message, exceptions)
    args = (failure.message,) if failure.args is None else tuple(_plain(failure.args))
    if cls.__module__ in ("builtins", PerdureError.__module__):
        return cls(*args)
    exception = new(cls, *args)
    if not (isinstance(exception, OSError) and exception.args):  # which has put the file's name elsewhere
        object.__setattr__(exception, "args", args)
    if isinstance(exception, UnicodeError):
        builtin.__init__(exception, *args)  # its parts are no attributes, and nothing else sets them
    return exception


def _plain(payload: Payload) -> list[object]:
    if payload.metadata is not None and payload.metadata.get(ENCODING) == MSGPACK:
        return msgspec.msgpack.decode(payload.data, type=list[object])
    return cast("list[object]", decode(payload, list[object], "the arguments of the exception"))


def _state(cls: type[Exception], payload: Payload | None) -> dict[str, object]:
    if payload is None:
        return {}
    hint = dict[str, object]
    state = cast("dict[str, object]", decode(payload, hint, "the attributes of the exception"))
    hints = _attribute_hints(cls)
    return {name: _as_hinted(value, hints[name]) if name in hints else value for name, value in state.items()}


def _attribute_hints(cls: type[object]) -> dict[str, object]:
    hints: dict[str, object] = {}
    for annotated in (cls.__init__, cls):  # what `__init__` takes is mostly what it keeps under the same name
        with suppress(Exception):  # annotations that can't be read: attributes are plain values
            hints |= get_type_hints(annotated)
    return hints


def _as_hinted(value: object, hint: object) -> object:
    try:
        return msgspec.convert(value, cast("type[object]", hint))
    except Exception:
        return value


def _stand_in(failure: Failure) -> Exception:
    if failure.kind == "hold":
        return Hold(failure.message)
    exception = ApplicationError(failure.message)
    _fill(exception, failure)
    if failure.type != _APPLICATION_ERROR:
        exception.type = failure.type
    return exception


def _fill(exception: ApplicationError, failure: Failure) -> None:
    args: list[object] = [failure.message]
    if failure.args is not None and _APPLICATION_ERROR in failure.types:
        args = _plain(failure.args) or args
    exception.args = tuple(args)
    exception.message = failure.message
    exception.details = exception.args[1:]
    exception.non_retryable = failure.non_retryable
    exception.next_retry_delay = (
        None if failure.next_retry_delay < 0 else timedelta(microseconds=failure.next_retry_delay)
    )
