"""What the demo prints: its story, live progress, a table, the proof.

On a terminal the progress is a panel that changes in place; elsewhere (a file, a CI log) it is a line for
each thing that happens.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence
from itertools import groupby
from textwrap import fill, indent
from types import TracebackType

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from examples.provision.cloud import CallLog, Report
from examples.provision.progress import State, Step
from examples.provision.proof import Check, Kill

_LOOK: dict[State, tuple[str, str, str]] = {
    "planned": ("·", "dim", "planned"),
    "queued": ("○", "cyan", "queued"),
    "running": ("●", "cyan", "being made"),
    "retrying": ("↻", "yellow", "will try again"),
    "held": ("‖", "bold magenta", "held"),
    "done": ("✓", "green", "made"),
    "failed": ("✗", "bold red", "failed"),
}
_OUTCOMES = {
    "throttled": "429",
    "internal": "500",
    "quota_exceeded": "403",
    "created": "made",
    "repeated": "recognised",
}

WIDTH = 110
"""Columns where there is no terminal."""

LEGEND = (
    "429: too many calls. 500: a failure. 403: over the quota. unheard: it was made, but the answer was lost. "
    "recognised: the call came again under its key, and got what was made before. †: the process was killed."
)


class Screen:
    """Where the demo is shown. Used with `with`, so that the terminal is left as it was.

    Args:
        plan: the steps that will be taken.
    """

    def __init__(self, plan: list[Step]) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal that knows no "✓" shows something else
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console.width = WIDTH
        self._steps = {(step.kind, step.name): step for step in plan}
        self._began = time.monotonic()
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, transient=True, refresh_per_second=8, get_renderable=self._panel)

    @property
    def is_live(self) -> bool:
        """Whether a person is watching."""
        return self._live is not None

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end_progress()

    def end_progress(self) -> None:
        """Show no more progress."""
        if self._live is not None:
            self._live.stop()

    def chapter(self, title: str) -> None:
        """Begin a part of the story."""
        self._console.print(f"\n[bold blue]{title}[/]")

    def say(self, text: str) -> None:
        """Tell a paragraph of the story."""
        self._console.print(Text(indent(fill(text, self._console.width - 2), "  ")), soft_wrap=True)

    def quote(self, text: str) -> None:
        """Show what somebody else says."""
        quoted = indent(fill(text, self._console.width - 6), "    │ ")
        self._console.print(Text(quoted, style="magenta"), soft_wrap=True)

    def progress(self, steps: Sequence[Step]) -> None:
        """Show how far the steps are that were begun."""
        for step in steps:
            before = self._steps.get((step.kind, step.name))
            self._steps[step.kind, step.name] = step
            if self._live is None and step != before and step.state in ("retrying", "held", "done", "failed"):
                symbol, style, word = _LOOK[step.state]
                told = "" if step.state == "done" else f": {step.problem}"
                elapsed = time.monotonic() - self._began
                line = f"  {elapsed:5.1f} s {symbol} {step.kind} {step.name} {word}{told}"
                self._console.print(Text(line, style=style), soft_wrap=True)

    def results(self, report: Report, kill: Kill) -> None:
        """A table of what was made, and how often each call was tried."""
        table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for column in ("", "name", "id", "attempts", "what the cloud answered"):
            table.add_column(column, justify="right" if column == "attempts" else "left")
        resources = {resource.key.rpartition("/")[2]: resource for resource in report.resources}
        for step in self._steps.values():
            resource = resources.get(step.activity_id)
            calls = [] if resource is None else [call for call in report.calls if call.key == resource.key]
            attempts = Text(str(step.attempt), style="yellow" if step.attempt > 1 else "")
            id = "" if resource is None else resource.id
            table.add_row(step.kind, step.name, id, attempts, _answers(calls, kill))
        self._console.print(Padding(table, (0, 0, 0, 2), expand=False))
        self.say(LEGEND)

    def proof(self, checks: Sequence[Check]) -> None:
        """What was checked, and what came of it."""
        table = Table.grid(padding=(0, 1))
        for check in checks:
            mark = Text("✓", "green") if check.holds else Text("✗ NOT SO:", "bold red")
            table.add_row(mark, Text.assemble(check.claim, " ", (f"({check.evidence})", "dim")))
        self._console.print(Padding(table, (0, 0, 0, 2), expand=False))
        verdict = "The proof holds" if all(check.holds for check in checks) else "The proof does not hold"
        self._console.print(f"\n[bold]{verdict}, after {time.monotonic() - self._began:.0f} s.[/]")

    def _panel(self) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        for step in self._steps.values():
            symbol, style, word = _LOOK[step.state]
            tried = f"attempt {step.attempt}" if step.attempt > 1 else ""
            problem = step.problem if step.state in ("retrying", "held", "failed") else ""
            cells = (symbol, step.kind, step.name, word, tried, problem)
            table.add_row(*(Text(cell, style, overflow="ellipsis", no_wrap=True) for cell in cells))
        done = sum(step.state == "done" for step in self._steps.values())
        elapsed = time.monotonic() - self._began
        return Panel(table, title=f"{done} of {len(self._steps)} made", subtitle=f"{elapsed:.0f} s", style="blue")


def _answers(calls: Sequence[CallLog], kill: Kill) -> str:
    """What became of each attempt to make one resource."""
    before = [_answer(call) for call in calls if call.client == kill.client]
    after = [_answer(call) for call in calls if call.client != kill.client]
    return " † ".join(_counted(answers) for answers in (before, after) if answers)


def _answer(call: CallLog) -> str:
    return _OUTCOMES.get(call.outcome, call.outcome) + ("" if call.heard else " (unheard)")


def _counted(words: Sequence[str]) -> str:
    """ "429, 429, made" as "429 x2, made"."""
    counts = [(word, len(list(group))) for word, group in groupby(words)]
    return ", ".join(word if count == 1 else f"{word} x{count}" for word, count in counts)
