"""What the code asks for in a replay, against what its history records that it asked for.

Commands and events of one workflow task are matched as a set: by kind, name and content (the encoded input, or
what is aimed at), in order only among those that are the same in all three. So a `gather` whose calls were put
into another order replays, and each result still goes to the call that it belongs to.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple, Protocol

from perdure.clock import SECOND
from perdure.errors import NondeterminismError
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model.failures import Failure
from perdure.model.payloads import Payload, Payloads
from perdure.sdk.converter import unordered
from perdure.sdk.workflow.child_ids import child_number
from perdure.sdk.workflow.displaced import WAY_OUT, Change
from perdure.sdk.workflow.patches import PATCH, is_optional, patch_of

_SHOWN: Final = 100  # characters of an input in an error


class Subject(Protocol):
    """The live side of what was asked for: a future or a timer.

    event_id: the event that records it, 0 until there is one. name: its id in the history. dropped: it was
    cancelled before anybody heard of it.
    """

    event_id: int
    name: str
    dropped: bool


Issued = tuple[c.Command, Subject | None, str]
"""A command, what it makes or aims at, and the user's line that asked for it ("" where that isn't known)."""

Pair = tuple[Issued, e.HistoryEvent]


class Key(NamedTuple):
    """What must be the same on both sides, and how that is shown. An empty name of a cancelled activity: one that had
    just ended.

    detail: what its content says beside the payloads, for people.
    """

    kind: str
    name: str
    content: Hashable = None
    payloads: Payloads = ()
    detail: str = ""


Asked = tuple[Key, Issued]
Recorded = tuple[Key, e.HistoryEvent]


class Match(NamedTuple):
    """Which command each event records, and which inputs have changed."""

    pairs: list[Pair]
    changed: list[Change]


class Scene(NamedTuple):
    """What keys depend on: whose workflow task it is, and the workflow's time during it. local: tells which local
    activities the code waits for; they are no commands."""

    workflow_id: str
    time: int
    local: Callable[[], list[str]] = list


def match(issued: Sequence[Issued], recorded: Sequence[e.HistoryEvent], scene: Scene) -> Match:
    """Find the command for each recorded event.

    Args:
        issued: what the code asked for in one workflow task.
        recorded: the events of that task's commands.
        scene: which task that is.

    Raises:
        NondeterminismError: they don't fit; it shows both sides.
    """
    ours = [(_command_key(item, scene), item) for item in issued]
    theirs = [(_event_key(event, scene), event) for event in recorded]
    if [key[:3] for key, _ in ours] == [key[:3] for key, _ in theirs]:
        return Match(list(zip(issued, recorded, strict=True)), [])
    asked = [item[0] for item in issued]
    theirs = [x for x in theirs if type(x[1]) is not e.MarkerRecorded or not is_optional(x[1], asked)]
    waiting: defaultdict[tuple[str, str, Hashable], deque[Asked]] = defaultdict(deque)
    for key, item in ours:
        waiting[key[:3]].append((key, item))
    pairs: list[Pair] = []
    unmatched: list[Recorded] = []
    for key, event in theirs:
        same = waiting[key[:3]]
        if same:
            pairs.append((same.popleft()[1], event))
        else:
            unmatched.append((key, event))
    left = [entry for same in waiting.values() for entry in same]
    left, unmatched = _match_unordered(pairs, left, unmatched)
    return Match(pairs, _match_changed(pairs, left, unmatched, scene))


def _match_unordered(
    pairs: list[Pair], left: list[Asked], unmatched: list[Recorded]
) -> tuple[list[Asked], list[Recorded]]:
    """Match calls whose input is the same but for the order in lists: each process writes a set in its own order."""
    waiting: defaultdict[Hashable, deque[Asked]] = defaultdict(deque)
    if unmatched:
        for entry in left:
            waiting[_unordered(entry[0])].append(entry)
    others: list[Recorded] = []
    for key, event in unmatched:
        same = waiting[_unordered(key)]
        if same:
            pairs.append((same.popleft()[1], event))
        else:
            others.append((key, event))
    return ([entry for same in waiting.values() for entry in same] if unmatched else left), others


def _unordered(key: Key) -> Hashable:
    content = tuple(map(unordered, key.payloads)) if key.kind in _CALLS else key.content
    return key.kind, key.name, key.detail, content


def _match_changed(pairs: list[Pair], left: list[Asked], unmatched: list[Recorded], scene: Scene) -> list[Change]:
    """Match what is the only one of its kind and name on both sides; its input has changed."""
    ours: defaultdict[tuple[str, str], list[Asked]] = defaultdict(list)
    for key, item in left:
        # Which activity had just ended when it was cancelled isn't recorded: any of those cancelled here.
        ours[key.kind, "" if key.kind == _CANCEL_ACTIVITY else key.name].append((key, item))
    theirs = Counter((key.kind, key.name) for key, _ in unmatched)
    changed: list[Change] = []
    missing: list[Recorded] = []
    for key, event in unmatched:
        alike = ours[key.kind, key.name]
        just_ended = key.kind == _CANCEL_ACTIVITY and alike
        if just_ended or len(alike) == theirs[key.kind, key.name] == 1:
            other, item = alike.pop(0)
            pairs.append((item, event))
            if not just_ended:
                was, now = _side_by_side(key, other)
                told = f"{was} (event {event.id}) is now {now}{_at(item)}"
                changed.append(Change(_identity(key), _identity(other), told, item[2]))
        else:
            missing.append((key, event))
    left = [entry for entries in ours.values() for entry in entries]
    if left or missing:
        raise NondeterminismError(_complaint(left, missing, scene.local()), left[0][1][2] if left else "")
    return changed


def _identity(key: Key) -> Hashable:
    """What a call is known by elsewhere in the run; of timers only the number counts, since many take the same time."""
    return None if key.kind == _TIMER else key[:3]


def _complaint(left: list[Asked], missing: list[Recorded], local: Sequence[str]) -> str:
    lines = ["the workflow's code does something else than its history says"]
    if missing:
        lines.append("recorded, but the code doesn't ask for it:")
        lines += [f"  event {event.id}: {_shown(key)}" for key, event in missing]
    if left or local:
        lines.append("asked for by the code, but not recorded:")
        lines += [f"  {_shown(key)}{_at(item)}" for key, item in left]
        lines += [f"  {each}, whose outcome isn't recorded here" for each in local]
    lines.append(WAY_OUT)
    if any(key.kind == _PATCH for key, _ in missing):
        lines.append(
            "A run that has recorded a patch needs its workflow.patched() or workflow.deprecate_patch(), as long as it "
            "runs"
        )
    return "\n".join(lines)


def _at(item: Issued) -> str:
    return f" at {item[2]}" if item[2] else ""


def _side_by_side(recorded: Key, asked: Key) -> tuple[str, str]:
    """Both for people; of a long input, what is around the place where they differ."""
    one, other = _written(recorded.payloads), _written(asked.payloads)
    begin = 0
    if max(len(one), len(other)) > _SHOWN:
        differ = (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
        begin = max(next(differ, min(len(one), len(other))) - _SHOWN // 2, 0)
    return _shown(recorded, begin), _shown(asked, begin)


def _shown(key: Key, begin: int = 0) -> str:
    text = f"{key.kind} {key.name}".rstrip()
    if key.payloads:
        text += input_text(key.payloads, begin)
    elif isinstance(key.content, int):
        text += f" of {key.content / SECOND} s"
    return f"{text} {key.detail}" if key.detail else text


def input_text(payloads: Payloads, begin: int = 0) -> str:
    """An input for people: some of it, from a place on."""
    text = _written(payloads)
    end = begin + _SHOWN
    return f"({'…' if begin else ''}{text[begin:end]}{'…' if len(text) > end else ''})"


def _written(payloads: Payloads) -> str:
    return ", ".join(payload.data.decode(errors="replace") for payload in payloads)


def issued_text(issued: Sequence[Issued], workflow_id: str) -> list[str]:
    """What the code asks for, for people; without what it only notes."""
    scene = Scene(workflow_id, 0)
    return [f"{_shown(_command_key(x, scene))}{_at(x)}" for x in issued if type(x[0]) is not c.RecordMarker]


# --- Keys -----------------------------------------------------------------------------------------------
_CANCEL_ACTIVITY: Final = "cancellation of the activity of event"
_ACTIVITY: Final = "activity"
_CHILD: Final = "child workflow"
_SIGNAL: Final = "signal"
_CALLS: Final = frozenset({_ACTIVITY, _CHILD, _SIGNAL})
_TIMER: Final = "timer"
_PATCH: Final = "patch"


def _content(payloads: Payloads) -> Hashable:
    return tuple([(p.data, tuple(sorted(p.metadata.items())) if p.metadata else ()) for p in payloads])


def _call(kind: str, name: str, payloads: Payloads, detail: str = "") -> Key:
    return Key(kind, name, (detail, _content(payloads)), payloads, detail)


def _child(x: c.StartChildWorkflow | e.StartChildWorkflowExecutionInitiated, scene: Scene) -> Key:
    # An id that was made up has a number in the order of the calls, which may have changed.
    own = "" if child_number(scene.workflow_id, x.workflow_id) else f"with the id {x.workflow_id!r}"
    return _call(_CHILD, x.workflow_type, x.input, own)


def _signal(x: c.SignalExternalWorkflow | e.SignalExternalWorkflowExecutionInitiated) -> Key:
    run = f"in its run {x.run_id}" if x.run_id else ""
    return _call(_SIGNAL, f"{x.signal_name} to workflow {x.workflow_id}", x.input, run)


def _result(kind: str, name: str, result: Payload | None, failure: Failure | None) -> Key:
    if result is not None:
        return _call(kind, name, (result,))
    type = "" if failure is None else failure.type
    return Key(kind, name, type, detail=f"with {type}" if type else "")


def _marker(marker: c.RecordMarker | e.MarkerRecorded) -> Key:
    # Whether a patch is deprecated may differ: deprecating it is the next deploy.
    if marker.marker_name == PATCH:
        return Key(_PATCH, repr(patch_of(marker).id))
    return Key("marker", marker.marker_name, tuple(sorted(marker.details)))


_COMMANDS: Final[dict[type[Any], Callable[[Any, Any, Scene], Key]]] = {
    c.ScheduleActivity: lambda x, _, __: _call(_ACTIVITY, x.activity_type, x.input),
    c.RequestCancelActivity: lambda _, subject, __: Key(_CANCEL_ACTIVITY, str(subject.event_id)),
    c.StartTimer: lambda x, _, __: Key(_TIMER, "", x.duration),
    c.CancelTimer: lambda x, _, __: Key("cancellation of timer", x.timer_id),
    c.CompleteWorkflow: lambda x, _, __: _result("completion of the workflow", "", x.result, None),
    c.FailWorkflow: lambda x, _, __: _result("failure of the workflow", "", None, x.failure),
    c.CancelWorkflow: lambda _, __, ___: Key("cancellation of the workflow", ""),
    c.ContinueAsNew: lambda x, _, __: _call("continue-as-new", x.workflow_type, x.input),
    c.AcceptUpdate: lambda x, _, __: Key("acceptance of update", x.update_id),
    c.CompleteUpdate: lambda x, _, __: _result("completion of update", x.update_id, x.result, x.failure),
    c.StartChildWorkflow: lambda x, _, scene: _child(x, scene),
    c.SignalExternalWorkflow: lambda x, _, __: _signal(x),
    c.RequestCancelExternalWorkflow: lambda x, _, __: Key("cancellation of workflow", x.workflow_id),
    c.RecordMarker: lambda x, _, __: _marker(x),
}

_EVENTS: Final[dict[type[Any], Callable[[Any, Scene], Key]]] = {
    e.ActivityTaskScheduled: lambda x, _: _call(_ACTIVITY, x.activity_type, x.input),
    e.ActivityTaskCancelRequested: lambda x, _: Key(
        _CANCEL_ACTIVITY, str(x.scheduled_event_id) if x.scheduled_event_id else ""
    ),
    e.TimerStarted: lambda x, scene: Key(_TIMER, "", x.fire_at - scene.time),
    e.TimerCanceled: lambda x, _: Key("cancellation of timer", x.timer_id),
    e.WorkflowExecutionCompleted: lambda x, _: _result("completion of the workflow", "", x.result, None),
    e.WorkflowExecutionFailed: lambda x, _: _result("failure of the workflow", "", None, x.failure),
    e.WorkflowExecutionCanceled: lambda _, __: Key("cancellation of the workflow", ""),
    e.WorkflowExecutionContinuedAsNew: lambda x, _: _call("continue-as-new", x.workflow_type, x.input),
    e.WorkflowExecutionUpdateAccepted: lambda x, _: Key("acceptance of update", x.update_id),
    e.WorkflowExecutionUpdateCompleted: lambda x, _: _result("completion of update", x.update_id, x.result, x.failure),
    e.StartChildWorkflowExecutionInitiated: _child,
    e.SignalExternalWorkflowExecutionInitiated: lambda x, _: _signal(x),
    e.RequestCancelExternalWorkflowExecutionInitiated: lambda x, _: Key("cancellation of workflow", x.workflow_id),
    e.MarkerRecorded: lambda x, _: _marker(x),
}


def identity(item: Issued, workflow_id: str) -> Hashable:
    """What a command of a run is known by: its kind, name and content; None where it doesn't matter."""
    return _identity(_command_key(item, Scene(workflow_id, 0)))


