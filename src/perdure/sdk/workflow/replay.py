"""A history, read as workflow tasks: what each was told, and what it asked for.

::

    news* → WorkflowTaskScheduled → news* → WorkflowTaskStarted → WorkflowTaskCompleted → commands' events*
            (Scheduled → Started → Failed | TimedOut: no task; the next one is told the same news)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from perdure.model import events as e


class RecordedTask(NamedTuple):
    """A workflow task that was completed.

    news: the events that it was told of. asked: the events of its commands. time: the workflow's time.
    history_length, history_bytes: the id of the last event before it, and their size, as the code was told.
    """

    news: list[e.HistoryEvent]
    completed: e.WorkflowTaskCompleted
    asked: Sequence[e.HistoryEvent]
    time: int
    history_length: int
    history_bytes: int


NEWS: Final[frozenset[type[Any]]] = frozenset(
    {
        e.WorkflowExecutionStarted,
        e.WorkflowExecutionSignaled,
        e.WorkflowExecutionCancelRequested,
        e.ActivityTaskCompleted,
        e.ActivityTaskFailed,
        e.ActivityTaskTimedOut,
        e.ActivityTaskCanceled,
        e.TimerFired,
        e.ChildWorkflowExecutionStarted,
        e.StartChildWorkflowExecutionFailed,
        e.ChildWorkflowExecutionCompleted,
        e.ChildWorkflowExecutionFailed,
        e.ExternalWorkflowExecutionSignaled,
        e.SignalExternalWorkflowExecutionFailed,
        e.ExternalWorkflowExecutionCancelRequested,
        e.RequestCancelExternalWorkflowExecutionFailed,
    }
)
"""Events that the workflow's code hears of."""

_OF_TASKS: Final[frozenset[type[Any]]] = frozenset(
    {e.WorkflowTaskScheduled, e.WorkflowTaskStarted, e.WorkflowTaskCompleted, e.WorkflowTaskFailed}
)
"""Events that tell how a workflow task went on."""


class HistoryReader:
    """Reads a history as it comes, in one piece or several.

    news: what no completed workflow task was told yet.
    """

    __slots__ = ("_last", "_late", "_started", "news")

    def __init__(self) -> None:
        self.news: list[e.HistoryEvent] = []
        self._last = 0
        self._late = False
        self._started: e.WorkflowTaskStarted | None = None

    def read(self, events: Sequence[e.HistoryEvent]) -> Iterator[RecordedTask]:
        """The completed workflow tasks among these events; those that were read before are skipped.

        Raises ValueError where events are missing before them.
        """
        if not events:
            return
        first = events[0].id
        seen = self._last + 1 - first
        if seen < 0:
            raise ValueError(f"the events begin at {first}, but the last that were seen end at {self._last}")
        for event in events[seen:] if seen else events:
            kind = type(event)
            if kind in NEWS:
                self.news.append(event)
            elif kind not in _OF_TASKS:
                continue
            elif type(event) is e.WorkflowTaskStarted:
                self._started = event
            elif type(event) is e.WorkflowTaskScheduled:
                self._late = event.attempt > 1  # then it was written after the code had run
            elif type(event) is e.WorkflowTaskCompleted:
                yield self._task(event, _asked(event, events, event.id + 1 - first))
            elif type(event) is e.WorkflowTaskFailed and event.new_run_id:
                # The run was reset to this task, and what it draws now is new; perhaps once more.
                again = bool(self.news) and type(self.news[0]) is e.WorkflowTaskFailed
                self.news[0 : int(again)] = [event]
        if (last := events[-1].id) > self._last:
            self._last = last

    def _task(self, completed: e.WorkflowTaskCompleted, asked: Sequence[e.HistoryEvent]) -> RecordedTask:
        assert self._started is not None  # they are written together
        news, self.news = self.news, []
        length = self._started.id - (2 if self._late else 1)
        return RecordedTask(news, completed, asked, self._started.time, length, self._started.history_bytes)

    def take_news(self) -> list[e.HistoryEvent]:
        """The news, for the task that is open."""
        news, self.news = self.news, []
        return news


def _asked(
    completed: e.WorkflowTaskCompleted, events: Sequence[e.HistoryEvent], begin: int
) -> Sequence[e.HistoryEvent]:
    """The events of a workflow task's commands, which follow its completion."""
    end = begin
    while end < len(events) and getattr(events[end], "workflow_task_completed_event_id", 0) == completed.id:
        end += 1
    return events[begin:end]
