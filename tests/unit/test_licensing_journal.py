"""The usage journal: what it says is written is there, whatever comes after."""

import asyncio
import json
import sqlite3
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from babelrack.licensing import JournalError, UsageJournal, UsageRecord
from babelrack.licensing.messages import Rejection


def a_record(**changes):
    return UsageRecord(**({"deployment": "indic", "language": "hi", "key": "acme", "audio_seconds": 1.5} | changes))


def lying_in(path):
    with sqlite3.connect(path) as database:
        return [json.loads(body) for (body,) in database.execute("SELECT body FROM records ORDER BY seq")]


labels = st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc")), max_size=128)
records = st.builds(
    UsageRecord,
    at=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    deployment=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
    checkpoint=labels,
    language=labels,
    key=labels,
    audio_seconds=st.floats(0, 1e6),
    requests=st.integers(0, 1000),
    status=st.integers(100, 599),
    features=st.lists(st.sampled_from(["stream", "translate", "prompt"]), max_size=3),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(records, max_size=20))
def test_every_record_comes_back_as_it_was_across_a_restart(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("journal") / "usage.sqlite3"

    async def write_and_read():
        journal = UsageJournal(path)
        await journal.start()
        assert all(await asyncio.gather(*(journal.record(record) for record in written)))
        await journal.stop()
        journal = UsageJournal(path)
        await journal.start()
        assert journal.pending == len(written)
        batch = await journal.take()
        await journal.stop()
        return [UsageRecord.model_validate_json(body) for body in batch.bodies]

    found = asyncio.run(write_and_read())
    at = {"at"}  # kept to the millisecond
    assert [one.model_dump(exclude=at) for one in found] == [one.model_dump(exclude=at) for one in written]
    assert all(abs(a.at - b.at).total_seconds() <= 0.001 for a, b in zip(found, written, strict=True))


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(list(UsageRecord.model_fields)), st.text() | st.floats() | st.none()))
def test_a_senseless_record_is_refused_where_it_is_made(fields):
    try:
        record = UsageRecord.model_validate(fields)
    except ValidationError:
        return
    assert UsageRecord.model_validate_json(record.model_dump_json()).id == record.id


def test_audio_is_counted_in_whole_milliseconds():
    assert a_record(audio_seconds=1.23456).audio_seconds == 1.235


async def test_a_record_counts_once_however_often_it_is_written(tmp_path):
    journal = UsageJournal(tmp_path / "usage.sqlite3")
    await journal.start()
    record = a_record()
    assert await journal.record(record)
    assert await journal.record(record)
    await journal.stop()
    assert len(lying_in(tmp_path / "usage.sqlite3")) == 1


async def test_a_request_that_is_cancelled_while_it_is_counted_is_counted(tmp_path):
    journal = UsageJournal(tmp_path / "usage.sqlite3")
    await journal.start()
    counting = [asyncio.create_task(journal.record(a_record())) for _ in range(50)]
    await asyncio.sleep(0)
    for task in counting:
        task.cancel()
    await asyncio.gather(*counting, return_exceptions=True)
    await journal.stop()
    assert len(lying_in(tmp_path / "usage.sqlite3")) == 50


async def test_a_second_server_is_told_that_the_journal_is_taken(tmp_path):
    path = tmp_path / "usage.sqlite3"
    first, second = UsageJournal(path), UsageJournal(path)
    await first.start()
    with pytest.raises(JournalError, match="in use by another process"):
        await second.start()
    await first.stop()
    await second.start()
    await second.stop()


async def test_the_journal_is_for_its_owner_alone(tmp_path):
    journal = UsageJournal(tmp_path / "deep" / "usage.sqlite3")
    await journal.start()
    await journal.record(a_record())
    assert {file.stat().st_mode & 0o077 for file in (tmp_path / "deep").iterdir()} == {0}
    await journal.stop()


async def test_what_is_settled_is_gone_and_what_is_rejected_waits_a_day(tmp_path):
    journal = UsageJournal(tmp_path / "usage.sqlite3")
    await journal.start()
    for _ in range(3):
        await journal.record(a_record())
    batch = await journal.take()
    await journal.settle(batch, [Rejection(index=1, id=None, reason="too old")])
    assert journal.pending == 1
    assert "1 usage records" in journal.fault
    assert (await journal.take()).handles == []
    await journal.stop()
    assert len(lying_in(tmp_path / "usage.sqlite3")) == 1


async def test_batches_are_bounded_in_records_and_bytes(tmp_path):
    journal = UsageJournal(tmp_path / "usage.sqlite3")
    await journal.start()
    await asyncio.gather(*(journal.record(a_record()) for _ in range(600)))
    batch = await journal.take()
    assert len(batch.handles) == 500
    await journal.settle(batch, [])
    await journal.settle(await journal.take(), [])
    wide = dict.fromkeys(("checkpoint", "language", "key"), "𐀀" * 128)
    await asyncio.gather(*(journal.record(a_record(**wide)) for _ in range(500)))
    batch = await journal.take()
    assert 100 < len(batch.handles) < 500
    assert sum(len(body.encode()) for body in batch.bodies) <= 512 * 1024
    await journal.stop()


async def test_a_full_journal_says_so_keeps_on_and_recovers(tmp_path):
    journal = UsageJournal(tmp_path / "usage.sqlite3", max_bytes=256 * 1024)
    await journal.start()
    written = 0
    while await journal.record(a_record()):
        written += 1
        assert written < 10_000
    assert "can't be written" in journal.fault
    assert await journal.record(a_record()) is False
    batch = await journal.take()
    await journal.settle(batch, [])
    assert await journal.record(a_record()) is True
    assert journal.fault is None
    assert journal.lost == 0
    await journal.stop()
    # The two that were kept in memory, the one after them, and all that fitted.
    assert len(lying_in(tmp_path / "usage.sqlite3")) == written + 3 - len(batch.handles)


async def test_a_damaged_journal_is_put_aside_and_a_new_one_begun(tmp_path):
    path = tmp_path / "usage.sqlite3"
    path.write_bytes(b"not a database at all" * 500)
    journal = UsageJournal(path)
    await journal.start()
    assert await journal.record(a_record())
    await journal.stop()
    assert len(lying_in(path)) == 1
    assert len(list(tmp_path.glob("usage.sqlite3.damaged-*"))) == 1


async def test_a_journal_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(JournalError, match=str(tmp_path)):
        await UsageJournal(tmp_path).start()
    with pytest.raises(JournalError, match="not open"):
        await UsageJournal(tmp_path / "usage.sqlite3").record(a_record())
