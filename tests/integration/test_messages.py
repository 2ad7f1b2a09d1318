"""Signals, queries and updates."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from perdure import (
    ApplicationError,
    DecodeError,
    EncodeError,
    NotFound,
    NotRunning,
    QueryFailed,
    WorkflowCancelled,
    embedded,
    workflow,
)
from perdure.sdk.client.client import Client
from tests.integration.engines import Engine, event_names
from tests.integration.work import Gate, echo, wait_at


class TooMany(Exception):
    def __init__(self, seats: int) -> None:
        super().__init__(f"{seats} seats are too many")
        self.seats = seats


@workflow(name="messages.Office", failure_exceptions=(TooMany,))
class Office:
    def __init__(self, seats: int) -> None:
        self.seats = seats
        self.log: list[str] = []
        self.closed = False

    async def run(self) -> list[str]:
        await workflow.wait_until(lambda: self.closed)
        return self.log

    @workflow.signal
    def note(self, text: str) -> None:
        self.log.append(text)

    @workflow.signal
    async def note_later(self, text: str) -> None:
        self.log.append(await echo(text))

    @workflow.signal(name="shut-down")
    def close(self) -> None:
        self.closed = True

    @workflow.query
    def state(self) -> tuple[int, list[str]]:
        return self.seats, self.log

    @workflow.query
    def broken(self) -> str:
        raise LookupError("there is nothing to tell")

    @workflow.query
    def meddling(self) -> int:
        echo.start("x")
        return 1

    @workflow.update
    async def resize(self, seats: int) -> int:
        before, self.seats = self.seats, seats
        await wait_at("resize")
        if seats > 50:
            raise TooMany(seats)
        return before

    @resize.validator
    def _(self, seats: int) -> None:
        if seats < 0:
            raise ValueError("seats can't be negative")

    @workflow.update
    def rename(self, name: str) -> str:
        self.log.append(name)
        return name.upper()


async def test_messages_that_come_together_are_heard_in_one_workflow_task(tmp_path: Path) -> None:
    async with embedded(tmp_path / "office.db") as client:
        office = await client.start(Office(3), id="office")
        assert await office.query(Office.state) == (3, [])
        await asyncio.gather(*(office.signal(Office.note, f"note {number}") for number in range(50)))
        await office.signal(Office.close)
        assert await office.result() == [f"note {number}" for number in range(50)]
        assert (await event_names(office)).count("WorkflowTaskCompleted") == 3  # the start, the notes, the end


async def test_handlers_run_beside_run(client: Client) -> None:
    Gate.named("resize").open()
    handle = await client.start(Office(1))
    await handle.signal(Office.note, "a")
    await handle.signal(Office.note_later, "b")
    assert await handle.update(Office.resize, 7) == 1
    assert await handle.update(Office.rename, "c") == "C"
    assert await handle.query(Office.state) == (7, ["a", "b", "c"])
    await handle.signal(Office.close)
    assert await handle.result() == ["a", "b", "c"]
    assert await handle.query(Office.state) == (7, ["a", "b", "c"])


async def test_updates_run_at_the_same_time(client: Client) -> None:
    gate = Gate.named("resize")
    handle = await client.start(Office(1))
    updates = [asyncio.ensure_future(handle.update(Office.resize, n)) for n in (2, 3)]
    await gate.reached.wait()
    assert (await handle.query(Office.state))[0] in (2, 3)
    gate.open()
    assert sorted(await asyncio.gather(*updates)) in ([1, 2], [1, 3])


async def test_a_rejected_update_leaves_no_event(client: Client) -> None:
    handle = await client.start(Office(1))
    await handle.query(Office.state)
    before = await event_names(handle)
    with pytest.raises(ValueError, match="can't be negative"):
        await handle.update(Office.resize, -1)
    assert not [name for name in await event_names(handle) if "Update" in name]
    assert (await handle.query(Office.state))[0] == 1
    assert len(before) >= 3


async def test_a_failing_update_raises_its_own_exception(client: Client) -> None:
    Gate.named("resize").open()
    handle = await client.start(Office(1))
    with pytest.raises(TooMany, match="99 seats") as caught:
        await handle.update(Office.resize, 99)
    assert caught.value.seats == 99
    assert (await handle.describe()).status == "Running"


async def test_an_update_survives_a_restart(engine: Engine) -> None:
    gate = Gate.named("resize")
    async with engine.open() as client:
        handle = await client.start(Office(1), id="office")
        update = asyncio.ensure_future(handle.update(Office.resize, 9))
        await gate.reached.wait()
    with pytest.raises(Exception, match="stopped"):
        await update
    gate.open()
    async with engine.open() as client:
        handle = client.get("office", Office)
        assert (await handle.query(Office.state))[0] == 9
        await handle.signal(Office.close)
        await handle.result()


async def test_unknown_names_and_wrong_arguments(client: Client) -> None:
    handle = await client.start(Office(1))
    with pytest.raises(NotFound, match="rename, resize"):
        await handle.update("renam", "x")
    with pytest.raises(QueryFailed, match="stat"):
        await handle.query("stat")
    with pytest.raises(Exception, match="seats"):
        await handle.update("resize", "many")
    with pytest.raises(TypeError, match="text"):
        await handle.signal(Office.note)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with pytest.raises(EncodeError, match=r"'text' of signal note .*`str`"):
        await handle.signal("note", {"not": "a text"})
    with pytest.raises(TypeError, match="text"):
        await handle.signal("note")
    assert await handle.query(Office.state) == (1, [])


async def test_a_signal_of_an_unknown_name_is_kept_for_a_receive_and_told_of_at_the_end(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    handle = await client.start(Office(1))
    await handle.signal("nobody-listens", 5)
    await handle.signal("nobody-listens", 6)
    await handle.signal(Office.close)
    assert await handle.result() == []
    (told,) = [record.getMessage() for record in caplog.records if "receive" in record.getMessage()]
    assert "'nobody-listens' (2)" in told and repr(handle.id) in told


async def test_a_signal_that_does_not_fit_is_dropped(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    handle = await client.start(Office(1))
    await client.get(handle.id).signal("note", {"not": "a text"})
    await handle.signal(Office.note, "fits")
    await handle.signal(Office.close)
    assert await handle.result() == ["fits"]
    (told,) = [record.getMessage() for record in caplog.records if "is dropped" in record.getMessage()]
    assert "'note'" in told and repr(handle.id) in told and "`str`" in told


async def test_query_errors(client: Client) -> None:
    handle = await client.start(Office(1))
    with pytest.raises(QueryFailed, match="nothing to tell") as caught:
        await handle.query(Office.broken)
    assert isinstance(caught.value.__cause__, LookupError)
    with pytest.raises(QueryFailed, match="meddling"):
        await handle.query(Office.meddling)
    assert await handle.query(Office.state) == (1, [])
    assert "ActivityTaskScheduled" not in await event_names(handle)


async def test_messages_to_what_is_closed_or_was_never_there(client: Client) -> None:
    handle = await client.start(Office(1), id="closed")
    await handle.signal(Office.close)
    await handle.result()
    with pytest.raises(NotRunning, match="closed"):
        await handle.signal(Office.note, "late")
    with pytest.raises(NotRunning):
        await handle.update(Office.rename, "late")
    nobody = client.get("nobody", Office)
    for attempt in (
        nobody.result(), nobody.signal(Office.close), nobody.query(Office.state), nobody.update(Office.rename, "x"),
        nobody.describe(), nobody.cancel(), nobody.terminate(), nobody.release(), nobody.complete_activity("1", 2),
    ):  # fmt: skip
        with pytest.raises(NotFound, match="nobody"):
            await attempt
    with pytest.raises(NotFound, match="nobody"):
        await event_names(nobody)


async def test_receive_takes_signals_without_a_handler(client: Client) -> None:
    @workflow(name="messages.receiving")
    async def receiving() -> list[object]:
        first = await workflow.receive("number", int)
        return [first, await workflow.receive("number", int), await workflow.receive("text", str | None)]

    handle = await client.start(receiving())
    await handle.signal("text", None)
    await handle.signal("number", 1)
    await handle.signal("number", 2)
    assert await handle.result() == [1, 2, None]


async def test_a_close_with_unseen_signals_is_refused(engine: Engine) -> None:
    """Signals come while the workflow wants to close: none that was acknowledged is lost."""

    @workflow(name="messages.Draining")
    class Draining:
        def __init__(self) -> None:
            self.seen: list[int] = []

        async def run(self) -> list[int]:
            await echo("a moment")
            return self.seen

        @workflow.signal
        def take(self, n: int) -> None:
            self.seen.append(n)

    async with engine.open() as client:
        for attempt in range(5):
            handle = await client.start(Draining(), id=f"drain-{attempt}")
            taken: list[int] = []

            async def send(n: int, handle: object = handle, taken: list[int] = taken) -> None:
                try:
                    await client.get(f"drain-{attempt}", Draining).signal(Draining.take, n)  # noqa: B023
                except NotRunning:
                    return
                taken.append(n)

            await asyncio.gather(*(send(n) for n in range(20)))
            seen = await handle.result()
            assert sorted(seen) == sorted(taken)


async def test_an_application_error_in_a_handler_fails_the_workflow(client: Client) -> None:
    @workflow(name="messages.Fails")
    class Fails:
        async def run(self) -> None:
            await asyncio.sleep(3600)

        @workflow.signal
        def end(self) -> None:
            raise ApplicationError("enough", 5, type="Enough")

    handle = await client.start(Fails())
    await handle.signal(Fails.end)
    with pytest.raises(ApplicationError, match="enough") as caught:
        await handle.result()
    assert (caught.value.type, caught.value.details) == ("Enough", (5,))


async def test_options_give_a_call_a_timeout(client: Client) -> None:
    @workflow(name="messages.sleeps")
    async def sleeps() -> None:
        await asyncio.sleep(3600)

    handle = await client.start(sleeps())
    with pytest.raises(TimeoutError, match="no answer"):
        await handle.options(timeout="10ms").result()


async def test_a_signal_that_is_not_what_receive_wants_is_told_there(client: Client) -> None:
    @workflow(name="messages.receives_numbers")
    async def receives_numbers() -> list[object]:
        try:
            await workflow.receive("number", int)
        except DecodeError as error:
            return [str(error), await workflow.receive("number", int)]
        return []

    handle = await client.start(receives_numbers())
    await handle.signal("number", "five")
    await handle.signal("number", 5)
    said, number = await handle.result()
    assert "signal 'number' doesn't fit `int`" in str(said)
    assert number == 5


async def test_an_update_that_the_end_overtakes_is_told_so(client: Client) -> None:
    @workflow(name="messages.ends_early")
    class EndsEarly:
        def __init__(self) -> None:
            self.begun = False

        async def run(self) -> None:
            await workflow.wait_until(lambda: self.begun)

        @workflow.update
        async def begin(self) -> None:
            self.begun = True
            await asyncio.sleep(3600)

    handle = await client.start(EndsEarly())
    with pytest.raises(NotRunning, match="closed before it completed the update"):
        await handle.update(EndsEarly.begin)


async def test_the_reason_of_a_cancel_is_told(client: Client) -> None:
    heard: list[str] = []

    @workflow(name="messages.cancelled")
    async def cancelled() -> None:
        try:
            await workflow.receive("go", object)
        except asyncio.CancelledError as error:
            heard.append(str(error))
            raise

    handle = await client.start(cancelled())
    await handle.cancel("too dear")
    with pytest.raises(WorkflowCancelled, match="was cancelled: too dear"):
        await handle.result()
    assert set(heard) == {"too dear"}


async def test_messages_with_one_request_id_take_effect_once(client: Client) -> None:
    @workflow(name="messages.counts")
    class Counts:
        def __init__(self) -> None:
            self.signals = self.updates = 0

        async def run(self) -> list[int]:
            await workflow.receive("end", object)
            return [self.signals, self.updates]

        @workflow.signal
        def signalled(self) -> None:
            self.signals += 1

        @workflow.update
        def updated(self) -> int:
            self.updates += 1
            return self.updates

    handle = await client.start(Counts())
    for request_id in ("a", "a", "b"):
        await handle.options(request_id=request_id).signal(Counts.signalled)
        assert await handle.options(request_id=request_id).update(Counts.updated) == (1 if request_id == "a" else 2)
    await handle.signal("end")
    assert await handle.result() == [2, 2]
    with pytest.raises(TypeError, match="request_id must be text"):
        handle.options(request_id=cast(str, 5))


@pytest.mark.parametrize("waits", [True, False])
async def test_a_workflow_can_let_its_handlers_end(
    client: Client, waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate.named("messages.handler")

    @workflow(name="messages.patient")
    class Patient:
        def __init__(self) -> None:
            self.finished: list[bool] = []

        async def run(self) -> list[bool]:
            await workflow.receive("end", object)
            self.finished.append(workflow.all_handlers_finished())
            if waits:
                await workflow.wait_until(workflow.all_handlers_finished)
            return self.finished

        @workflow.update
        async def book(self) -> str:
            return await wait_at("messages.handler")

    handle = await client.start(Patient())
    booking = asyncio.create_task(handle.update(Patient.book))
    await gate.reached.wait()
    await handle.signal("end")
    if not waits:
        assert await handle.result() == [False]
        assert "workflow.all_handlers_finished" in caplog.text
        with pytest.raises(NotRunning):
            await booking
        gate.open()
        return
    gate.open()
    await booking
    assert await handle.result() == [False]
    assert "handlers still run" not in caplog.text
    with pytest.raises(RuntimeError, match="all_handlers_finished"):
        workflow.all_handlers_finished()
