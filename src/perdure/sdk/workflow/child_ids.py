"""Workflow ids of children that were not given one: the parent's id, its run, and the number of the call in that run.

The run is in it, since children may outlive the run that began them: the next one of the same id begins its own.
"""

from __future__ import annotations

import re
from typing import Final

_RUN: Final = 6
"""Characters of the run id: enough to tell apart the few runs whose children may be there at once."""

_FORM: Final = re.compile(rf"[0-9a-f]{{{_RUN}}}-([0-9]+)")


def child_id(workflow_id: str, run_id: str, number: int) -> str:
    """The id of a run's child, by the number of the call that begins it."""
    return f"{workflow_id}/{run_id[:_RUN]}-{number}"


def child_number(workflow_id: str, id: str) -> int:
    """The number in an id that `child_id` made for this run or another of the same workflow id; 0 for any other id."""
    parent, slash, own = id.rpartition("/")
    form = _FORM.fullmatch(own) if slash and parent == workflow_id else None
    return 0 if form is None else int(form[1])
