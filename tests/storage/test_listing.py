"""Listings: their order, their pages, and what their filters mean, the same for every store."""

from __future__ import annotations

import pytest

from perdure.clock import SECOND
from perdure.engine.storage.api import Store
from perdure.engine.storage.fields import Subject, sortable_time
from perdure.engine.storage.filter import parse
from perdure.errors import InvalidRequest
from perdure.limits import EARLIEST_TIME
from perdure.model.events import SearchValue
from perdure.model.requests import ListedWorkflow
from tests.storage.make import NOW, ending, follow, ids, put, seen, start


async def test_the_latest_started_come_first(store: Store) -> None:
    times = {"a": NOW, "b": NOW + 2, "c": NOW + 1, "d": NOW + 2}
    await put(store, *(seen(start(name), at) for name, at in times.items()))
    await put(store, start("unlisted"), seen(start("e", namespace="other")))
    assert await ids(store) == ["d", "b", "c", "a"]
    assert await ids(store, namespace="other") == ["e"]
    assert await ids(store, namespace="nobody") == []


async def test_a_row_tells_what_was_seen(store: Store) -> None:
    first = seen(start("a"), NOW)
    await put(store, first)
    row = ListedWorkflow("a", first.run_id, "provision", "Running", NOW, 0)
    assert await store.list("default", "", "", 10) == ([row], "")
    await put(store, seen(ending(first), NOW))
    row = ListedWorkflow("a", first.run_id, "provision", "Completed", NOW, NOW + SECOND)
    assert await store.list("default", "", "", 10) == ([row], "")


async def test_a_write_that_is_not_listed_changes_no_listing(store: Store) -> None:
    first = seen(start("a"), env="test")
    await put(store, first, follow(first)._replace(status="Failed"))
    assert await ids(store, "env = 'test' AND ExecutionStatus = 'Running'") == ["a"]


