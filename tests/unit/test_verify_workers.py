"""Reading processes and sockets from /proc, on this very machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from ansible_collections.policyfleet.opal.plugins.module_utils import verify_workers as processes

SERVICE = """
import os, socket, sys, time
listener = socket.create_server(("127.0.0.1", 0))
for _ in range(2):
    if os.fork() == 0:
        held = []
        while True:
            held.append(listener.accept())
print(listener.getsockname()[1], flush=True)
time.sleep(60)
"""
"""A main process with two workers that share its listening socket, as gunicorn's do."""


@pytest.fixture
def service() -> Iterator[tuple[int, int]]:
    """The main process and the port of a service."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout
    yield process.pid, int(process.stdout.readline())
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_addresses_are_decoded() -> None:
    assert processes.decode_address("0100007F:1B5A") == ("127.0.0.1", 7002)
    assert processes.decode_address("00000000000000000000000001000000:0050") == ("::1", 80)
    assert processes.decode_address("0000000000000000FFFF00000100007F:0050") == ("127.0.0.1", 80)


def test_workers_are_the_children_that_share_the_socket(service: tuple[int, int]) -> None:
    main, port = service
    assert processes.workers(main, port) == sorted(processes.children(main))
    assert len(processes.workers(main, port)) == 2


def test_a_service_without_workers_serves_by_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert processes.workers(os.getpid(), port) == [os.getpid()]
    assert processes.workers(os.getpid(), port) == []


def test_the_owner_of_an_accepted_connection_is_found(service: tuple[int, int]) -> None:
    main, port = service
    pids = processes.workers(main, port)
    with socket.create_connection(("127.0.0.1", port)) as link:
        owners: dict[str, int] = {}
        until = time.monotonic() + 5
        while not owners and time.monotonic() < until:
            inodes = processes.accepted(link.getpeername(), {link.getsockname()})
            owners = processes.owners(inodes.values(), pids)
        assert list(inodes) == [link.getsockname()]
        assert set(owners.values()) <= set(pids)


def test_a_connection_that_nobody_accepted_has_no_owner() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as link,
    ):
        assert processes.accepted(link.getpeername(), {link.getsockname()}) == {}


def test_a_stopped_process_is_told_as_such(service: tuple[int, int]) -> None:
    main, port = service
    pid = processes.workers(main, port)[0]
    os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + 5
    while processes.state(pid) != "T" and time.monotonic() < until:
        time.sleep(0.01)
    assert processes.state_in_words(processes.state(pid)) == "stopped (T)"
    assert processes.state(pid) in processes.STOPPED


def test_a_process_that_is_gone_has_no_state() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert processes.state(process.pid) == ""
    assert processes.state_in_words("") == "gone"
    assert processes.inodes_of(process.pid) == set()
