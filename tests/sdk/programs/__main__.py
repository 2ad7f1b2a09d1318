"""Run seeds: `python -m tests.sdk.programs --seeds 1000 [--first 0 | --seed 7] [--only gather wait …]`."""

from __future__ import annotations

import argparse
import logging
import sys
import traceback

from tests.sdk.programs.checks import check_seed
from tests.sdk.programs.generator import ALONE, AROUND, Generator, shown


def main() -> int:
    """Run the seeds; 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.sdk.programs", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run this seed only, and print its program and its trace")
    parser.add_argument("--only", nargs="+", choices=[*ALONE, *AROUND], help="make programs of these operations only")
    options = parser.parse_args()
    logging.getLogger("perdure").setLevel(logging.CRITICAL)  # of tasks whose failures nobody asks for
    seeds = range(options.first, options.first + options.seeds) if options.seed is None else [options.seed]
    only = frozenset[str](options.only or ())
    failed = 0
    for seed in seeds:
        if options.seed is not None:
            print(shown(Generator(seed, only=only).program()))
        try:
            played = check_seed(seed, only)
        except Exception:
            failed += 1
            print(f"seed {seed}:", traceback.format_exc())
        else:
            if options.seed is not None:
                print(played.ask("trace"))
    print(f"{len(seeds) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
