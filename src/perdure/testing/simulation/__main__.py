"""Run seeds: `python -m perdure.testing.simulation --seeds 1000 [--nodes several] [--first 0 | --seed 7]`."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from typing import Final

from perdure.testing.simulation.fleet import Fleet
from perdure.testing.simulation.world import World

KINDS: Final[dict[str, Callable[[int], World | Fleet]]] = {"one": World.from_seed, "several": Fleet.from_seed}
"""One node, in one process after another; and several nodes at once."""


def main() -> int:
    """Run the seeds; 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m perdure.testing.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds of each kind")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run this seed only, and print its trace")
    parser.add_argument("--nodes", choices=KINDS, help="how many nodes; by default both kinds are run")
    options = parser.parse_args()
    kinds = [options.nodes] if options.nodes else [*KINDS]
    seeds = range(options.first, options.first + options.seeds)
    if options.seed is not None:
        seeds = [options.seed]
    failed = 0
    for kind in kinds:
        wrong = sum(not run(kind, seed, trace=options.seed is not None) for seed in seeds)
        print(f"{kind}: {len(seeds) - wrong} passed, {wrong} failed")
        failed += wrong
    return 1 if failed else 0


def run(kind: str, seed: int, trace: bool = False) -> bool:
    """Run one seed; True if all guarantees held. A failure prints its trace."""
    world = KINDS[kind](seed)
    try:
        world.run()
    except BaseException as error:
        for line in world.ledger.trace:
            print(line, file=sys.stderr)
        if not isinstance(error, AssertionError):
            traceback.print_exc()
        print(f"--- seed {seed} ({kind}) failed: {type(error).__name__}: {error}", file=sys.stderr)
        print(f"--- again: python -m perdure.testing.simulation --nodes {kind} --seed {seed}", file=sys.stderr)
        if isinstance(error, KeyboardInterrupt):
            raise
        return False
    if trace:
        print("\n".join(world.ledger.trace))
    return True


if __name__ == "__main__":
    sys.exit(main())