def _command_key(item: Issued, scene: Scene) -> Key:
    command, subject, _ = item
    return _COMMANDS[type(command)](command, subject, scene)


def _event_key(event: e.HistoryEvent, scene: Scene) -> Key:
    key = _EVENTS.get(type(event))
    return Key(type(event).__name__, "") if key is None else key(event, scene)


RECORDS: Final[dict[type[Any], type[Any]]] = {
    c.ScheduleActivity: e.ActivityTaskScheduled,
    c.RequestCancelActivity: e.ActivityTaskCancelRequested,
    c.StartTimer: e.TimerStarted,
    c.CancelTimer: e.TimerCanceled,
    c.CompleteWorkflow: e.WorkflowExecutionCompleted,
    c.FailWorkflow: e.WorkflowExecutionFailed,
    c.CancelWorkflow: e.WorkflowExecutionCanceled,
    c.ContinueAsNew: e.WorkflowExecutionContinuedAsNew,
    c.AcceptUpdate: e.WorkflowExecutionUpdateAccepted,
    c.CompleteUpdate: e.WorkflowExecutionUpdateCompleted,
    c.StartChildWorkflow: e.StartChildWorkflowExecutionInitiated,
    c.SignalExternalWorkflow: e.SignalExternalWorkflowExecutionInitiated,
    c.RequestCancelExternalWorkflow: e.RequestCancelExternalWorkflowExecutionInitiated,
    c.RecordMarker: e.MarkerRecorded,
}
"""The event that records each command."""


def in_order(issued: Sequence[Issued], recorded: Sequence[e.HistoryEvent]) -> bool:
    """Whether the events are of the commands' types, in order: enough for commands that were just sent."""
    return [*map(RECORDS.get, map(type, map(itemgetter(0), issued)))] == [*map(type, recorded)]
