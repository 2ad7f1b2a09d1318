"""What must hold of every program in every environment."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.model import events as e
from perdure.model.tasks import START, WorkflowTaskFailure
from perdure.sdk.workflow.runtime import WorkflowRun
from tests.sdk.harness import REF, same
from tests.sdk.programs.environment import Environment
from tests.sdk.programs.generator import Generator, Op


def check_seed(seed: int, only: frozenset[str] = frozenset()) -> Environment:
    """Make a program, and check it; the run of it that was never evicted."""
    return check(Generator(seed, only=only).program(), seed)


def check(program: Op, seed: int) -> Environment:
    """Run a program with and without evictions: nothing else may differ; and replay what was recorded."""
    kept, evicted = Environment(program, seed), Environment(program, seed, 0.5)
    kept.play()
    evicted.play()
    trace = kept.ask("trace")
    assert trace == evicted.ask("trace")
    assert [told(event) for event in kept.history] == [told(event) for event in evicted.history]
    assert trace == kept.ask_replayed("trace")
    check_prefixes(kept)
    kept.loops += evicted.loops
    return kept


def told(event: e.HistoryEvent) -> object:
    """An event as far as both runs must have it: not the addresses and lines in a traceback."""
    failure = getattr(event, "failure", None)
    return event if failure is None else (type(event), event.id, event.time, failure.types, failure.message)


def check_prefixes(played: Environment) -> None:
    """A replay of what was before it makes each workflow task ask for the same again."""
    for task, before in played.tasks[1:]:
        run = WorkflowRun(REF, played.definitions)
        again = run.activate(replace(task, previous=START, events=tuple(played.history[: task.position.event_id])))
        run.evict()
        if again is not None:  # it asks for local activities, which is not a replay
            assert not isinstance(again, WorkflowTaskFailure), again.failure.message
            assert [*map(same, again.commands)] == [*map(same, before.commands)]
