"""Exceptions cross as themselves, as far as they can; a replay does as was done before."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from email.message import Message
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, cast
from urllib.error import HTTPError

import pytest

from perdure import errors
from perdure.clock import SECOND
from perdure.limits import MAX_FAILURE_CAUSES, MAX_FAILURE_MESSAGE, MAX_ID_LENGTH, MAX_PAYLOAD, MAX_TRACEBACK
from perdure.model.failures import Failure
from perdure.sdk import converter
from perdure.sdk.failures import ClassNotImported, ExceptionResolver, exception_of, failure_of, origin_of
from perdure.sdk.names import class_name


class CloudError(Exception):
    """With an `__init__` that can't be called with the exception's args."""

    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.hint = hint

    class Throttled(Exception):
        pass


class QuotaExceeded(CloudError):
    pass


@dataclass
class Expired(Exception):
    on: date
    what: str = "token"


class Misleading(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class DiskError(OSError):
    pass


class Rejected(errors.ApplicationError):
    pass


class Careless(errors.ApplicationError):
    def __init__(self, code: int) -> None:
        self.code = code


def crossed(exception: BaseException) -> Exception:
    """The exception on the other side."""
    return exception_of(failure_of(exception))


def raised(exception: BaseException) -> BaseException:
    """The exception with a traceback."""
    try:
        raise exception
    except BaseException as caught:
        return caught


# --- As themselves --------------------------------------------------------------------------------------
def test_a_class_of_the_users_keeps_its_attributes() -> None:
    back = crossed(QuotaExceeded(3, hint="ask"))
    assert type(back) is QuotaExceeded
    assert (back.args, str(back), back.code, back.hint) == (("code 3",), "code 3", 3, "ask")


def test_the_names_of_all_bases_travel() -> None:
    failure = failure_of(QuotaExceeded(3, hint="ask"))
    assert failure.types == (f"{__name__}.QuotaExceeded", f"{__name__}.CloudError", "builtins.Exception")
    assert failure.type == class_name(QuotaExceeded)
    assert failure.kind == "application"


def test_annotated_attributes_keep_their_types() -> None:
    back = crossed(Expired(date(2026, 1, 2)))
    assert isinstance(back, Expired)
    assert back == Expired(date(2026, 1, 2))


def test_nested_classes() -> None:
    assert type(crossed(CloudError.Throttled("x"))) is CloudError.Throttled


@pytest.mark.parametrize(
    "exception",
    [
        ValueError("bad", 3),
        KeyError("k"),
        ZeroDivisionError(),
        FileNotFoundError(2, "No such file", "a.txt"),
        DiskError(28, "No space", "a.txt"),
        StopAsyncIteration(1),
        TimeoutError(),
        errors.Unavailable("busy"),
        errors.NotRunning("closed"),
    ],
    ids=repr,
)
def test_exceptions_that_everybody_has(exception: Exception) -> None:
    back = crossed(exception)
    assert type(back) is type(exception)
    assert (str(back), back.args) == (str(exception), exception.args)
    assert getattr(back, "filename", None) == getattr(exception, "filename", None)


def test_groups_keep_their_members() -> None:
    inner = ExceptionGroup("inner", [ValueError("b")])
    back = crossed(ExceptionGroup("both", [CloudError(1, hint="x"), inner]))
    assert isinstance(back, ExceptionGroup)
    group = cast("ExceptionGroup[Exception]", back)
    assert group.message == "both"
    cloud, rest = group.exceptions
    assert isinstance(cloud, CloudError)
    assert cloud.code == 1
    assert repr(rest) == repr(inner)


def test_causes_and_notes() -> None:
    exception = CloudError(1, hint="x")
    exception.add_note("while in eu")
    exception.__cause__ = KeyError("k")
    back = crossed(exception)
    assert repr(back.__cause__) == "KeyError('k')"
    assert back.__notes__ == ["while in eu"]


def test_what_was_being_handled_counts_as_the_cause() -> None:
    failure = failure_of(_while_handling(None))
    assert failure.cause is not None
    assert failure.cause.type == "builtins.KeyError"


def test_a_suppressed_context_does_not() -> None:
    exception = _while_handling(None)
    exception.__suppress_context__ = True
    assert failure_of(exception).cause is None


def _while_handling(cause: BaseException | None) -> BaseException:
    try:
        try:
            raise KeyError("k")
        except KeyError:
            raise ValueError("v")  # noqa: B904  (the context is what is tested)
    except ValueError as error:
        return error


def test_a_rebuilt_exception_can_cross_again() -> None:
    first = failure_of(raised(QuotaExceeded(3, hint="ask")))
    again = failure_of(raised(exception_of(first)))
    assert (again.types, again.args, again.state) == (first.types, first.args, first.state)
    assert again.traceback.startswith(first.traceback)
    assert again.traceback.count("raise exception") == 2


def test_the_origin_is_known() -> None:
    failure = failure_of(ValueError("x"))
    assert origin_of(exception_of(failure)) is failure
    assert origin_of(ValueError("x")) is None


# --- Tracebacks -----------------------------------------------------------------------------------------
def test_the_traceback_is_that_of_the_users_code() -> None:
    with pytest.raises(errors.EncodeError) as caught:
        converter.encode(object(), "x")
    failure = failure_of(caught.value)
    assert "test_the_traceback_is_that_of_the_users_code" in failure.traceback
    assert "converter.py" not in failure.traceback


def test_the_traceback_is_shown_with_the_rebuilt_exception() -> None:
    (note,) = crossed(raised(ValueError("x"))).__notes__
    assert note.startswith("Raised at:\n")
    assert "in raised" in note


# --- What can't cross -----------------------------------------------------------------------------------
def test_arguments_that_can_not_be_encoded_are_left_out_and_attributes_are_none() -> None:
    unsendable = ValueError("message", object())
    assert crossed(unsendable).args == (str(unsendable),)
    exception = CloudError(1, hint="x")
    exception.socket = object()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    rebuilt = crossed(exception)
    assert [vars(rebuilt)[name] for name in ("code", "hint", "socket")] == [1, "x", None]


def test_what_is_too_long_is_cut() -> None:
    failure = failure_of(ValueError("x" * MAX_FAILURE_MESSAGE + "end"))
    assert len(failure.message) <= MAX_FAILURE_MESSAGE
    assert "characters left out" in failure.message
    assert failure.message.endswith("end")


def test_all_that_a_failure_carries_is_bounded() -> None:
    exception: Exception | None = None
    for _ in range(4):
        outer = ValueError("x" * (MAX_PAYLOAD // 3))
        outer.__cause__, exception = exception, outer
    assert exception is not None
    sizes = [len(f.args.data) if f.args else 0 for f in _chain(failure_of(exception))]
    assert sum(sizes) <= MAX_PAYLOAD
    assert sum(map(bool, sizes)) == 2


def test_the_traceback_is_bounded() -> None:
    namespace: dict[str, Callable[[int], None]] = {}
    names = [f"step_{n}" for n in range(800)]
    source = "".join(f"def {a}(n): {b}(n)\n" for a, b in zip(names, [*names[1:], "int('x') or str"], strict=True))
    exec(source, cast("dict[str, object]", namespace))
    try:
        namespace["step_0"](0)
    except ValueError as error:
        assert len(failure_of(error).traceback) <= MAX_TRACEBACK


def test_causes_that_go_in_circles_end() -> None:
    one, two = ValueError("1"), ValueError("2")
    one.__cause__, two.__cause__ = two, one
    assert [f.message for f in _chain(failure_of(one))] == ["1", "2"]


def test_long_chains_of_causes_end() -> None:
    exception = ValueError("0")
    for n in range(1, 50):
        outer = ValueError(str(n))
        outer.__cause__, exception = exception, outer
    assert len(_chain(failure_of(exception))) == MAX_FAILURE_CAUSES


def _chain(failure: Failure | None) -> list[Failure]:
    return [] if failure is None else [failure, *_chain(failure.cause)]


def test_exceptions_that_can_not_be_shown() -> None:
    failure = failure_of(Misleading())
    assert failure.message == "(its __str__ raised RuntimeError)"
    assert failure_of(ValueError("\ud800")).message == "?"
    annotated = ValueError("x")
    vars(annotated)["__notes__"] = 3
    assert failure_of(annotated).state is None


def test_arguments_that_make_no_such_exception() -> None:
    back = exception_of(Failure("m", types=("builtins.UnicodeDecodeError",)))
    assert isinstance(back, errors.ApplicationError)
    assert back.type == "builtins.UnicodeDecodeError"


class NotUtf8(UnicodeDecodeError): ...


class Kind(Enum):
    QUOTA = "quota"


class Refused(Exception):
    __slots__ = ("kind", "unset")

    def __init__(self, kind: Kind) -> None:
        super().__init__(f"refused: {kind}")
        self.kind = kind


@dataclass(frozen=True)
class Frozen(Exception):
    kind: Kind


class AsksItsFile(Exception):
    """As `urllib.error.HTTPError`: what it has no attribute for, it looks for in one that its `__init__` makes."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status
        self.file = object()

    def __getattr__(self, name: str) -> object:
        return getattr(self.__dict__["file"], name)


