"""The example's cloud: what a caller relies on, over HTTP and over a kill -9."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from examples.cloud.limits import TokenBucket, weather
from examples.cloud.server import CloudServer
from examples.cloud.service import CloudService, Response, Settings
from examples.cloud.store import Store

ROOT = Path(__file__).resolve().parents[2]
NETWORK: dict[str, object] = {"name": "payments", "cidr": "10.0.0.0/16"}
CALM = Settings(rate=1_000, burst=1_000, fault_rate=0)


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Account:
    """A cloud without its transport, as one customer sees it."""

    store: Store
    clock: Clock
    service: CloudService

    def create(self, kind: str, fields: Mapping[str, object] | bytes, key: str = "key") -> Response:
        body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
        return self.service.handle("POST", f"/v1/{kind}", {"idempotency-key": key, "x-client": "me"}, body)

    def calls(self) -> list[tuple[str, bool]]:
        """The outcome of every call, and whether the caller was told."""
        calls = cast("list[dict[str, object]]", self.store.report()["calls"])
        return [(str(call["outcome"]), bool(call["heard"])) for call in calls]


@pytest.fixture
def make_account(tmp_path: Path) -> Iterator[Callable[[Settings], Account]]:
    stores: list[Store] = []

    def make(settings: Settings) -> Account:
        store, clock = Store(tmp_path / "cloud.sqlite"), Clock()
        stores.append(store)
        return Account(store, clock, CloudService(store, settings, clock, clock.sleep))

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def account(make_account: Callable[[Settings], Account]) -> Account:
    return make_account(CALM)


def database(name: str, primary: str = "") -> dict[str, object]:
    return {"name": name, "engine": "postgres", "storage_gb": 10, "subnets": [], "primary": primary}


# --- Idempotency ----------------------------------------------------------------------------------------
def test_a_repeated_key_gets_the_same_resource(account: Account) -> None:
    first = account.create("networks", NETWORK)
    second = account.create("networks", NETWORK)

    assert (first.status, second.status) == (201, 201)
    assert first.body == second.body
    assert account.store.count() == 1
    assert account.calls() == [("created", True), ("repeated", True)]


def test_a_new_key_makes_a_new_resource_even_under_the_same_name(account: Account) -> None:
    first = account.create("networks", NETWORK, key="a")
    second = account.create("networks", NETWORK, key="b")

    assert first.body["id"] != second.body["id"]
    assert account.store.count() == 2


def test_a_key_that_comes_back_with_another_request_is_refused(account: Account) -> None:
    account.create("networks", NETWORK)
    answer = account.create("networks", {**NETWORK, "name": "other"})

    assert (answer.status, answer.body["code"]) == (409, "key_reused")
    assert "'payments'" in str(answer.body["message"])
    assert account.store.count() == 1


def test_two_calls_with_one_key_at_the_same_time_make_one_resource(tmp_path: Path) -> None:
    together = threading.Barrier(8)
    store = Store(tmp_path / "cloud.sqlite")

    def sleep(seconds: float) -> None:
        together.wait(10)

    service = CloudService(store, CALM, Clock(), sleep)
    answers: list[Response] = []

    def call() -> None:
        answers.append(service.handle("POST", "/v1/networks", {"idempotency-key": "k"}, json.dumps(NETWORK).encode()))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({str(answer.body["id"]) for answer in answers}) == 1
    assert store.count() == 1
    store.close()


# --- Faults ---------------------------------------------------------------------------------------------
def test_a_call_may_fail_before_or_after_its_work_and_is_never_done_twice(
    make_account: Callable[[Settings], Account],
) -> None:
    account = make_account(Settings(rate=1_000, burst=1_000, fault_rate=1))
    statuses = {account.create("networks", NETWORK).status for _ in range(20)}

    assert statuses == {500}
    assert account.store.count() == 1
    assert set(account.calls()) == {("internal", True), ("created", False), ("repeated", False)}


def test_the_weather_depends_on_the_call_and_not_on_the_order_of_calls() -> None:
    def forecast(seed: int) -> list[tuple[str, float]]:
        days = [weather(seed, f"key{i}", attempt, fault_rate=0.3, latency=1) for i in range(500) for attempt in (0, 1)]
        return [(day.fault, day.seconds) for day in days]

    assert forecast(1) == forecast(1)
    assert forecast(1) != forecast(2)
    faults = [fault for fault, _ in forecast(1)]
    assert 100 < faults.count("before") < 200
    assert 100 < faults.count("after") < 200
    assert all(0.5 <= seconds <= 1.5 for _, seconds in forecast(1))


# --- The rate limit -------------------------------------------------------------------------------------
def test_a_token_bucket_lets_a_burst_through_and_then_a_rate() -> None:
    bucket = TokenBucket(rate=2, burst=3, now=0)

    assert [bucket.take(0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert bucket.take(0.25) == 0.25
    assert bucket.take(0.5) == 0
    assert [bucket.take(100) for _ in range(4)] == [0, 0, 0, 0.5]
    assert bucket.take(99) == 0.5, "a clock that goes back earns nothing"


def test_a_caller_who_is_too_fast_is_told_when_to_come_back(make_account: Callable[[Settings], Account]) -> None:
    account = make_account(Settings(rate=0.5, burst=1, latency=0, fault_rate=0))
    account.create("networks", NETWORK, key="a")
    refused = account.create("networks", NETWORK, key="b")

    assert (refused.status, refused.body["code"], refused.headers) == (429, "throttled", {"Retry-After": "2"})
    assert account.store.count() == 1
    account.clock.sleep(2)
    assert account.create("networks", NETWORK, key="b").status == 201


# --- Quotas ---------------------------------------------------------------------------------------------
def test_a_quota_refuses_what_is_new_until_it_is_raised(account: Account) -> None:
    account.create("databases", database("one"), key="one")
    refused = account.create("databases", database("two"), key="two")
    repeated = account.create("databases", database("one"), key="one")
    raised = account.service.handle("POST", "/admin/quotas", {}, b'{"kind": "databases", "maximum": 2}')

    assert (refused.status, refused.body["code"]) == (403, "quota_exceeded")
    assert repeated.status in (201, 202)
    assert raised.status == 200
    assert account.create("databases", database("two"), key="two").status == 202


def test_a_raised_quota_outlives_a_restart(make_account: Callable[[Settings], Account]) -> None:
    make_account(CALM).service.handle("POST", "/admin/quotas", {}, b'{"kind": "databases", "maximum": 7}')

    assert make_account(CALM).store.report()["quotas"] == {"databases": 7}


# --- Slow resources -------------------------------------------------------------------------------------
def test_a_database_is_ready_after_a_while(account: Account) -> None:
    answer = account.create("databases", database("ledger"))
    path = f"/v1/databases/{answer.body['id']}"

    assert (answer.status, answer.body["status"]) == (202, "creating")
    assert account.service.handle("GET", path, {}, b"").body["status"] == "creating"
    account.clock.sleep(CALM.database_time)
    assert account.service.handle("GET", path, {}, b"").body["status"] == "ready"


# --- Bad calls ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (b"{", "isn't JSON"),
        (b"\xff", "isn't JSON"),
        (b"[]", "must be a JSON object"),
        ({"name": "x"}, "the field 'cidr' must be a str"),
        ({"name": 3, "cidr": "x"}, "the field 'name' must be a str"),
        ({**NETWORK, "colour": "red"}, "no field 'colour'"),
    ],
)
def test_bad_fields_are_named_and_make_nothing(account: Account, fields: dict[str, object] | bytes, told: str) -> None:
    answer = account.create("networks", fields)

    assert (answer.status, answer.body["code"]) == (400, "invalid")
    assert told in str(answer.body["message"])
    assert account.store.count() == 0


def test_what_a_resource_refers_to_must_exist(account: Account) -> None:
    answer = account.create("members", {"name": "ann", "role": "admin", "network": "net-nowhere"})

    assert answer.status == 400
    assert "'net-nowhere'" in str(answer.body["message"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/v1/spaceships", 404),
        ("GET", "/v1/networks/net-nowhere", 404),
        ("POST", "/v1/networks", 400),
        ("POST", "/admin/quotas", 400),
        ("DELETE", "/v1/networks/x", 404),
    ],
)
def test_calls_that_mean_nothing_are_refused(account: Account, method: str, path: str, status: int) -> None:
    assert account.service.handle(method, path, {}, b"{}").status == status


# --- HTTP -----------------------------------------------------------------------------------------------
@contextmanager
def serving(service: CloudService) -> Generator[int]:
    """A served cloud's port."""
    server = CloudServer(service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def request(port: int, method: str, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_the_cloud_speaks_http(account: Account) -> None:
    with serving(account.service) as port:
        body = json.dumps(NETWORK).encode()
        status, made = request(port, "POST", "/v1/networks", body, Idempotency_Key="a", X_Client="42")
        again = request(port, "GET", f"/v1/networks/{made['id']}", b"")
        too_large = request(port, "POST", "/v1/networks", b" " * 100_000)
        stats = request(port, "GET", "/admin/stats", b"")

    assert (status, made["name"], made["status"]) == (201, "payments", "ready")
    assert again == (200, made)
    assert too_large[0] == 413
    assert stats == (200, {"resources": 1, "open_calls": 0})


def test_an_answer_that_nobody_hears_is_logged_as_such(tmp_path: Path) -> None:
    busy, gone, noted = threading.Event(), threading.Event(), threading.Event()

    class NoticingStore(Store):
        def not_heard(self, number: int) -> None:
            super().not_heard(number)
            noted.set()

    def sleep(seconds: float) -> None:
        busy.set()
        assert gone.wait(10)

    store = NoticingStore(tmp_path / "cloud.sqlite")
    with serving(CloudService(store, CALM, Clock(), sleep)) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", "/v1/networks", json.dumps(NETWORK).encode(), {"Idempotency-Key": "a"})
        assert busy.wait(10)
        connection.close()
        gone.set()
        assert noted.wait(10)

    assert store.count() == 1, "the cloud did what it was asked, though nobody waited for it"
    calls = cast("list[dict[str, object]]", store.report()["calls"])
    assert [(call["outcome"], call["heard"]) for call in calls] == [("created", False)]
    store.close()


# --- The process ----------------------------------------------------------------------------------------
@contextmanager
def process(state: Path) -> Generator[tuple[subprocess.Popen[str], int]]:
    """A cloud process and its port."""
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "examples.cloud", "--state", str(state), "--latency", "0", "--fault-rate", "0"),
            *("--rate", "1000", "--burst", "1000", "--stop-on-eof"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ},
    )
    with child:
        assert child.stdout is not None
        try:
            yield child, int(child.stdout.readline().rpartition(":")[2])
        finally:
            child.kill()


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    def create(port: int) -> list[tuple[int, dict[str, object]]]:
        body = json.dumps(NETWORK).encode()
        return [request(port, "POST", "/v1/networks", body, Idempotency_Key=f"key{i}") for i in range(5)]

    with process(tmp_path) as (child, port):
        before = create(port)
        child.kill()
        assert child.wait(10) == -9
    with process(tmp_path) as (_, port):
        after = create(port)
        stats = request(port, "GET", "/admin/stats", b"")

    assert before == after
    assert {status for status, _ in before} == {201}
    assert stats == (200, {"resources": 5, "open_calls": 0})


def test_the_process_ends_with_its_standard_input(tmp_path: Path) -> None:
    with process(tmp_path) as (child, _):
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(10) == 0
