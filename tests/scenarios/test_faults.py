"""verify.yml fails on a fleet that is not whole, says where, and passes again when the fault is gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fleet import Fleet, wait_until

VICTIM = "opal2"
TO_PULSAR = ("OUTPUT -p tcp --dport 6650", "INPUT -p tcp --sport 6650")


def worker_pids(fleet: Fleet, host: str) -> list[int]:
    """Process ids of a host's workers."""
    pids = fleet.shell(host, "pid=$(systemctl show -P MainPID opal-server); cat /proc/$pid/task/$pid/children")
    return [int(pid) for pid in pids.split()]


@contextmanager
def stopped_worker(fleet: Fleet, host: str) -> Iterator[int]:
    """Freeze one worker of a host; gives its process id."""
    pid = worker_pids(fleet, host)[0]
    fleet.shell(host, f"kill -STOP {pid}")
    try:
        yield pid
    finally:
        # gunicorn may have replaced it meanwhile
        fleet.shell(host, f"kill -CONT {pid} || true")


@pytest.fixture(autouse=True)
def whole_fleet(fleet: Fleet) -> None:
    """Each fault happens to a fleet that is whole."""
    verification = fleet.verify()
    assert verification.passed, verification.run.output


def wait_until_whole(fleet: Fleet) -> None:
    """The fleet has recovered when a verification passes; raises TimeoutError after two minutes."""
    seconds = wait_until(lambda: fleet.verify().passed, "verify.yml passes", seconds=120)
    print(f"whole again {seconds:.0f} s after the fault was undone")


def test_a_stopped_worker(fleet: Fleet) -> None:
    with stopped_worker(fleet, VICTIM) as pid:
        verification = fleet.verify()
    assert not verification.passed
    senders = set(fleet.hosts("opal_server"))
    assert {(sender, VICTIM, pid) for sender in senders} <= verification.missing
    assert {(host, worker) for _sender, host, worker in verification.missing} == {(VICTIM, pid)}
    assert not verification.unnamed
    wait_until_whole(fleet)


def test_a_host_that_a_firewall_cuts_off_from_pulsar(fleet: Fleet) -> None:
    others = set(fleet.hosts("opal_server")) - {VICTIM}
    with fleet.dropping(VICTIM, *TO_PULSAR):
        verification = fleet.verify()
    assert not verification.passed
    # Nothing from elsewhere reached the host, and nothing from the host went elsewhere.
    links = {(sender, host) for sender, host, _pid in verification.missing}
    assert {(other, VICTIM) for other in others} <= links
    assert {(VICTIM, other) for other in others} <= links
    assert not {(one, other) for one in others for other in others} & links
    assert not verification.unnamed
    wait_until_whole(fleet)
