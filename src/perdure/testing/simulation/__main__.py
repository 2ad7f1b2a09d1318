"""Run seeds: `python -m perdure.testing.simulation --seeds 1000 [--first 0] [--seed 7 --trace]`."""

from __future__ import annotations

import argparse
import sys
import traceback

from perdure.testing.simulation.world import World


def main() -> int:
    """Run the seeds; 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m perdure.testing.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run this seed only, and print its trace")
    options = parser.parse_args()
    if options.seed is not None:
        return 0 if run(options.seed, trace=True) else 1
    failed = [seed for seed in range(options.first, options.first + options.seeds) if not run(seed)]
    print(f"{options.seeds - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def run(seed: int, trace: bool = False) -> bool:
    """Run one seed; True if all guarantees held. A failure prints its trace."""
    world = World.from_seed(seed)
    try:
        world.run()
    except BaseException as error:
        print(f"--- seed {seed} failed: {type(error).__name__}: {error}", file=sys.stderr)
        if not isinstance(error, AssertionError):
            traceback.print_exc()
        for line in world.ledger.trace:
            print(line, file=sys.stderr)
        print(f"--- again: python -m perdure.testing.simulation --seed {seed}", file=sys.stderr)
        if isinstance(error, KeyboardInterrupt):
            raise
        return False
    if trace:
        print("\n".join(world.ledger.trace))
    return True


if __name__ == "__main__":
    sys.exit(main())
