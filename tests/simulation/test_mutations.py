"""The engine broken on purpose, in every way of the tables of mutations, is caught."""

from __future__ import annotations

import pytest

from perdure.testing.simulation.fleet import Fleet
from perdure.testing.simulation.loop import Stuck
from perdure.testing.simulation.world import World
from tests.simulation.family_mutations import FAMILY_MUTATIONS
from tests.simulation.mutations import MUTATIONS, Mutation
from tests.simulation.node_mutations import NODE_MUTATIONS
from tests.simulation.schedule_mutations import SCHEDULE_MUTATIONS
from tests.simulation.worker_mutations import WORKER_MUTATIONS

SEEDS = 1_000

BROKEN = [
    *(
        pytest.param(World, mutation, id=mutation.name)
        for mutation in (*MUTATIONS, *FAMILY_MUTATIONS, *SCHEDULE_MUTATIONS, *WORKER_MUTATIONS)
    ),
    *(pytest.param(Fleet, mutation, id=f"{mutation.name} (several nodes)") for mutation in NODE_MUTATIONS),
]


@pytest.mark.parametrize(("kind", "mutation"), BROKEN)
def test_a_broken_engine_is_caught(
    kind: type[World | Fleet], mutation: Mutation, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutation.apply(monkeypatch)
    for seed in (mutation.seed, *range(SEEDS)):
        try:
            kind.from_seed(seed).run()
        except (AssertionError, Stuck, ExceptionGroup):
            return
    pytest.fail(f"{SEEDS} seeds did not notice: {mutation.name}")
