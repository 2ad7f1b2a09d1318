"""Large payloads in a place of their own: whole or not at all, once for each content, and missed when they are gone."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from perdure import AesGcm, CodecError, Offload, Payload, PayloadTooLarge, StoreFull, Zstd, embedded
from perdure.limits import BLOB_CACHE, BLOB_PUT_AGAIN, MAX_BLOB, MAX_PAYLOAD, OFFLOAD_MINIMUM
from perdure.model import requests as q
from perdure.sdk.client.client import Client
from perdure.sdk.codecs import offload
from perdure.sdk.codecs.chain import Chain
from perdure.sdk.codecs.offload import Offloading
from tests.sdk.fake_service import ScriptedService
from tests.sdk.test_codecs import task

LARGE = Payload(os.urandom(200_000), {"encoding": "binary", "keyword": "x"})


def in_folder(folder: Path, minimum: int | str = "128KiB") -> Offloading:
    return Offload(folder, minimum=minimum).over(ScriptedService(), "default")


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_a_large_payload_is_a_file_by_its_content(tmp_path: Path) -> None:
    place = tmp_path / "made" / "blobs"
    first = await in_folder(place).put(LARGE)
    assert (first.data, (first.metadata or {})["encoding"], (first.metadata or {})["size"]) == (b"", "blob", "200000")
    assert await in_folder(place).put(LARGE) == first  # by another process, say
    [file] = files(place)
    assert (first.metadata or {})["reference"] == f"blob:sha256:{file.parent.name}{file.name}"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(place.stat().st_mode) == 0o700
    assert await in_folder(place).get(first) == LARGE


async def test_small_payloads_stay_where_they_are(tmp_path: Path) -> None:
    chain = Chain([Zstd()], in_folder(tmp_path))
    small = Payload(b"x" * 500_000)  # not after its compression
    sent = await chain.encoded(task(small, LARGE, Payload(b"1")))
    assert [(p.metadata or {}).get("encoding") for p in sent.input] == ["zstd", "blob", None]
    assert len(files(tmp_path)) == 1
    assert await chain.decoded(sent) == task(small, LARGE, Payload(b"1"))


async def test_payloads_of_a_size_are_put_elsewhere_unless_another_is_given(tmp_path: Path) -> None:
    chain = Chain([], Offload(tmp_path).over(ScriptedService(), "default"))
    sent = await chain.encoded(task(Payload(bytes(OFFLOAD_MINIMUM - 1)), Payload(bytes(OFFLOAD_MINIMUM))))
    assert [(p.metadata or {}).get("encoding") for p in sent.input] == [None, "blob"]


async def test_what_is_put_elsewhere_went_through_the_codecs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLOAD_KEY", "ab" * 32)
    chain = Chain([AesGcm(key="env:OFFLOAD_KEY")], in_folder(tmp_path))
    text = Payload(b"plain text " * 20_000)
    sent = await chain.encoded(task(text))
    assert b"plain text" not in files(tmp_path)[0].read_bytes()
    assert await chain.decoded(sent) == task(text)


async def test_it_has_a_limit_of_its_own(tmp_path: Path) -> None:
    chain = Chain([], in_folder(tmp_path))
    over_the_journal_s = Payload(bytes(MAX_PAYLOAD + 1), {"encoding": "binary"})
    assert await chain.decoded(await chain.encoded(task(over_the_journal_s))) == task(over_the_journal_s)
    with pytest.raises(PayloadTooLarge, match="MAX_BLOB"):
        await chain.encoded(task(Payload(bytes(MAX_BLOB))))
    with pytest.raises(PayloadTooLarge, match="Offload"):
        await Chain([Zstd()], in_folder(tmp_path, MAX_BLOB)).encoded(task(Payload(os.urandom(MAX_PAYLOAD + 1))))


async def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    sent = await in_folder(tmp_path).put(LARGE)
    [file] = files(tmp_path)
    data = file.read_bytes()
    file.write_bytes(data[:-1] + b"?")
    with pytest.raises(CodecError, match=f"the blob:sha256:.* in the folder {tmp_path} is damaged: restore it"):
        await in_folder(tmp_path).get(sent)
    file.unlink()
    with pytest.raises(CodecError, match=f"is missing in the folder {tmp_path}: restore it"):
        await in_folder(tmp_path).get(sent)
    marked = await Chain([], in_folder(tmp_path)).decoded(task(sent), lenient=True)
    assert "is missing in" in (marked.input[0].metadata or {})["unreadable"]
    file.write_bytes(data)
    assert await in_folder(tmp_path).get(sent) == LARGE


@pytest.mark.parametrize("reference", ["", "blob:sha256:../../etc/passwd", "blob:sha256:" + "A" * 64])
async def test_a_reference_that_is_none_leads_nowhere(tmp_path: Path, reference: str) -> None:
    with pytest.raises(CodecError, match="names no blob"):
        await in_folder(tmp_path).get(Payload(b"", {"encoding": "blob", "reference": reference}))


async def test_a_file_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    sent = await in_folder(tmp_path).put(LARGE)
    [file] = files(tmp_path)
    file.write_bytes(b"cut off by a copy")
    assert await in_folder(tmp_path).put(LARGE) == sent
    assert await in_folder(tmp_path).get(sent) == LARGE


async def test_a_full_disk_is_waited_for_and_leaves_no_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(offload.os, "fsync", full)
    with pytest.raises(StoreFull) as caught:
        await in_folder(tmp_path).put(LARGE)
    assert caught.value.retryable and files(tmp_path) == []


async def test_a_folder_that_can_t_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CodecError, match=r"Offload: files can't be put into the folder .*file.*: (Not|File)"):
            embedded(":memory:", codecs=[Offload(wrong)])
    embedded(":memory:", codecs=[Offload(tmp_path / "made" / "here")])
    assert (tmp_path / "made" / "here").is_dir()
    assert files(tmp_path / "made") == []
    there = in_folder(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    (tmp_path / "gone").write_text("")
    with pytest.raises(CodecError, match=r"can't be put into the folder .*gone"):
        await there.put(LARGE)


async def test_a_folder_is_where_it_was_when_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = Offload("blobs")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    await place.over(ScriptedService(), "default").put(LARGE)
    assert len(files(tmp_path / "blobs")) == 1


class Counting:
    """A place in memory that counts."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.puts = self.gets = 0

    async def put(self, digest: str, data: bytes) -> None:
        self.puts += 1
        self.blobs[digest] = data

    async def get(self, digest: str) -> bytes | None:
        self.gets += 1
        return self.blobs.get(digest)


