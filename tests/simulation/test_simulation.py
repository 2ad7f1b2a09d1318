"""Thousands of seeds: whatever happens to processes, store and network, the guarantees hold."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from typing import get_args

import pytest

from perdure.engine.core.decisions import schedules
from perdure.model.schedules import Overlap
from perdure.testing.simulation import world
from perdure.testing.simulation.__main__ import KINDS, run
from perdure.testing.simulation.clients import Wanted
from perdure.testing.simulation.fleet import Fleet
from perdure.testing.simulation.ledger import Ledger, Violation
from perdure.testing.simulation.world import World

SEEDS = 1_000
CHUNK = 50
FLEETS = 400
FLEET_CHUNK = 20


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_seeds(first: int, capsys: pytest.CaptureFixture[str]) -> None:
    failed = [seed for seed in range(first, first + CHUNK) if not run("one", seed)]
    assert not failed, capsys.readouterr().err


@pytest.mark.parametrize("first", range(0, FLEETS, FLEET_CHUNK))
def test_seeds_of_several_nodes(first: int, capsys: pytest.CaptureFixture[str]) -> None:
    failed = [seed for seed in range(first, first + FLEET_CHUNK) if not run("several", seed)]
    assert not failed, capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        ("one", 90_041),  # a local activity goes on with its fourth attempt in the run after a reset
        ("several", 80_028),  # the same, with several nodes
        ("several", 80_003),  # a run is described by its id, when another is in its place
    ],
)
def test_seeds_that_reach_what_few_do(kind: str, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(kind, seed), capsys.readouterr().err


@pytest.mark.parametrize("kind", ["one", "several"])
def test_seeds_with_schedules_that_often_go_on_in_another_run(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(schedules, "SCHEDULE_ROLL_OVER", 5)
    scheduled = [seed for seed in range(100) if KINDS[kind](seed).schedules][:20]
    assert len(scheduled) == 20
    failed = [seed for seed in scheduled if not run(kind, seed)]
    assert not failed, capsys.readouterr().err


def test_the_seeds_of_several_nodes_reach_what_they_are_for() -> None:
    fleets = [Fleet.from_seed(seed) for seed in range(FLEETS)]
    members = [member for fleet in fleets for member in fleet.members]
    befalls = Counter(mishap.what for member in members for mishap in member.mishaps)
    assert len(befalls) == 4
    assert min(befalls.values()) > FLEETS / 5
    assert sum(bool(fleet.outages) for fleet in fleets) > FLEETS / 10
    assert sum(bool(member.traits.outfit.lacks) for member in members) > FLEETS / 5
    assert sum(member.traits.skew != 0 for member in members) > FLEETS / 5
    assert sum(member.begins > 0 for member in members) > FLEETS / 5
    for fault in ("slow", "late", "refuse", "lose", "conflict", "unheard", "unpunctual", "repeated"):
        assert sum(getattr(fleet.faults, fault) > 0 for fleet in fleets) > FLEETS / 5, fault


def test_the_seeds_reach_what_they_are_for() -> None:
    """The faults, the kinds of steps and the kills that the seeds are made of do occur in them."""
    worlds = [World.from_seed(seed) for seed in range(SEEDS)]
    kinds = {step.kind for each in worlds for wanted in each.workflows for step in wanted.plan}
    assert kinds == {
        "act", "fan", "sleep", "signals", "cancel", "hopeless", "guarded", "race", "child", "deadline", "again",
        "retry", "parcel", "leave", "recall", "saga", "near", "later",
    }  # fmt: skip
    wanted = [each for world in worlds for each in world.workflows]
    assert {kind for each in wanted for _, kind, _ in each.messages} >= {"pause", "reset", "cancel"}
    for what in ("joined", "delay", "retried", "resets", "entity"):
        assert sum(bool(getattr(each, what)) for each in wanted) > SEEDS / 20, what
    assert sum(len(each.kills) for each in worlds) > SEEDS
    for fault in ("slow", "refuse", "lose", "conflict", "outage"):
        assert sum(getattr(each.faults, fault) > 0 for each in worlds) > SEEDS / 5, fault
    assert sum(each.network > 0 for each in worlds) > SEEDS / 5
    assert sum(each.crew > 1 for each in worlds) > SEEDS / 5
    assert sum(each.late > 0 for each in worlds) > SEEDS / 5
    assert sum(len(each.deaths) for each in worlds) > SEEDS
    timed = [each for world in worlds for each in world.schedules]
    assert len(timed) > SEEDS / 2
    assert {kind for each in timed for _, kind, _ in each.acts} == {"trigger", "pause", "update", "backfill", "reset"}
    assert {each.overlap for each in timed} == set(get_args(Overlap))
    assert {each.limit for each in timed} == {-1, 3}


KILLED_EARLY = [seed for seed in range(100) if any(kill < 50 for kill in World.from_seed(seed).kills[:1])]


@pytest.mark.parametrize(
    ("kind", "seed", "sign"),
    [*(("one", seed, "KILLED") for seed in KILLED_EARLY[:3]), *(("several", seed, "p1 ") for seed in range(3))],
)
def test_a_seed_gives_the_same_trace_in_every_process(kind: str, seed: int, sign: str) -> None:
    """Also where sets of strings are ordered otherwise."""
    traces = set[str]()
    for hash_seed in ("1", "2"):
        command = [sys.executable, "-m", "perdure.testing.simulation", "--nodes", kind, "--seed", str(seed)]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        traces.add(done.stdout)
    assert len(traces) == 1
    assert sign in traces.pop()


def test_a_failing_seed_tells_how_to_see_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(ledger: Ledger, workflows: list[Wanted]) -> None:
        raise Violation("the end is not what it should be")

    monkeypatch.setattr(world, "check_end", wrong)
    assert not run("one", 3)
    said = capsys.readouterr().err
    assert "seed 3 (one) failed: Violation: the end is not what it should be" in said
    assert "process begins" in said
    assert "--seed 3" in said
