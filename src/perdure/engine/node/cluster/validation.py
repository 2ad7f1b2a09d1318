"""Replies that no commit carries: a description, "not found", "exists already", the answer of a query.

What memory says may be old when other nodes write, too. So the versions that a reply saw are read again, many at
once; where one has moved on, the request is decided again, from what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, NamedTuple

from perdure.engine.node.live import Live, Work, settle
from perdure.engine.node.patience import patiently
from perdure.engine.storage.api import RunKey, Shared

Sight = tuple[RunKey, int]
"""A run, and the version that somebody saw of it; 0: there was none."""


class Reply(NamedTuple):
    """A reply, and the rows that it is true of."""

    live: Live
    work: Work
    value: object
    saw: tuple[Sight, ...]


class Validation:
    """Gives replies that are still true, and calls `stale` for the others."""

    def __init__(
        self,
        store: Shared,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        stale: Callable[[Live, Work], None],
    ) -> None:
        self._store, self._spawn, self._stale = store, spawn, stale
        self._waiting: list[Reply] = []
        self._busy = False

    def check(self, live: Live, work: Work, value: object) -> None:
        """Give this reply soon. What was read for this very request needs no second look."""
        if work.fresh:
            settle(work.answer, value)
            return
        self._waiting.append(Reply(live, work, value, saw(live)))
        if not self._busy:
            self._busy = True
            self._spawn(self._run())

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._check(batch)
        finally:
            self._busy = False

    async def _check(self, batch: list[Reply]) -> None:
        keys = list(dict.fromkeys(key for reply in batch for key, _ in reply.saw))
        try:
            versions = await patiently("versions", partial(self._store.versions, keys))
        except Exception as error:
            for live, work, _, _ in batch:
                if work.answer is None:  # a worker's outcome, which would be lost
                    self._look_again(live, work)
                settle(work.answer, error)
            return
        stored = dict(zip(keys, versions, strict=True))
        for live, work, value, sights in batch:
            if all(stored[key] == version for key, version in sights):
                settle(work.answer, value)
            elif work.answer is None or not work.answer.done():
                self._look_again(live, work)

    def _look_again(self, live: Live, work: Work) -> None:
        """Let it be decided again, on what is read for it."""
        work.fresh = True
        self._stale(live, work)


def saw(live: Live) -> tuple[Sight, ...]:
    """The rows that memory stands for."""
    key = live.key
    own = ((key, live.version),) if live.execution is not None else ()
    if live.older:
        return own
    return *own, (key._replace(run_no=key.run_no + 1), 0)  # nor has another run begun