async def test_what_was_put_or_read_lately_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Counting()
    offloading = Offloading(place, 0)
    sent = await offloading.put(LARGE)
    assert await offloading.put(LARGE) == sent
    assert await offloading.get(sent) == LARGE
    assert (place.puts, place.gets) == (1, 0)
    for digest in list(offloading._put):
        offloading._put[digest] -= BLOB_PUT_AGAIN  # an hour later it is put again, so that it is kept
    await offloading.put(LARGE)
    assert place.puts == 2
    other = Offloading(place, 0)
    assert await other.get(sent) == await other.get(sent) == LARGE
    assert place.gets == 1
    for number in range(3):
        await other.put(Payload(bytes([number]) * (BLOB_CACHE // 3)))
    assert other._cached <= BLOB_CACHE
    await other.get(sent)
    assert place.gets == 2


async def test_few_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "BLOBS_REMEMBERED", 2)
    place = Counting()
    offloading = Offloading(place, 0)
    for number in (0, 1, 2, 1, 2, 0):
        await offloading.put(Payload(b"%d" % number))
    assert place.puts == 4


async def test_the_engine_is_asked_for_its_own_store() -> None:
    service = ScriptedService(q.Done(), q.Blob(None))
    offloading = Offload().over(service, "team")
    sent = await offloading.put(LARGE)
    [put] = service.requests
    assert isinstance(put, q.PutBlob) and (put.namespace, put.workflow_id) == ("team", "")
    with pytest.raises(CodecError, match="is missing in the engine's store"):
        await Offload().over(service, "team").get(sent)


def test_it_is_the_last() -> None:
    for codecs in ([Offload(), Zstd()], [Offload(), Offload()]):
        with pytest.raises(ValueError, match="must be the last of the codecs"):
            Client(ScriptedService(), codecs=codecs)


def test_an_empty_folder_is_refused() -> None:
    with pytest.raises(ValueError, match="folder is empty"):
        Offload("")