def test_builtins_are_made_by_their_constructor() -> None:
    for cls in (UnicodeDecodeError, NotUtf8):
        back = crossed(cls("utf-8", b"\xff", 0, 1, "bad"))
        assert isinstance(back, cls)
        assert (back.object, back.start, back.reason) == (b"\xff", 0, "bad")
        assert str(back) == str(cls("utf-8", b"\xff", 0, 1, "bad"))
    taken = crossed(errors.WorkflowAlreadyStarted("taken", "run-1"))
    assert isinstance(taken, errors.WorkflowAlreadyStarted)
    assert (str(taken), taken.run_id) == ("taken", "run-1")


def test_slots_and_enums_cross() -> None:
    refused = crossed(Refused(Kind.QUOTA))
    assert isinstance(refused, Refused)
    assert refused.kind is Kind.QUOTA
    assert not hasattr(refused, "unset")
    frozen = crossed(Frozen(Kind.QUOTA))
    assert isinstance(frozen, Frozen)
    assert frozen.kind is Kind.QUOTA


@pytest.mark.parametrize("exception", [AsksItsFile(500), HTTPError("http://x", 500, "boom", Message(), None)])
def test_what_an_exception_s_own_getattr_needs_is_not_asked_for(exception: Exception) -> None:
    back = crossed(crossed(exception))
    assert type(back) is type(exception)
    assert getattr(back, "status", 0) == 500
    assert repr(back)


