"""Codecs by themselves: payloads come back as they were, and what is missing or damaged is named."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, cast, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import AesGcm, CodecError, Payload, PayloadCodec, PayloadTooLarge, Zstd
from perdure.limits import CODEC_ON_LOOP, MAX_BLOB, MAX_CODED, MAX_PAYLOAD
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import requests as q
from perdure.model import tasks as t
from perdure.model.failures import HIDDEN, Failure
from perdure.sdk.codecs.chain import Chain
from perdure.sdk.codecs.walk import Walk
from perdure.sdk.converter import encode

KEY = base64.b64encode(b"k" * 32).decode()
OTHER_KEY = (b"o" * 32).hex()
TEXT = encode("eu-west-1 " * 1000, "x")

payloads = st.builds(
    Payload, st.binary(max_size=5000), st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=5))
)


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.setenv("OTHER_KEY", OTHER_KEY)


class Upper(PayloadCodec):
    """Remembers the threads that it was called in."""

    encoding: ClassVar[str] = "test/upper"
    loops: ClassVar[list[bool]] = []

    def encode(self, payload: Payload) -> Payload:
        self.loops.append(_on_a_loop())
        return Payload(self.pack(payload), {"encoding": self.encoding})

    def decode(self, payload: Payload) -> Payload:
        return self.unpack(payload.data)


class Patient(Upper):
    encoding: ClassVar[str] = "test/patient"
    blocking: ClassVar[bool] = True


class Broken(Upper):
    encoding: ClassVar[str] = "test/broken"

    def encode(self, payload: Payload) -> Payload:
        raise ZeroDivisionError("of the codec")


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


# --- One codec ------------------------------------------------------------------------------------------
@given(payloads)
def test_what_is_compressed_comes_back(payload: Payload) -> None:
    codec = Zstd(minimum=0)
    encoded = codec.encode(payload)
    assert encoded is payload or (codec.decode(encoded) == payload and len(encoded.data) < len(payload.data))


def test_compression_leaves_alone_what_is_small_or_does_not_shrink() -> None:
    noise = Payload(os.urandom(5000), {"encoding": "binary"})
    assert Zstd().encode(noise) is noise
    small = encode("x" * 1000, "x")
    assert Zstd(minimum="1KiB").encode(small) is small
    assert Zstd(minimum="1 kB").encode(small) is not small
    assert len(Zstd(level=19).encode(TEXT).data) < 200


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"nonsense", "damaged"),
        (Zstd(minimum=0).encode(TEXT).data[:-3], "damaged"),
        (Zstd(minimum=0).encode(Payload(bytes(MAX_BLOB + 2000))).data, "limits.MAX_BLOB"),
    ],
    ids=["nonsense", "cut", "bomb"],
)
def test_what_can_t_be_decompressed_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        Zstd().decode(Payload(data, {"encoding": "zstd"}))


@given(payloads)
def test_what_is_encrypted_comes_back_and_shows_nothing(payload: Payload) -> None:
    os.environ["TEST_KEY"] = KEY
    codec = AesGcm(key="env:TEST_KEY")
    encoded = codec.encode(payload)
    assert codec.decode(encoded) == payload
    assert encoded.metadata == {"encoding": "aes-256-gcm", "key": "default"}
    assert len(payload.data) < 16 or payload.data not in encoded.data
    assert codec.encode(payload).data != encoded.data


def test_old_keys_read_what_they_have_encrypted(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"\xff" * 32)
    old = AesGcm(keys={"2025": f"file:{tmp_path / 'old'}"}, use="2025").encode(TEXT)
    rotated = AesGcm(keys={"2026": "env:TEST_KEY", "2025": f"file:{tmp_path / 'old'}"}, use="2026")
    assert rotated.decode(old) == TEXT
    assert (rotated.encode(TEXT).metadata or {})["key"] == "2026"
    assert rotated.decode(rotated.encode(TEXT)) == TEXT


def damaged() -> Iterator[tuple[Payload, str]]:
    """Payloads that the key TEST_KEY doesn't decrypt, and what is said of each."""
    os.environ["TEST_KEY"], os.environ["OTHER_KEY"] = KEY, OTHER_KEY
    good = AesGcm(key="env:TEST_KEY").encode(TEXT)
    flipped = bytes([*good.data[:40], good.data[40] ^ 1, *good.data[41:]])
    yield Payload(flipped, good.metadata), "key 'default' (env:TEST_KEY) doesn't decrypt it"
    yield Payload(good.data[:20], good.metadata), "20 bytes can't be an encrypted payload"
    yield Payload(good.data, {"encoding": "aes-256-gcm", "key": "2027"}), "add keys={'2027': \"env:…\"}"
    yield AesGcm(key="env:OTHER_KEY").encode(TEXT), "encrypted with another key of that id"
    renamed = AesGcm(keys={"a": "env:TEST_KEY"}, use="a").encode(TEXT)  # the id is authenticated
    yield Payload(renamed.data, good.metadata), "doesn't decrypt it"


