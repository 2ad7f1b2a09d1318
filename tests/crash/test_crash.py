"""A sample of the crash tests; `make crash` makes many more kills."""

from __future__ import annotations

from pathlib import Path

from tests.crash.report import report
from tests.crash.runner import Broken, Round

KILLS = 20


def test_nothing_is_lost(tmp_path: Path) -> None:
    kills = number = 0
    while kills < KILLS:
        round = Round(tmp_path / str(number), f"sample/{number}", KILLS // 2)
        try:
            round.run()
        except Broken as broken:
            raise AssertionError(report(round, broken)) from None
        kills += len(round.made)
        number += 1
    assert number <= 4, f"{number} rounds for {kills} kills: there is too little work to be killed in"
