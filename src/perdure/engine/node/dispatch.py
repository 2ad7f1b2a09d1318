"""Workers, their slots, and the backlog of tasks that found no free slot.

A task goes straight to a worker only if its queue has no backlog of its type, so that nothing overtakes. The head of
each backlog is kept in memory, ordered as in the store; the rest is read when the head is used up. Where several
nodes share the store, the head is what this node has claimed.

A task queue may be served by workers with different code, so each type of a queue has a backlog of its own; among
those, the first in the queue's order is served first.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from perdure.engine.storage.api import BacklogItem, QueueKey, TaskKind
from perdure.limits import BACKLOG_PAGE, MISSED_QUEUES
from perdure.model.tasks import ActivityEvicted, ActivityTask, ActivityToken, ToWorker, WorkerHello


def order(item: BacklogItem) -> tuple[int, int, int]:
    """What a backlog is ordered by."""
    return item.priority, item.fairness_pass, item.sequence


Line = tuple[str, TaskKind, str]
"""A task queue for tasks of one kind: namespace, kind, name."""

GIVEN: Final = -1
"""In `AttachedWorker.held`: the worker was sent that attempt."""


class AttachedWorker:
    """A worker that is there. receive: takes a message for it; the worker may answer before that returns."""

    __slots__ = ("_receive", "_waiting", "activities", "held", "hello", "leaving", "workflows")

    def __init__(self, hello: WorkerHello, receive: Callable[[ToWorker], None]) -> None:
        self.hello = hello
        self._receive = receive
        self._waiting: deque[ToWorker] = deque()  # for `hand_over`
        self.workflows, self.activities = set(hello.workflows), set(hello.activities)  # the types that it has
        # Attempts it has (`GIVEN`) or is about to be given, in their order → the node's silences when that was decided.
        self.held: dict[ActivityToken, int] = {}
        self.leaving = False  # it is shutting down: what it is given it lets go at once

    def receive(self, message: ToWorker) -> None:
        """Send it a message, after all others that it was sent."""
        if self._waiting:
            self._waiting.append(message)
        else:
            self._receive(message)

    def later(self, message: ToWorker) -> None:
        """Send it a message with the next `hand_over`."""
        self._waiting.append(message)

    def hand_over(self) -> None:
        """Send it what waits."""
        while self._waiting:
            message = self._waiting.popleft()
            if type(message) is ActivityTask and message.token in self.held:
                self.held[message.token] = GIVEN
            self._receive(message)

    def let_go(self) -> Iterator[ActivityEvicted]:
        """It is gone: the attempts that were not begun by it, or that it has let go in good order."""
        for token, given in self.held.items():
            if self.leaving or given != GIVEN:
                yield ActivityEvicted(token, self.hello.instance, begun=given == GIVEN)

    @property
    def room(self) -> int:
        """How many more attempts it takes."""
        free = self.hello.activity_slots - len(self.held)
        return free if free > 0 and not self.leaving else 0

    def has(self, key: QueueKey) -> bool:
        """Whether it has the code for a queue's tasks."""
        return key.type in (self.workflows if key.kind == "workflow" else self.activities)


