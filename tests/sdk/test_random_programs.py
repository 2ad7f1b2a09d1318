"""Random workflows in random environments: a replay must do what was done, whatever the code waits for.

Each seed makes a program (`programs.generator`), which a workflow interprets, and an environment that says in which
order activities, timers, children and messages come, and how many of them in one workflow task. It is run twice: in one
copy that stays in memory, and in copies that are evicted at random and asked things meanwhile. Both must have the same
history and the same trace, and each part of the history must replay (`programs.checks`).

By hand: `python -m tests.sdk.programs --seeds 10000`, or `--seed 7` for one with its program and its trace.
"""

from __future__ import annotations

import gc
import logging
import weakref

import pytest

from perdure.sdk.workflow.loop import DeterministicLoop
from tests.sdk.programs.checks import check_seed
from tests.sdk.programs.generator import ALONE, AROUND, Generator, Op
from tests.sdk.programs.interpreter import Interpreter

SEEDS = 500
AT_ONCE = 25


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Of tasks and messages that nobody has seen to, the log tells; that is right here."""
    caplog.set_level(logging.CRITICAL, "perdure")


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_nothing_differs_but_what_is_in_memory(first: int) -> None:
    loops = [loop for seed in range(first, first + AT_ONCE) for loop in checked(seed)]
    gc.collect()
    assert [loop() for loop in loops if loop() is not None] == []


def checked(seed: int) -> list[weakref.ref[DeterministicLoop]]:
    """Check one; the loops of the copies that were in memory for it."""
    try:
        return check_seed(seed).loops
    except BaseException as error:
        error.add_note(f"python -m tests.sdk.programs --seed {seed}")
        raise


def test_programs_have_every_operation() -> None:
    used = {kind for seed in range(SEEDS) for kind in kinds(Generator(seed).program())}
    assert used == {*ALONE, *AROUND}
    assert all(hasattr(Interpreter, f"do_{kind}") for kind in used)


def kinds(op: Op) -> set[str]:
    return {op.kind}.union(*map(kinds, op.body))