def test_details_that_can_not_be_kept_are_told() -> None:
    failure = failure_of(errors.ApplicationError("no", object()))
    assert failure.message.startswith("no (and its details are not kept: it holds a value of type object")


def test_an_exit_is_told_as_what_it_is() -> None:
    back = exception_of(failure_of(SystemExit(3)))
    assert isinstance(back, errors.ApplicationError)
    assert (back.type, back.message) == ("builtins.SystemExit", "3")


@pytest.mark.parametrize(
    "name",
    ["nowhere.Missing", "os.path", "builtins.SystemExit", "asyncio.CancelledError", f"{__name__}.date", "nodots", ""],
)
def test_names_that_are_no_exception_of_ours(name: str) -> None:
    back = exception_of(Failure("m", types=(name,)))
    assert type(back) is errors.ApplicationError
    assert (back.message, back.type) == ("m", name)


def test_nothing_is_imported_or_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    lazy = ModuleType("lazy")
    vars(lazy)["__getattr__"] = asked.append
    monkeypatch.setitem(sys.modules, "lazy", lazy)
    back = exception_of(Failure("m", types=("lazy.Sub.Error",)))
    assert isinstance(back, errors.ApplicationError)
    assert asked == []
    assert "this" not in sys.modules
    exception_of(Failure("m", types=("this.Error",)))
    assert "this" not in sys.modules


