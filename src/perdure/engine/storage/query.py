"""Parses the list filter's language into :mod:`perdure.engine.storage.filter`. Imported only when it is used.

The grammar is SQL's, cut down to conditions on fields: `= != < <= > >= IN BETWEEN STARTS_WITH IS NULL`, with
`NOT`, `AND`, `OR` and parentheses. What is not listed here is refused, so no query can reach beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import ClassVar, Final, get_args

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ParseError, TokenError
from sqlglot.tokenizer_core import TokenType
from sqlglot.tokens import Tokenizer

from perdure.clock import from_datetime
from perdure.engine.storage.fields import FIELDS, Subject, mistaken, sortable_time
from perdure.engine.storage.filter import And, Comparison, Filter, Not, Operator, Or
from perdure.engine.storage.listing import Value
from perdure.errors import InvalidRequest
from perdure.limits import EARLIEST_TIME, MAX_QUERY_LENGTH
from perdure.model.requests import Status

_STATUSES: Final = get_args(Status)
_MAX_INTEGER: Final = 2**63 - 1
_BEGINNING: Final = {4: "-01-01", 7: "-01"}
"""What makes a date of a year or of a month."""


class _ListFilter(Dialect):
    """SQL in which STARTS_WITH stands between its operands."""

    class Tokenizer(Tokenizer):
        KEYWORDS: ClassVar[dict[str, TokenType]] = {**Tokenizer.KEYWORDS, "STARTS_WITH": TokenType.CARET_AT}


_COMPARISONS: Final[dict[type[exp.Expr], Operator]] = {
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.StartsWith: "starts with",
}


def parse_query(query: str, subject: Subject | None) -> Filter:
    """The meaning of a query that isn't empty. Raises InvalidRequest."""
    if len(query) > MAX_QUERY_LENGTH:
        raise InvalidRequest(
            f"the list filter has {len(query)} characters; limits.MAX_QUERY_LENGTH is {MAX_QUERY_LENGTH}"
        )
    try:
        trees = _ListFilter().parse_into(exp.Condition, query)
        if len(trees) != 1 or trees[0] is None:
            raise InvalidRequest("list filter: write one condition, without a semicolon")
        return _filter(trees[0], subject)
    except ParseError as error:
        raise _syntax_error(error) from None
    except TokenError:
        raise InvalidRequest("list filter: a quote or a comment is opened and not closed") from None
    except RecursionError:
        raise InvalidRequest("list filter: it is nested too deeply") from None


def _syntax_error(error: ParseError) -> InvalidRequest:
    details = error.errors[0] if error.errors else {}
    what = str(details.get("highlight") or "")
    where = f"column {int(details.get('col') or 1)}"
    return InvalidRequest(
        f"list filter, {where}: {what!r} is not understood there; "
        "write conditions such as WorkflowType = 'name', joined by AND and OR"
    )


def _refused(node: exp.Expr, why: str) -> InvalidRequest:
    """An error that names the column of the field that a node is about."""
    identifier = node.find(exp.Identifier)
    start = identifier.meta.get("start") if identifier is not None else None
    where = f", column {start + 1}" if isinstance(start, int) else ""
    return InvalidRequest(f"list filter{where}: {why}")


# --- The tree -------------------------------------------------------------------------------------------
def _filter(node: exp.Expr, subject: Subject | None) -> Filter:
    handler = _NODES.get(type(node))
    if handler is not None:
        return handler(node, subject)
    how = _COMPARISONS.get(type(node))
    if how is not None:
        return _test(node, subject, how, [node.expression])
    if isinstance(node, exp.Like | exp.ILike):
        raise _refused(node, f"{node.sql()!r}: LIKE isn't there; write STARTS_WITH 'the beginning'")
    raise _refused(node, f"{node.sql()!r} is no condition; write a field, an operator and a value, as in Env = 'test'")


def _flat(node: exp.Expr, subject: Subject | None) -> tuple[Filter, ...]:
    """The parts of a chain of the same connector, however it is nested."""
    parts: list[Filter] = []
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if type(part) is type(node):
            waiting += [part.args["expression"], part.args["this"]]
        else:
            parts.append(_filter(part, subject))
    return tuple(parts)


def _in(node: exp.Expr, subject: Subject | None) -> Filter:
    choices: Sequence[exp.Expr] = node.args.get("expressions") or ()
    if not choices:
        raise _refused(node, "IN takes values in parentheses, as in Env IN ('test', 'live')")
    return _test(node, subject, "in", choices)


def _is(node: exp.Expr, subject: Subject | None) -> Filter:
    if not isinstance(node.expression, exp.Null):
        raise _refused(node, "IS takes NULL or NOT NULL; compare values with =")
    return Not(_test(node, subject, "exists", []))


_NODES: Final[dict[type[exp.Expr], Callable[[exp.Expr, Subject | None], Filter]]] = {
    exp.Paren: lambda node, subject: _filter(node.this, subject),
    exp.And: lambda node, subject: And(_flat(node, subject)),
    exp.Or: lambda node, subject: Or(_flat(node, subject)),
    exp.Not: lambda node, subject: Not(_filter(node.this, subject)),
    exp.EQ: lambda node, subject: _test(node, subject, "in", [node.expression]),
    exp.NEQ: lambda node, subject: Not(_test(node, subject, "in", [node.expression])),
    exp.In: _in,
    exp.Is: _is,
    exp.Between: lambda node, subject: _test(node, subject, "between", [node.args["low"], node.args["high"]]),
}