@pytest.mark.parametrize(("payload", "message"), list(damaged()))
def test_what_can_t_be_decrypted_is_refused(payload: Payload, message: str) -> None:
    with pytest.raises(CodecError) as caught:
        AesGcm(key="env:TEST_KEY").decode(payload)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "content", "message"),
    [
        ("env:ABSENT", "", "the AES-GCM key 'default' is missing: set the environment variable ABSENT"),
        ("env:PRESENT", "short", "the environment variable PRESENT holds is no key"),
        ("env:PRESENT", base64.b64encode(b"x" * 16).decode(), "a key of 16 bytes: it must be 32 bytes"),
        ("env:PRESENT", "ключ", "is no key"),
        ("file:absent", "", "is missing: put it into the file absent (32 bytes in Base64"),
        ("file:present", "short!", "the file present holds is no key"),
    ],
)
def test_a_key_that_is_none_is_named_and_not_shown(
    reference: str, content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRESENT", content)
    (tmp_path / "present").write_text(content)
    codec = AesGcm(key=reference)
    with pytest.raises(CodecError) as caught:
        codec.encode(TEXT)
    assert message in str(caught.value)
    assert not content or content not in str(caught.value)
    # Read when it is needed: what was set right in the meantime is used.
    monkeypatch.setenv(reference.partition(":")[2], KEY)
    (tmp_path / reference.partition(":")[2]).write_text(KEY + "\n")
    assert codec.decode(codec.encode(TEXT)) == TEXT
    assert KEY not in repr(codec)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, 'give either key="env:NAME"'),
        ({"key": KEY}, "never the key itself"),
        ({"key": "env:"}, "must be a reference with a name"),
        ({"key": "env:"}, "must be a reference"),
        ({"key": 5}, "not int"),
        ({"key": "env:A", "use": "a"}, "use= goes with keys="),
        ({"keys": {}}, "must be a dict"),
        ({"keys": {"a": "env:A"}}, "use must name one of the keys, 'a', not None"),
        ({"keys": {"a": KEY}, "use": "a"}, "never the key itself"),
        ({"keys": {"": "env:A"}, "use": ""}, "an id must be text"),
    ],
)
def test_wrong_options_are_refused_without_showing_a_key(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        AesGcm(**options)
    assert message in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("minimum", ["", "x", "1 GB", -1, True, 1.5])
def test_a_size_that_is_none_is_refused(minimum: Any) -> None:
    with pytest.raises((TypeError, ValueError), match='minimum must be a number of bytes or text such as "64KiB"'):
        Zstd(minimum=minimum)


# --- Several --------------------------------------------------------------------------------------------
def task(*inputs: Payload) -> t.ActivityTask:
    return t.ActivityTask(t.ActivityToken(t.RunRef("n", "w", "r"), 5, 1), "a", "t", "w", "q", inputs, 0, 0)


async def test_a_chain_is_undone_as_the_metadata_says() -> None:
    chain = Chain([Zstd(), AesGcm(key="env:TEST_KEY")])
    sent = await chain.encoded(task(TEXT))
    assert (sent.input[0].metadata or {})["encoding"] == "aes-256-gcm"
    assert len(sent.input[0].data) < 300
    assert await chain.decoded(sent) == task(TEXT)
    # What was sent before the codecs were there, or with others of them, is read as well.
    assert await chain.decoded(task(TEXT)) == task(TEXT)
    assert await Chain([Zstd(level=9), Upper(), AesGcm(key="env:TEST_KEY")]).decoded(sent) == task(TEXT)


async def test_what_is_over_its_limit_after_its_codecs_is_refused() -> None:
    noise = Payload(os.urandom(MAX_PAYLOAD + 1), {"encoding": "binary"})
    with pytest.raises(PayloadTooLarge, match=f"after its codecs \\(zstd\\); the limit is {MAX_PAYLOAD:,}"):
        await Chain([Zstd()]).encoded(task(noise))
    large = Payload(bytes(MAX_PAYLOAD * 3), {"encoding": "binary"})
    chain = Chain([Zstd()])
    assert await chain.decoded(await chain.encoded(task(large))) == task(large)


async def test_large_payloads_and_patient_codecs_are_worked_on_in_a_thread() -> None:
    Upper.loops.clear()
    await Chain([Upper()]).encoded(task(Payload(b"x" * CODEC_ON_LOOP)))
    await Chain([Upper()]).encoded(task(Payload(b"x" * CODEC_ON_LOOP), Payload(b"x")))
    await Chain([Patient()]).encoded(task(Payload(b"x")))
    assert Upper.loops == [True, False, False, False]


async def test_a_bug_of_a_codec_is_told_with_its_name() -> None:
    with pytest.raises(CodecError, match=r"the codec 'test/broken' failed: ZeroDivisionError"):
        await Chain([Broken()]).encoded(task(TEXT))


class Nameless(Upper):
    def encode(self, payload: Payload) -> Payload:
        return Payload(payload.data[::-1], payload.metadata)


class Text(Upper):
    def encode(self, payload: Payload) -> Payload:
        return cast("Payload", payload.data.decode())


class TextInside(Upper):
    def encode(self, payload: Payload) -> Payload:
        return Payload(cast("bytes", payload.data.decode()), {"encoding": self.encoding})


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        (
            Nameless(),
            r"'test/upper' returned a payload whose metadata doesn't name it.* \{\"encoding\": self.encoding\}",
        ),
        (Text(), "'test/upper' returned '\"eu-west-1 .*no Payload of bytes"),
        (TextInside(), "'test/upper' returned Payload.* no Payload of bytes"),
    ],
)
async def test_what_nobody_could_read_again_is_not_sent(codec: PayloadCodec, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        await Chain([codec]).encoded((TEXT,))
    with pytest.raises(CodecError, match=message):
        await Chain([Zstd(), codec]).encoded((encode("eu-west-1 ", "x"),))


class Copying(Upper):
    def encode(self, payload: Payload) -> Payload:
        return Payload(payload.data, payload.metadata)


async def test_a_payload_may_stay_as_it_is() -> None:
    assert await Chain([Copying()]).encoded((TEXT,)) == (TEXT,)


async def test_endless_encoding_is_refused() -> None:
    payload = TEXT
    for _ in range(MAX_CODED):
        payload = Upper().encode(payload)
    with pytest.raises(CodecError, match="MAX_CODED"):
        await Chain([Upper()]).decoded(task(payload))


@pytest.mark.parametrize("codecs", [["zstd"], [Zstd], [Zstd(), Zstd()]])
def test_a_list_that_holds_no_codecs_is_refused(codecs: list[object]) -> None:
    with pytest.raises((TypeError, ValueError), match="codec"):
        Chain(codecs)


def test_what_is_encrypted_is_not_compressed_afterwards() -> None:
    aes = AesGcm(key="env:TEST_KEY")
    says = r"Zstd comes after AesGcm, and what is encrypted can't be compressed: .*codecs=\[Zstd\(…\), AesGcm\(…\)\]"
    with pytest.raises(ValueError, match=says):
        Chain([aes, Zstd()])
    Chain([Zstd(), aes])


async def test_what_a_codec_says_of_itself_is_not_hidden() -> None:
    cause = Failure("the password is x", ("builtins.KeyError",), traceback="at home")
    failure = Failure("the key is missing", ("perdure.errors.CodecError", "builtins.Exception"), cause=cause)
    chain = Chain([AesGcm(key="env:TEST_KEY")], encode_failures=True)
    sent = await chain.encoded(t.ActivityFailure(task().token, failure))
    assert sent.failure.message == "the key is missing"
    assert sent.failure.cause is not None
    assert sent.failure.cause.message == HIDDEN
    assert (await chain.decoded(sent)).failure == failure


async def test_failures_are_hidden_with_their_causes() -> None:
    cause = Failure("the password is x", ("builtins.KeyError",), traceback="at home")
    failure = Failure("secret", ("app.Error",), args=TEXT, traceback="line 5", cause=cause, non_retryable=True)
    message = t.ActivityFailure(task().token, failure)
    chain = Chain([AesGcm(key="env:TEST_KEY")], encode_failures=True)
    sent = await chain.encoded(message)
    assert (sent.failure.message, sent.failure.traceback, sent.failure.types) == (HIDDEN, "", ("app.Error",))
    assert sent.failure.non_retryable
    raw = msgspec.msgpack.encode(sent)
    assert not [word for word in (b"secret", b"password", b"line 5", b"at home", b"eu-west") if word in raw]
    assert await chain.decoded(sent) == message
    without = await Chain([AesGcm(key="env:ABSENT")]).decoded(sent, lenient=True)
    assert without.failure.message.startswith(f"{HIDDEN}: the AES-GCM key 'default' is missing: set the environment")


# --- The walk -------------------------------------------------------------------------------------------
def test_payloads_are_found_wherever_a_message_may_hold_them() -> None:
    """Every field of every message whose annotation speaks of payloads is looked into."""
    walk = Walk(Payload)
    members = {*get_args(q.AnyRequest), *get_args(e.HistoryEvent), *get_args(c.Command)}
    members |= {*get_args(t.ToWorker), *get_args(t.FromWorker), q.Outcome, q.QueryResult, q.UpdateOutcome}
    for kind in members | {q.Description, q.HistoryPage, Failure, c.CarriedSignal}:
        wanted = [f.name for f in msgspec.structs.fields(kind) if "Payload" in str(f.type) or "Failure" in str(f.type)]
        assert set(wanted) <= set(walk._fields(kind)), kind
    assert walk._fields(t.WorkflowTask) == ("events", "updates")
    assert walk._fields(q.ListPage) == walk._fields(c.StartTimer) == walk._fields(t.EvictWorkflow) == ()


def test_what_is_put_back_is_in_the_order_of_what_was_found() -> None:
    walk = Walk(Payload)
    numbered = [Payload(str(n).encode()) for n in range(6)]
    failure = Failure("x", args=numbered[2], cause=Failure("y", state=numbered[3]))
    events = (
        e.WorkflowExecutionStarted(1, 0, "t", "q", (numbered[0], numbered[1]), "r"),
        e.ActivityTaskFailed(2, 0, 1, 1, failure),
        e.TimerStarted(3, 0, "t", 5, 2),
        e.MarkerRecorded(4, 0, "m", {"a": numbered[4], "b": numbered[5]}, 2),
    )
    page = q.HistoryPage("r", events)
    assert walk.find(page) == numbered
    doubled = walk.put(page, iter([Payload(p.data * 2) for p in walk.find(page)]))
    assert [p.data for p in walk.find(doubled)] == [p.data * 2 for p in numbered]
    assert walk.put(doubled, iter(numbered)) == page
