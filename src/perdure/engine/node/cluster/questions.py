"""Queries that a node has no worker for: another node, which has the code, answers them.

A question is put into the store, taken by one node after another that has the code, and answered through the store.
Nothing of it is in a journal. Notices make it quick; each node also looks every second, and puts its questions again,
since the store may forget them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from perdure.engine.core.refusals import refusal, refused
from perdure.engine.node.live import Answer, Work, settle
from perdure.engine.node.patience import patiently
from perdure.engine.storage.api import Question, QueueKey, Shared
from perdure.errors import EngineStopped, NotFound, PerdureError, StoreLost
from perdure.limits import ANSWER_LEASE, POLL_INTERVAL, QUERY_ELSEWHERE, SECOND
from perdure.model.failures import Failure
from perdure.model.requests import QueryResult, QueryWorkflow

if TYPE_CHECKING:
    from perdure.engine.node.node import Node


logger = logging.getLogger("perdure.engine")


class Reply(msgspec.Struct, frozen=True, gc=False):
    """The answer of the code, or why there can be none: exactly one of the two is set."""

    result: QueryResult | None = None
    refusal: Failure | None = None


_encode: Final = msgspec.msgpack.Encoder().encode
_query: Final = msgspec.msgpack.Decoder(QueryWorkflow)
_reply: Final = msgspec.msgpack.Decoder(Reply)


class Asked:
    """A question of this node, and who waits for its answer."""

    __slots__ = ("answer", "looked_at", "question", "waited")

    def __init__(self, question: Question, answer: Answer, now: float) -> None:
        self.question, self.answer = question, answer
        self.looked_at = now
        self.waited = 0.0  # seconds for which this node could have heard the answer

    def unanswered(self, now: float) -> float:
        """No answer is there. The time since the last look counts only as far as looks are apart: where this node was
        suspended, or could not reach the store, nobody was asked, or nobody heard."""
        self.waited += min(now - self.looked_at, 2 * POLL_INTERVAL / SECOND)
        self.looked_at = now
        return self.waited


class Questions:
    """What a node asks the others, and answers them."""

    def __init__(self, store: Shared, node: Node) -> None:
        self._store, self._node = store, node
        self._open: dict[str, Asked] = {}
        self._answering: set[str] = set()
        self._news = asyncio.Event()

    def ask(self, work: Work, queue: QueueKey) -> None:
        """Let another node answer a query. It is refused when no other has, for `limits.QUERY_ELSEWHERE`."""
        answer = work.answer
        assert answer is not None
        question = Question(self._node.ids.new_id(), self._node.peers.node, queue, _encode(work.input))
        self._open[question.id] = Asked(question, answer, self._node.serving.loop.time())
        answer.add_done_callback(lambda _: self._open.pop(question.id))
        self._news.set()

    def moved(self) -> None:
        """A question was put or answered."""
        self._news.set()

    async def run(self) -> None:
        """Ask and answer. Runs until it is cancelled."""
        while True:
            try:
                async with asyncio.timeout(POLL_INTERVAL / SECOND):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            try:
                await self._look()
            except StoreLost:
                raise
            except PerdureError as error:  # this node's own workflows don't need the others
                logger.warning("can't see what is asked among the nodes (%s); trying again", error)

    async def _look(self) -> None:
        if asked := list(self._open.values()):
            for each in asked:
                await self._store.ask(each.question, QUERY_ELSEWHERE)
            replies = dict(await self._store.answers(self._node.peers.node))
            now = self._node.serving.loop.time()
            for each in asked:
                if (reply := replies.get(each.question.id)) is not None:
                    settle(each.answer, _decoded(reply))
                elif each.unanswered(now) >= QUERY_ELSEWHERE / SECOND:
                    settle(each.answer, _nobody(each.question.queue))
        if queues := self._served():
            # What is answered here already is left to others: this node may have been given it long ago, and hang.
            for question in await self._store.asked(queues, sorted(self._answering), ANSWER_LEASE):
                self._answering.add(question.id)
                self._node.spawn(self._answer(question))

    def _served(self) -> Sequence[QueueKey]:
        """The workflows that are served here."""
        workers = self._node.dispatcher.workers.values()
        return list({
            QueueKey(worker.hello.namespace, "workflow", queue, type): None
            for worker in workers for queue in worker.hello.task_queues for type in sorted(worker.workflows)
        })  # fmt: skip

    async def _answer(self, question: Question) -> None:
        """Answer a question of another node, unless this one can't now: then somebody else is given it soon."""
        try:
            reply = Reply(await self._node.call(_query.decode(question.request)))
        except EngineStopped:
            return
        except PerdureError as error:
            if error.retryable:
                return
            reply = Reply(refusal=refusal(error))
        finally:
            self._answering.discard(question.id)
        await patiently("an answer", partial(self._store.answer, question, _encode(reply)))


def _nobody(queue: QueueKey) -> NotFound:
    return NotFound(
        f"no process that lives has answered within {QUERY_ELSEWHERE // SECOND} s: this one has no workflow "
        f"{queue.type!r} on the task queue {queue.task_queue!r}; start one that has"
    )


def _decoded(encoded: bytes) -> QueryResult | PerdureError:
    reply = _reply.decode(encoded)
    return reply.result or refused(reply.refusal or Failure("the node that was asked gave an empty answer"))
