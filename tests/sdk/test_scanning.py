# ruff: noqa: DTZ001, DTZ003, DTZ005, DTZ011, PLW0108 - what is tested here is code that should not be written
"""What can be seen in a workflow's code before it runs is refused when a worker starts, with the line."""

from __future__ import annotations

import datetime as dt
import queue
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from datetime import datetime as Moment
from functools import cache, lru_cache, partial
from os import urandom
from pathlib import Path
from time import sleep, time_ns
from types import ModuleType
from uuid import uuid1

import msgspec
import pytest

from perdure import ActivityCall, ClientCall, InboundCall, Interceptor, OutboundCall, activity, workflow
from perdure.errors import GuardError
from perdure.sdk.worker.worker import Worker
from perdure.sdk.workflow import determinism, scanning
from tests.sdk.fake_service import ScriptedService
from tests.sdk.harness import definition_of
from tests.sdk.harness import fresh_registry as fresh_registry

LOCK = threading.Lock()
HERE = Path(__file__)


class Clock:
    """A class of the user's own, with names of its own for what can't be repeated."""

    now = datetime.now

    @classmethod
    def year(cls) -> int:
        return datetime.now().year  # by Clock.year

    @staticmethod
    @cache
    def century() -> int:
        return datetime.now().year // 100

    def hour(self) -> int:
        return datetime.now().hour

    @property
    def minute(self) -> int:
        return datetime.now().minute


CLOCK = Clock()
NOW_HERE = partial(datetime.now, dt.UTC)
aliases = ModuleType("aliases")
vars(aliases).update(moment=datetime.now, Moment=datetime)


class Calendar(datetime):
    """A class of the user's own."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Calendar:
        return cls(2000, 1, 1)


@lru_cache(maxsize=1)
def cached() -> object:
    return datetime.now()  # once in each process


@cache
def cached_twice(_: int) -> object:
    return cached()


TWICE = partial(cached_twice, 1)


def helper() -> object:
    return deeper()


def deeper() -> object:
    return datetime.now()  # deep


@activity
async def record() -> str:
    return str(datetime.now())


@pytest.fixture(autouse=True)
def installed() -> None:
    determinism.install()


def _of(code: Callable[[], object]) -> object:
    @workflow
    async def flow() -> object:
        return code()

    return flow


@pytest.mark.parametrize(
    ("code", "what", "instead"),
    [
        (lambda: datetime.now(), "datetime.now()", "workflow.now()"),
        (lambda: datetime.now(dt.UTC), "datetime.now()", "workflow.now()"),
        (lambda: dt.datetime.utcnow(), "dt.datetime.utcnow()", "workflow.now()"),  # pyright: ignore[reportDeprecated]
        (lambda: date.today(), "date.today()", "workflow.now().date()"),
        (lambda: partial(sleep, 1), "sleep", "import time, and call time.sleep"),
        (lambda: time_ns(), "time_ns", "import time, and call time.time_ns"),
        (lambda: LOCK.acquire(), "LOCK", "asyncio's Lock"),
        (lambda: threading.Lock(), "threading.Lock", "asyncio's Lock"),
        (lambda: queue.Queue[int](), "queue.Queue", "asyncio's Lock"),
        (lambda: [datetime.now() for _ in range(2)], "datetime.now()", "workflow.now()"),
        (lambda: helper(), "datetime.now()", "workflow.now()"),
        (lambda: Moment.now(), "Moment.now()", "workflow.now()"),
        (lambda: aliases.Moment.now(), "aliases.Moment.now()", "workflow.now()"),
        (lambda: urandom(3), "urandom", "real secrets are for activities"),
        (lambda: uuid1(), "uuid1", "uuid.uuid4()"),
    ],
)
def test_it_is_refused(code: Callable[[], object], what: str, instead: str) -> None:
    with pytest.raises(GuardError) as refused:
        scanning.check(definition_of(_of(code)))
    assert what in str(refused.value)
    assert instead in str(refused.value)
    assert what.removesuffix("()").rpartition(".")[2] in _source(refused.value)


def _source(error: GuardError) -> str:
    """The line that an error names, which is in this file."""
    file, line = error.line.rsplit(":", 1)
    assert Path(file) == HERE
    return HERE.read_text().splitlines()[int(line) - 1]


@pytest.mark.parametrize(
    "code",
    [
        lambda: aliases.moment(),
        lambda: Clock.now(),
        lambda: Clock.year(),
        lambda: Clock.century(),
        lambda: NOW_HERE(),
        lambda: cached(),
        lambda: TWICE(),
    ],
)
def test_it_is_refused_by_another_name(code: Callable[[], object]) -> None:
    with pytest.raises(GuardError, match=r"datetime\.now\(\) can't be repeated"):
        scanning.check(definition_of(_of(code)))


def test_what_an_object_may_do_is_told_not_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Another may stand in its place."""
    scanning.check(definition_of(_of(lambda: (CLOCK.hour(), CLOCK.minute))))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert all("workflow flow uses Clock" in line and "datetime.now() can't be repeated" in line for line in lines)


def test_a_plain_workflow_needs_no_lock() -> None:
    @workflow
    def flow() -> None:
        with LOCK:
            pass

    with pytest.raises(GuardError, match=r"waiting with LOCK .* None is needed.*workflow\.block") as refused:
        scanning.check(definition_of(flow))
    assert "asyncio" not in str(refused.value)


@pytest.mark.parametrize(
    "code",
    [
        lambda: workflow.now(),
        lambda: time.time(),
        lambda: time.strftime("%Y"),
        lambda: datetime(2000, 1, 1),
        lambda: datetime.fromisoformat("2000-01-01"),
        lambda: Calendar.now(),
        lambda: record(),
        lambda: sorted([1]),
    ],
)
def test_what_repeats_is_allowed(code: Callable[[], object]) -> None:
    scanning.check(definition_of(_of(code)))


