"""The engine broken on purpose, in every way of `mutations.MUTATIONS`, is caught."""

from __future__ import annotations

import pytest

from perdure.testing.simulation.loop import Stuck
from perdure.testing.simulation.world import World
from tests.simulation.mutations import MUTATIONS, Mutation

SEEDS = 1_000


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_broken_engine_is_caught(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation.apply(monkeypatch)
    for seed in range(SEEDS):
        try:
            World.from_seed(seed).run()
        except (AssertionError, Stuck, ExceptionGroup):
            return
    pytest.fail(f"{SEEDS} seeds did not notice: {mutation.name}")
