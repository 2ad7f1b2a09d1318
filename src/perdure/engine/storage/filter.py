"""The list filter: what a query such as ``WorkflowType = 'provision' AND Env IN ('a', 'b')`` means.

A query is parsed (see :mod:`perdure.engine.storage.query`) into the few frozen classes below. From them comes
a predicate for the store in memory, and an SQL condition for the others, in which every value is a parameter.

A test on an attribute holds if one of its values satisfies it; so it is false for a run that lacks the
attribute. ``!=`` and ``NOT`` are plain negation: `Env != 'a'` lists the runs without an `Env` as well.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from perdure.engine.storage.api import RunKey, Visibility
from perdure.engine.storage.fields import Subject
from perdure.engine.storage.listing import Value, attribute_values, kind_of

Operator = Literal["in", "<", "<=", ">", ">=", "between", "starts with", "exists"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A field compared with values: one or more for "in", two for "between", none for "exists".

    custom: the field is kept as a search attribute; otherwise it is one of `fields.FIELDS` with a column.
    """

    field: str
    custom: bool
    operator: Operator
    values: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    part: Filter


Filter = Comparison | And | Or | Not


def parse(query: str, subject: Subject | None = None) -> Filter | None:
    """The meaning of a query; None for an empty one, which all runs match.

    subject: what is listed, so that only its fields are taken; by default those of all.

    Raises:
        InvalidRequest: the query isn't understood; the message says where and why.
    """
    if not query.strip():
        return None
    from perdure.engine.storage.query import parse_query  # brings sqlglot, which is slow to import

    return parse_query(query, subject)


def conjuncts(condition: Filter | None) -> tuple[Filter, ...]:
    """Conditions that must all hold."""
    if condition is None:
        return ()
    return condition.parts if isinstance(condition, And) else (condition,)


def equalities(conditions: Sequence[Filter]) -> list[Comparison]:
    """Those of the conditions that ask one field for one value."""
    comparisons = (condition for condition in conditions if isinstance(condition, Comparison))
    return [one for one in comparisons if one.operator == "in" and len(one.values) == 1]


# --- In Python ------------------------------------------------------------------------------------------
class Row(NamedTuple):
    """A run that may match."""

    key: RunKey
    run_id: str
    seen: Visibility


_BUILT_IN: dict[str, Callable[[Row], tuple[Value, ...]]] = {
    "WorkflowType": lambda row: (row.seen.workflow_type,),
    "WorkflowId": lambda row: (row.key.workflow_id,),
    "RunId": lambda row: (row.run_id,),
    "ExecutionStatus": lambda row: (row.seen.status,),
    "StartTime": lambda row: (row.seen.start_time,),
    "CloseTime": lambda row: (row.seen.close_time,) if row.seen.close_time else (),
    "TaskQueue": lambda row: (row.seen.task_queue,),
}
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def predicate(query: str) -> Callable[[Row], bool]:
    """A function that tells whether a run matches the query. Raises as `parse`."""
    condition = parse(query)
    return _predicate(condition) if condition is not None else lambda row: True


def _predicate(condition: Filter) -> Callable[[Row], bool]:
    if isinstance(condition, Not):
        part = _predicate(condition.part)
        return lambda row: not part(row)
    if isinstance(condition, Comparison):
        values, satisfied = _values_of(condition), _satisfied_by(condition)
        return lambda row: any(map(satisfied, values(row)))
    parts = [_predicate(part) for part in condition.parts]
    if isinstance(condition, And):
        return lambda row: all(part(row) for part in parts)
    return lambda row: any(part(row) for part in parts)


def _values_of(test: Comparison) -> Callable[[Row], tuple[Value, ...]]:
    if not test.custom:
        return _BUILT_IN[test.field]
    name = test.field
    return lambda row: attribute_values((row.seen.attributes or {}).get(name))


def _satisfied_by(test: Comparison) -> Callable[[Value], bool]:
    if test.operator == "exists":
        return lambda value: True
    if test.operator == "in":
        wanted = {(kind_of(value), value) for value in test.values}
        return lambda value: (kind_of(value), value) in wanted
    first = test.values[0]
    kind = kind_of(first)
    if test.operator == "starts with":
        prefix = str(first)
        return lambda value: isinstance(value, str) and value.startswith(prefix)
    if test.operator == "between":
        lowest, highest = test.values
        at_least, at_most = operator.ge, operator.le
        return lambda value: kind_of(value) == kind and at_least(value, lowest) and at_most(value, highest)
    compare = _COMPARISONS[test.operator]
    return lambda value: kind_of(value) == kind and compare(value, first)


