"""Which seed notices each mutation first, for the table in docs/reliability.md.

`python -m tests.simulation.table several` prints the rows of one kind as they are measured, without it of both.
"""

from __future__ import annotations

import sys

import pytest

from perdure.testing.simulation.__main__ import KINDS
from perdure.testing.simulation.loop import Stuck
from tests.simulation.family_mutations import FAMILY_MUTATIONS
from tests.simulation.mutations import MUTATIONS, Mutation
from tests.simulation.node_mutations import NODE_MUTATIONS
from tests.simulation.schedule_mutations import SCHEDULE_MUTATIONS
from tests.simulation.test_mutations import SEEDS
from tests.simulation.worker_mutations import WORKER_MUTATIONS


def row(kind: str, mutation: Mutation) -> str:
    """A line of the table."""
    with pytest.MonkeyPatch.context() as patch:
        mutation.apply(patch)
        for seed in range(SEEDS):
            try:
                KINDS[kind](seed).run()
            except (AssertionError, Stuck, ExceptionGroup) as error:
                return f"| {mutation.name} | {mutation.breaks[0]} | {seed} | {error} |"
    return f"| {mutation.name} | {mutation.breaks[0]} | none | |"


ONE = (*MUTATIONS, *FAMILY_MUTATIONS, *SCHEDULE_MUTATIONS, *WORKER_MUTATIONS)


if __name__ == "__main__":
    for kind in sys.argv[1:] or KINDS:
        for each in NODE_MUTATIONS if kind == "several" else ONE:
            sys.stdout.write(row(kind, each) + "\n")
            sys.stdout.flush()
