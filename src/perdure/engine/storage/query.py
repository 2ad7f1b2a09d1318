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
from perdure.engine.storage.filter import And, BuiltIn, Comparison, Filter, Not, Operator, Or
from perdure.engine.storage.listing import Value
from perdure.errors import InvalidRequest
from perdure.limits import MAX_QUERY_LENGTH
from perdure.model.requests import Status

_FIELDS: Final = get_args(BuiltIn)
_STATUSES: Final = get_args(Status)
_TIMES: Final = ("StartTime", "CloseTime")
_MAX_INTEGER: Final = 2**63 - 1


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


def parse_query(query: str) -> Filter:
    """The meaning of a query that isn't empty. Raises InvalidRequest."""
    if len(query) > MAX_QUERY_LENGTH:
        raise InvalidRequest(
            f"the list filter has {len(query)} characters; limits.MAX_QUERY_LENGTH is {MAX_QUERY_LENGTH}"
        )
    try:
        trees = _ListFilter().parse_into(exp.Condition, query)
        if len(trees) != 1 or trees[0] is None:
            raise InvalidRequest("list filter: write one condition, without a semicolon")
        return _filter(trees[0])
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
def _filter(node: exp.Expr) -> Filter:
    handler = _NODES.get(type(node))
    if handler is not None:
        return handler(node)
    how = _COMPARISONS.get(type(node))
    if how is not None:
        return _test(node, how, [node.expression])
    raise _refused(node, f"{node.sql()!r} is no condition; write a field, an operator and a value, as in Env = 'test'")


def _flat(node: exp.Expr) -> tuple[Filter, ...]:
    """The parts of a chain of the same connector, however it is nested."""
    parts: list[Filter] = []
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if type(part) is type(node):
            waiting += [part.args["expression"], part.args["this"]]
        else:
            parts.append(_filter(part))
    return tuple(parts)


def _in(node: exp.Expr) -> Filter:
    choices: Sequence[exp.Expr] = node.args.get("expressions") or ()
    if not choices:
        raise _refused(node, "IN takes values in parentheses, as in Env IN ('test', 'live')")
    return _test(node, "in", choices)


def _is(node: exp.Expr) -> Filter:
    if not isinstance(node.expression, exp.Null):
        raise _refused(node, "IS takes NULL or NOT NULL; compare values with =")
    return Not(_test(node, "exists", []))


_NODES: Final[dict[type[exp.Expr], Callable[[exp.Expr], Filter]]] = {
    exp.Paren: lambda node: _filter(node.this),
    exp.And: lambda node: And(_flat(node)),
    exp.Or: lambda node: Or(_flat(node)),
    exp.Not: lambda node: Not(_filter(node.this)),
    exp.EQ: lambda node: _test(node, "in", [node.expression]),
    exp.NEQ: lambda node: Not(_test(node, "in", [node.expression])),
    exp.In: _in,
    exp.Is: _is,
    exp.Between: lambda node: _test(node, "between", [node.args["low"], node.args["high"]]),
}


# --- Fields and values ----------------------------------------------------------------------------------
def _test(node: exp.Expr, how: Operator, values: Sequence[exp.Expr]) -> Filter:
    field, custom = _field(node)
    convert = _attribute_value if custom else _VALUES.get(field, _text)
    test = Comparison(field, custom, how, tuple(convert(node, field, _literal(node, value)) for value in values))
    if field == "ExecutionStatus" and not custom and how not in ("in", "exists"):
        raise _refused(node, "ExecutionStatus has no order; compare it with =, != or IN")
    if how == "starts with" and not isinstance(test.values[0], str):
        raise _refused(node, "STARTS_WITH is for texts")
    if how == "between" and isinstance(test.values[0], str) != isinstance(test.values[1], str):
        raise _refused(node, "BETWEEN takes two values of the same kind")
    return test


def _field(node: exp.Expr) -> tuple[str, bool]:
    """The name on the left of an operator, and whether it is a search attribute."""
    column = node.this
    if not isinstance(column, exp.Column) or len(column.parts) != 1 or not isinstance(column.this, exp.Identifier):
        raise _refused(node, f'{node.sql()!r} doesn\'t begin with the name of a field; quote unusual names: "my name"')
    name = column.name
    if column.this.quoted:
        return name, True
    if name in _FIELDS:
        return name, False
    folded = {field.lower(): field for field in _FIELDS}
    close = get_close_matches(name.lower(), folded, n=1, cutoff=0.85)
    if close:
        raise _refused(
            node,
            f"unknown field {name!r}: did you mean {folded[close[0]]}? "
            f'(a search attribute of that name is written in double quotes: "{name}")',
        )
    return name, True


def _literal(node: exp.Expr, value: exp.Expr) -> Value:
    if isinstance(value, exp.Boolean):
        return bool(value.this)
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


def _attribute_value(node: exp.Expr, field: str, value: Value) -> Value:
    return value


def _text(node: exp.Expr, field: str, value: Value) -> Value:
    if not isinstance(value, str):
        raise _refused(node, f"{field} is a text; write it in single quotes")
    return value


def _status(node: exp.Expr, field: str, value: Value) -> Value:
    if value not in _STATUSES:
        raise _refused(node, f"{value!r} is no ExecutionStatus; it is one of {', '.join(_STATUSES)}")
    return value


def _time(node: exp.Expr, field: str, value: Value) -> Value:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        raise _refused(
            node, f"{value!r} is no time; write it as '2030-01-31T12:00:00Z', or in microseconds since 1970"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return from_datetime(moment)


_VALUES: Final[dict[str, Callable[[exp.Expr, str, Value], Value]]] = {
    "ExecutionStatus": _status,
    "StartTime": _time,
    "CloseTime": _time,
}
