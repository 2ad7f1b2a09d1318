"""A listing as one PostgreSQL statement, on the index that suits the query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perdure.engine.storage import filter as list_filter
from perdure.engine.storage import listing
from perdure.engine.storage.listing import TEXT, Position, Value, kind_of
from perdure.engine.storage.postgres_driver import Connection
from perdure.engine.storage.postgres_values import attribute_columns, chain_key, plain, space_of, text
from perdure.engine.storage.schema import STATUS_CODES, STATUSES
from perdure.model.requests import ListedWorkflow


def _bound(value: Value, custom: bool) -> object:
    if isinstance(value, str):
        return text(value)
    return attribute_columns(value)[1] if custom else value


_DIALECT = list_filter.Dialect(
    columns={
        "WorkflowType": "v.workflow_type",
        "WorkflowId": "v.workflow_id",
        "RunId": "v.run_id",
        "ExecutionStatus": "v.status",
        "StartTime": "v.start_time",
        "CloseTime": "v.close_time",
        "TaskQueue": "v.task_queue",
    },
    attribute="EXISTS (SELECT 1 FROM attribute AS a WHERE a.shard = v.shard AND a.run = v.run AND {condition})",
    name="a.name",
    kind="a.kind",
    value=lambda kind: "a.text" if kind == TEXT else "a.number",
    bound=_bound,
    placeholder=lambda number: f"${number}",
    status=dict(STATUS_CODES.items()),
)
_SELECT = (
    "SELECT v.workflow_id, v.run_no, v.run_id, v.workflow_type, v.status, v.start_time, v.close_time"
    " FROM {source} WHERE {where} ORDER BY {start} DESC, v.workflow_id DESC, v.run_no DESC LIMIT {limit}"
)
_BY_START = "visibility AS v"
_BY_WORKFLOW_ID = "execution AS e JOIN visibility AS v USING (shard, run)"
_BY_ATTRIBUTE = "attribute AS d JOIN visibility AS v USING (shard, run)"


async def page(
    connection: Connection, namespace: str, query: str, token: str, limit: int
) -> tuple[Sequence[ListedWorkflow], str]:
    """A page of the runs that a query lists, and the token of the next page; see `api.Store.list`."""
    text_of, parameters = statement(list_filter.parse(query), namespace, listing.position(token), limit + 1)
    rows: Sequence[Any] = await connection.fetch(text_of, *parameters)
    found = [
        ListedWorkflow(plain(workflow_id), plain(run_id), plain(workflow_type), STATUSES[int(status)], start, close)
        for workflow_id, _, run_id, workflow_type, status, start, close in rows[:limit]
    ]
    if len(rows) <= limit:
        return found, ""
    return found, listing.token((found[-1].start_time, found[-1].workflow_id, rows[limit - 1][1]))


def statement(
    condition: list_filter.Filter | None, namespace: str, after: Position | None, limit: int
) -> tuple[str, list[object]]:
    """The SQL and its parameters: (workflow_id, run_no, run_id, type, status, start, close) of each run."""
    parameters: list[object] = []
    sql = list_filter.Sql(_DIALECT, parameters)
    conditions = list_filter.conjuncts(condition)
    equalities = list_filter.equalities(conditions)
    ids = [one for one in equalities if one.field == "WorkflowId" and not one.custom]
    attributes = [one for one in equalities if one.custom]
    source, start = _BY_START, "v.start_time"
    where = [f"v.namespace = {sql.bind(text(namespace))}"]
    if ids:
        source = _BY_WORKFLOW_ID
        shard, chain = chain_key(namespace, str(ids[0].values[0]))
        where.append(f"e.shard = {sql.bind(shard)} AND e.chain = {sql.bind(chain)}")
    elif attributes:
        source, start = _BY_ATTRIBUTE, "d.start_time"
        where.append(f"d.space = {sql.bind(space_of(namespace))}")
        where += _driving(sql, attributes[0].field, attributes[0].values[0])
    else:
        where.append(f"v.space = {sql.bind(space_of(namespace))}")
    where += map(sql.condition, conditions)
    if after is not None:
        start_time, workflow_id, run_no = after
        where.append(f"{start} <= {sql.bind(start_time)}")
        place = f"({sql.bind(start_time)}, {sql.bind(text(workflow_id))}, {sql.bind(run_no)})"
        where.append(f"({start}, v.workflow_id, v.run_no) < {place}")
    return _SELECT.format(source=source, where=" AND ".join(where), start=start, limit=limit), parameters


def _driving(sql: list_filter.Sql, field: str, wanted: Value) -> list[str]:
    """The conditions by which an index gives the runs that have one value, in the order of their starts. Names and
    texts may be longer than an index takes, so their beginnings are in it."""
    name, value = sql.bind(text(field)), sql.bind(_bound(wanted, True))
    conditions = [f"left(d.name, 64) = left({name}, 64) AND d.name = {name} AND d.kind = {kind_of(wanted)}"]
    if isinstance(wanted, str):
        return [*conditions, f"d.text IS NOT NULL AND left(d.text, 64) = left({value}, 64) AND d.text = {value}"]
    return [*conditions, f"d.text IS NULL AND d.number = {value}"]
