"""A listing as one SQLite statement, on the index that suits the query."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, cast

from perdure.engine.storage import filter as list_filter
from perdure.engine.storage import listing
from perdure.engine.storage.listing import Position, kind_of
from perdure.engine.storage.schema import STATUS_CODES, STATUSES
from perdure.model.requests import ListedWorkflow

_DIALECT = list_filter.Dialect(
    columns={
        "WorkflowType": "v.workflow_type",
        "WorkflowId": "e.workflow_id",
        "RunId": "e.run_id",
        "ExecutionStatus": "v.status",
        "StartTime": "v.start_time",
        "CloseTime": "v.close_time",
        "TaskQueue": "v.task_queue",
    },
    attribute="EXISTS (SELECT 1 FROM attribute AS a WHERE a.run = v.run AND {condition})",
    name="a.name",
    kind="a.kind",
    value=lambda kind: "a.value",
    bound=lambda value, custom: value,
    placeholder=lambda number: "?",
    status=dict(STATUS_CODES.items()),
)
_SELECT = (
    "SELECT e.workflow_id, e.run_no, e.run_id, v.workflow_type, v.status, v.start_time, v.close_time"
    " FROM {source} WHERE {where} ORDER BY {start} DESC, e.workflow_id DESC, e.run_no DESC LIMIT {limit}"
)
# CROSS JOIN keeps SQLite to the order written here.
_BY_START = "visibility AS v CROSS JOIN execution AS e ON e.run = v.run"
_OPEN_BY_START = "visibility AS v INDEXED BY visibility_open CROSS JOIN execution AS e ON e.run = v.run"
_BY_WORKFLOW_ID = "execution AS e CROSS JOIN visibility AS v ON v.run = e.run"
_BY_ATTRIBUTE = "attribute AS d CROSS JOIN visibility AS v ON v.run = d.run CROSS JOIN execution AS e ON e.run = d.run"


def page(
    connection: sqlite3.Connection, namespace: str, query: str, token: str, limit: int
) -> tuple[Sequence[ListedWorkflow], str]:
    """A page of the runs that a query lists, and the token of the next page; see `api.Store.list`."""
    statement, parameters = _statement(list_filter.parse(query), namespace, listing.position(token), limit + 1)
    rows: list[tuple[str, int, str, str, int, int, int]] = connection.execute(
        statement, cast("Any", parameters)
    ).fetchall()
    found = [
        ListedWorkflow(workflow_id, run_id, workflow_type, STATUSES[status], start, close)
        for workflow_id, _, run_id, workflow_type, status, start, close in rows[:limit]
    ]
    if len(rows) <= limit:
        return found, ""
    return found, listing.token((found[-1].start_time, found[-1].workflow_id, rows[limit - 1][1]))


def _statement(
    condition: list_filter.Filter | None, namespace: str, after: Position | None, limit: int
) -> tuple[str, list[object]]:
    """The SQL and its parameters: (workflow_id, run_no, run_id, type, status, start, close) of each run."""
    parameters: list[object] = []
    sql = list_filter.Sql(_DIALECT, parameters)
    conditions = list_filter.conjuncts(condition)
    source, start = _BY_START, "v.start_time"
    equalities = list_filter.equalities(conditions)
    ids = [one for one in equalities if one.field == "WorkflowId" and not one.custom]
    attributes = [one for one in equalities if one.custom]
    if ids:
        source = _BY_WORKFLOW_ID
        where = [f"e.namespace = {sql.bind(namespace)}"]
    elif attributes:
        source, start = _BY_ATTRIBUTE, "d.start_time"
        wanted = attributes[0].values[0]
        where = [
            f"d.namespace = {sql.bind(namespace)} AND d.name = {sql.bind(attributes[0].field)}",
            f"d.kind = {sql.bind(kind_of(wanted))} AND d.value = {sql.bind(wanted)}",
        ]
    else:
        if any(one.field == "ExecutionStatus" and one.values == ("Running",) for one in equalities if not one.custom):
            source = _OPEN_BY_START
        where = [f"v.namespace = {sql.bind(namespace)}"]
    where += map(sql.condition, conditions)
    if after is not None:
        start_time, workflow_id, run_no = after
        where.append(f"{start} <= {sql.bind(start_time)}")
        place = f"({sql.bind(start_time)}, {sql.bind(workflow_id)}, {sql.bind(run_no)})"
        where.append(f"({start}, e.workflow_id, e.run_no) < {place}")
    text = _SELECT.format(source=source, where=" AND ".join(where), start=start, limit=limit)
    return text, parameters