# --- Fields and values ----------------------------------------------------------------------------------
def _test(node: exp.Expr, subject: Subject | None, how: Operator, values: Sequence[exp.Expr]) -> Filter:
    name, built_in = _field(node, subject)
    field = FIELDS[name] if built_in else None
    if field is not None and how == "starts with" and field.takes != "text":
        raise _refused(node, f"STARTS_WITH is for texts, and {name} takes {_TAKEN[field.takes]}")
    if field is not None and field.takes in ("status", "truth") and how not in ("in", "exists", "starts with"):
        raise _refused(node, f"{name} has no order; compare it with =, != or IN")
    convert = _as_it_is if field is None else _VALUES[field.takes]
    literals = [_literal(node, value) for value in values]
    try:
        converted = [convert(literal) for literal in literals]
    except ValueError as error:
        assert field is not None
        raise _refused(node, f"{name} takes {_TAKEN[field.takes]}, {error}; write {_write(name, literals)}") from None
    if field is not None and field.takes == "time" and not field.column:
        converted = [_sortable(node, value) for value in converted]
    test = Comparison(name, field is None or not field.column, how, tuple(converted))
    if how == "starts with" and not isinstance(test.values[0], str):
        raise _refused(node, "STARTS_WITH is for texts")
    if how == "between" and isinstance(test.values[0], str) != isinstance(test.values[1], str):
        raise _refused(node, "BETWEEN takes two values of the same kind")
    return test


def _field(node: exp.Expr, subject: Subject | None) -> tuple[str, bool]:
    """The name on the left of an operator, and whether it is one of `FIELDS`, no search attribute."""
    column = node.this
    if not isinstance(column, exp.Column) or len(column.parts) != 1 or not isinstance(column.this, exp.Identifier):
        raise _refused(node, f'{node.sql()!r} doesn\'t begin with the name of a field; quote unusual names: "my name"')
    name, quoted = column.name, bool(column.this.quoted)
    if quoted and subject == "schedules":
        raise _refused(node, f'schedules have no search attributes, such as "{name}"; names of fields have no quotes')
    why = "" if quoted else mistaken(name, subject)
    if why:
        raise _refused(node, why)
    return name, not quoted and name in FIELDS


def _literal(node: exp.Expr, value: exp.Expr) -> Value:
    if isinstance(value, exp.Boolean):
        return bool(value.this)
    if isinstance(value, exp.Null):
        raise _refused(node, "nothing equals NULL; write IS NULL or IS NOT NULL")
    negative = isinstance(value, exp.Neg)
    literal = value.this if negative else value
    if isinstance(literal, exp.Literal):
        if literal.is_string:
            if not negative:
                return str(literal.this)
        else:
            return _number(node, f"{'-' if negative else ''}{literal.this}")
    raise _refused(node, f"{value.sql()!r} is no value: write 'text', a number, TRUE or FALSE")


def _number(node: exp.Expr, digits: str) -> Value:
    try:
        number = int(digits)
    except ValueError:
        try:
            return float(digits)
        except ValueError:
            raise _refused(node, f"{digits!r} is no number") from None
    if not -_MAX_INTEGER <= number <= _MAX_INTEGER:
        raise _refused(node, f"{digits} is beyond 64 bits")
    return number


# What a field makes of a value. Each raises ValueError: why it is none.
def _as_it_is(value: Value) -> Value:
    return value


def _text(value: Value) -> Value:
    if not isinstance(value, str):
        raise ValueError(f"and {value!r} is none")
    return value


def _status(value: Value) -> Value:
    if value not in _STATUSES:
        raise ValueError(f"and {value!r} is none of them")
    return value


def _truth(value: Value) -> Value:
    if not isinstance(value, bool):
        raise ValueError(f"and {value!r} is neither")
    return value


def _time(value: Value) -> Value:
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 < value < EARLIEST_TIME:
            raise ValueError(
                f"and {value} microseconds are in 1970 to 1973 (limits.EARLIEST_TIME), which was hardly meant"
            )
        return value
    text = str(value)
    try:
        moment = datetime.fromisoformat(text + _BEGINNING.get(len(text), ""))
    except ValueError:
        raise ValueError(f"and {value!r} is none") from None
    return from_datetime(moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment)


_VALUES: Final[dict[str, Callable[[Value], Value]]] = {
    "text": _text,
    "status": _status,
    "time": _time,
    "truth": _truth,
}
_TAKEN: Final = {
    "text": "a text",
    "status": f"one of {', '.join(_STATUSES)}",
    "time": "a time, in ISO 8601 or in microseconds since 1970",
    "truth": "TRUE or FALSE",
}
_EXAMPLE: Final = {
    "text": "= 'name'",
    "status": "= 'Running'",
    "time": ">= '2030-01-31T12:00:00Z' (or '2030-01-31', or '2030-01')",
    "truth": "= TRUE",
}


def _write(name: str, instead: Sequence[Value]) -> str:
    takes = FIELDS[name].takes
    meant = [near for value in instead for near in get_close_matches(str(value), _STATUSES, 1)]
    return f"{name} = {meant[0]!r}" if takes == "status" and meant else f"{name} {_EXAMPLE[takes]}"


def _sortable(node: exp.Expr, microseconds: Value) -> str:
    try:
        return sortable_time(int(microseconds))
    except OverflowError:
        raise _refused(node, f"{microseconds} is no time: it is after the year 9999, or before the year 1") from None
