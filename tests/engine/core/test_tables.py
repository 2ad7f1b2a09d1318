"""The tables that stand in the place of long conditions leave nothing out."""

from __future__ import annotations

from typing import Any, get_args

from perdure.engine.core import deadlines, invariants, transition
from perdure.engine.core import effects as fx
from perdure.engine.core import inputs as i
from perdure.engine.core.decide import DECISIONS
from perdure.engine.core.decisions import checks, wake
from perdure.engine.core.decisions.commands import COMMANDS
from perdure.engine.core.evolve import EVENTS, RECORDS
from perdure.engine.node.answers import ANSWERS
from perdure.engine.node.performing import EFFECTS
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import records as r
from perdure.model import requests as q
from perdure.model import schedules as s
from perdure.model import tasks as t

STARTS: set[type[Any]] = {q.StartWorkflow, s.CreateSchedule, i.Start}
"""They make an execution, and are decided apart."""

FROM_THE_STORE: set[type[Any]] = {
    q.ListWorkflows, q.GetHistory, q.ResetWorkflow, q.PutBlob, q.GetBlob, s.ListSchedules
}  # fmt: skip
"""Requests that no single execution in memory answers."""

BESIDE: set[type[Any]] = {t.HistoryWanted, t.InputWanted, t.QueryAnswer, t.WorkerLeaving, t.WorkerServes}
"""Worker messages that are about the worker, or its copy of a run, not about the run."""

AT_ONCE: set[type[Any]] = {fx.OfferWorkflowTask, fx.KeepSoon, fx.EvictCopy, fx.ContinueRun, fx.DeleteRun}
"""Effects that concern only memory, or the row that is being written."""


def members(union: object) -> set[type[Any]]:
    return set(get_args(union))


def named_in(module: object, base: type) -> set[type[Any]]:
    """The classes of a module that derive from a class."""
    return {item for item in vars(module).values() if isinstance(item, type) and issubclass(item, base)} - {base}


def inputs() -> set[type[Any]]:
    return {item for item in vars(i).values() if isinstance(item, type) and item.__module__ == i.__name__}


def test_the_unions_hold_all_that_there_is() -> None:
    assert members(e.HistoryEvent) == named_in(e, e.Event)
    assert members(r.PrivateRecord) == {kind for kind in named_in(r, r.Record) if kind.__module__ == r.__name__}
    assert members(q.AnyRequest) == {kind for kind in named_in(q, q.Request) if kind.__struct_config__.tag}
    assert members(s.ScheduleRequest) == {kind for kind in named_in(s, q.Request) if kind.__module__ == s.__name__}


def test_every_event_is_folded_and_checked() -> None:
    assert set(EVENTS) == set(invariants.RULES) == members(e.HistoryEvent)


def test_there_is_an_end_for_each_status() -> None:
    ends = {f"WorkflowExecution{status}" for status in get_args(q.Status) if status != "Running"}
    assert ends == {kind.__name__ for kind in invariants.CLOSING}


def test_every_record_is_folded() -> None:
    assert set(RECORDS) == members(r.PrivateRecord)


def test_every_command_is_carried_out() -> None:
    assert set(COMMANDS) == members(c.Command)
    assert set(checks.CHECKS) | checks.CLOSING <= members(c.Command)


def test_every_input_is_decided_on_or_answered() -> None:
    requests = members(q.AnyRequest) | members(s.ScheduleRequest)
    asked = requests | members(t.FromWorker) | inputs()
    assert asked == set(DECISIONS) | (set(ANSWERS) & requests) | STARTS | FROM_THE_STORE | BESIDE
    assert not set(DECISIONS) & (set(ANSWERS) | STARTS | FROM_THE_STORE | BESIDE)


def test_every_effect_is_carried_out() -> None:
    assert set(EFFECTS) | AT_ONCE == members(fx.Effect)


def test_every_kind_of_deadline_is_acted_on() -> None:
    kinds = {
        deadlines.RUN, deadlines.TASK, deadlines.ACTIVITY, deadlines.TIMER, deadlines.OUTBOX, deadlines.SCHEDULE
    }  # fmt: skip
    assert set(wake.KINDS) == kinds == set(range(len(kinds)))


def test_what_makes_a_deadline_is_an_event_or_a_record() -> None:
    assert set(transition.WATCHED_EVENTS) <= members(e.HistoryEvent)
    assert set(transition.WATCHED_EVENTS) >= invariants.CLOSING
    assert set(transition.WATCHED_RECORDS) <= members(r.PrivateRecord)
