"""What systemd is told, over a real socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from opal_backbone import watchdog
from opal_backbone.settings import load

SETTINGS = load({"OPAL_BROADCAST_URI": "pulsar://a", "OPAL_BACKBONE_RESTART_AFTER": "60"})
WELL = {"age": 0.5, "heard_age": 1.0}


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(0.2)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


def test_a_host_whose_workers_are_well_feeds_the_watchdog(systemd: socket.socket) -> None:
    watchdog.ping([WELL, WELL], SETTINGS)
    assert systemd.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("ill", [{"age": 11.0, "heard_age": 1.0}, {"age": 0.1, "heard_age": 71.0}])
def test_one_worker_that_is_stuck_or_deaf_for_too_long_stops_it(systemd: socket.socket, ill: dict[str, float]) -> None:
    watchdog.ping([WELL, ill], SETTINGS)
    with pytest.raises(TimeoutError):
        systemd.recv(100)


def test_there_is_nothing_to_do_without_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert not watchdog.is_wanted()
    watchdog.notify("WATCHDOG=1")