class Backlog:
    """The waiting tasks of one queue.

    head: the first of them, in order.
    claimed: taken from the head, and still in the store.
    shared: other nodes take tasks from it, too; the head is what this one has claimed.
    claims: how many of those have not been decided yet; each may need a slot.
    """

    __slots__ = ("_more", "_read_to", "_shared", "claimed", "claims", "head", "reading")

    def __init__(self, *, shared: bool = False) -> None:
        self._shared = shared
        self.head: list[BacklogItem] = []
        self.claimed: set[BacklogItem] = set()
        self.claims = 0
        self.reading = False  # a page is on its way
        self._more = False  # whether the store may have rows after `_read_to`
        self._read_to: BacklogItem | None = None

    def __bool__(self) -> bool:
        """Whether anything waits that a new task must not overtake."""
        return bool(self.head) or self._more or self.claims > 0

    @property
    def spent(self) -> bool:
        """Whether nothing waits, and nothing is under way."""
        return not (self or self.claimed or self.reading)

    @property
    def read_from(self) -> BacklogItem | None:
        """The item after which the store is to be read."""
        return self._read_to

    @property
    def unread(self) -> bool:
        """Whether the store may have rows that go before those of the head."""
        return self.reading or (self._more and not self.head)

    @property
    def wants_page(self) -> bool:
        """Whether the next rows are to be read now."""
        return self._more and not self.head and not self.reading

    def grew(self) -> None:
        """There are rows that somebody else has added."""
        self._more = True

    def add(self, item: BacklogItem) -> None:
        """A row that is on disk now."""
        if self._shared:
            self._more = True
            return
        beyond = self._read_to is None or order(item) > order(self._read_to)
        if self._more and beyond and not self.reading:
            return  # it will be read when its turn comes
        insort(self.head, item, key=order)
        if len(self.head) > 2 * BACKLOG_PAGE:
            del self.head[BACKLOG_PAGE:]
            self._read_to, self._more = self.head[-1], True

    def fill(self, page: Sequence[BacklogItem], *, more: bool) -> None:
        """The rows that were read from the store, after `read_from`; and whether there may be more."""
        known = {*self.head, *self.claimed}
        for item in page:
            if item not in known:
                insort(self.head, item, key=order)
            self._read_to = item
        self.reading = False
        self._more = more
        if self._more and self._read_to is not None and not self._shared:
            # What was added beyond the page while it was read has rows before it that are not here.
            del self.head[bisect_right(self.head, order(self._read_to), key=order) :]

    def claim(self) -> BacklogItem:
        """Take the first row, to be started."""
        item = self.head.pop(0)
        self.claimed.add(item)
        self.claims += 1
        return item

    def give_back(self) -> list[BacklogItem]:
        """The rows that this node has claimed and not begun with, so that others get them."""
        if not self._shared:
            return []
        rows, self.head = self.head, []
        self._more = True
        return rows

    def removed(self, item: BacklogItem) -> None:
        """A row is gone."""
        self.claimed.discard(item)
        place = bisect_left(self.head, order(item), key=order)
        if self.head[place : place + 1] == [item]:
            del self.head[place]

    def put_back(self, item: BacklogItem) -> None:
        """A claim that came to nothing: its row is as it was."""
        self.claims -= 1
        self.restore(item)

    def restore(self, item: BacklogItem) -> None:
        """A row that should have been removed, and wasn't."""
        if item not in self.claimed:
            return
        self.claimed.remove(item)
        if self._shared:
            insort(self.head, item, key=order)
        else:
            self.add(item)


def first(backlogs: Iterable[Backlog]) -> Backlog | None:
    """The backlog, of those of one line, whose head goes first; None where all are empty, or while it can't be told."""
    found: Backlog | None = None
    for backlog in backlogs:
        if backlog.unread:
            return None
        if backlog.head and (found is None or order(backlog.head[0]) < order(found.head[0])):
            found = backlog
    return found


