"""The public names of `perdure`, all of them documented. A change of the list is one for CHANGELOG.md."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata

import pytest

import perdure

PUBLIC = [
    "ActivityCall",
    "ActivityCancelled",
    "ActivityDescription",
    "ActivityError",
    "ActivityHandle",
    "ActivityInfo",
    "ActivityTimedOut",
    "AesGcm",
    "ApplicationError",
    "AsyncActivityHandle",
    "AttemptState",
    "Calendar",
    "ChildHandle",
    "ChildOptions",
    "Client",
    "CodecError",
    "ClientCall",
    "CompleteLater",
    "DecodeError",
    "Duration",
    "EncodeError",
    "EngineStopped",
    "ExternalHandle",
    "GuardError",
    "Hold",
    "InboundCall",
    "Interceptor",
    "Interval",
    "InvalidRequest",
    "LimitExceeded",
    "NondeterminismError",
    "NotFound",
    "NotRunning",
    "NotTaken",
    "Offload",
    "Payload",
    "PayloadCodec",
    "OutboundCall",
    "PayloadTooLarge",
    "PerdureError",
    "ProcessFailed",
    "ProcessResult",
    "QueryFailed",
    "RetryPolicy",
    "Saga",
    "Schedule",
    "ScheduleChanged",
    "ScheduleDescription",
    "ScheduleExists",
    "ScheduleHandle",
    "ScheduleRow",
    "StartOptions",
    "StoreCorrupt",
    "StoreError",
    "StoreForeign",
    "StoreFull",
    "StoreLocked",
    "StoreLost",
    "StoreReadOnly",
    "StoreTooNew",
    "Unavailable",
    "UnusedCallWarning",
    "WithStart",
    "Worker",
    "WorkerLost",
    "WorkflowAlreadyStarted",
    "WorkflowCall",
    "WorkflowCancelled",
    "WorkflowDescription",
    "WorkflowFailed",
    "WorkflowHandle",
    "WorkflowInfo",
    "WorkflowRow",
    "WorkflowTerminated",
    "WorkflowTimedOut",
    "Zstd",
    "activity",
    "embedded",
    "workflow",
]


def test_the_public_names_are_these() -> None:
    assert sorted(perdure.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_there(name: str) -> None:
    assert getattr(perdure, name) is not None
    assert name in dir(perdure)


def test_an_unknown_name_is_refused() -> None:
    name = "unknown"
    with pytest.raises(AttributeError, match="no attribute 'unknown'"):
        getattr(perdure, name)


def undocumented(name: str, value: object) -> Iterator[str]:
    """What of a public object has no docstring: itself, or one of its class's public methods."""
    if not inspect.getdoc(value):
        yield name
    owner = value if inspect.isclass(value) else type(value)
    if not owner.__module__.startswith("perdure"):
        return
    for attribute, member in inspect.getmembers(owner, lambda m: inspect.isroutine(m) or isinstance(m, property)):
        if not attribute.startswith("_") and not inspect.getdoc(member):
            yield f"{name}.{attribute}"


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_documented(name: str) -> None:
    assert list(undocumented(name, getattr(perdure, name))) == []


def test_what_is_undocumented_is_found() -> None:
    class Bare:
        def method(self) -> None: ...

        def _private(self) -> None: ...

    Bare.__module__ = "perdure.bare"
    assert list(undocumented("Bare", Bare)) == ["Bare", "Bare.method"]
    assert list(undocumented("bare", Bare())) == ["bare", "bare.method"]


def test_the_version_is_the_package_s() -> None:
    assert perdure.__version__ == metadata.version("perdure")


@pytest.mark.parametrize("module", ["sqlite3", "sqlglot", "perdure.engine.node", "uvloop"])
def test_defining_workflows_loads_no_engine(module: str) -> None:
    script = f"import sys, perdure; perdure.workflow, perdure.activity; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
