"""Questions to workflow code.

A query waits in its execution (`Live.queries`) until the code has nothing else to do; then it is at a worker
(`Live.asked`). Its answer hangs on the last row that it saw, as any reply does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from perdure.engine.node.dispatch import AttachedWorker
from perdure.engine.node.live import Live, Work
from perdure.engine.node.offers import workflow_queue
from perdure.errors import PerdureError
from perdure.model.requests import QueryResult, QueryWorkflow
from perdure.model.tasks import QueryAnswer, QueryTask

if TYPE_CHECKING:
    from perdure.engine.node.serving import Serving


class Queries:
    """Sends queries to workers, and takes their answers."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._dispatcher = serving.dispatcher
        self._asked: dict[str, tuple[Live, AttachedWorker]] = {}  # by query id

    def flush(self, live: Live) -> None:
        """Send the queries that wait, unless the code is about to see news first."""
        execution = live.execution
        if not live.queries or execution is None or execution.taken is not None:
            return
        key = workflow_queue(execution.state)
        worker = self._dispatcher.workflow_worker(key, live.sticky)
        if worker is not None and self._has_news(live):
            if live.pending is None:
                self._see_to_news(live)
            return
        waiting, live.queries = live.queries, []
        for work in waiting:
            if work.answer is None or work.answer.done():
                continue  # the caller has given up
            if worker is None:
                self._serving.peers.ask(live, work, key)
            elif self._in_reach(live, worker):
                self._ask(live, work, worker)
            else:
                live.queries.append(work)

    def _has_news(self, live: Live) -> bool:
        """Whether there is something that the code has not seen, and can see."""
        task = live.run.state.task
        return task is not None and not task.next_attempt_at and not live.run.stopped

    def _in_reach(self, live: Live, worker: AttachedWorker) -> bool:
        """Whether a worker holds the workflow; or can be sent all of the history, which is read from the disk."""
        return worker.hello.instance == live.sticky or live.pending is None

    def _see_to_news(self, live: Live) -> None:
        """The code is to see the news soon."""
        if live.queued or self._serving.peers.elsewhere(live.home):
            self._serving.peers.await_news(live)
        else:
            self._serving.offers.workflow_task(live)  # its home was alive until now

    def _ask(self, live: Live, work: Work, worker: AttachedWorker) -> None:
        """Ask a worker, which may say before this returns that it does not hold the workflow."""
        request, state = work.input, live.run.state
        assert isinstance(request, QueryWorkflow)
        query_id = self._serving.ids.new_id()
        live.asked[query_id] = work
        self._asked[query_id] = live, worker
        task = QueryTask(
            live.run.ref, query_id, request.name, request.input, state.seen, state.last_time, header=request.header
        )
        if worker.hello.instance == live.sticky:
            worker.receive(task)
        else:
            self._serving.spawn(self._ask_with_history(live, task, state.last_event_id))

    async def _ask_with_history(self, live: Live, task: QueryTask, last_event_id: int) -> None:
        try:
            events = await self._serving.whole_history(live.key, last_event_id)
        except PerdureError as error:
            self._answer(task.query_id, error)
            return
        asked = self._asked.get(task.query_id)
        if asked is not None:
            asked[1].receive(replace(task, events=tuple(events)))

    def answered(self, message: QueryAnswer) -> None:
        """A worker has answered."""
        self._answer(message.query_id, QueryResult(message.result, message.failure))

    def _answer(self, query_id: str, value: object) -> None:
        asked = self._asked.pop(query_id, None)
        if asked is None:
            return  # what it saw was discarded, or its worker is gone: it was asked again
        live = asked[0]
        self._serving.reply(live, live.asked.pop(query_id), value)
        self._serving.rest(live)

    def ask_again(self, query_id: str) -> None:
        """The worker does not hold the workflow: it needs the whole history."""
        asked = self._asked.pop(query_id, None)
        if asked is not None:
            live = asked[0]
            live.sticky = ""
            live.queries.append(live.asked.pop(query_id))
            self._serving.make_ready(live)

    def worker_gone(self, worker: AttachedWorker) -> None:
        """What was asked of it is asked of another."""
        for query_id in [each for each, (_, asked) in self._asked.items() if asked is worker]:
            self.ask_again(query_id)

    def withdraw(self, live: Live) -> list[Work]:
        """What the workers are asked about this execution is not to be answered: it was discarded."""
        for query_id in live.asked:
            del self._asked[query_id]
        works = [*live.queries, *live.asked.values()]
        live.queries.clear()
        live.asked.clear()
        return works