# --- ApplicationError -----------------------------------------------------------------------------------
def test_application_errors_cross_whole() -> None:
    error = errors.ApplicationError("m", {"a": 1}, 2, type="Quota", non_retryable=True, next_retry_delay="5s")
    failure = failure_of(error)
    assert failure.types == (
        "Quota",
        "perdure.errors.ApplicationError",
        "perdure.errors.PerdureError",
        "builtins.Exception",
    )
    assert (failure.message, failure.non_retryable, failure.next_retry_delay) == ("m", True, 5 * SECOND)
    back = exception_of(failure)
    assert type(back) is errors.ApplicationError
    assert (back.message, back.details, back.type) == ("m", ({"a": 1}, 2), "Quota")
    assert (back.non_retryable, back.next_retry_delay) == (True, timedelta(seconds=5))
    assert str(back) == "Quota: m"


def test_plain_application_errors() -> None:
    back = crossed(errors.ApplicationError("m"))
    assert isinstance(back, errors.ApplicationError)
    assert (back.type, back.details, back.non_retryable, back.next_retry_delay) == ("ApplicationError", (), False, None)


def test_classes_derived_from_application_error() -> None:
    back = crossed(Rejected("m", 1, non_retryable=True))
    assert isinstance(back, Rejected)
    assert (back.message, back.details, back.non_retryable) == ("m", (1,), True)


def test_classes_that_do_not_call_the_bases_init() -> None:
    back = crossed(Careless(3))
    assert isinstance(back, Careless)
    assert (back.code, back.args, back.non_retryable) == (3, (3,), False)


@pytest.mark.parametrize(("given", "kept"), [("\ud800", "?"), (5, "5"), ("x" * 5_000, "characters left out")])
def test_a_type_that_no_journal_could_keep(given: Any, kept: str) -> None:
    error = errors.ApplicationError("m")
    error.type = given
    back = crossed(error)
    assert isinstance(back, errors.ApplicationError)
    assert kept in back.type and len(back.type) <= MAX_ID_LENGTH


def test_a_type_that_happens_to_be_a_class_is_still_a_type() -> None:
    back = crossed(errors.ApplicationError("m", type=class_name(QuotaExceeded)))
    assert type(back) is errors.ApplicationError
    assert back.type == class_name(QuotaExceeded)


def test_a_delay_that_is_none_is_said_in_the_message() -> None:
    error = errors.ApplicationError("m")
    error.next_retry_delay = "soon"  # past the constructor, which refuses it
    failure = failure_of(error)
    assert failure.next_retry_delay == -1
    assert "its delay is not used: next_retry_delay is 'soon'" in failure.message


def test_what_stands_for_an_unknown_class_crosses_as_that_class(monkeypatch: pytest.MonkeyPatch) -> None:
    first = failure_of(QuotaExceeded(3, hint="ask"))
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, __name__)
        stand_in = exception_of(first)
        assert isinstance(stand_in, errors.ApplicationError)
        assert (stand_in.type, stand_in.message) == (class_name(QuotaExceeded), "code 3")
        again = failure_of(stand_in)
    assert (again.types, again.args, again.state) == (first.types, first.args, first.state)
    assert isinstance(exception_of(again), QuotaExceeded)


# --- Kinds ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("exception", "kind"),
    [
        (errors.Hold("r"), "hold"),
        (asyncio.CancelledError(), "cancelled"),
        (errors.EncodeError("m"), "encoding"),
        (errors.DecodeError("m"), "encoding"),
        (errors.PayloadTooLarge("m"), "encoding"),
        (errors.NondeterminismError("m"), "nondeterminism"),
        (errors.ActivityTimedOut("m", "heartbeat"), "application"),
        (KeyboardInterrupt(), "application"),
    ],
    ids=repr,
)
def test_kinds(exception: BaseException, kind: str) -> None:
    assert failure_of(exception).kind == kind


def test_holds_keep_their_reason() -> None:
    back = crossed(errors.Hold("the quota"))
    assert isinstance(back, errors.Hold)
    assert back.reason == "the quota"


