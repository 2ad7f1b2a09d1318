"""The client against a service that answers as it is told."""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

import pytest

from perdure.clock import HOUR, SECOND
from perdure.errors import (
    ApplicationError,
    DecodeError,
    EncodeError,
    InvalidRequest,
    NotRunning,
    QueryFailed,
    Unavailable,
    WorkflowAlreadyStarted,
    WorkflowCancelled,
    WorkflowTerminated,
    WorkflowTimedOut,
)
from perdure.ids import SeededIds
from perdure.limits import CLIENT_RETRY_INITIAL, CLIENT_RETRY_LIFETIME, CLIENT_RETRY_MAXIMUM
from perdure.model import requests as q
from perdure.model.events import WorkflowExecutionStarted, WorkflowTaskScheduled
from perdure.model.failures import Failure
from perdure.model.payloads import Payload
from perdure.model.requests import Outcome, Started
from perdure.model.retry import RetryPolicy as EnginePolicy
from perdure.sdk.client.client import Client
from perdure.sdk.client.handle import WorkflowHandle
from perdure.sdk.client.starts import StartOptions
from perdure.sdk.failures import failure_of
from perdure.sdk.retry import RetryPolicy
from perdure.sdk.workflow.api import workflow
from tests.sdk.fake_service import ScriptedService

T = TypeVar("T")


class QuotaExceeded(Exception):
    pass


@dataclass
class Account:
    id: str
    seats: int


@workflow(name="client.provision")
async def provision(team: str, regions: list[str]) -> dict[str, str]:
    return dict.fromkeys(regions, team)


@workflow(name="client.Onboarding", task_queue="eu")
class Onboarding:
    def __init__(self, name: str, *, seats: int = 1) -> None:
        self.account = Account(name, seats)

    async def run(self) -> Account:
        return self.account

    @workflow.signal
    def approve(self, by: str) -> None: ...

    @workflow.query
    def status(self) -> Account:
        return self.account

    @workflow.update
    def resize(self, seats: int) -> int:
        return seats


@workflow(name="client.Special")
class Special(Onboarding):
    @workflow.signal
    def approve(self, by: str) -> None: ...


@workflow(name="client.Other")
class Other:
    async def run(self) -> None: ...

    @workflow.signal
    def approve(self, by: str) -> None: ...

    @workflow.signal
    def reject(self) -> None: ...


def client_of(*replies: object) -> tuple[Client, ScriptedService]:
    service = ScriptedService(*replies)
    return Client(service, namespace="ns", identity="me", ids=SeededIds(1)), service


def handle_of(*replies: object) -> tuple[WorkflowHandle[Account], ScriptedService]:
    client, service = client_of(*replies)
    return client.get("wf", Onboarding), service


def only(service: ScriptedService, type: type[T]) -> T:
    (request,) = service.requests
    assert isinstance(request, type)
    return request


