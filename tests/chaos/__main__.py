"""Chaos for a while: `python -m tests.chaos --seconds 600 [--seed 1]`.

The folder of a run that breaks a guarantee is kept, with a report in it.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.checks import check
from tests.chaos.report import report, summary
from tests.chaos.runner import Broken, Chaos


def main() -> int:
    """Make chaos; 1 if a guarantee was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="for how long there are faults")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="decides the work and the faults")
    parser.add_argument("--grace", type=float, default=10, help="seconds after which a silent process is given up")
    parser.add_argument("--crowd", type=int, default=6, help="workflows that each process wants at once")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started is ended
    folder = Path(tempfile.mkdtemp(prefix="perdure-chaos-"))
    chaos = Chaos(folder, options.seed, options.seconds, options.grace, crowd=options.crowd)
    try:
        chaos.run()
        if findings := check(chaos):
            raise Broken(findings)
    except Broken as broken:
        text = report(chaos, broken)
        (folder / "report").write_text(text)
        print("\n".join(text.splitlines()[:40]), file=sys.stderr)
        print(f"the whole report is {folder / 'report'}", file=sys.stderr)
        return 1
    print(summary(chaos))
    print("every guarantee held")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
