"""Codecs between the user's code and what is stored: nothing shows, nothing is lost, and errors say what to set."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from perdure import (
    AesGcm,
    ApplicationError,
    CodecError,
    Payload,
    PayloadCodec,
    PayloadTooLarge,
    QueryFailed,
    RetryPolicy,
    Zstd,
    activity,
    workflow,
)
from perdure.limits import MAX_BLOB, MAX_PAYLOAD
from perdure.model.requests import Service
from perdure.sdk.client.client import Client
from perdure.sdk.codecs.service import EncodedService
from tests.integration.engines import Engine, described, failing_task

SECRET = "s3cr3t-pa55word"


class Refused(Exception):
    def __init__(self, password: str) -> None:
        super().__init__(f"refused: {password}")
        self.password = password


@pytest.fixture(params=["memory", "sqlite", "transport", "nodes", "postgres"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    return Engine(str(request.param), tmp_path)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODECS_KEY", base64.b64encode(os.urandom(32)).decode())
    monkeypatch.delenv("CODECS_ABSENT", raising=False)


def codecs(key: str = "env:CODECS_KEY") -> Sequence[PayloadCodec]:
    return [Zstd(minimum=16), AesGcm(key=key)]


ABSENT = "the AES-GCM key 'default' is missing: set the environment variable CODECS_ABSENT to it"
ABSENT_KEY = f"{ABSENT} (32 bytes in Base64 or as 64 hexadecimal digits, as `openssl rand -base64 32` prints them)"


@activity(name="codecs.connect", retry_policy=RetryPolicy(maximum_attempts=1))
async def connect(password: str, *, region: str = "eu") -> dict[str, str]:
    activity.heartbeat({"password": password})
    if region == "none":
        raise Refused(password)
    return {"connected": password}


@workflow(name="codecs.child")
async def child(password: str) -> str:
    return password


@workflow(name="codecs.everything")
class Everything:
    def __init__(self, password: str) -> None:
        self.password = password
        self.told = ""

    async def run(self) -> list[str]:
        done = await connect(self.password, region="us")
        try:
            await connect(self.password, region="none")
        except Refused as error:
            done["refused"] = error.password
        done["child"] = await child(self.password)
        await workflow.wait_until(lambda: bool(self.told))
        return [*done.values(), self.told]

    @workflow.signal
    def tell(self, password: str) -> None:
        self.told = password

    @workflow.query
    def peek(self, salt: str) -> str:
        return self.password + salt

    @workflow.update
    async def change(self, password: str) -> str:
        if password == "bad":
            raise ApplicationError(f"not {self.password}", self.password)
        self.password = password
        return password


async def test_everything_comes_back_and_nothing_shows(engine: Engine) -> None:
    async with engine.open(codecs=codecs(), encode_failures=True) as client:
        handle = await client.start(Everything(SECRET), id="all", memo={"hint": SECRET})
        assert await handle.query(Everything.peek, SECRET) == SECRET * 2
        with pytest.raises(ApplicationError, match=f"not {SECRET}"):
            await handle.update(Everything.change, "bad")
        assert await handle.update(Everything.change, SECRET) == SECRET
        assert (await handle.describe()).memo == {"hint": SECRET}
        await handle.signal(Everything.tell, SECRET)
        assert await handle.result() == [SECRET] * 4
        assert SECRET in repr([event async for event in handle.history()])
    async with engine.open() as client:
        handle = client.get("all")
        stored = [event async for event in handle.history()]
        assert SECRET not in repr(stored) and base64.b64encode(SECRET.encode()).decode() not in repr(stored)
        with pytest.raises(
            CodecError, match="the result of workflow 'all' can't be decoded: it is encoded as 'aes-256"
        ):
            await handle.result()
    for file in engine.path.parent.glob("engine.db*"):
        assert SECRET.encode() not in file.read_bytes()


async def test_a_run_goes_on_with_the_same_history_after_a_restart(engine: Engine) -> None:
    async with engine.open(codecs=codecs()) as client:
        handle = await client.start(Everything(SECRET), id="all")
        await described(handle, lambda d: d.history_length > 20 and d.workflow_task is None)
    # Encrypted again, every input has other bytes; a replay compares what was encrypted.
    async with engine.open(
        codecs=[AesGcm(keys={"2": "env:CODECS_KEY", "default": "env:CODECS_KEY"}, use="2")]
    ) as client:
        handle = client.get("all", Everything)
        await handle.signal(Everything.tell, "now")
        assert (await handle.result())[-1] == "now"


async def test_a_worker_without_the_key_fails_its_tasks_and_nothing_is_lost(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine.open(codecs=codecs()) as client:
        handle = await client.start(Everything(SECRET), id="all")
        await described(handle, lambda d: d.history_length > 20 and d.workflow_task is None)
    async with engine.open(codecs=codecs("env:CODECS_ABSENT")) as client:
        handle = client.get("all", Everything)
        with pytest.raises(CodecError, match=ABSENT):
            await handle.signal(Everything.tell, "now")
        # What a client without codecs sends arrives as it is; but the worker can't read the rest.
        await Client(_engine_of(client)).get("all").signal("tell", "now")
        failure, _, _ = await failing_task(handle)
        assert ABSENT in failure
        assert (await handle.describe()).status == "Running"
        with pytest.raises((CodecError, QueryFailed), match="CODECS_ABSENT"):
            await handle.query(Everything.peek, SECRET)
    async with engine.open(codecs=codecs()) as client:
        assert (await client.get("all", Everything).result())[-1] == "now"


def _engine_of(client: Client) -> Service:
    """What is behind a client's codecs."""
    assert isinstance(client.service, EncodedService)
    return client.service._service


