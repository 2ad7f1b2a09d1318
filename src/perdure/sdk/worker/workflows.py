"""The workflow side of a worker: tasks and queries go to live runs, which are kept for the next task.

A live run is worth its memory only for speed: whenever it isn't there, or isn't where the node expects it, the
worker asks for the whole history and replays it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from perdure.errors import NotFound
from perdure.limits import MAX_CACHED_WORKFLOWS
from perdure.model.events import HistoryEvent, WorkflowExecutionStarted
from perdure.model.tasks import (
    EvictWorkflow,
    FromWorker,
    HistoryWanted,
    QueryAnswer,
    QueryTask,
    RunRef,
    WorkflowTask,
    WorkflowTaskAcknowledged,
    WorkflowTaskCompletion,
    WorkflowTaskFailure,
)
from perdure.sdk.failures import failure_of
from perdure.sdk.interceptors import NO_CHAINS, WorkflowChains
from perdure.sdk.unknown import unknown_name
from perdure.sdk.workflow import scanning
from perdure.sdk.workflow.definition import WorkflowDefinition
from perdure.sdk.workflow.runtime import WorkflowRun

Answer = WorkflowTaskCompletion | WorkflowTaskFailure | HistoryWanted


class WorkflowTasks:
    """Answers workflow tasks and queries, each before its method returns.

    Args:
        workflows: the definitions that it has, by name; looked at for each run, so that it may grow.
        send: takes the messages for the node. It may call back with the next message before it returns, so it
            is called last, when all else is settled.
        cached: live runs that are kept at most.
        chains: what interceptors have for workflows.
    """

    def __init__(
        self,
        workflows: Mapping[str, WorkflowDefinition],
        send: Callable[[FromWorker], None],
        *,
        cached: int = MAX_CACHED_WORKFLOWS,
        chains: WorkflowChains = NO_CHAINS,
    ) -> None:
        self._workflows = workflows
        self._send = send
        self._cached = cached
        self._chains = chains
        self._runs: OrderedDict[str, WorkflowRun] = OrderedDict()  # by run id, the latest used last
        self._held_back: dict[str, list[tuple[int, Sequence[logging.LogRecord]]]] = {}

    def activate(self, task: WorkflowTask) -> None:
        """Run a workflow's code on its news."""
        try:
            answer = self._answer(task)
        except Exception as error:  # not of the workflow's code: what that raises, the run answers itself
            self._drop(task.run.run_id)
            answer = WorkflowTaskFailure(task.run, task.attempt, task.position, failure_of(error), task.given)
        except BaseException:
            self._drop(task.run.run_id)
            raise
        self._send(answer)

    def query(self, task: QueryTask) -> None:
        """Ask a workflow's code something."""
        try:
            answer = self._query_answer(task)
        except Exception as error:  # not of the workflow's code either
            self._drop(task.run.run_id)
            answer = QueryAnswer(task.run, task.query_id, None, failure_of(error))
        except BaseException:
            self._drop(task.run.run_id)
            raise
        self._send(answer)

    def evict(self, message: EvictWorkflow) -> None:
        """Forget a run: it was built on what was refused, or it is closed."""
        self._held_back.pop(message.run.run_id, None)
        self._drop(message.run.run_id)

    def acknowledged(self, message: WorkflowTaskAcknowledged) -> None:
        """A completion is on disk: what the code logged for it did happen."""
        run_id = message.run.run_id
        waiting = self._held_back.pop(run_id, [])
        later = [entry for entry in waiting if entry[0] > message.position.event_id]
        if later:
            self._held_back[run_id] = later
        for event_id, records in waiting:
            if event_id <= message.position.event_id:
                for record in records:
                    logging.getLogger(record.name).handle(record)

    def live_runs(self) -> list[WorkflowRun]:
        """The runs that are in memory."""
        return list(self._runs.values())

    def stop(self) -> None:
        """Take all runs out of memory."""
        while self._runs:
            self._runs.popitem()[1].evict()
        self._held_back.clear()

    def _answer(self, task: WorkflowTask) -> Answer:
        run_id = task.run.run_id
        run = self._runs.get(run_id)
        if task.previous.event_id == 0:
            self._drop(run_id)
            run = self._new_run(task.run, task.events)
            self._make_room()
            self._runs[run_id] = run
        elif run is None or run.position != task.previous:
            self._drop(run_id)
            return HistoryWanted(task.run, given=task.given)
        else:
            self._runs.move_to_end(run_id)
        answer = run.activate(task)
        if isinstance(answer, WorkflowTaskCompletion) and answer.acknowledge:
            self._held_back.setdefault(run_id, []).append((task.position.event_id, run.take_log_records()))
        if run.closed or run.broken:
            self._drop(run_id)
        return answer

    def _query_answer(self, task: QueryTask) -> QueryAnswer | HistoryWanted:
        run_id = task.run.run_id
        run = self._runs.get(run_id)
        if run is not None and run.position == task.position:
            answer = run.query(task)
            if run.broken:
                self._drop(run_id)
            return answer
        if not task.events:
            return HistoryWanted(task.run, task.query_id)
        run = self._new_run(task.run, task.events)
        try:
            return run.query(task)
        finally:
            run.evict()

    def _new_run(self, ref: RunRef, events: Sequence[HistoryEvent]) -> WorkflowRun:
        started = events[0]
        assert isinstance(started, WorkflowExecutionStarted)  # or it is no history
        if started.workflow_type not in self._workflows:
            # Tried again, as any workflow task that fails is: the next deploy may have it.
            raise NotFound(unknown_name("this worker", "workflow", started.workflow_type, self._workflows))
        scanning.check(self._workflows[started.workflow_type])
        return WorkflowRun(ref, self._workflows, self._chains)

    def _make_room(self) -> None:
        while len(self._runs) >= self._cached:
            self._runs.popitem(last=False)[1].evict()

    def _drop(self, run_id: str) -> None:
        run = self._runs.pop(run_id, None)
        if run is not None:
            run.evict()
