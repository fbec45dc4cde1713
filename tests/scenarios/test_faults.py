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


@contextmanager
def restarted_when_deaf(fleet: Fleet, host: str, seconds: int) -> Iterator[None]:
    """Have a host's service started anew when it was deaf for that long; its own setting is for nights, not tests."""
    dropin, setting = "/run/systemd/system/opal-server.service.d", "/run/deaf.env"
    begin = "systemctl daemon-reload && systemctl restart opal-server"
    written = f"echo OPAL_BACKBONE_RESTART_AFTER={seconds} >{setting}"
    unit = f"mkdir -p {dropin} && printf '[Service]\\nEnvironmentFile={setting}\\n' >{dropin}/deaf.conf"
    fleet.shell(host, f"{written} && {unit} && {begin}")
    try:
        yield
    finally:
        fleet.shell(host, f"rm -r {dropin} {setting} && {begin}")


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


def test_a_host_that_stays_deaf_is_started_anew(fleet: Fleet) -> None:
    asked = "curl -sS -m 10 -w '%{http_code}' http://127.0.0.1:7002/healthcheck || true"

    def restarts() -> int:
        return int(fleet.shell(VICTIM, "systemctl show -P NRestarts opal-server"))

    def says(*words: str) -> bool:
        answer = fleet.shell(VICTIM, asked)
        return all(word in answer for word in words)

    with restarted_when_deaf(fleet, VICTIM, 30):
        wait_until(lambda: says("200"), f"{VICTIM} is healthy")
        before, first = restarts(), fleet.shell(VICTIM, "systemctl show -P MainPID opal-server")
        with fleet.dropping(VICTIM, *TO_PULSAR):
            wait_until(lambda: says("503", "deaf"), f"{VICTIM} says that it is deaf")
            seconds = wait_until(lambda: restarts() > before, f"systemd starts {VICTIM} anew")
            print(f"started anew {seconds:.0f} s after it had said so")
            log = fleet.shell(VICTIM, "journalctl -u opal-server --since -2min --no-pager")
            assert "ending the service so that it is started anew" in log
            # Without a broker it is up, and says that it is of no use.
            wait_until(lambda: says("503", "not connected to the backbone yet"), f"{VICTIM} is up again")
        assert fleet.shell(VICTIM, "systemctl show -P MainPID opal-server") != first
        wait_until_whole(fleet)
