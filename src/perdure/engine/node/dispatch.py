"""Workers, their slots, and the backlog of tasks that found no free slot.

A task goes straight to a worker only if its queue has no backlog, so that nothing overtakes. The head of
each backlog is kept in memory, ordered as in the store; the rest is read when the head is used up.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Collection

from perdure.engine.storage.api import BacklogItem, QueueKey
from perdure.limits import BACKLOG_PAGE
from perdure.model.tasks import ActivityToken, ToWorker, WorkerHello


def order(item: BacklogItem) -> tuple[int, int, int]:
    """What a backlog is ordered by."""
    return item.priority, item.fairness_pass, item.sequence


class AttachedWorker:
    """A worker that is there."""

    __slots__ = ("held", "hello", "leaving", "receive")

    def __init__(self, hello: WorkerHello, receive: Callable[[ToWorker], None]) -> None:
        self.hello = hello
        self.receive = receive
        self.held: set[ActivityToken] = set()  # attempts it has or is about to be given
        self.leaving = False  # it is shutting down: what it is given it lets go at once

    @property
    def room(self) -> int:
        """How many more attempts it takes."""
        return 0 if self.leaving else max(0, self.hello.activity_slots - len(self.held))


class Backlog:
    """The waiting tasks of one queue.

    head: the first of them, in order.
    claimed: taken from the head, and still in the store.
    claims: how many of those have not been decided yet; each may need a slot.
    """

    __slots__ = ("_more", "_read_to", "claimed", "claims", "head", "reading")

    def __init__(self, *, stored: bool = False) -> None:
        self.head: list[BacklogItem] = []
        self.claimed: set[BacklogItem] = set()
        self.claims = 0
        self.reading = False  # a page is on its way
        self._more = stored  # whether the store may have rows after `_read_to`
        self._read_to: BacklogItem | None = None

    def __bool__(self) -> bool:
        """Whether anything waits that a new task must not overtake."""
        return bool(self.head) or self._more or self.claims > 0

    @property
    def read_from(self) -> BacklogItem | None:
        """The item after which the store is to be read."""
        return self._read_to

    @property
    def wants_page(self) -> bool:
        """Whether the next rows are to be read now."""
        return self._more and not self.head and not self.reading

    def add(self, item: BacklogItem) -> None:
        """A row that is on disk now."""
        beyond = self._read_to is None or order(item) > order(self._read_to)
        if self._more and beyond and not self.reading:
            return  # it will be read when its turn comes
        insort(self.head, item, key=order)
        if len(self.head) > 2 * BACKLOG_PAGE:
            del self.head[BACKLOG_PAGE:]
            self._read_to, self._more = self.head[-1], True

    def fill(self, page: Collection[BacklogItem]) -> None:
        """The rows that were read from the store, after `read_from`."""
        known = {*self.head, *self.claimed}
        for item in page:
            if item not in known:
                insort(self.head, item, key=order)
            self._read_to = item
        self.reading = False
        self._more = len(page) >= BACKLOG_PAGE
        if self._more and self._read_to is not None:
            # What was added beyond the page while it was read has rows before it that are not here.
            del self.head[bisect_right(self.head, order(self._read_to), key=order) :]

    def claim(self) -> BacklogItem:
        """Take the first row, to be started."""
        item = self.head.pop(0)
        self.claimed.add(item)
        self.claims += 1
        return item

    def put_back(self, item: BacklogItem) -> None:
        """A claim that came to nothing: its row is as it was."""
        self.claims -= 1
        self.restore(item)

    def restore(self, item: BacklogItem) -> None:
        """A row that should have been removed, and wasn't."""
        self.claimed.discard(item)
        self.add(item)


class Dispatcher:
    """Who can take what."""

    def __init__(self) -> None:
        self.workers: dict[str, AttachedWorker] = {}
        self.queues: dict[QueueKey, list[AttachedWorker]] = {}
        self.backlogs: dict[QueueKey, Backlog] = {}  # the queue that was served last comes last

    def attach(self, worker: AttachedWorker) -> None:
        """A worker is there."""
        hello = worker.hello
        self.workers[hello.instance] = worker
        for queue in hello.task_queues:
            self.queues.setdefault(QueueKey(hello.namespace, "workflow", queue), []).append(worker)
            if hello.activity_slots:
                self.queues.setdefault(QueueKey(hello.namespace, "activity", queue), []).append(worker)

    def detach(self, worker: AttachedWorker) -> bool:
        """A worker is gone; False if it was before."""
        if self.workers.get(worker.hello.instance) is not worker:
            return False
        del self.workers[worker.hello.instance]
        for key, workers in list(self.queues.items()):
            if worker in workers:
                workers.remove(worker)
            if not workers:
                del self.queues[key]
        return True

    def workflow_worker(self, key: QueueKey, sticky: str) -> AttachedWorker | None:
        """Who takes a workflow task: the worker that holds the workflow, else the next in turn."""
        workers = self.queues.get(key)
        if not workers:
            return None
        if len(workers) > 1:
            for worker in workers:
                if worker.hello.instance == sticky:
                    return worker
            workers.append(workers.pop(0))
        return workers[-1]

    def prefer_others(self, key: QueueKey, instance: str) -> bool:
        """Let a worker be the last in turn; False if there is no other."""
        workers = self.queues.get(key, [])
        workers.sort(key=lambda worker: worker.hello.instance == instance)
        return bool(workers) and workers[0].hello.instance != instance

    def activity_worker(self, key: QueueKey) -> AttachedWorker | None:
        """A worker with a free slot, if the queue has no backlog."""
        if self.backlogs.get(key):
            return None
        return self.free_worker(key)

    def free_worker(self, key: QueueKey) -> AttachedWorker | None:
        """The worker with a free slot that has the least to do."""
        workers = self.queues.get(key)
        if not workers:
            return None
        worker = workers[0] if len(workers) == 1 else min(workers, key=lambda w: (w.leaving, len(w.held)))
        return worker if worker.room else None

    def room(self, key: QueueKey) -> int:
        """How many tasks of a queue could be given out now."""
        workers = self.queues.get(key)
        if not workers:
            return 0
        return BACKLOG_PAGE if key.kind == "workflow" else sum(worker.room for worker in workers)

    def backlog(self, key: QueueKey) -> Backlog:
        """The backlog of a queue, made if need be."""
        backlog = self.backlogs.get(key)
        if backlog is None:
            backlog = self.backlogs[key] = Backlog()
        return backlog

    def served(self, key: QueueKey) -> None:
        """A task of this backlog was given out: the other queues of its workers are next."""
        self.backlogs[key] = self.backlogs.pop(key)
