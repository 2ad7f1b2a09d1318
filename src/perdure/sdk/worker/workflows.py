"""The workflow side of a worker: tasks and queries go to live runs, which are kept for the next task.

A live run is worth its memory only for speed: whenever it isn't there, or isn't where the node expects it, the
worker asks for the whole history and replays it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from perdure.clock import SECOND
from perdure.errors import NotFound
from perdure.limits import DEFAULT_CACHED_WORKFLOWS, LOCAL_ACTIVITY_REPORT, WORKFLOW_TASK_TIMEOUT
from perdure.model.events import HistoryEvent, WorkflowExecutionStarted
from perdure.model.tasks import (
    EvictWorkflow,
    FromWorker,
    HistoryWanted,
    InputStored,
    InputWanted,
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
from perdure.sdk.worker.local import LocalActivities
from perdure.sdk.workflow import scanning
from perdure.sdk.workflow.definition import WorkflowDefinition
from perdure.sdk.workflow.local import LocalOutcome
from perdure.sdk.workflow.runtime import WorkflowRun

Answer = WorkflowTaskCompletion | WorkflowTaskFailure | HistoryWanted


@dataclass(slots=True)
class OpenTask:
    """A workflow task that local activities hold open. stored: they may begin."""

    run: WorkflowRun
    task: WorkflowTask
    began: float
    stored: bool = False
    timer: asyncio.TimerHandle | None = None


class WorkflowTasks:
    """Answers workflow tasks and queries, each before its method returns.

    Args:
        workflows: the definitions that it has, by name; looked at for each run, so that it may grow.
        send: takes the messages for the node. It may call back with the next message before it returns, so it
            is called last, when all else is settled.
        cached: live runs that are kept at most.
        chains: what interceptors have for workflows.
        locals: makes what runs local activities, given whom to tell of their outcomes; by default nothing does.
    """

    def __init__(
        self,
        workflows: Mapping[str, WorkflowDefinition],
        send: Callable[[FromWorker], None],
        *,
        cached: int = DEFAULT_CACHED_WORKFLOWS,
        chains: WorkflowChains = NO_CHAINS,
        locals: Callable[[Callable[[str, int, LocalOutcome], None]], LocalActivities] | None = None,
    ) -> None:
        self._workflows = workflows
        self._send = send
        self._cached = cached
        self._chains = chains
        self._make_locals = locals
        self._locals: LocalActivities | None = None
        self._open: dict[str, OpenTask] = {}  # tasks that wait for local activities, by run id
        self._early: dict[str, list[tuple[int, LocalOutcome]]] = {}  # outcomes that came between two tasks
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
        if answer is not None:
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
        """Forget a run: it was built on what was refused, or it is closed. A task of it that local activities hold open
        may be a later one, and is begun anew."""
        self._held_back.pop(message.run.run_id, None)
        waits = self._open.get(message.run.run_id)
        self._drop(message.run.run_id)
        if waits is not None:
            self._send(HistoryWanted(waits.task.run, given=waits.task.given))

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
            self._drop(next(reversed(self._runs)))
        self._held_back.clear()

    def _answer(self, task: WorkflowTask) -> Answer | None:
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
        return self._wait_for_locals(run, task) if answer is None else self._answered(run, task, answer)

    def _answered(self, run: WorkflowRun, task: WorkflowTask, answer: Answer) -> Answer:
        run_id = task.run.run_id
        if run.locals.unwanted:
            self._cancel_locals(run)
        if isinstance(answer, WorkflowTaskCompletion) and answer.acknowledge:
            self._held_back.setdefault(run_id, []).append((task.position.event_id, run.take_log_records()))
        if run.closed or run.broken:
            self._drop(run_id)
        return answer

    # --- Local activities -------------------------------------------------------------------------------
    def stored(self, message: InputStored) -> None:
        """What a task told is on disk: its local activities may have their effects."""
        waits = self._open.get(message.run.run_id)
        if waits is not None and waits.task.given == message.given:
            waits.stored = True
            self._begin_locals(waits)

    async def stop_locals(self) -> None:
        """End the local activities; they run again, in whatever worker has the workflow next."""
        if self._locals is not None:
            await self._locals.stop()

    def _wait_for_locals(self, run: WorkflowRun, task: WorkflowTask) -> Answer | None:
        """The code waits for local activities: the answer, if they are there already."""
        loop, run_id = asyncio.get_running_loop(), task.run.run_id
        waits = self._open[run_id] = OpenTask(run, task, loop.time())
        waits.timer = loop.call_later(_longest(run), self._report, waits)
        for seq, outcome in self._early.pop(run_id, ()):
            answer = run.resume(seq, outcome, 0)
            if answer is not None:
                self._close(waits)
                return self._answered(run, task, answer)
        if run.locals.waiting:
            loop.call_soon(self._send, InputWanted(task.run, task.given))  # when all else here is settled
        return None

    def _begin_locals(self, waits: OpenTask) -> None:
        run = waits.run
        self._cancel_locals(run)
        if waits.stored:
            locals = self._local_activities()
            for call in run.locals.take():
                if not (run.closed or run.broken):  # as the end of one that could not begin may have left it
                    locals.start(run.ref, run.started.workflow_type, call)

    def _cancel_locals(self, run: WorkflowRun) -> None:
        unwanted, run.locals.unwanted = run.locals.unwanted, []
        for seq in unwanted:
            self._local_activities().cancel(run.ref.run_id, seq)

    def _local_activities(self) -> LocalActivities:
        if self._locals is None:
            assert self._make_locals is not None
            self._locals = self._make_locals(self._local_ended)
        return self._locals

    def _local_ended(self, run_id: str, seq: int, outcome: LocalOutcome) -> None:
        waits = self._open.get(run_id)
        if waits is None:
            self._early.setdefault(run_id, []).append((seq, outcome))
            return
        elapsed = int((asyncio.get_running_loop().time() - waits.began) * SECOND)
        self._go_on(waits, waits.run.resume(seq, outcome, elapsed))

    def _report(self, waits: OpenTask) -> None:
        """They take longer than the task may stay open: it is answered, and another one follows."""
        self._go_on(waits, waits.run.report())

    def _go_on(self, waits: OpenTask, answer: Answer | None) -> None:
        if answer is not None:  # then nothing is begun: the run may have a bug, or have ended
            self._close(waits)
            self._send(self._answered(waits.run, waits.task, answer))
            return
        self._begin_locals(waits)
        if waits.run.locals.waiting:  # for what is not on disk yet
            self._send(InputWanted(waits.task.run, waits.task.given))

    def _close(self, waits: OpenTask) -> None:
        del self._open[waits.task.run.run_id]
        if waits.timer is not None:
            waits.timer.cancel()

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
        """Drop what was used the longest ago. What local activities hold open stays, and is looked at again later."""
        for _ in range(min(len(self._runs) - self._cached + 1, 8)):
            oldest = next(iter(self._runs))
            if oldest in self._open:
                self._runs.move_to_end(oldest)
            else:
                self._drop(oldest)

    def _drop(self, run_id: str) -> None:
        run = self._runs.pop(run_id, None)
        if run_id in self._open:
            self._close(self._open[run_id])
        self._early.pop(run_id, None)
        if self._locals is not None:
            self._locals.drop(run_id)
        if run is not None:
            run.evict()


def _longest(run: WorkflowRun) -> float:
    """Seconds that local activities may hold a workflow task open."""
    return (run.started.workflow_task_timeout or WORKFLOW_TASK_TIMEOUT) / SECOND * LOCAL_ACTIVITY_REPORT
