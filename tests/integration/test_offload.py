"""Large payloads out of the journal, over every engine: in its own store, and in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from perdure import CodecError, InvalidRequest, Offload, PayloadTooLarge, RetryPolicy, activity, workflow
from perdure.engine.storage.memory import MemoryStore
from perdure.limits import BLOB_GRACE, MAX_BLOB, MAX_PAYLOAD
from perdure.model.requests import GetBlob, PutBlob
from perdure.sdk.client.client import Client
from perdure.sdk.codecs.api import PayloadCodec
from tests.integration.engines import Engine, Simulation, described, failing_task
from tests.sdk import crunching

TEXT = "0123456789abcdef" * 50_000


@pytest.fixture(params=["memory", "sqlite", "transport", "nodes", "postgres"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    return Engine(str(request.param), tmp_path)


@pytest.fixture(params=["engine", "folder"])
def codecs(request: pytest.FixtureRequest, tmp_path: Path) -> Sequence[PayloadCodec | Offload]:
    return [Offload(tmp_path / "blobs" if request.param == "folder" else None)]


@activity(name="offload.double", retry_policy=RetryPolicy(maximum_attempts=1))
async def double(text: str) -> str:
    activity.heartbeat(text)
    return text * 2


@workflow(name="offload.keeper")
class Keeper:
    def __init__(self, text: str) -> None:
        self.text = text
        self.told = ""

    async def run(self) -> str:
        self.text = await double(self.text)
        await workflow.wait_until(lambda: bool(self.told))
        return self.text + self.told

    @workflow.signal
    def tell(self, text: str) -> None:
        self.told = text

    @workflow.query
    def peek(self) -> str:
        return self.text


async def test_the_journal_stays_small_and_all_comes_back(
    engine: Engine, codecs: Sequence[PayloadCodec | Offload]
) -> None:
    async with engine.open(codecs=codecs) as client:
        handle = await client.start(Keeper(TEXT), id="keeper")
        await described(handle, lambda d: d.history_length > 8 and d.workflow_task is None)
    async with engine.open(codecs=codecs) as client:
        handle = client.get("keeper", Keeper)
        assert await handle.query(Keeper.peek) == TEXT * 2
        await handle.signal(Keeper.tell, TEXT)
        assert await handle.result() == TEXT * 3
        assert (await handle.describe()).history_bytes < 5_000
        events = [event async for event in handle.history()]
        assert TEXT in repr(events[0])
    async with engine.open() as client:
        with pytest.raises(CodecError, match="it is encoded as 'blob': give the codecs"):
            await client.get("keeper", Keeper).result()


async def test_values_over_the_journal_s_limit_are_taken(
    engine: Engine, codecs: Sequence[PayloadCodec | Offload]
) -> None:
    large = "x" * (MAX_PAYLOAD * 2)
    async with engine.open(codecs=codecs) as client:
        handle = await client.start(Keeper(large))
        await handle.signal(Keeper.tell, "!")
        assert await handle.result() == large * 2 + "!"
        with pytest.raises(PayloadTooLarge, match=f"{MAX_BLOB:,}"):
            await client.start(Keeper("x" * MAX_BLOB))


@workflow(name="offload.crunches")
async def crunches(text: str) -> int:
    return len(await crunching.repeat.start(text, 3))


async def test_so_they_are_from_a_process_of_the_pool(tmp_path: Path) -> None:
    async with Engine("sqlite", tmp_path).open(codecs=[Offload()]) as client:
        assert await client.run(crunches("x" * MAX_PAYLOAD)) == MAX_PAYLOAD * 3


async def test_a_blob_that_is_missing_stops_no_more_than_the_task(engine: Engine, tmp_path: Path) -> None:
    codecs = [Offload(tmp_path / "blobs")]
    async with engine.open(codecs=codecs) as client:
        handle = await client.start(Keeper(TEXT), id="keeper")
        await described(handle, lambda d: d.history_length > 8 and d.workflow_task is None)
    (tmp_path / "blobs").rename(tmp_path / "elsewhere")
    async with engine.open(codecs=[Offload(tmp_path / "blobs")]) as client:
        handle = client.get("keeper", Keeper)
        await handle.signal(Keeper.tell, "!")
        failure, _, _ = await failing_task(handle)
        assert f"is missing in the folder {tmp_path / 'blobs'}: restore it" in failure
        (tmp_path / "elsewhere").rename(tmp_path / "blobs")
        assert await handle.result() == TEXT * 2 + "!"


async def test_the_engine_looks_at_what_it_is_given(engine: Engine) -> None:
    async with engine.open() as client:
        call = client.service.call
        digest = hashlib.sha256(b"data").hexdigest()
        with pytest.raises(InvalidRequest, match="digest is not that of the data"):
            await call(PutBlob("default", "", digest, b"other data"))
        with pytest.raises(InvalidRequest, match="64 hexadecimal digits"):
            await call(GetBlob("default", "", "../" + digest))
        with pytest.raises(PayloadTooLarge, match="MAX_BLOB"):
            await call(PutBlob("default", "", digest, bytes(MAX_BLOB + 1)))
        assert (await call(GetBlob("default", "", digest))).data is None
        await call(PutBlob("default", "", digest, b"data"))
        assert (await call(GetBlob("default", "", digest))).data == b"data"


def test_blobs_go_when_no_run_names_them_any_more(simulation: Simulation) -> None:
    store = simulation.store
    assert isinstance(store, MemoryStore)
    day = int(timedelta(days=1).total_seconds())

    def blobs() -> int:
        return len(store._blobs)

    async def start(client: Client) -> None:
        handle = await client.start(Keeper(TEXT), id="keeper")
        await described(handle, lambda d: d.history_length > 8 and d.workflow_task is None)
        await client.service.call(PutBlob("default", "", hashlib.sha256(b"lost").hexdigest(), b"lost"))
        assert blobs() == 3  # the argument (which is also the heartbeat), the result, and what nobody names

    async def go_on(client: Client) -> None:
        await described(client.get("keeper"), lambda d: True)
        assert blobs() == 2
        await client.get("keeper", Keeper).signal(Keeper.tell, "!")
        assert await client.get("keeper", Keeper).result() == TEXT * 2 + "!"

    async def look(client: Client) -> None:
        await described(await client.start(Keeper("small")), lambda d: True)

    assert day * 1_000_000 == BLOB_GRACE
    simulation.run(start, codecs=[Offload()])
    simulation.pass_time(day * 400)  # a run that waits for a year keeps its blobs
    simulation.run(go_on, codecs=[Offload()])
    simulation.pass_time(day * 29)
    simulation.run(look, codecs=[Offload()])
    assert blobs() == 3  # the result of the run is another one
    simulation.pass_time(day * 3)  # its retention is over
    simulation.run(look, codecs=[Offload()])
    simulation.pass_time(day * 2)
    simulation.run(look, codecs=[Offload()])
    assert blobs() == 0