class SkippingSelector(selectors.DefaultSelector):
    """Waits for nothing: says how long it would have waited."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.skipped += timeout or 0
        return super().select(0)


class SkippingLoop(asyncio.SelectorEventLoop):
    """A loop on which all waiting is over at once."""

    def __init__(self) -> None:
        self._waited = SkippingSelector()
        super().__init__(self._waited)

    def time(self) -> float:
        return self._waited.skipped


def run_skipping(main: Coroutine[Any, Any, T]) -> tuple[T, float]:
    """The result of a coroutine, and the seconds that it would have taken."""
    loop = SkippingLoop()
    try:
        return loop.run_until_complete(main), loop.time()
    finally:
        loop.close()


# --- Starting -------------------------------------------------------------------------------------------
async def test_start_sends_the_encoded_call_and_returns_a_handle() -> None:
    client, service = client_of(Started("run-1"))
    handle = await client.start(provision("payments", regions=["eu"]), id="env")
    request = only(service, q.StartWorkflow)
    assert (request.namespace, request.workflow_id, request.workflow_type) == ("ns", "env", "client.provision")
    assert (request.task_queue, request.identity) == ("default", "me")
    assert request.input == (Payload(b'"payments"'), Payload(b'["eu"]'))
    assert len(request.request_id) == 32
    assert (handle.id, handle.run_id) == ("env", "run-1")


async def test_options_of_a_start() -> None:
    client, service = client_of(Started("run-1"))
    await client.start(
        Onboarding("ann", seats=3),
        execution_timeout="1h",
        run_timeout=90,
        id_reuse_policy="reject_duplicate",
        id_conflict_policy="use_existing",
        memo={"why": ["because"]},
        request_id="r-7",
    )
    request = only(service, q.StartWorkflow)
    assert request.task_queue == "eu"
    assert len(request.workflow_id) == 32
    assert (request.execution_timeout, request.run_timeout, request.request_id) == (HOUR, 90 * SECOND, "r-7")
    assert (request.id_reuse_policy, request.id_conflict_policy) == ("reject_duplicate", "use_existing")
    assert request.memo == {"why": Payload(b'["because"]')}
    assert request.input == (Payload(b'"ann"'), Payload(b"3", {"keyword": "seats"}))


async def test_what_cannot_be_sent_is_refused_at_the_call() -> None:
    client, service = client_of()
    untyped_client: Any = client
    untyped_provision: Any = provision
    with pytest.raises(TypeError, match="missing a required argument: 'regions'"):
        await client.start(untyped_provision("payments"))
    with pytest.raises(EncodeError, match=r"argument 'team' of workflow client\.provision"):
        await client.start(untyped_provision(threading.Lock(), []))
    with pytest.raises(TypeError, match="provision is the workflow itself"):
        await untyped_client.start(provision)
    with pytest.raises(ValueError, match="execution_timeout"):
        await client.start(provision("p", []), execution_timeout="soon")
    for nothing in (0, False, b""):  # what only looks as if none were given
        with pytest.raises(TypeError, match="request_id"):
            await untyped_client.start(provision("p", []), request_id=nothing)
    assert service.requests == []


async def test_a_start_takes_all_of_its_options_and_names_them() -> None:
    client, _ = client_of()
    untyped_client: Any = client
    with pytest.raises(TypeError, match="a start has no option 'queue'") as caught:
        await untyped_client.start(provision("p", []), queue="eu")
    assert str(caught.value).partition("it has ")[2].split(", ") == list(StartOptions.__annotations__)


async def test_a_taken_id_is_told() -> None:
    client, _ = client_of(WorkflowAlreadyStarted("workflow 'env' is running", run_id="run-0"))
    with pytest.raises(WorkflowAlreadyStarted) as caught:
        await client.start(provision("p", []), id="env")
    assert caught.value.run_id == "run-0"


async def test_run_starts_and_waits_for_the_result() -> None:
    result = Payload(b'{"id":"ann","seats":3}')
    client, service = client_of(Started("run-1"), Outcome("run-1", "Completed", result))
    assert await client.run(Onboarding("ann", seats=3), id="o") == Account("ann", 3)
    assert service.requests[1] == q.GetResult("ns", "o", "run-1")


# --- Results --------------------------------------------------------------------------------------------
async def test_the_result_is_that_of_the_last_run() -> None:
    result = Payload(b'{"id":"ann","seats":3}')
    handle, service = handle_of(
        Outcome("run-1", "ContinuedAsNew", new_run_id="run-2"),
        Outcome("run-2", "Running"),
        Outcome("run-2", "ContinuedAsNew", new_run_id="run-3"),
        Outcome("run-3", "Completed", result),
    )
    assert await handle.result() == Account("ann", 3)
    asked = [request.run_id for request in service.requests if isinstance(request, q.GetResult)]
    assert asked == ["", "run-2", "run-2", "run-3"]


async def test_a_failure_is_raised_as_itself() -> None:
    handle, _ = handle_of(Outcome("run-1", "Failed", failure=failure_of(QuotaExceeded("no addresses", 7))))
    with pytest.raises(QuotaExceeded) as caught:
        await handle.result()
    assert caught.value.args == ("no addresses", 7)


async def test_a_failure_of_an_unknown_class_keeps_its_name() -> None:
    handle, _ = handle_of(Outcome("run-1", "Failed", failure=Failure("no addresses", ("elsewhere.Quota",))))
    with pytest.raises(ApplicationError, match="no addresses") as caught:
        await handle.result()
    assert caught.value.type == "elsewhere.Quota"


@pytest.mark.parametrize(
    ("status", "failure", "error", "text"),
    [
        ("Canceled", None, WorkflowCancelled, "workflow 'wf' was cancelled"),
        ("Terminated", Failure("wrong customer", kind="terminated"), WorkflowTerminated, "terminated: wrong customer"),
        ("TimedOut", None, WorkflowTimedOut, "workflow 'wf' took longer than its timeout"),
    ],
)
async def test_other_ends(status: q.Status, failure: Failure | None, error: type[Exception], text: str) -> None:
    handle, _ = handle_of(Outcome("run-1", status, failure=failure))
    with pytest.raises(error, match=text):
        await handle.result()


async def test_a_result_of_another_type_is_told() -> None:
    handle, _ = handle_of(Outcome("run-1", "Completed", Payload(b'{"id":"ann"}')))
    with pytest.raises(DecodeError, match=r"the result of workflow client\.Onboarding"):
        await handle.result()


async def test_without_its_definition_a_result_is_plain() -> None:
    client, _ = client_of(Outcome("run-1", "Completed", Payload(b'{"id":"ann"}')))
    assert await client.get("wf").result() == {"id": "ann"}


# --- Messages -------------------------------------------------------------------------------------------
async def test_a_signal_goes_to_the_latest_run() -> None:
    client, service = client_of(Started("run-1"), q.Done())
    handle = await client.start(Onboarding("ann"), id="o")
    await handle.signal(Onboarding.approve, "bob")
    request = service.requests[1]
    assert isinstance(request, q.SignalWorkflow)
    assert (request.workflow_id, request.run_id, request.name) == ("o", "", "approve")
    assert request.input == (Payload(b'"bob"'),)
    assert len(request.request_id) == 32


async def test_a_handle_for_one_run_keeps_to_it() -> None:
    client, service = client_of(q.Done())
    await client.get("o", Onboarding, run_id="run-1").signal("prefer", "bob", {"a": 1})
    request = only(service, q.SignalWorkflow)
    assert (request.run_id, request.input) == ("run-1", (Payload(b'"bob"'), Payload(b'{"a":1}')))


async def test_a_message_by_name_is_checked_where_its_class_is_known() -> None:
    handle, service = handle_of()
    with pytest.raises(TypeError, match="signal approve: too many positional arguments"):
        await handle.signal("approve", "bob", {"a": 1})
    assert not service.requests


async def test_handlers_of_bases_and_overriding_ones_belong_to_a_class() -> None:
    client, service = client_of(q.Done(), q.Done())
    handle = client.get("o", Special)
    await handle.signal(Special.approve, "bob")
    await handle.signal(Onboarding.approve, "bob")
    assert len(service.requests) == 2


async def test_a_handler_of_another_class_is_refused() -> None:
    handle, service = handle_of()
    untyped: Any = handle
    with pytest.raises(TypeError, match=r"Other\.approve is a signal of another class; this handle is for workflow"):
        await handle.signal(Other.approve, "bob")
    with pytest.raises(TypeError, match=r"workflow client\.Onboarding has no signal 'reject'; it has: approve"):
        await handle.signal(Other.reject)
    with pytest.raises(TypeError, match="status is a query, not a signal"):
        await untyped.signal(Onboarding.status)
    with pytest.raises(TypeError, match=r"decorate the method with @workflow\.query"):
        await untyped.query(len)
    with pytest.raises(TypeError, match="too many positional arguments"):
        await untyped.signal(Onboarding.approve, "bob", "ann")
    assert service.requests == []


async def test_a_query_is_decoded_to_its_type() -> None:
    handle, service = handle_of(q.QueryResult(Payload(b'{"id":"ann","seats":3}'), None))
    assert await handle.query(Onboarding.status) == Account("ann", 3)
    assert only(service, q.QueryWorkflow) == q.QueryWorkflow("ns", "wf", "", "status", ())


async def test_a_query_that_fails_has_the_handlers_exception_as_its_cause() -> None:
    handle, _ = handle_of(q.QueryResult(None, failure_of(QuotaExceeded("x"))))
    with pytest.raises(QueryFailed, match=r"query 'status' of workflow 'wf' failed: .*QuotaExceeded: x") as caught:
        await handle.query("status")
    assert isinstance(caught.value.__cause__, QuotaExceeded)


async def test_an_update_waits_for_its_answer() -> None:
    accepted = q.UpdateOutcome("u", "accepted")
    handle, service = handle_of(accepted, q.UpdateOutcome("u", "completed", Payload(b"20")))
    assert await handle.update(Onboarding.resize, 20) == 20
    assert service.requests[0] == service.requests[1]
    request = service.requests[0]
    assert isinstance(request, q.UpdateWorkflow)
    assert (request.name, request.input, request.wait_for) == ("resize", (Payload(b"20"),), "completed")


async def test_a_rejected_update_raises_what_the_validator_raised() -> None:
    handle, _ = handle_of(q.UpdateOutcome("u", "rejected", failure=failure_of(QuotaExceeded("too many"))))
    with pytest.raises(QuotaExceeded, match="too many"):
        await handle.update(Onboarding.resize, 20_000)


async def test_cancel_and_terminate_say_who_and_why() -> None:
    handle, service = handle_of(q.Done(), q.Done(), NotRunning("workflow 'wf' is closed"))
    await handle.cancel("no longer needed")
    await handle.terminate("stuck")
    cancel, terminate = service.requests
    assert isinstance(cancel, q.CancelWorkflowRequest)
    assert (cancel.reason, cancel.identity, cancel.run_id) == ("no longer needed", "me", "")
    assert terminate == q.TerminateWorkflow("ns", "wf", "", "stuck", "me")
    with pytest.raises(NotRunning):
        await handle.cancel()


async def test_what_waits_for_a_person() -> None:
    description = q.Description("wf", "run-1", "Onboarding", "eu", "Running", SECOND, 0, 42, 4096)
    handle, service = handle_of(q.Done(), q.Done(), description, q.Done(), q.Done())
    await handle.release(note="quota is 20 now")
    await handle.release("a1", retry_policy=RetryPolicy(maximum_attempts=3), start_to_close_timeout="5m")
    await handle.complete_activity("a2", {"id": 1}, note="made by hand")
    await handle.fail_activity("a3", "never mind")
    release, changed, _, complete, fail = service.requests
    assert release == q.ReleaseActivity("ns", "wf", "", "", "quota is 20 now", "me")
    assert isinstance(changed, q.ReleaseActivity)
    assert changed.retry_policy == EnginePolicy(maximum_attempts=3)
    assert (changed.activity_id, changed.start_to_close_timeout, changed.heartbeat_timeout) == (
        "a1",
        300 * SECOND,
        None,
    )
    assert complete == q.CompleteActivity("ns", "wf", "", "a2", Payload(b'{"id":1}'), "made by hand", "me")
    assert isinstance(fail, q.FailActivity)
    assert (fail.activity_id, fail.failure.message) == ("a3", "never mind")


# --- Looking --------------------------------------------------------------------------------------------
BUG = """  File "/srv/app/flows.py", line 12, in run
    return prices[0]
  File "/usr/lib/python3.11/json/decoder.py", line 355, in raw_decode
    raise JSONDecodeError("Expecting value", s, err.value) from None