@pytest.mark.parametrize(
    ("kind", "activity", "workflow"),
    [
        ("timeout", errors.ActivityTimedOut, errors.WorkflowTimedOut),
        ("cancelled", errors.ActivityCancelled, errors.WorkflowCancelled),
        ("worker_lost", errors.WorkerLost, errors.WorkflowFailed),
        ("terminated", errors.ActivityError, errors.WorkflowTerminated),
    ],
)
def test_ends_that_the_engine_decides(kind: str, activity: type[Exception], workflow: type[Exception]) -> None:
    failure = Failure("m", types=("heartbeat",), kind=kind)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert type(exception_of(failure)) is activity
    assert type(exception_of(failure, of="workflow")) is workflow


def test_timeouts_say_which() -> None:
    back = exception_of(Failure("m", types=("heartbeat",), kind="timeout", cause=failure_of(ValueError("last"))))
    assert isinstance(back, errors.ActivityTimedOut)
    assert (back.timeout, repr(back.__cause__)) == ("heartbeat", "ValueError('last')")
    again = crossed(back)
    assert isinstance(again, errors.ActivityTimedOut)
    assert again.timeout == "heartbeat"


# --- Replays --------------------------------------------------------------------------------------------
KNOWN = failure_of(QuotaExceeded(3, hint="ask"))
UNKNOWN = Failure("m", types=("nowhere.Missing",))


def test_what_was_known_is_recorded_once() -> None:
    resolver = ExceptionResolver()
    exception_of(KNOWN, resolver)
    exception_of(UNKNOWN, resolver)
    assert resolver.take() == {class_name(QuotaExceeded): True, "nowhere.Missing": False}
    exception_of(KNOWN, resolver)
    assert resolver.take() is None


def test_a_type_of_an_application_error_is_not_recorded() -> None:
    resolver = ExceptionResolver()
    exception_of(failure_of(errors.ApplicationError("m", type="Quota")), resolver)
    assert resolver.seen == {}


def test_what_was_unknown_stays_so() -> None:
    resolver = ExceptionResolver()
    resolver.replay({class_name(QuotaExceeded): False})
    assert type(exception_of(KNOWN, resolver)) is errors.ApplicationError
    assert resolver.take() is None


def test_what_was_known_and_is_not_any_more_stops_the_replay() -> None:
    resolver = ExceptionResolver()
    resolver.replay({"nowhere.Missing": True})
    with pytest.raises(ClassNotImported, match=r"knows the exception nowhere\.Missing, .*: import nowhere"):
        exception_of(UNKNOWN, resolver)


def test_causes_and_members_are_recorded_too() -> None:
    exception = ExceptionGroup("g", [KeyError("k")])
    exception.__cause__ = CloudError(1, hint="x")
    resolver = ExceptionResolver()
    exception_of(failure_of(exception), resolver)
    assert resolver.seen.keys() == {"builtins.ExceptionGroup", "builtins.KeyError", class_name(CloudError)}
    group = ExceptionGroup("g", [ValueError("x")])
    missing = Failure("m", types=("nowhere.Missing",), cause=failure_of(group))
    resolver.replay({"nowhere.Missing": True})
    with pytest.raises(ClassNotImported):
        exception_of(Failure("m", types=("builtins.KeyError",), cause=missing), resolver)


# --- __main__ -------------------------------------------------------------------------------------------
SCRIPT = """
from perdure.sdk.failures import exception_of, failure_of
from perdure.model.failures import Failure

class Quota(Exception):
    pass

if __name__ == "__main__":
    failure = failure_of(Quota("x"))
    print(failure.type, type(exception_of(failure)) is Quota)
    print(type(exception_of(Failure("m", types=("__main__.Quota",)))).__name__)
    import {module}
    print(type(exception_of(failure)) is Quota)
"""


@pytest.mark.parametrize(
    ("command", "module"), [(["app.py"], "app"), (["-m", "app"], "app"), (["-m", "pack.tool"], "pack.tool")]
)
def test_the_script_has_its_real_name(tmp_path: Path, command: list[str], module: str) -> None:
    path = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
    path.parent.mkdir(exist_ok=True)
    path.write_text(SCRIPT.replace("{module}", module))
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == [f"{module}.Quota True", "Quota", "True"]
