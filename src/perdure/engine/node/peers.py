"""The other nodes of the store, as far as one node has to do with them. `Alone` where there are none.

A run has a *home*, the node that serves it by preference: its worker holds the workflow, its memory is warm. Any
other node may decide an input of the run, too; it leaves the workflow's code to the home, and tells it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from perdure.engine.node.dispatch import Backlog
from perdure.engine.node.live import Live, Work, settle
from perdure.engine.node.patience import patiently
from perdure.engine.storage.api import BacklogItem, Due, QueueKey, RunKey
from perdure.errors import NotFound
from perdure.limits import BACKLOG_PAGE

if TYPE_CHECKING:
    from perdure.engine.node.node import Node


class Peers(Protocol):
    """Who else is there, and what they say. shared: whether there can be others."""

    shared: bool

    @property
    def node(self) -> int:
        """This node's number; 0: there are no others."""
        ...

    @property
    def silent(self) -> bool:
        """Whether the others may take this node for dead, and begin again what it began: then it begins nothing."""
        ...

    @property
    def silences(self) -> int:
        """How often they may have done so, up to when this node was last heard of."""
        ...

    @property
    def rescan(self) -> int:
        """Microseconds after which to look for due runs again, whatever is known of them."""
        ...

    async def join(self) -> None:
        """Become one of them. Called when the store is open; to close it is to leave."""
        ...

    async def serve(self) -> None:
        """Begin to hear from them."""
        ...

    def elsewhere(self, home: int) -> bool:
        """Whether that node is another one, and alive."""
        ...

    def orphaned(self, home: int) -> bool:
        """Whether that node is gone, and may have been brought down by what it served."""
        ...

    def is_alive(self, worker: str, since: int) -> bool:
        """Whether a worker is there, at any node, that was given something at a time."""
        ...

    def node_of(self, worker: str) -> int:
        """The other node that a worker is attached to; 0: none."""
        ...

    def answer(self, live: Live, work: Work, value: object) -> None:
        """Give a reply that no commit carries, if what it says is still so."""
        ...

    def ask(self, live: Live, work: Work, queue: QueueKey) -> None:
        """No worker here serves a queue. Let one elsewhere answer a query."""
        ...

    def await_news(self, live: Live) -> None:
        """Somebody waits for what the run does later."""
        ...

    def told(self, live: Live) -> None:
        """Those who wait for the run hear all that is in memory of it."""
        ...

    def served(self, live: Live) -> None:
        """A run was read, and is in memory."""
        ...

    async def due(self, now: int, limit: int) -> Sequence[Due]:
        """As `Store.due`, of what this node looks after."""
        ...

    async def running(self, after: RunKey | None, limit: int) -> Sequence[RunKey]:
        """As `Store.running`, of what this node looks after."""
        ...

    async def fetch(self, backlogs: Mapping[QueueKey, Backlog], room: int) -> None:
        """Read more of some backlogs of one line, for which there are so many slots."""
        ...

    def release(self, items: Iterable[BacklogItem]) -> None:
        """This node has no use for tasks that it was given."""
        ...


class Alone:
    """No other node uses the store."""

    shared = False
    node = 0
    silent = False
    silences = 0
    rescan = 1 << 62

    def __init__(self, node: Node) -> None:
        self._node, self._store = node, node.store

    async def join(self) -> None:
        """There is nobody to join."""

    async def serve(self) -> None:
        """There is nobody to be heard."""

    def elsewhere(self, home: int) -> bool:
        return False

    def orphaned(self, home: int) -> bool:
        return False

    def is_alive(self, worker: str, since: int) -> bool:
        return worker in self._node.dispatcher.workers

    def node_of(self, worker: str) -> int:
        return 0

    def answer(self, live: Live, work: Work, value: object) -> None:
        settle(work.answer, value)

    def ask(self, live: Live, work: Work, queue: QueueKey) -> None:
        error = NotFound(f"{self._node.dispatcher.missing(queue)}, so nobody can answer the query")
        self._node.serving.reply(live, work, error)

    def await_news(self, live: Live) -> None:
        """All that it does is done here."""

    def told(self, live: Live) -> None:
        """They have heard it when it was done."""

    def served(self, live: Live) -> None:
        """It is as this node has left it."""

    async def due(self, now: int, limit: int) -> Sequence[Due]:
        return await self._store.due(now, limit)

    async def running(self, after: RunKey | None, limit: int) -> Sequence[RunKey]:
        return await self._store.running(after, limit)

    async def fetch(self, backlogs: Mapping[QueueKey, Backlog], room: int) -> None:
        for key, backlog in backlogs.items():
            page = await patiently("a backlog", partial(self._store.backlog, key, backlog.read_from, BACKLOG_PAGE))
            backlog.fill(page, more=len(page) >= BACKLOG_PAGE)
            self._node.serving.nudge()

    def release(self, items: Iterable[BacklogItem]) -> None:
        """There is nobody to have them."""
