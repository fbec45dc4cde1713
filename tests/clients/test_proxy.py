"""The proxy between a client and its servers ends each connection, whatever becomes of a server meanwhile."""

from __future__ import annotations

from decisions import Clients
from fleet import wait_until

ROUNDS = 4
"""Restarts of each server: three connections were left half shut in as many by a proxy that did so."""

QUESTIONS = 200
"""How many are asked while a server vanishes, a tenth of a second apart or a little more."""

TAKEN_OVER = 15
"""Seconds after which the next server has taken over: two checks, each of which takes three seconds to fail, and the
first of which comes within five."""

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
    # each tells when it was asked, in milliseconds after the first one, and how that ended
    asks = (
        f"first=$(date +%s%3N); for _ in $(seq {QUESTIONS}); do (at=$(( $(date +%s%3N) - first )); "
        f"curl -sf -o /dev/null -m {PATIENCE} http://127.0.0.1:7001/healthcheck; echo $at $?) & sleep 0.1; done; wait"
    )
    for host in settled.hosts:
        gone = settled.addresses[settled.go_home(host)]
        with settled.fleet.dropping(host, f"OUTPUT -d {gone}"):
            ends = [line.split() for line in settled.fleet.shell(host, asks).splitlines()]
        answers = [(int(at) / 1000, int(end)) for at, end in ends]
        assert len(answers) == QUESTIONS
        assert max(at for at, _ in answers) > TAKEN_OVER
        endless = [at for at, end in answers if end == 28]
        assert not endless, f"on {host} there was no end in {PATIENCE} s of what was asked after {endless} s"
        failed = sorted(at for at, end in answers if end)
        print(f"{host}: {len(failed)} of {QUESTIONS} failed, the last one asked after {max(failed, default=0)} s")
        assert not [at for at in failed if at > TAKEN_OVER], f"on {host} the next server did not answer: {failed}"
    settled.settle()
    wait_for_ends(settled)
