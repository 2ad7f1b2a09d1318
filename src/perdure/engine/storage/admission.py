"""Which writes of a group are taken: the rules of :class:`api.Store`, over what a store has read.

Writes are judged in order. Those of one workflow id stand or fall together, so that a run can be closed and
its successor begun, or one run ended in favour of another, in one step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from perdure.engine.storage.api import Verdict, Write

ChainTuple = tuple[str, str]
"""A `ChainKey`'s content; equal to it, and quicker to make."""


class ChainView:
    """What is stored of one workflow id, as far as the group asks about it.

    versions: of the runs that the writes name, where they exist.
    latest: the highest run_no stored, and open: whether that run is; needed only where a run is to be inserted.
    taken: those of the writes' request ids that are taken.
    """

    __slots__ = ("latest", "open", "taken", "versions", "writes")

    def __init__(self) -> None:
        self.writes: list[int] = []
        self.versions: dict[int, int] = {}
        self.latest = 0
        self.open = False
        self.taken: set[str] = set()


def views_of(group: Sequence[Write]) -> dict[ChainTuple, ChainView]:
    """Empty views for the workflow ids of a group, each with the positions of its writes."""
    views: dict[ChainTuple, ChainView] = {}
    for position, write in enumerate(group):
        chain = write.key[:2]
        view = views.get(chain)
        if view is None:
            view = views[chain] = ChainView()
        view.writes.append(position)
    return views


def verdicts(group: Sequence[Write], views: Mapping[ChainTuple, ChainView]) -> list[Verdict]:
    """A verdict for each write of the group. The views are used up."""
    found: list[Verdict] = ["taken"] * len(group)
    for view in views.values():
        for position in view.writes:
            refusal = _refusal(group[position], view)
            if refusal is not None:
                for other in view.writes:
                    found[other] = "stale"
                found[position] = refusal
                break
    return found


def settled(group: Sequence[Write], found: Sequence[bool]) -> list[bool]:
    """Which writes of a group were taken, where no verdicts came.

    Args:
        group: the writes.
        found: whether what each would have left is there: its commit, or, where it deletes, nothing of the run.
    """
    last: dict[ChainTuple, dict[int, bool]] = {}
    for write, there in zip(group, found, strict=True):  # a later write of a run stands for the earlier ones
        last.setdefault(write.key[:2], {})[write.key.run_no] = there
    return [all(last[write.key[:2]].values()) for write in group]


def _refusal(write: Write, view: ChainView) -> Verdict | None:
    """Why a write can't be taken; None if it can, and then the view shows it as stored."""
    for request_id, _ in write.dedup:
        if request_id in view.taken:
            return "duplicate"
    run_no = write.key.run_no
    if write.expected:
        if view.versions.get(run_no) != write.expected:
            return "stale"
    elif view.open or run_no != view.latest + 1:
        return "stale"
    else:
        view.latest = run_no
    if run_no == view.latest:
        view.open = write.status == "Running" and not write.delete
    if write.delete:
        view.versions.pop(run_no, None)
    else:
        view.versions[run_no] = write.version
    if write.dedup:
        view.taken.update(request_id for request_id, _ in write.dedup)
    return None