class Dispatcher:
    """Who can take what. shared: other nodes take tasks from the backlogs, too."""

    def __init__(self, *, shared: bool = False) -> None:
        self.workers: dict[str, AttachedWorker] = {}
        # The line that was served last comes last; one that its workers have left stays until `waiting` lets it go.
        self.lines: dict[Line, list[AttachedWorker]] = {}
        self.backlogs: dict[Line, dict[QueueKey, Backlog]] = {}
        self._shared = shared
        self._missed: dict[QueueKey, None] = {}  # what nobody took, and somebody was told

    def attach(self, worker: AttachedWorker) -> None:
        """A worker is there."""
        hello = worker.hello
        self.workers[hello.instance] = worker
        for queue in hello.task_queues:
            self.lines.setdefault((hello.namespace, "workflow", queue), []).append(worker)
            if hello.activity_slots:
                self.lines.setdefault((hello.namespace, "activity", queue), []).append(worker)

    def detach(self, worker: AttachedWorker) -> bool:
        """A worker is gone; False if it was before."""
        if self.workers.get(worker.hello.instance) is not worker:
            return False
        del self.workers[worker.hello.instance]
        left = [line for line, workers in self.lines.items() if worker in workers]
        for line in left:
            self.lines[line].remove(worker)
            if not self.lines[line] and line not in self.backlogs:
                del self.lines[line]
        for key in [key for key in self._missed if key[:3] in left and worker.has(key)]:
            del self._missed[key]
        return True

    # --- Workers ----------------------------------------------------------------------------------------
    def able(self, key: QueueKey) -> list[AttachedWorker]:
        """The workers that have the code for a queue's tasks, the one whose turn it is first."""
        return [worker for worker in self.lines.get(key[:3], ()) if worker.has(key)]

    def workflow_worker(self, key: QueueKey, sticky: str) -> AttachedWorker | None:
        """Who takes a workflow task: the worker that holds the workflow, else the next in turn."""
        line = self.lines.get(key[:3])
        if not line:
            return None
        if len(line) == 1:
            return line[0] if line[0].has(key) else None
        able = self.able(key)
        for worker in able:
            if worker.hello.instance == sticky:
                return worker
        if not able:
            return None
        worker = able[0]
        line.remove(worker)
        line.append(worker)
        return worker

    def prefer_others(self, key: QueueKey, instance: str) -> bool:
        """Let a worker be the last in turn; False if there is no other."""
        line = self.lines.get(key[:3], [])
        line.sort(key=lambda worker: worker.hello.instance == instance)
        return any(worker.hello.instance != instance for worker in self.able(key))

    def activity_worker(self, key: QueueKey) -> AttachedWorker | None:
        """A worker with a free slot, if no other task of the queue waits that could take it."""
        waiting = self.backlogs.get(key[:3])
        if waiting:
            for other, backlog in waiting.items():
                if backlog and (other == key or self.able(other)):
                    return None
        return self.free_worker(key)

    def free_worker(self, key: QueueKey) -> AttachedWorker | None:
        """The worker with a free slot that has the least to do."""
        line = self.lines.get(key[:3], ())
        if len(line) == 1:  # as nearly always
            worker = line[0]
            return worker if worker.has(key) and worker.room else None
        worker = min(self.able(key), key=lambda w: (w.leaving, len(w.held)), default=None)
        return worker if worker is not None and worker.room else None

    def serves(self, key: QueueKey) -> bool:
        """Whether any worker here has the code for a queue's tasks."""
        return any(worker.has(key) for worker in self.lines.get(key[:3], ()))

    def missing(self, key: QueueKey) -> str:
        """Why nobody here takes a queue's tasks; "" where somebody does."""
        if self.serves(key):
            return ""
        if not self.lines.get(key[:3]):
            return f"no worker here serves the task queue {key.task_queue!r}"
        return f"no worker here on the task queue {key.task_queue!r} has the {key.kind} {key.type!r}"

    def newly_missing(self, key: QueueKey) -> str:
        """The same, unless it was said before, and nobody came since."""
        if key in self._missed or not (why := self.missing(key)):
            return ""
        self._missed[key] = None
        if len(self._missed) > MISSED_QUEUES:
            del self._missed[next(iter(self._missed))]
        return why

    def room(self, key: QueueKey) -> int:
        """How many tasks of a queue could be given out now."""
        able = self.able(key)
        if not able:
            return 0
        return BACKLOG_PAGE if key.kind == "workflow" else sum(worker.room for worker in able)

    # --- Backlogs ---------------------------------------------------------------------------------------
    def backlog(self, key: QueueKey) -> Backlog:
        """The backlog of a queue, made if need be."""
        line = self.backlogs.setdefault(key[:3], {})
        backlog = line.get(key)
        if backlog is None:
            backlog = line[key] = Backlog(shared=self._shared)
        return backlog

    def waiting(self) -> Iterator[dict[QueueKey, Backlog]]:
        """The backlogs in which something waits, line by line, where there are workers, or were until now."""
        for line, workers in list(self.lines.items()):
            backlogs = self.backlogs.get(line, {})
            waiting = {key: backlog for key, backlog in backlogs.items() if backlog}
            if waiting:
                yield waiting
            for key in [key for key, backlog in backlogs.items() if backlog.spent]:
                self._drop(key)
            if not workers and not any(backlog.reading or backlog.claims for backlog in waiting.values()):
                del self.lines[line]

    def served(self, key: QueueKey) -> None:
        """A task of this line was given out: the other lines of its workers are next."""
        workers = self.lines.pop(key[:3], None)
        if workers is not None:
            self.lines[key[:3]] = workers

    def removed(self, item: BacklogItem) -> None:
        """The row of a task is gone."""
        backlog = self.backlog(item.queue)
        backlog.removed(item)
        if backlog.spent:
            self._drop(item.queue)

    def _drop(self, key: QueueKey) -> None:
        line = self.backlogs[key[:3]]
        del line[key]
        if not line:
            del self.backlogs[key[:3]]
