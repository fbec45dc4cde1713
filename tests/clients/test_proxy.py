"""The proxy between a client and its servers ends each connection, whatever becomes of a server meanwhile."""

from __future__ import annotations

from decisions import Clients
from fleet import wait_until

ROUNDS = 4
"""Restarts of each server: three connections were left half shut in as many by a proxy that did so."""

QUESTIONS = 150
"""How many are asked while a server vanishes, ten each second: until it is marked down, and on."""

PATIENCE = 25
"""Seconds that one question waits for its answer; each attempt to connect may take three, and there are four."""


def left(clients: Clients) -> dict[str, str]:
    """The connections that were closed at the client's end and not at the proxy's, by host."""
    look = "ss -Htn state close-wait '( sport = :7001 )'"
    return {host: clients.fleet.shell(host, look).strip() for host in clients.hosts}


def wait_for_ends(clients: Clients) -> None:
    """Wait until the proxies have ended all that was closed, or tell what they have not."""
    try:
        wait_until(lambda: not any(left(clients).values()), "the proxies have ended all that was closed", 10)
    except TimeoutError as error:
        raise TimeoutError(f"{error}; there are {left(clients)}; {clients.standing()}") from None


def test_no_connection_is_left_half_shut_when_servers_restart(settled: Clients) -> None:
    for _ in range(ROUNDS):
        for server in settled.servers:
            settled.fleet.shell(server, "systemctl restart opal-server")
            settled.wait_healthy(server)
    settled.settle()
    wait_for_ends(settled)


def test_no_question_is_left_without_an_end_when_a_servers_host_vanishes(settled: Clients) -> None:
    asks = (
        f"for _ in $(seq {QUESTIONS}); do "
        f"(curl -sf -o /dev/null -m {PATIENCE} http://127.0.0.1:7001/healthcheck; echo $?) & sleep 0.1; done; wait"
    )
    for host in settled.hosts:
        first = settled.addresses[settled.go_home(host)]
        settled.fleet.shell(host, f"iptables -A OUTPUT -d {first} -j DROP")
        try:
            ends = settled.fleet.shell(host, asks).split()
        finally:
            settled.fleet.shell(host, f"iptables -D OUTPUT -d {first} -j DROP")
        assert len(ends) == QUESTIONS
        assert ends.count("28") == 0, f"{ends.count('28')} questions had no answer in {PATIENCE} s on {host}"
        assert ends.count("0") > QUESTIONS / 3, f"the other server answered {ends.count('0')} of {QUESTIONS} on {host}"
    settled.settle()
    wait_for_ends(settled)
