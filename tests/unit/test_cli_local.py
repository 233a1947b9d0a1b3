"""The parts of the local rack that need no other process."""

import os
import socket
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelrack.local import RackError
from babelrack.local.backoff import FORGIVEN_AFTER_SECONDS, LONGEST_SECONDS, BackOff
from babelrack.local.identity import ProcessIdentity, port_holder
from babelrack.local.output import OutputLog
from babelrack.local.service import Role
from babelrack.local.state import RackRecord, ServiceRecord, StateFolder, write_private


def test_delays_double_up_to_half_a_minute():
    back_off = BackOff()
    assert [back_off.died(0) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]


def test_three_deaths_in_a_row_are_a_failure_and_a_minute_of_health_forgives_them():
    back_off = BackOff()
    back_off.died(0)
    back_off.died(5)
    assert not back_off.failed
    back_off.died(0)
    assert back_off.failed
    assert back_off.died(FORGIVEN_AFTER_SECONDS) == 1
    assert not back_off.failed


@given(st.lists(st.floats(min_value=0, max_value=1e6)))
def test_a_delay_is_never_shorter_than_a_second_nor_longer_than_half_a_minute(well):
    back_off = BackOff()
    assert all(1 <= back_off.died(seconds) <= LONGEST_SECONDS for seconds in well)


def test_a_process_is_known_by_more_than_its_pid():
    me = ProcessIdentity.of(os.getpid())
    assert me.alive()
    assert not ProcessIdentity(me.pid, me.started + 1, me.boot).alive()
    assert not ProcessIdentity(me.pid, me.started, "another boot").alive()


def test_a_reused_pid_is_never_taken_for_a_process_of_the_rack():
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as leader:
        try:
            one = ProcessIdentity.of(leader.pid)
            earlier = ProcessIdentity(one.pid, one.started - 1, one.boot)
            assert one.session() == [one]
            assert earlier.session() == []
            assert ProcessIdentity(one.pid, one.started, "another boot").session() == []
        finally:
            leader.kill()


def test_the_holder_of_a_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert port_holder(server.getsockname()[1]).endswith(f"(pid {os.getpid()})")


def test_a_log_never_grows_past_two_files_of_its_limit(tmp_path):
    log = OutputLog(tmp_path / "a.log", limit_bytes=1000)
    for number in range(1000):
        log.write(b"line %d\n" % number)
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log", "a.log.1"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())


def test_the_last_lines_are_those_of_the_process_that_runs_now(tmp_path):
    log = OutputLog(tmp_path / "a.log")
    log.write(b"the process before\n")
    log.mark()
    log.write(b"one\n\ntwo\nthr")
    log.write(b"ee")
    assert log.last_lines(2) == ["two", "three"]
    assert log.last_lines(9) == ["one", "two", "three"]
    log.close()


def test_what_a_process_prints_need_not_be_text(tmp_path):
    log = OutputLog(tmp_path / "a.log")
    log.write(b"\xff\xfe\x00 line\n")
    assert len(log.last_lines(1)) == 1
    log.close()


def record(**fields):
    me = ProcessIdentity.of(os.getpid())
    services = [ServiceRecord("asr@indic", Role.MODEL_SERVER, "indic", "http://127.0.0.1:2233", process=me)]
    return RackRecord(me, "site.yaml", "http://127.0.0.1:8080", "client.key", "client.header", "hi", services, **fields)


def test_a_record_is_read_as_it_was_written(tmp_path):
    state = StateFolder(tmp_path / "rack")
    state.folder("logs")
    assert state.read_record() is None
    state.write_record(record(stopping=True))
    assert state.read_record() == record(stopping=True)
    state.forget_record()
    assert state.read_record() is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"services": [3]}', '{"services": [], "supervisor": {}}', "\0"])
def test_a_record_that_is_none_is_refused_with_the_name_of_the_file(tmp_path, content):
    state = StateFolder(tmp_path)
    state.record_file.write_text(content)
    with pytest.raises(RackError, match=r"rack\.json is no record of a rack"):
        state.read_record()


def test_a_folder_has_one_supervisor_and_the_second_is_told_the_pid(tmp_path):
    state = StateFolder(tmp_path)
    with state.locked(), pytest.raises(RackError, match=rf"already \(pid {os.getpid()}\)"), state.locked():
        pass
    with state.locked():
        pass


def test_what_is_written_privately_is_readable_by_its_owner_only(tmp_path):
    write_private(tmp_path / "secret", "x")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_a_rack_is_settled_when_everything_is_well_or_keeps_dying():
    rack = record()
    for condition, settled in {"starting": False, "waiting": False, "healthy": True, "failed": True}.items():
        rack.services[0].condition = condition
        assert rack.settled is settled
        assert rack.healthy is (condition == "healthy")