def local_import() -> object:
    import datetime as calendar
    from time import time

    return time(), calendar.datetime.now()


def test_what_a_function_imports_itself_is_looked_at() -> None:
    with pytest.raises(GuardError, match=r"calendar\.datetime\.now\(\) can't be repeated"):
        scanning.check(definition_of(_of(local_import)))


@dataclass
class Event:
    at: datetime = field(default_factory=datetime.now)
    seen: datetime = field(default_factory=lambda: datetime.now(dt.UTC))
    day: date = date.min

    def age(self) -> object:
        return datetime.now() - self.at

    def never_used(self) -> object:
        return date.today()


class Struct(msgspec.Struct):
    at: datetime = msgspec.field(default_factory=lambda: datetime.now(dt.UTC))


def test_what_a_class_may_do_is_told_not_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Whether it is reached can't be seen: a default may be given, a method may be of another class."""
    scanning.check(definition_of(_of(lambda: (Event().age(), Struct()))))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 4
    assert all("datetime.now() can't be repeated" in line and "workflow flow uses " in line for line in lines)
    places = [line.partition(" reached: ")[2].partition(": ")[0] for line in lines]
    source = HERE.read_text().splitlines()
    at = [source[int(place.rpartition(":")[2]) - 1].strip() for place in places if place.startswith(str(HERE))]
    assert "a default in Event" in places
    assert at == [
        "return datetime.now() - self.at",
        "seen: datetime = field(default_factory=lambda: datetime.now(dt.UTC))",
        "at: datetime = msgspec.field(default_factory=lambda: datetime.now(dt.UTC))",
    ]


def test_all_methods_of_a_class_are_looked_at() -> None:
    class Base:
        def stamp(self) -> str:
            return str(datetime.now())

    @workflow
    class Stamped(Base):
        async def run(self) -> None:
            pass

        @workflow.signal
        def go(self) -> None:
            pass

    with pytest.raises(GuardError, match=r"datetime\.now"):
        scanning.check(definition_of(Stamped))


def test_properties_are_looked_at() -> None:
    @workflow
    class Dated:
        async def run(self) -> str:
            return self.when

        @property
        def when(self) -> str:
            return str(datetime.now())

    with pytest.raises(GuardError, match=r"datetime\.now"):
        scanning.check(definition_of(Dated))


def test_handlers_are_looked_at() -> None:
    @workflow
    class Asked:
        async def run(self) -> None:
            pass

        @workflow.query
        def when(self) -> str:
            return str(datetime.now())

    with pytest.raises(GuardError, match=r"datetime\.now"):
        scanning.check(definition_of(Asked))


async def test_a_worker_does_not_start_with_such_a_workflow() -> None:
    flow = _of(lambda: datetime.now())
    with pytest.raises(GuardError, match=r"test_scanning\.py:\d+: datetime\.now\(\)"):
        await Worker(ScriptedService(), workflows=[flow], activities=[]).start()


class Stamping(Interceptor):
    async def execute_workflow(self, call: InboundCall, next: Callable[[InboundCall], Awaitable[object]]) -> object:
        call.headers["at"] = str(datetime.now())  # a hook's
        return await next(call)


class Locking(Interceptor):
    def workflow_call(self, call: OutboundCall, next: Callable[[OutboundCall], object]) -> object:
        with LOCK:  # a hook's
            return next(call)


class Inheriting(Locking):
    """Has its hook from another."""


@pytest.mark.parametrize("interceptor", [Stamping(), Locking(), Inheriting()])
async def test_interceptors_hooks_of_workflows_are_looked_at(interceptor: Interceptor) -> None:
    worker = Worker(ScriptedService(), workflows=[], activities=[], interceptors=[interceptor])
    with pytest.raises(GuardError, match=r"datetime\.now\(\)|waiting with LOCK") as refused:
        await worker.start()
    assert "# a hook's" in _source(refused.value)


class Metrics(Interceptor):
    """What is run outside workflows may do anything."""

    def __init__(self) -> None:
        self.began = datetime.now()

    async def client_call(self, call: ClientCall, next: Callable[[ClientCall], Awaitable[object]]) -> object:
        with LOCK:
            return await next(call)

    async def execute_activity(self, call: ActivityCall, next: Callable[[ActivityCall], Awaitable[object]]) -> object:
        call.headers["at"] = self.never_in_workflows()
        return await next(call)

    def workflow_call(self, call: OutboundCall, next: Callable[[OutboundCall], object]) -> object:
        call.headers["at"] = str(workflow.now())
        return next(call)

    def never_in_workflows(self) -> str:
        return str(datetime.now())


class Helped(Metrics):
    def handle_query(self, call: InboundCall, next: Callable[[InboundCall], object]) -> object:
        call.headers["at"] = self._now()
        return next(call)

    def _now(self) -> str:
        return str(datetime.now())


@pytest.mark.parametrize(("interceptor", "told"), [(Metrics(), 0), (Helped(), 1)])
async def test_other_methods_of_interceptors_are_looked_at_where_hooks_of_workflows_use_them(
    interceptor: Interceptor, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(ScriptedService(), workflows=[], activities=[], interceptors=[interceptor])
    await worker.start()
    await worker.stop()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == told
    assert all(
        "interceptor Helped uses Helped" in line and "datetime.now() can't be repeated" in line for line in lines
    )


def test_an_empty_cell_and_a_recursion_are_no_trouble() -> None:
    def recursive() -> object:
        return later() if later else recursive()

    later: Callable[[], object] | None = None

    @workflow
    async def flow() -> object:
        return recursive()

    scanning.check(definition_of(flow))