"""


async def test_describe_tells_what_a_person_wants_to_know() -> None:
    held = q.PendingActivityInfo(
        "a1", "create_vpc", "held", 2, 1 * SECOND, 2 * SECOND, 0, 5, Failure("no", ("app.Quota",)), "quota", 3 * SECOND,
        (Payload(b"[1,2]"),), "w1",
    )  # fmt: skip
    retrying = q.PendingActivityInfo("a2", "create_dns", "backing_off", 1, SECOND, SECOND, 9 * SECOND)
    task = q.WorkflowTaskInfo(3, 4 * SECOND, Failure("boom", ("builtins.IndexError",), traceback=BUG), 5 * SECOND)
    handle, _ = handle_of(
        q.Description(
            "wf", "run-1", "Onboarding", "eu", "Running", SECOND, 0, 42, 4096, (held, retrying), (7 * SECOND,), task,
            (q.PendingUpdate("u1", "resize"),), 2, "", None, {"why": Payload(b'"x"')}, {"team": "a"},
            pending_activities=2_000, pending_timers=1,
        )
    )  # fmt: skip
    found = await handle.describe()
    assert (found.id, found.status, found.history_length, found.close_time) == ("wf", "Running", 42, None)
    assert found.start_time == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert (found.memo, found.search_attributes, found.parent_id) == ({"why": "x"}, {"team": "a"}, None)
    assert [(update.id, update.name, update.accepted) for update in found.pending_updates] == [("u1", "resize", False)]
    assert (found.pending_activities, found.pending_timers) == (2_000, 1)
    first, second = found.activities
    assert (first.status, first.attempt, first.maximum_attempts) == ("held", 2, 5)
    assert (first.last_failure, first.hold_reason) == ("app.Quota: no", "quota")
    assert first.held_since == datetime(1970, 1, 1, 0, 0, 3, tzinfo=UTC)
    assert (first.heartbeat_details, first.worker, first.next_attempt_time) == (([1, 2],), "w1", None)
    assert second.next_attempt_time == datetime(1970, 1, 1, 0, 0, 9, tzinfo=UTC)
    assert (second.maximum_attempts, second.last_failure, second.hold_reason, second.worker) == (None, None, None, None)
    assert found.workflow_task is not None
    assert found.workflow_task.failure == "IndexError: boom"
    assert found.workflow_task.location == "/srv/app/flows.py:12"
    assert found.workflow_task.attempt == 3


async def test_the_history_is_read_page_by_page_of_one_run() -> None:
    first = WorkflowExecutionStarted(1, 0, "Onboarding", "eu", (), "run-1")
    second = WorkflowTaskScheduled(2, 0, "eu")
    handle, service = handle_of(q.HistoryPage("run-1", (first,), 8), q.HistoryPage("run-1", (second,)))
    assert [event async for event in handle.history()] == [first, second]
    assert service.requests == [q.GetHistory("ns", "wf", "", 0), q.GetHistory("ns", "wf", "run-1", 8)]


async def test_a_listing_is_read_page_by_page() -> None:
    rows = [q.ListedWorkflow(f"wf-{n}", f"run-{n}", "provision", "Completed", SECOND, 2 * SECOND) for n in range(3)]
    client, service = client_of(q.ListPage((rows[0], rows[1]), "p2"), q.ListPage((rows[2],)))
    found = [row async for row in client.list("WorkflowType = 'provision'")]
    assert [row.id for row in found] == ["wf-0", "wf-1", "wf-2"]
    assert found[0].close_time == datetime(1970, 1, 1, 0, 0, 2, tzinfo=UTC)
    pages = [request.page for request in service.requests if isinstance(request, q.ListWorkflows)]
    assert pages == ["", "p2"]


async def test_a_query_that_cannot_be_read_is_told() -> None:
    client, _ = client_of(InvalidRequest("unknown attribute 'Foo'"))
    with pytest.raises(InvalidRequest, match="Foo"):
        _ = [row async for row in client.list("Foo = 1")]


# --- Outages --------------------------------------------------------------------------------------------
def test_what_was_unavailable_is_sent_again_the_same() -> None:
    down = Unavailable("the store is down")
    client, service = client_of(down, down, down, Started("run-1"))
    handle, waited = run_skipping(client.start(provision("p", []), id="env"))
    assert isinstance(handle, WorkflowHandle)
    assert len(service.requests) == 4
    assert all(request == service.requests[0] for request in service.requests)
    assert waited >= CLIENT_RETRY_INITIAL / SECOND * (1 + 2 + 4) / 2


def test_after_an_hour_it_gives_up() -> None:
    class Down(ScriptedService):
        async def call(self, request: q.Request[q.Reply], /) -> q.Reply:
            self.requests.append(cast("q.Request[object]", request))
            raise Unavailable("the store is down")

    service = Down()
    client = Client(service, ids=SeededIds(2))
    with pytest.raises(Unavailable):
        run_skipping(client.start(provision("p", []), id="env"))
    # At least one attempt in each longest interval of the hour, and not many more than two.
    fewest = CLIENT_RETRY_LIFETIME / CLIENT_RETRY_MAXIMUM
    assert fewest <= len(service.requests) <= 2 * fewest + 20


async def test_a_timeout_bounds_the_wait_for_an_answer() -> None:
    class Slow(ScriptedService):
        async def call(self, request: q.Request[q.Reply], /) -> q.Reply:
            await asyncio.Event().wait()
            return await super().call(request)

    handle = Client(Slow(), ids=SeededIds(3)).get("wf", Onboarding)
    with pytest.raises(TimeoutError, match=r"no answer of workflow 'wf' within 0.01 s"):
        await handle.options(timeout=0.01).update(Onboarding.resize, 3)
    with pytest.raises(TimeoutError, match="no answer"):
        await handle.options(timeout="10ms").result()


async def test_a_timeout_that_is_the_answer_is_not_taken_for_ours() -> None:
    handle, _ = handle_of(Outcome("run-1", "TimedOut"))
    with pytest.raises(WorkflowTimedOut):
        await handle.options(timeout="1h").result()
