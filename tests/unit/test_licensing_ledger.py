"""The licence proxy's books: each record once, seats never oversold."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelrack.license_proxy.ledger import Ledger, LedgerError, read_usage
from babelrack.licensing.messages import UsageRecord

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "usage.sqlite3")
    yield ledger
    ledger.close()


def a_record(at=NOW, **changes):
    fields = {"deployment": "indic", "checkpoint": "indic-multi", "language": "hi", "key": "acme", "audio_seconds": 0.1}
    return UsageRecord(at=datetime.fromtimestamp(at, UTC), **(fields | changes))


def test_a_batch_that_comes_twice_counts_once(ledger):
    batch = [a_record() for _ in range(10)]
    first, second = ledger.count(batch, NOW), ledger.count(batch, NOW)
    assert (first.accepted, first.duplicates) == (10, 0)
    assert (second.accepted, second.duplicates) == (0, 10)
    (row,) = ledger.usage(["pack"])
    assert (row.group, row.requests, row.audio_seconds) == (("indic",), 10, 1.0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), max_size=20), max_size=8))
def test_sums_are_those_of_the_distinct_records_whatever_batches_they_came_in(tmp_path_factory, batches):
    pool = [a_record(audio_seconds=number / 8, language="hi" if number % 3 else "en") for number in range(31)]
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "usage.sqlite3")
    for batch in batches:
        counted = ledger.count([pool[number] for number in batch], NOW)
        assert counted.accepted + counted.duplicates == len(batch)
    distinct = {number for batch in batches for number in batch}
    rows = ledger.usage(["language"])
    ledger.close()
    assert sum(row.requests for row in rows) == len(distinct)
    assert sum(row.audio_seconds for row in rows) == pytest.approx(sum(pool[n].audio_seconds for n in distinct))


def test_usage_is_told_apart_by_every_dimension_and_day(ledger, tmp_path):
    ledger.count(
        [
            a_record(),
            a_record(at=NOW - 86400),
            a_record(key="other", status=503, features=["stream", "translate"]),
            a_record(deployment="future", checkpoint="future-eu", language="es", audio_seconds=2),
        ],
        NOW,
    )
    assert len(ledger.usage(["pack", "checkpoint", "language", "key", "day", "status"])) == 4
    assert [row.group for row in ledger.usage(["day"])] == [("2026-05-31",), ("2026-06-01",)]
    assert [row.group for row in ledger.usage(["feature"])] == [("stream",), ("translate",)]
    (row,) = ledger.usage(["pack"], since="2026-06-01", until="2026-06-01")[1:]
    assert (row.group, row.requests) == (("indic",), 2)
    assert read_usage(tmp_path / "usage.sqlite3", ["key", "pack"]) == ledger.usage(["key", "pack"])


def test_a_record_too_old_to_be_told_from_its_copy_is_rejected_not_counted(ledger):
    counted = ledger.count([a_record(at=NOW - 31 * 86400), a_record()], NOW)
    assert counted.accepted == 1
    assert counted.rejected[0].index == 0
    assert "30 days" in counted.rejected[0].reason


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 10 * 86400), st.booleans()), min_size=1, max_size=40))
def test_no_record_ever_counts_twice_however_late_its_copy_and_whenever_ids_are_pruned(tmp_path_factory, arrivals):
    pool = [a_record(at=NOW + number * 86400) for number in range(10)]
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "usage.sqlite3", id_days=5)
    now, accepted = NOW, 0
    for number, later, prune in arrivals:
        now += later
        accepted += ledger.count([pool[number]], now).accepted
        if prune:
            ledger.prune(now)
    rows = ledger.usage(["pack"])
    ledger.close()
    assert accepted <= len({number for number, _, _ in arrivals})
    assert accepted == sum(row.requests for row in rows)


def test_sums_stay_when_ids_are_pruned(ledger):
    ledger.count([a_record()], NOW)
    assert ledger.prune(NOW + 29 * 86400) == 0
    assert ledger.prune(NOW + 32 * 86400) == 1
    assert ledger.usage(["pack"])[0].requests == 1


def test_seats_are_never_oversold_and_a_restart_keeps_its_own(ledger):
    assert ledger.take_seat("a", "indic", 2, NOW) == 1
    assert ledger.take_seat("b", "indic", 2, NOW) == 2
    assert ledger.take_seat("c", "indic", 2, NOW) is None
    assert ledger.take_seat("a", "indic", 2, NOW + 1) == 2
    assert ledger.release_seat("b")
    assert not ledger.release_seat("b")
    assert ledger.take_seat("c", "indic", 2, NOW + 2) == 2


def test_a_seat_is_free_when_its_server_was_not_seen_for_ten_minutes(ledger):
    ledger.take_seat("a", "indic", 1, NOW)
    assert ledger.take_seat("b", "indic", 1, NOW + 599) is None
    assert ledger.take_seat("b", "indic", 1, NOW + 601) == 1
    assert ledger.seats_used(NOW + 601) == 1


def test_a_clock_set_back_does_not_hold_seats_for_ever(ledger):
    ledger.take_seat("a", "indic", 1, NOW + 365 * 86400)
    assert ledger.take_seat("b", "indic", 1, NOW) == 1


def test_fewer_seats_after_a_renewal_keep_those_who_sit(ledger):
    for instance in "abc":
        ledger.take_seat(instance, "indic", 3, NOW)
    assert ledger.take_seat("b", "indic", 1, NOW + 1) == 3
    assert ledger.take_seat("d", "indic", 1, NOW + 1) is None


def test_records_wait_for_the_upstream_until_it_has_acknowledged_them(tmp_path):
    ledger = Ledger(tmp_path / "usage.sqlite3", forwards=True)
    ledger.count([a_record() for _ in range(3)], NOW)
    batch = ledger.take_forward(NOW)
    assert len(batch.handles) == 3
    assert ledger.prune(NOW + 365 * 86400) == 0
    ledger.settle_forward(batch, [], NOW)
    assert ledger.take_forward(NOW).handles == []
    assert ledger.prune(NOW + 365 * 86400) == 3
    ledger.close()


def test_a_database_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "junk").write_bytes(b"junk" * 2000)
    for bad in (tmp_path / "junk", tmp_path):
        with pytest.raises(LedgerError, match=str(bad)):
            Ledger(bad)
    with pytest.raises(LedgerError, match="no usage database"):
        read_usage(tmp_path / "missing", ["pack"])
    ledger = Ledger(tmp_path / "good")
    with pytest.raises(LedgerError, match="grouped by"):
        ledger.usage(["pack; DROP TABLE daily"])
    ledger.close()
