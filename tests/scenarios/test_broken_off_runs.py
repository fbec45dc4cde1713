"""A run whose controller is killed at any point is completed by the next one, and the one after that changes nothing.

The modules run in the order of their names, and this one is the first: it brings up fresh hosts with a series of runs
of which each is killed a step further than the last. What it leaves is the fleet that the others need.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

import pytest
from fleet import Fleet, environment

SITE = "playbooks/site.yml"

# What a fresh host goes through: the task in which the controller dies, and how long after its start, in seconds.
FRESH = [
    ("Install Java", 3.0),
    ("Hand the archive to the host", 0.7),
    ("Unpack the archive as a release", 1.5),
    ("Install packages", 2.0),
    ("Hand the bundle to the host", 0.2),
    ("Make the virtual environment as a release", 2.5),
    ("pulsar : Write the files of the service", 0.0),
    ("pulsar : Write the files of the service", 0.6),
    ("Restart the broker", 0.1),
    ("Wait until the broker is healthy", 1.0),
    ("Make the topic", 0.1),
    ("opal_server : Write the files of the service", 0.6),
    ("Restart OPAL-server", 0.3),
    ("Wait until OPAL-server is healthy", 0.5),
]
# The same for a serving fleet whose configuration changes, and the log level that it changes to.
CHANGE = [
    ("opal_server : Write the files of the service", 0.7, "DEBUG"),
    pytest.param("Restart OPAL-server", 0.3, "INFO", marks=pytest.mark.slow),
    pytest.param("Wait until OPAL-server is healthy", 0.5, "DEBUG", marks=pytest.mark.slow),
]


def kill_with_descendants(pid: int) -> None:
    """Kill a process and all that came from it at once, as a power cut would.

    Ansible's workers and their ssh processes have sessions of their own, so that killing a group would spare them.
    """
    os.kill(pid, signal.SIGSTOP)
    rows = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], check=True, capture_output=True, text=True).stdout
    parents = {int(child): int(parent) for child, parent in (row.split() for row in rows.splitlines())}
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    for member in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


def play_and_kill(fleet: Fleet, task: str, delay: float, *arguments: str) -> str:
    """Start a rollout and kill the controller with all its processes in a task; return its output till then.

    A task that only compares does not count. Raises AssertionError if the run ends before the task begins.
    """
    process = subprocess.Popen(
        fleet.command(SITE, *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )
    assert process.stdout
    output, play = "", ""
    try:
        for line in process.stdout:
            output += line
            play = line if line.startswith("PLAY") else play
            if line.startswith("TASK") and task in line and "Find out" not in play:
                time.sleep(delay)
                return output
    finally:
        if process.poll() is None:
            kill_with_descendants(process.pid)
        process.wait()
        process.stdout.close()
    raise AssertionError(f"the run ended without a task {task!r}:\n{output}")


def log_levels(fleet: Fleet) -> set[str]:
    """Log levels that the running OPAL-servers were started with."""
    command = "tr '\\0' '\\n' </proc/$(systemctl show -P MainPID opal-server)/environ | grep ^OPAL_LOG_LEVEL="
    return {fleet.shell(host, command).strip().partition("=")[2] for host in fleet.hosts("opal_server")}


@pytest.mark.parametrize(("task", "delay"), FRESH)
def test_a_fresh_rollout_gets_further_than_the_last_that_was_killed(hosts: Fleet, task: str, delay: float) -> None:
    play_and_kill(hosts, task, delay)


def test_the_next_run_completes_it_and_the_one_after_changes_nothing(hosts: Fleet) -> None:
    hosts.must_play(SITE)
    again = hosts.must_play(SITE)
    assert again.changed == 0, again.output


def test_the_fleet_is_whole(hosts: Fleet) -> None:
    verification = hosts.verify()
    assert verification.passed, verification.run.output


def test_nothing_half_done_is_left(hosts: Fleet) -> None:
    for host in hosts.all_hosts:
        left = hosts.shell(host, "find /opt -maxdepth 3 ! -name opt -printf '%P\\n'").split()
        assert not [path for path in left if "partial" in path or path.endswith((".tar", ".tar.gz", ".new"))]


@pytest.mark.parametrize(("task", "delay", "level"), CHANGE)
def test_a_killed_change_of_a_serving_fleet_is_completed(fleet: Fleet, task: str, delay: float, level: str) -> None:
    change = ("-e", f"opal_server_log_level={level}")
    play_and_kill(fleet, task, delay, *change)
    fleet.must_play(SITE, *change)
    assert log_levels(fleet) == {level}
    again = fleet.must_play(SITE, *change)
    assert again.changed == 0, again.output
