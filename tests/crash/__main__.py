"""Kill and look: `python -m tests.crash --kills 200 [--seed 1] [--round 3]`.

Each round has a file of its own, and a number of kills. The first round that breaks a guarantee is reported, and
its folder is kept.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.crash.ledger import Began, Told
from tests.crash.report import report
from tests.crash.runner import Broken, Round

KILLS_A_ROUND = 25
"""Enough that a file outlives many processes, few enough that there are many files."""


def main() -> int:
    """Run rounds until there were enough kills; 1 if a guarantee was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many kills in all, at least")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="decides the work and the moments")
    parser.add_argument("--round", type=int, default=0, help="the first round")
    parser.add_argument("--folder", type=Path, help="where the files are made; by default a temporary folder")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="perdure-crash-", dir=options.folder))
    began = time.monotonic()
    total: Counter[str] = Counter()
    number = options.round
    while total["kills"] < options.kills:
        round = Round(folder / str(number), f"{options.seed}/{number}", min(KILLS_A_ROUND, options.kills))
        try:
            round.run()
        except Broken as broken:
            text = report(round, broken)
            (round.folder / "report").write_text(text)
            print(text, file=sys.stderr)
            print(f"again: python -m tests.crash --seed {options.seed} --round {number}", file=sys.stderr)
            return 1
        counts = tally(round)
        total += counts
        print(f"round {number}: {summary(counts)}", flush=True)
        shutil.rmtree(round.folder)
        number += 1
    folder.rmdir()
    print(f"seed {options.seed}, {time.monotonic() - began:.0f} s: {summary(total)}; every guarantee held")
    return 0


def tally(round: Round) -> Counter[str]:
    """What happened in a round."""
    counts: Counter[str] = Counter(f"kills while {moment.name}" for _, moment in round.made)
    counts["kills"] = len(round.made)
    counts["clean stops"] = round.process + 1 - len(round.made)
    counts["workflows"] = len(round.disk.runs)
    for line in round.lines:
        if isinstance(line, Told) and line.what != "result":
            counts["acknowledgements"] += 1
        elif isinstance(line, Began):
            counts["attempts"] += 1
            counts["attempts after a lost one"] += "WorkerLost" in line.failure
    return counts


def summary(counts: Counter[str]) -> str:
    """Counts as a line."""
    return ", ".join(f"{number} {what}" for what, number in sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())
