"""Workers, their slots, and the backlog of tasks that found no free slot.

A task goes straight to a worker only if its queue has no backlog, so that nothing overtakes. The head of
each backlog is kept in memory, ordered as in the store; the rest is read when the head runs low.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable

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
    """The waiting tasks of one queue."""

    __slots__ = ("claimed", "head", "more", "reading")

    def __init__(self, more: bool = False) -> None:
        self.head: list[BacklogItem] = []
        self.more = more  # whether the store may have rows beyond the head
        self.reading = False
        self.claimed: set[BacklogItem] = set()  # taken from the head, not yet deleted on disk

    def __bool__(self) -> bool:
        return bool(self.head) or self.more

    def add(self, item: BacklogItem) -> None:
        """A row that is on disk now."""
        if self.more and (not self.head or order(item) > order(self.head[-1])):
            return  # it will be read when its turn comes
        insort(self.head, item, key=order)
        if len(self.head) > 2 * BACKLOG_PAGE:
            del self.head[BACKLOG_PAGE:]
            self.more = True

    def fill(self, page: list[BacklogItem], complete: bool) -> None:
        """Rows that were read from the store."""
        known = set(self.head) | self.claimed
        for item in page:
            if item not in known:
                insort(self.head, item, key=order)
        self.more = not complete

    def take(self) -> BacklogItem:
        """The first row, to be started."""
        item = self.head.pop(0)
        self.claimed.add(item)
        return item


class Dispatcher:
    """Who can take what."""

    def __init__(self) -> None:
        self.workers: dict[str, AttachedWorker] = {}
        self.queues: dict[QueueKey, list[AttachedWorker]] = {}
        self.backlogs: dict[QueueKey, Backlog] = {}

    def attach(self, worker: AttachedWorker) -> list[QueueKey]:
        """A worker is there; the queues that it serves."""
        hello = worker.hello
        self.workers[hello.instance] = worker
        served: list[QueueKey] = []
        for queue in hello.task_queues:
            served.append(QueueKey(hello.namespace, "workflow", queue))
            if hello.activity_slots:
                served.append(QueueKey(hello.namespace, "activity", queue))
        for key in served:
            self.queues.setdefault(key, []).append(worker)
        return served

    def detach(self, worker: AttachedWorker) -> None:
        """A worker is gone."""
        self.workers.pop(worker.hello.instance, None)
        for key, workers in list(self.queues.items()):
            if worker in workers:
                workers.remove(worker)
            if not workers:
                del self.queues[key]

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
        return workers[0]

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

    def backlog(self, key: QueueKey) -> Backlog:
        """The backlog of a queue, made if need be."""
        backlog = self.backlogs.get(key)
        if backlog is None:
            backlog = self.backlogs[key] = Backlog()
        return backlog