class Visit:
    begun: ClassVar[asyncio.Event]
    open = False


@activity(name="codecs.visited", retry_policy=RetryPolicy(maximum_attempts=2))
async def visited(password: str) -> str:
    if not Visit.open:
        Visit.begun.set()
        await asyncio.Event().wait()
    return password


@workflow(name="codecs.one_step")
async def one_step(password: str) -> str:
    return await visited(password)


async def test_an_activity_waits_for_a_worker_with_the_key(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    Visit.begun, Visit.open = asyncio.Event(), False
    async with engine.open(codecs=codecs()) as client:
        await client.start(one_step(SECRET), id="step")
        await Visit.begun.wait()
    Visit.open = True
    async with engine.open(codecs=codecs("env:CODECS_ABSENT")) as client:
        handle = client.get("step", one_step)
        found = await described(handle, lambda d: d.activities[0].last_failure == f"CodecError: {ABSENT_KEY}")
        assert found.activities[0].status == "backing_off"
        # There are only two attempts. Those before, and this one, have not counted.
        monkeypatch.setenv("CODECS_ABSENT", os.environ["CODECS_KEY"])
        assert await handle.result() == SECRET


async def test_a_client_without_the_key_is_told_what_to_set(engine: Engine) -> None:
    async with engine.open(codecs=codecs()) as client:
        handle = await client.start(child(SECRET), id="done", memo={"hint": SECRET})
        await handle.result()
        blind = Client(_engine_of(client), codecs=codecs("env:CODECS_ABSENT")).get("done", child)
        with pytest.raises(CodecError, match=f"the result of workflow codecs.child can't be decoded: {ABSENT}"):
            await blind.result()
        with pytest.raises(CodecError, match=ABSENT):
            await Client(_engine_of(client), codecs=codecs("env:CODECS_ABSENT")).start(child("x"), id="other")
        # What can be told is told.
        description = await blind.describe()
        assert description.status == "Completed" and ABSENT in str(description.memo["hint"])
        events = [event async for event in blind.history()]
        assert type(events[-1]).__name__ == "WorkflowExecutionCompleted"


async def test_a_worker_without_codecs_loses_nothing(engine: Engine) -> None:
    async with engine.open(codecs=codecs()) as client:
        handle = await client.start(Everything(SECRET), id="all")
        await described(handle, lambda d: d.history_length > 20 and d.workflow_task is None)
    async with engine.open() as client:
        handle = client.get("all", Everything)
        await handle.signal(Everything.tell, "plain")
        failure, _, _ = await failing_task(handle)
        assert "argument 'password' of workflow codecs.everything can't be decoded" in failure
        assert "codecs=[…]" in failure
    async with engine.open(codecs=codecs()) as client:
        assert (await client.get("all", Everything).result())[-1] == "plain"


@activity(name="codecs.looked_up")
async def looked_up() -> str:
    return SECRET


@workflow(name="codecs.with_markers")
async def with_markers(patched: bool) -> str:
    found = str(workflow.patched("louder")) if patched else await looked_up.local()
    await workflow.receive("go", str)
    return found


@pytest.mark.parametrize("patched", [True, False])
async def test_a_marker_that_cant_be_read_is_no_change_of_the_code(engine: Engine, patched: bool) -> None:
    async with engine.open(codecs=codecs()) as client:
        handle = await client.start(with_markers(patched), id="marked")
        await described(handle, lambda d: d.history_length > 4 and d.workflow_task is None)
    async with engine.open() as client:
        handle = client.get("marked", with_markers)
        await handle.signal("go", "on")
        failure, _, _ = await failing_task(handle)
        assert "marker" in failure and "codecs=[…]" in failure
        assert "NondeterminismError" not in failure
    async with engine.open(codecs=codecs()) as client:
        assert await client.get("marked", with_markers).result() == (str(True) if patched else SECRET)


async def test_a_value_over_the_limit_may_shrink_below_it(engine: Engine) -> None:
    @workflow(name="codecs.large")
    async def large(text: str) -> str:
        return await double.start(text)

    @activity(name="codecs.double")
    def double(text: str) -> str:
        return text + activity.info().activity_type[:1]

    text = "x" * (MAX_PAYLOAD + 10)
    async with engine.open(codecs=[Zstd()]) as client:
        assert len(await client.run(large(text))) == len(text) + 1
        with pytest.raises(PayloadTooLarge, match=f"{MAX_BLOB:,}"):
            await client.start(large("x" * MAX_BLOB))
        noise = os.urandom(MAX_PAYLOAD).hex() + os.urandom(MAX_PAYLOAD).hex()
        with pytest.raises(PayloadTooLarge, match="after its codecs \\(zstd\\)"):
            await client.start(large(noise))


class Failing(PayloadCodec):
    """Fails for what holds a word."""

    encoding: ClassVar[str] = "test/failing"

    def encode(self, payload: Payload) -> Payload:
        if b"unencodable" in payload.data:
            raise CodecError("no luck")
        return payload

    def decode(self, payload: Payload) -> Payload:
        return payload


async def test_what_can_t_be_sent_is_told(engine: Engine) -> None:
    @activity(name="codecs.returns", retry_policy=RetryPolicy(maximum_attempts=1))
    async def returns(text: str) -> str:
        activity.heartbeat("un" + text)
        if text == "encodable":
            raise ValueError("un" + text)
        return "un" + text[:-1] + "e"

    @workflow(name="codecs.asks")
    async def asks(text: str) -> str:
        try:
            return await returns(text)
        except (CodecError, ValueError) as error:
            return type(error).__name__

    @workflow(name="codecs.sends")
    async def sends() -> str:
        return await returns("un" + "encodable")

    async with engine.open(codecs=[Failing()]) as client:
        assert await client.run(asks("encodablE")) == "CodecError"  # its result
        assert await client.run(asks("encodable")) == "CodecError"  # what it raised
        failure, _, _ = await failing_task(await client.start(sends(), id="sends"))
        assert failure == "CodecError: no luck"


async def test_an_option_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="encode_failures=True needs codecs"):
        async with Engine("memory", tmp_path).open(encode_failures=True):
            pass
    with pytest.raises(TypeError, match=r"codecs must be a list: \[Failing\(…\)\]"):
        async with Engine("memory", tmp_path).open(codecs=Failing()):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            pass


async def test_the_size_of_a_history_is_the_same_in_a_replay(engine: Engine) -> None:
    """What is stored is not what the code sees, so only the engine knows it."""

    done = asyncio.Event()

    @activity(name="codecs.page")
    async def page() -> str:
        return "x" * 50_000

    @activity(name="codecs.turned")
    async def turned() -> None:
        done.set()

    @workflow(name="codecs.measured")
    async def measured() -> list[int]:
        sizes: list[int] = []
        for _ in range(3):
            await page()
            sizes.append(workflow.info().history_bytes)
        await turned()
        await workflow.receive("go", int)
        return sizes

    async with engine.open(codecs=codecs()) as client:
        handle = await client.start(measured(), id="m")
        await done.wait()
    async with engine.open(codecs=codecs()) as client:
        handle = client.get("m", measured)
        await handle.signal("go", 1)
        sizes = await handle.result()
    assert sizes == sorted(sizes)
    assert 0 < sizes[-1] < 10_000