async def test_listings_are_paged(store: Store) -> None:
    writes = [seen(start(f"w-{number:02}"), NOW + number // 4, env="test") for number in range(25)]
    closed = [seen(ending(writes[3]), NOW), seen(start("w-03", 2), NOW)]
    await put(store, *writes)
    await put(store, *closed)
    for query in ("", "env = 'test' OR WorkflowId = 'w-03'", "WorkflowType = 'provision'"):
        expected, _ = await store.list("default", query, "", 100)
        assert len(expected) == 26
        found = list[ListedWorkflow]()
        page = ""
        for size in (1, 3, 7, 5, 9, 1, 4):
            rows, page = await store.list("default", query, page, size)
            found += rows
            if not page:
                break
            assert len(rows) == size
        assert found == expected


async def test_a_page_that_ends_with_the_last_row_is_the_last(store: Store) -> None:
    await put(store, seen(start("a")), seen(start("b")))
    rows, page = await store.list("default", "", "", 2)
    assert (len(rows), page) == (2, "")


@pytest.mark.parametrize("page", ["x", "AAAA", "ünï", "kwEBAQ==", "9" * 50])
async def test_a_page_token_that_nobody_gave_is_refused(store: Store, page: str) -> None:
    with pytest.raises(InvalidRequest, match="page token"):
        await store.list("default", "", page, 10)


# --- Filters --------------------------------------------------------------------------------------------
async def _fill(store: Store) -> None:
    one = seen(start("pay-1"), NOW, "provision", env="test", size=3, tags=["red", "green"], urgent=True)
    two = seen(start("pay-2"), NOW + SECOND, "provision", env="live", size=2.5, tags=["red"], urgent=False)
    three = seen(start("ops-3"), NOW + 2 * SECOND, "tear_down", env="Test", size=-10, note="it's 100%_done")
    four = seen(start("ops-4"), NOW + 3 * SECOND, "audit", env=7, size=2**80)
    five = seen(start("x"), NOW + 4 * SECOND, "audit", nan=float("nan"), tags=[])
    await put(store, one, two, three, four, five)
    closed = seen(ending(three), NOW + 2 * SECOND, "tear_down", env="Test", size=-10, note="it's 100%_done")
    failed = seen(follow(four)._replace(status="Failed"), NOW + 3 * SECOND, "audit", env=7, size=2**80)
    await put(store, closed, failed)


FILTERS = {
    "WorkflowType = 'provision'": "12",
    "WorkflowType != 'provision'": "34x",
    "WorkflowType <> 'audit' AND NOT WorkflowType = 'provision'": "3",
    "WorkflowType IN ('audit', 'tear_down')": "34x",
    "WorkflowType NOT IN ('audit', 'tear_down')": "12",
    "WorkflowType STARTS_WITH 'pro'": "12",
    "WorkflowType STARTS_WITH ''": "1234x",
    "WorkflowType < 'b'": "4x",
    "WorkflowId = 'pay-1'": "1",
    "WorkflowId = 'pay-1' AND env = 'live'": "",
    "WorkflowId = 'pay-1' OR WorkflowId = 'ops-3'": "13",
    "WorkflowId STARTS_WITH 'ops-'": "34",
    "WorkflowId BETWEEN 'ops-4' AND 'pay-1'": "14",
    "RunId = 'default/pay-2/1'": "2",
    "TaskQueue = 'default' AND WorkflowId = 'x'": "x",
    "ExecutionStatus = 'Running'": "12x",
    "ExecutionStatus != 'Running'": "34",
    "ExecutionStatus IN ('Completed', 'Failed')": "34",
    "ExecutionStatus IN ('Completed', 'Failed') AND env > 5": "4",
    "StartTime = '2027-01-15T08:00:00Z'": "1",
    "StartTime > '2027-01-15T08:00:01+00:00'": "34x",
    "StartTime >= '2027-01-15 08:00:03'": "4x",
    "StartTime <= '2027-01-15T09:00:01+01:00'": "12",
    f"StartTime < {NOW + SECOND}": "1",
    "StartTime > '2027' AND StartTime < '2027-01-15T08:00:01Z' AND StartTime >= '2027-01'": "1",
    "StartTime BETWEEN '2027-01-15T08:00:01Z' AND '2027-01-15T08:00:03Z'": "234",
    "StartTime NOT BETWEEN '2027-01-15T08:00:01Z' AND '2027-01-15T08:00:03Z'": "1x",
    f"CloseTime < {NOW * 2}": "34",
    f"CloseTime != {NOW + 3 * SECOND}": "124x",
    "CloseTime IS NULL": "12x",
    "CloseTime IS NOT NULL": "34",
    "env = 'test'": "1",
    "env = 'test' AND env = 'live'": "",
    "env IN ('test', 'live', 7)": "124",
    "env != 'test'": "234x",
    "env < 'z'": "123",
    "env > 'Test'": "12",
    "env < 100": "4",
    "env IS NULL": "x",
    "env IS NOT NULL": "1234",
    "missing = 1": "",
    "missing != 1": "1234x",
    "missing IS NULL": "1234x",
    "size = 3": "1",
    "size = 3.0": "1",
    "size = '3'": "",
    "size > 2": "124",
    "size >= 2.5 AND size <= 3": "12",
    "size BETWEEN -10 AND 2.5": "23",
    "size = -10": "3",
    "size > 9223372036854775000": "4",
    "tags = 'red'": "12",
    "tags = 'red' AND tags = 'green'": "1",
    "tags != 'green'": "234x",
    "tags STARTS_WITH 'gr'": "1",
    "NOT tags STARTS_WITH 'gr'": "234x",
    "tags IS NULL": "34x",
    "urgent = TRUE": "1",
    "urgent = false": "2",
    "urgent = 1": "",
    "urgent != true": "234x",
    "nan IS NULL": "1234x",
    "note = 'it''s 100%_done'": "3",
    "note STARTS_WITH 'it''s 100%'": "3",
    "note STARTS_WITH '%'": "",
    "(env = 'test' OR env = 'live') AND NOT (size = 3)": "2",
    "env = 'test' OR env = 'live' AND size = 3": "1",
    "NOT NOT env = 'test'": "1",
    "\"env\" = 'test'": "1",
    "   ": "1234x",
}


@pytest.mark.parametrize("query", FILTERS)
async def test_filters(store: Store, query: str) -> None:
    await _fill(store)
    assert {name[-1] for name in await ids(store, query)} == set(FILTERS[query])


async def test_fields_of_schedules_are_asked_as_what_they_are(store: Store) -> None:
    times = {"a": NOW, "b": NOW + SECOND // 2, "c": NOW + SECOND, "d": 0}
    for name, time in times.items():
        scheduled: dict[str, SearchValue] = {}
        if time:
            scheduled = {"ScheduledById": "s", "ScheduledStartTime": sortable_time(time)}
        await put(store, seen(start(name), NOW, "provision", Paused=name < "b", Status=name, **scheduled))
    day = "ScheduledStartTime > '2027-01-15' AND ScheduledStartTime < '2027-01-16'"
    whole, half = "'2027-01-15T08:00:00Z'", "'2027-01-15 09:00:00.500000+01:00'"
    assert set(await ids(store, day)) == {"a", "b", "c"}
    assert set(await ids(store, f"ScheduledStartTime > {whole}")) == {"b", "c"}
    assert set(await ids(store, f"ScheduledStartTime <= {half} AND ScheduledById = 's'")) == {"a", "b"}
    assert set(await ids(store, f"ScheduledStartTime = {NOW + SECOND // 2}")) == {"b"}
    assert set(await ids(store, "ScheduledStartTime IS NULL")) == {"d"}
    assert set(await ids(store, "Paused = TRUE")) == {"a"}
    assert set(await ids(store, "\"Status\" = 'b'")) == {"b"}


def test_a_filter_knows_what_is_listed() -> None:
    assert parse("ScheduledById = 's' AND Env = 'test'", "workflows")
    assert parse("Paused = FALSE AND WorkflowType = 'a' AND StartTime > '2027'", "schedules")
    refused: tuple[tuple[str, Subject, str], ...] = (
        ("Paused = TRUE", "workflows", r"Paused is no field of workflows, but of client.list_schedules\(\)"),
        ("paused = TRUE", "workflows", "Paused is no field of workflows.*in double quotes"),
        ("ScheduledById = 's'", "schedules", r"ScheduledById is no field of schedules, but of client.list\(\)"),
        ("Env = 'test'", "schedules", "unknown field 'Env': schedules have no search attributes, but WorkflowType,"),
        ("\"Paused\" = 'yes'", "schedules", 'no search attributes, such as "Paused"; names of fields have no quotes'),
        ("paused = TRUE", "schedules", "did you mean Paused"),
    )
    for query, subject, why in refused:
        with pytest.raises(InvalidRequest, match=why):
            parse(query, subject)


async def test_attributes_are_replaced_by_those_that_are_seen_next(store: Store) -> None:
    first = seen(start("a"), env="test", size=1)
    await put(store, first)
    second = seen(follow(first), env="live")
    await put(store, second)
    assert await ids(store, "env = 'test' OR size = 1") == []
    assert await ids(store, "env = 'live'") == ["a"]
    await put(store, seen(ending(second)))
    assert await ids(store, "env IS NULL") == ["a"]


@pytest.mark.parametrize("last", ["a", "\ud7ff", "\U0010ffff", "z\U0010ffff"])
async def test_a_prefix_may_end_with_any_character(store: Store, last: str) -> None:
    names = [f"p{last}", f"p{last}more", "p", f"q{last}"]
    await put(store, *(seen(start(name), env=name) for name in names))
    for field in ("WorkflowId", "env"):
        assert set(await ids(store, f"{field} STARTS_WITH 'p{last}'")) == set(names[:2])
    assert set(await ids(store, f"env STARTS_WITH '{last}'")) == ({last} & set(names))


# --- Filters that are refused ---------------------------------------------------------------------------
REFUSED = {
    "WorkflowTyp = 'a'": r"column 1: unknown field 'WorkflowTyp': did you mean WorkflowType\?",
    "env = 'x' AND executionstatus = 'Running'": "column 15: unknown field 'executionstatus'",
    "ExecutionStatus = 'running'": "takes one of Running, Completed, Failed, .*'running' is none of them",
    "ExecutionStatus = 'Cancelled'": "'Cancelled' is none of them; write ExecutionStatus = 'Canceled'",
    "ExecutionStatus IN ('Running', 'other')": "'other' is none of them; write ExecutionStatus = 'Running'",
    "ExecutionStatus > 'Running'": "no order",
    "ExecutionStatus STARTS_WITH 'Run'": "STARTS_WITH is for texts, and ExecutionStatus takes one of",
    "WorkflowId = 7": "WorkflowId takes a text, and 7 is none; write WorkflowId = 'name'",
    "env = 'x' AND StartTime > 'yesterday'": "column 15: StartTime takes a time.*'yesterday' is none; write StartTime",
    "StartTime > TRUE": "StartTime takes a time, .*True is none",
    "StartTime > 1800000000": "1800000000 microseconds are in 1970 to 1973",
    "StartTime > 2027": "2027 microseconds are in 1970 to 1973",
    "StartTime STARTS_WITH '2027-01-15'": "STARTS_WITH is for texts, and StartTime takes a time",
    "ScheduledStartTime > 'yesterday'": "ScheduledStartTime takes a time.*; write ScheduledStartTime >= '2030-",
    "ScheduledStartTime STARTS_WITH '2027'": "STARTS_WITH is for texts, and ScheduledStartTime takes a time",
    f"ScheduledStartTime > {2**62}": "no time: it is after the year 9999",
    "ScheduledById = 7": "ScheduledById takes a text",
    "Paused = 'yes'": "Paused takes TRUE or FALSE, and 'yes' is neither; write Paused = TRUE",
    "Paused > FALSE": "Paused has no order",
    "Paused = 1": "Paused takes TRUE or FALSE",
    "Paused STARTS_WITH 't'": "STARTS_WITH is for texts, and Paused takes TRUE or FALSE",
    "Status = 'Running'": "unknown field 'Status': did you mean ExecutionStatus",
    "type = 'a'": "did you mean WorkflowType",
    "ScheduleById = 'a'": "did you mean ScheduledById",
    "TemporalScheduledById = 'a'": "did you mean ScheduledById",
    "HistoryLength > 5": "unknown field 'HistoryLength': the fields are WorkflowType, .*in double quotes",
    "env = NULL": "write IS NULL",
    "size STARTS_WITH 3": "STARTS_WITH is for texts",
    "size BETWEEN 1 AND 'x'": "two values of the same kind",
    "size = 99999999999999999999": "beyond 64 bits",
    "env = ": "column 5",
    "env 'x'": "column",
    "env": "is no condition",
    "env = other": "'other' is no value",
    "'x' = env": "begin with the name of a field",
    "a.env = 'x'": "begin with the name of a field",
    "lower(env) = 'x'": "begin with the name of a field",
    "env LIKE 'x%'": "LIKE isn't there; write STARTS_WITH",
    "env IN (SELECT name FROM meta)": "IN takes values",
    "env IS TRUE": "IS takes NULL",
    "env = 'x": "opened and not closed",
    "env = 'x'; DROP TABLE execution": "column",
    "env = 'x'; env = 'y'": "one condition",
    "env = 'x') OR (1 = 1": "column",
    "1 = 1": "begin with the name of a field",
    "SELECT 1": "list filter",
    "(" * 2_000 + "env = 1" + ")" * 2_000: "nested too deeply",
    "env = 1" + " OR env = 1" * 1_000: r"limits\.MAX_QUERY_LENGTH is 10000",
}


@pytest.mark.parametrize("query", REFUSED, ids=lambda query: str(query)[:40])
async def test_a_filter_that_is_not_understood_is_refused(store: Store, query: str) -> None:
    await put(store, seen(start("a"), env="x"))
    with pytest.raises(InvalidRequest, match=REFUSED[query]):
        await store.list("default", query, "", 10)
    assert await ids(store) == ["a"]


async def test_the_earliest_time_that_is_believed(store: Store) -> None:
    await put(store, seen(start("a"), NOW))
    for query in (f"StartTime > {EARLIEST_TIME}", "StartTime > 0"):
        assert await ids(store, query) == ["a"]
    with pytest.raises(InvalidRequest, match="EARLIEST_TIME"):
        await ids(store, f"StartTime > {EARLIEST_TIME - 1}")


async def test_a_long_chain_of_conditions(store: Store) -> None:
    await put(store, *(seen(start(f"w-{number}"), env=number) for number in range(300)))
    query = " OR ".join(f"env={number}" for number in range(1, 1_000, 2))
    assert len(await ids(store, query)) == 150
    assert len(await ids(store, query.replace("=", "!=").replace("OR", "AND"))) == 150
    assert len(await ids(store, "NOT " * 30 + "env = 1")) == 1