# --- In SQL ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Dialect:
    """How a store's tables are asked.

    columns: the expression of each of `fields.FIELDS` that has a column. A close time is 0 where the run is open.
    attribute: a condition that some attribute row of the run satisfies {condition}.
    name, kind, value: expressions in it; the value's by its kind.
    bound: what is passed for a value; True: it is compared with an attribute's.
    placeholder: the parameter's mark, by its number from 1.
    status: how a status is stored. It is written into the statement, so that partial indexes apply.
    """

    columns: Mapping[str, str]
    attribute: str
    name: str
    kind: str
    value: Callable[[int], str]
    bound: Callable[[Value, bool], object]
    placeholder: Callable[[int], str]
    status: Mapping[str, int]


class Sql:
    """Builds a condition and its parameters, behind those that are there already."""

    def __init__(self, dialect: Dialect, parameters: list[object]) -> None:
        self._dialect = dialect
        self._parameters = parameters

    def condition(self, condition: Filter) -> str:
        if isinstance(condition, Not):
            return f"NOT ({self.condition(condition.part)})"
        if isinstance(condition, Comparison):
            return self._attribute(condition) if condition.custom else self._built_in(condition)
        return _joined(list(map(self.condition, condition.parts)), "AND" if isinstance(condition, And) else "OR")

    def bind(self, value: object) -> str:
        """The mark of a new parameter."""
        self._parameters.append(value)
        return self._dialect.placeholder(len(self._parameters))

    def _built_in(self, test: Comparison) -> str:
        column = self._dialect.columns[test.field]
        if test.field == "ExecutionStatus" and test.operator == "in":
            codes = [f"{column} = {self._dialect.status[str(value)]}" for value in test.values]
            return f"({' OR '.join(codes)})"
        held = self._comparison(column, test.operator, self._bound(test.values, custom=False))
        return f"({column} > 0 AND {held})" if test.field == "CloseTime" else held

    def _attribute(self, test: Comparison) -> str:
        dialect = self._dialect
        name = f"{dialect.name} = {self.bind(dialect.bound(test.field, True))}"
        by_kind: dict[int, list[Value]] = {}
        for value in test.values:
            by_kind.setdefault(kind_of(value), []).append(value)
        held = [
            f"{dialect.kind} = {kind} AND "
            + self._comparison(dialect.value(kind), test.operator, self._bound(values, custom=True))
            for kind, values in by_kind.items()
        ]
        condition = f"{name} AND ({' OR '.join(held)})" if held else name
        return dialect.attribute.format(condition=condition)

    def _bound(self, values: Sequence[Value], *, custom: bool) -> list[object]:
        return [self._dialect.bound(value, custom) for value in values]

    def _comparison(self, column: str, how: Operator, values: Sequence[object]) -> str:
        if how == "exists":
            return f"{column} IS NOT NULL"
        if how == "in":
            return f"{column} IN ({', '.join(map(self.bind, values))})"
        if how == "between":
            return f"{column} BETWEEN {self.bind(values[0])} AND {self.bind(values[1])}"
        if how == "starts with":
            # A range, so that an index serves it, and no character of the prefix means anything else.
            prefix = str(values[0])
            after = _after_prefix(prefix)
            from_prefix = f"{column} >= {self.bind(prefix)}"
            return f"({from_prefix} AND {column} < {self.bind(after)})" if after else from_prefix
        return f"{column} {how} {self.bind(values[0])}"


def _joined(parts: list[str], connector: str) -> str:
    """The parts, joined in pairs of pairs: databases bound how deep a condition may be."""
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=False)
        parts = [f"({one} {connector} {other})" for one, other in pairs] + parts[len(parts) & ~1 :]
    return parts[0]


def _after_prefix(prefix: str) -> str:
    """The least text above all that begin with the prefix; "" where there is none."""
    while prefix:
        code = ord(prefix[-1]) + 1
        if code == 0xD800:
            code = 0xE000  # what lies between are no characters
        if code <= 0x10FFFF:
            return prefix[:-1] + chr(code)
        prefix = prefix[:-1]
    return ""
