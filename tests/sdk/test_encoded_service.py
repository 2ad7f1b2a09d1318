"""The Service seen through codecs: what is in order, what waits for what, and what is said instead."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import ClassVar

import pytest

from perdure import CodecError, InvalidRequest, Payload, PayloadCodec, StoreFull, Unavailable
from perdure.model import commands as c
from perdure.model import requests as q
from perdure.model import tasks as t
from perdure.model.failures import Failure
from perdure.sdk.codecs.chain import Chain
from perdure.sdk.codecs.service import EncodedService
from tests.sdk.fake_service import ScriptedService

HELLO = t.WorkerHello("n", "me", ("q",), 5)


class Marked(PayloadCodec):
    """Marks what went through it. What holds "slow" waits for `gate`, in a thread; what holds "full" fails at first."""

    encoding: ClassVar[str] = "test/marked"
    blocking: ClassVar[bool] = True

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.tries = 0

    def encode(self, payload: Payload) -> Payload:
        return Payload(self._through(payload), {"encoding": self.encoding})

    def decode(self, payload: Payload) -> Payload:
        return Payload(self._through(payload))

    def _through(self, payload: Payload) -> bytes:
        if b"slow" in payload.data:
            assert self.gate.wait(60)
        if b"full" in payload.data:
            self.tries += 1
            if self.tries < 3:
                raise StoreFull("no space")
        if b"never" in payload.data:
            raise CodecError("no key")
        return payload.data


def run(name: str) -> t.RunRef:
    return t.RunRef("n", name, "r")


def token(name: str) -> t.ActivityToken:
    return t.ActivityToken(run(name), 5, 1)


def completion(name: str, result: str) -> t.ActivityCompletion:
    return t.ActivityCompletion(token(name), Payload(result.encode()))


def marked(text: str) -> Payload:
    return Payload(text.encode(), {"encoding": Marked.encoding})


def activity(name: str, input: str) -> t.ActivityTask:
    return t.ActivityTask(token(name), "a", "t", "w", "q", (marked(input),), 0, 0)


class Attached:
    """A worker that is attached through a codec."""

    def __init__(self) -> None:
        self.codec = Marked()
        self.service = ScriptedService()
        self.received: list[t.ToWorker] = []
        self._news = asyncio.Event()

    def _receive(self, message: t.ToWorker) -> None:
        self.received.append(message)
        self._news.set()

    async def attach(self) -> q.WorkerLink:
        return await EncodedService(self.service, Chain([self.codec])).attach(HELLO, self._receive)

    def arrives(self, message: t.ToWorker) -> None:
        """The engine sends something."""
        self.service.workers[0].receive(message)

    async def until(self, count: int) -> None:
        """Wait until so many messages were received."""
        while len(self.received) < count:
            self._news.clear()
            await self._news.wait()

    @property
    def sent(self) -> list[t.FromWorker]:
        return self.service.workers[0].messages


async def test_what_concerns_one_run_stays_in_order_and_delays_no_other() -> None:
    worker = Attached()
    await worker.attach()
    slow, cancel = activity("a", "slow"), t.CancelActivity(token("a"), "closed")
    for message in (slow, cancel, activity("b", "quick")):
        worker.arrives(message)
    await worker.until(1)
    assert [type(m) for m in worker.received] == [t.ActivityTask]
    assert isinstance(worker.received[0], t.ActivityTask) and worker.received[0].token == token("b")
    worker.codec.gate.set()
    await worker.until(3)
    first, second = worker.received[1:]
    assert isinstance(first, t.ActivityTask) and first.input == (Payload(b"slow"),)
    assert second == cancel


async def test_what_has_no_payloads_passes_at_once() -> None:
    worker = Attached()
    link = await worker.attach()
    worker.arrives(t.EvictWorkflow(run("a")))
    link.send(t.WorkerLeaving())
    link.send(t.ActivityEvicted(token("a")))
    assert worker.received == [t.EvictWorkflow(run("a"))]
    assert worker.sent == [t.WorkerLeaving(), t.ActivityEvicted(token("a"))]


async def test_a_task_that_is_on_its_way_to_a_worker_that_goes_was_not_begun() -> None:
    worker = Attached()
    link = await worker.attach()
    worker.arrives(activity("a", "slow"))
    worker.arrives(activity("b", "quick"))
    await worker.until(1)
    await link.detach()
    worker.codec.gate.set()  # or its thread would be waited for
    worker.arrives(activity("c", "late"))
    assert worker.sent == [t.ActivityEvicted(token(name), begun=False) for name in "ac"]
    assert [m.token for m in worker.received if isinstance(m, t.ActivityTask)] == [token("b")]


async def test_a_full_disk_is_waited_for() -> None:
    worker = Attached()
    link = await worker.attach()
    link.send(completion("a", "full"))
    sent = await worker.service.workers[0].message(t.ActivityCompletion)
    assert (sent.result, worker.codec.tries) == (marked("full"), 3)


async def test_what_was_sent_arrives_before_the_detachment() -> None:
    worker = Attached()
    link = await worker.attach()
    link.send(completion("a", "slow"))
    worker.arrives(activity("b", "slow"))
    asyncio.get_running_loop().call_soon(worker.codec.gate.set)
    await link.detach()
    assert worker.sent[-1] == t.ActivityCompletion(token("a"), marked("slow"))
    assert worker.service.workers[0].detached
    assert worker.received == []


async def test_what_can_t_be_sent_is_told(caplog: pytest.LogCaptureFixture) -> None:
    worker = Attached()
    link = await worker.attach()
    position = t.Position(5, 6)
    commands = (c.CompleteWorkflow(Payload(b"never")),)
    link.send(t.WorkflowTaskCompletion(run("a"), 2, position, commands, given=7))
    failed = await worker.service.workers[0].message(t.WorkflowTaskFailure)
    assert (failed.run, failed.attempt, failed.position, failed.given) == (run("a"), 2, position, 7)
    assert (failed.failure.text, failed.failure.args) == ("CodecError: no key", None)
    assert worker.received == [t.EvictWorkflow(run("a"))]  # its code is ahead of what is recorded
    link.send(t.QueryAnswer(run("b"), "q", Payload(b"never")))
    answer = await worker.service.workers[0].message(t.QueryAnswer)
    assert answer.result is None and answer.failure is not None and answer.failure.message == "no key"
    link.send(t.ActivityFailure(token("c"), Failure("x", args=Payload(b"never"))))
    told = await worker.service.workers[0].message(t.ActivityFailure)
    assert (told.failure.text, told.failure.kind, told.failure.non_retryable) == (
        "CodecError: no key",
        "encoding",
        False,
    )
    with caplog.at_level(logging.WARNING):
        link.send(t.ActivityHeartbeat(token("d"), (Payload(b"never"),)))
        await link.detach()
    assert "a ActivityHeartbeat could not be encoded, and is not sent: no key" in caplog.text


async def test_what_can_t_be_read_never_arrives() -> None:
    worker = Attached()
    await worker.attach()
    worker.arrives(activity("a", "never"))
    failed = await worker.service.workers[0].message(t.ActivityFailure)
    assert (failed.failure.kind, failed.failure.message) == ("unread", "no key")
    worker.arrives(t.QueryTask(run("b"), "q", "n", (marked("never"),), t.START, 0))
    answer = await worker.service.workers[0].message(t.QueryAnswer)
    assert answer.query_id == "q" and answer.failure is not None
    worker.arrives(t.EvictWorkflow(run("a")))
    assert worker.received == [t.EvictWorkflow(run("a"))]


async def test_work_that_comes_before_the_attachment_is_done_is_answered_after_it() -> None:
    worker = Attached()
    worker.service.at_once = [t.EvictWorkflow(run("a")), activity("a", "quick")]
    link = await worker.attach()
    await worker.until(2)
    link.send(completion("a", "quick"))
    assert (await worker.service.workers[0].message(t.ActivityCompletion)).result == marked("quick")


async def test_a_request_that_is_wrong_or_can_t_be_encoded_is_never_sent() -> None:
    service = ScriptedService()
    encoded = EncodedService(service, Chain([Marked()]))
    with pytest.raises(CodecError, match="no key"):
        await encoded.call(q.SignalWorkflow("n", "w", "", "s", (Payload(b"never"),), "r"))
    with pytest.raises(InvalidRequest, match=r"data must be"):
        await encoded.call(q.SignalWorkflow("n", "w", "", "s", (Payload("text"),), "r"))  # pyright: ignore[reportArgumentType]
    assert service.requests == []


async def test_a_reply_is_decoded_as_far_as_it_can_be() -> None:
    outcome = q.Outcome("r", "Completed", marked("never"))
    service = ScriptedService(outcome, q.Outcome("r", "Completed", marked("5")), Unavailable("down"))
    encoded = EncodedService(service, Chain([Marked()]))
    request = q.GetResult("n", "w", "")
    result = (await encoded.call(request)).result
    assert result is not None and (result.metadata or {})["unreadable"] == "no key"
    assert (await encoded.call(request)).result == Payload(b"5")
    with pytest.raises(Unavailable):
        await encoded.call(request)
