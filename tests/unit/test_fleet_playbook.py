"""The module over ansible-runner, with real Ansible against this machine (a local connection, no host)."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from babelrack.fleet import FleetError
from babelrack.fleet.playbook import KEPT_RUNS, Playbook

INVENTORY = """\
all:
  vars: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  hosts: {one: {}, two: {}, three: {}}
"""


@pytest.fixture
def play(tmp_path):
    """Runs the tasks of a play and returns the result; `steps` has what was reported."""
    (tmp_path / "ansible").mkdir()
    (tmp_path / "ansible" / "ansible.cfg").write_text("[defaults]\ngathering = explicit\n")
    (tmp_path / "hosts.yml").write_text(INVENTORY)
    steps = []

    def run(tasks, limit=(), title="apply-indic", variables=None):
        text = f"- name: Roll\n  hosts: all\n  tasks:\n{tasks}"
        (tmp_path / "ansible" / "site.yml").write_text(text)
        playbook = Playbook(tmp_path, "site.yml", tmp_path / "hosts.yml", limit, variables or {})
        return playbook.run(title, tmp_path / "runs", steps.append)

    run.steps = steps
    run.folder = tmp_path / "runs"
    return run


def test_each_host_has_its_numbers_and_each_task_its_steps(play):
    done = play(
        """
    - name: Look
      ansible.builtin.command: "true"
      changed_when: inventory_hostname == "two"
    - name: Leave out
      ansible.builtin.command: "false"
      when: false
""",
        limit=["one", "two"],
    )
    assert done.good
    assert [(host.host, host.ok, host.changed, host.failed) for host in done.hosts] == [
        ("one", 1, 0, 0),
        ("two", 1, 1, 0),
    ]
    assert done.changed == 1
    assert all(host.seconds > 0 for host in done.hosts)
    seen = {(step.host, step.task, step.outcome) for step in play.steps}
    assert {("one", "Look", "started"), ("one", "Look", "ok"), ("two", "Look", "changed")} <= seen
    assert ("one", "Leave out", "skipped") in seen
    assert "TASK [Look]" in done.log.read_text()


def test_a_task_that_fails_says_where_and_why_and_the_others_go_on(play):
    done = play(
        """
    - name: Check the disk
      ansible.builtin.fail:
        msg: the disk of {{ inventory_hostname }} is full
      when: inventory_hostname == "one"
    - name: Go on
      ansible.builtin.command: sh -c 'echo no >&2; exit 7'
      failed_when: inventory_hostname == "two"
      changed_when: false
"""
    )
    assert not done.good
    assert done.code == 2
    one, two, three = done.hosts
    assert [(failure.task, failure.message) for failure in one.failures] == [
        ("Check the disk", "the disk of one is full")
    ]
    assert two.failures[0].message.endswith("no")
    assert three.good
    assert not three.failures


def test_what_was_ignored_or_rescued_is_no_failure(play):
    done = play(
        """
    - name: Try
      ansible.builtin.command: "false"
      ignore_errors: true
      changed_when: false
    - name: Together
      block:
        - ansible.builtin.fail: {msg: oh}
      rescue:
        - ansible.builtin.debug: {msg: fine}
""",
        limit=["one"],
    )
    assert done.good
    assert done.hosts[0].good
    assert not done.hosts[0].failures


def test_a_limit_that_leaves_no_host_is_told_in_ansibles_words(play):
    done = play("    - ansible.builtin.ping:\n", limit=["nosuch"])
    assert not done.good
    assert not done.hosts
    assert "no hosts to target" in done.said


def test_nothing_secret_is_left_in_the_folder_of_a_run(play, monkeypatch):
    monkeypatch.setenv("A_SECRET", "swordfish-1")
    done = play(
        """
    - name: Secret
      ansible.builtin.command: echo swordfish-2
      no_log: true
      changed_when: true
    - name: A fact that nobody prints
      ansible.builtin.set_fact:
        fact: swordfish-3
""",
        limit=["one"],
    )
    assert done.good
    assert play.folder.stat().st_mode & 0o077 == 0
    files = [path for path in play.folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert b"swordfish" not in path.read_bytes(), path
        assert path.stat().st_mode & 0o077 == 0, path


def test_only_the_last_runs_are_kept(play):
    artifacts = play.folder / "artifacts"
    for number in range(KEPT_RUNS + 5):
        old = artifacts / f"2020{number:02}"
        old.mkdir(parents=True)
        os.utime(old, (number, number))
    play("    - ansible.builtin.meta: noop\n", limit=["one"])
    assert len([*artifacts.iterdir()]) == KEPT_RUNS
    assert (artifacts / f"2020{KEPT_RUNS + 4}").exists()


def test_ctrl_c_stops_the_run_and_leaves_no_process(play, tmp_path):
    mark = tmp_path / "started"
    before = signal.getsignal(signal.SIGINT)

    def interrupt():
        while not mark.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    done = play(
        f"""
    - name: Wait
      ansible.builtin.command: sh -c 'echo $$ > {mark}.part; mv {mark}.part {mark}; exec sleep 300'
      changed_when: false
    - name: Never
      ansible.builtin.file: {{path: {tmp_path}/never, state: touch}}
""",
        limit=["one"],
    )
    thread.join()
    assert done.interrupted
    assert not done.good
    assert not (tmp_path / "never").exists()
    assert not Path(f"/proc/{mark.read_text().strip()}").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_variables_reach_the_play(play):
    done = play("    - ansible.builtin.fail: {msg: '{{ word }}'}\n", limit=["one"], variables={"word": "namaste"})
    assert done.hosts[0].failures[0].message == "namaste"


def test_a_playbook_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FleetError, match=r"ansible/nosuch\.yml is missing"):
        Playbook(tmp_path, "nosuch.yml", tmp_path / "hosts.yml").run("x", tmp_path / "runs", print)
