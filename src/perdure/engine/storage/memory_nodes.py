"""What several nodes have in common in a store in memory: who is alive, who hears what, who has claimed what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from perdure.clock import Clock
from perdure.engine.storage.api import (
    BacklogGrew,
    BacklogItem,
    ChainKey,
    MembersChanged,
    Membership,
    Notice,
    Question,
    QuestionsMoved,
    QueueKey,
    RunMoved,
    Write,
)
from perdure.limits import MEMBER_REMEMBERED

Place = tuple[object, ...]
"""What names a backlogged task: its queue and its order there."""


class _Member:
    """A node."""

    __slots__ = ("alive_until", "heard", "loop", "renewed_at", "workers")

    def __init__(self) -> None:
        self.renewed_at = 0
        self.alive_until = 0
        self.workers: frozenset[str] = frozenset()
        self.heard: Callable[[Notice], None] | None = None
        self.loop: asyncio.AbstractEventLoop


class _Asked:
    """A question that was put."""

    __slots__ = ("answer", "expires", "question", "taken_until")

    def __init__(self, question: Question, expires: int) -> None:
        self.question, self.expires = question, expires
        self.taken_until = 0
        self.answer: bytes | None = None


class Nodes:
    """The nodes that use one memory."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = 0
        self._members: dict[int, _Member] = {}
        self._watching: dict[ChainKey, set[int]] = {}
        self._claims: dict[Place, tuple[int, int]] = {}  # → (node, until)
        self._questions: dict[str, _Asked] = {}

    # --- Members ----------------------------------------------------------------------------------------
    def join(self) -> int:
        self._last += 1
        self._members[self._last] = _Member()
        self._announce(MembersChanged(), but=(self._last,))
        return self._last

    def leave(self, nodes: Iterable[int]) -> None:
        for node in nodes:
            self._forget(node)
            self._announce(MembersChanged(), but=())

    def renew(self, node: int, workers: Sequence[str], grace: int) -> Membership:
        now = self._clock.now()
        member = self._members.setdefault(node, _Member())
        member.renewed_at, member.alive_until, member.workers = now, now + grace, frozenset(workers)
        for other, seen in list(self._members.items()):
            if seen.renewed_at and seen.alive_until < now - MEMBER_REMEMBERED:
                self._forget(other)
        alive = {number: seen for number, seen in self._members.items() if seen.alive_until >= now}
        # A worker that has moved is where it was renewed last.
        by_age = sorted(alive.items(), key=lambda entry: entry[1].renewed_at)
        workers_of = {worker: number for number, seen in by_age for worker in sorted(seen.workers)}
        newest = max(number for number, seen in self._members.items() if seen.renewed_at)
        return Membership(now, frozenset(alive), workers_of, newest)

    def _forget(self, node: int) -> None:
        self._members.pop(node, None)
        for chain, watchers in list(self._watching.items()):
            watchers.discard(node)
            if not watchers:
                del self._watching[chain]

    # --- Notices ----------------------------------------------------------------------------------------
    def listen(self, node: int, heard: Callable[[Notice], None]) -> None:
        member = self._members.setdefault(node, _Member())
        member.heard, member.loop = heard, asyncio.get_running_loop()

    def watch(self, node: int, chain: ChainKey) -> None:
        self._watching.setdefault(chain, set()).add(node)

    def unwatch(self, node: int, chains: Sequence[ChainKey]) -> None:
        for chain in chains:
            watchers = self._watching.get(chain, set())
            watchers.discard(node)
            if not watchers:
                self._watching.pop(chain, None)

    def tell(self, nodes: Iterable[int], notice: Notice) -> None:
        """Let some nodes hear something, soon."""
        for node in nodes:
            member = self._members.get(node)
            if member is not None and member.heard is not None:
                member.loop.call_soon_threadsafe(member.heard, notice)

    def committed(self, writes: Sequence[Write], by: set[int]) -> None:
        """Tell what was written by the nodes `by`."""
        moved: dict[ChainKey, set[int]] = {}
        for write in writes:
            chain = write.key.chain
            moved.setdefault(chain, set()).update(write.notify, self._watching.get(chain, ()))
        for chain, nodes in moved.items():
            self.tell(sorted(nodes - by), RunMoved(chain))
        for queue in dict.fromkeys(item.queue for write in writes for item in write.backlog_added):
            self._announce(BacklogGrew(queue), but=by)

    def _announce(self, notice: Notice, but: Iterable[int]) -> None:
        self.tell(sorted(self._members.keys() - set(but)), notice)

    # --- Claims -----------------------------------------------------------------------------------------
    def claim(
        self, node: int, waiting: Iterable[BacklogItem], limit: int, alive: frozenset[int], lease: int
    ) -> list[BacklogItem]:
        """Take the first of the waiting tasks that nobody has."""
        now = self._clock.now()
        taken: list[BacklogItem] = []
        for item in sorted(waiting, key=lambda item: item[1:4]):
            if len(taken) >= limit:
                break
            holder, until = self._claims.get(item[:4], (0, 0))
            if holder not in alive or until <= now:
                self._claims[item[:4]] = node, now + lease
                taken.append(item)
        return taken

    def unclaim(self, node: int, items: Sequence[BacklogItem]) -> None:
        for item in items:
            if self._claims.get(item[:4], (0, 0))[0] == node:
                del self._claims[item[:4]]

    def holder(self, item: BacklogItem) -> int:
        """The node that has claimed a task; 0: none has."""
        node, until = self._claims.get(item[:4], (0, 0))
        return node if until > self._clock.now() else 0

    def in_use(self) -> set[int]:
        """The nodes that watch something, or have claimed something."""
        return set[int]().union(*self._watching.values(), (node for node, _ in self._claims.values()))

    def forget_claim(self, item: BacklogItem) -> None:
        """What is at this place in the backlog is not what was claimed."""
        self._claims.pop(item[:4], None)

    # --- Questions --------------------------------------------------------------------------------------
    def ask(self, question: Question, lasts: int) -> None:
        if question.id not in self._questions:
            self._questions[question.id] = _Asked(question, self._clock.now() + lasts)
            self._announce(QuestionsMoved(), but=(question.asker,))

    def asked(self, queues: Sequence[QueueKey], known: Sequence[str], lease: int) -> list[Question]:
        now = self._clock.now()
        self._questions = {id: asked for id, asked in self._questions.items() if asked.expires > now}
        given: list[Question] = []
        for id, asked in self._questions.items():
            waits = asked.answer is None and asked.taken_until <= now
            if waits and asked.question.queue in queues and id not in known:
                asked.taken_until = now + lease
                given.append(asked.question)
        return given

    def answer(self, question: Question, answer: bytes) -> None:
        asked = self._questions.get(question.id)
        if asked is not None and asked.answer is None:
            asked.answer = answer
            self.tell((question.asker,), QuestionsMoved())

    def answers(self, node: int) -> list[tuple[str, bytes]]:
        own = [asked for asked in self._questions.values() if asked.question.asker == node]
        found = [(asked.question.id, asked.answer) for asked in own if asked.answer is not None]
        for id, _ in found:
            del self._questions[id]
        return found
