"""Servers behind TLS whose certificates a private authority signed: clients trust that authority and no other."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from decisions import SOURCE, Clients
from fleet import wait_until

AUTHORITY = "/usr/local/share/policyfleet-test-ca.pem"
NAMES = {"tls1.example.test": 7443, "tls2.example.test": 7444, "unnamed.example.test": 7443}
"""What clients call the ends of TLS, which are on one host; the certificate does not have the last name."""

CERTIFICATES = """
set -e
exec 2>/dev/null
rm -rf /srv/tls && install -d /srv/tls && cd /srv/tls
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -keyout ca.key -out ca.pem -subj '/CN=A test authority'
openssl req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj '/CN=tls'
echo 'subjectAltName=DNS:tls1.example.test,DNS:tls2.example.test' >names
openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile names -out cert.pem
cat cert.pem key.pem >both.pem
"""


def proxy_configuration(addresses: list[str]) -> str:
    """What ends TLS in front of each server, one port for each."""
    ends = [
        f"listen tls{number}\n  bind :{7442 + number} ssl crt /srv/tls/both.pem\n  server opal {address}:7002\n"
        for number, address in enumerate(addresses, 1)
    ]
    times = "  timeout connect 3s\n  timeout client 2m\n  timeout server 2m\n"
    return f"global\n  maxconn 500\ndefaults\n  mode http\n{times}" + "".join(ends)


def rollout(*names: str, authority: str = AUTHORITY) -> tuple[str, ...]:
    """A rollout to the clients, with servers by these names."""
    given: dict[str, Any] = {
        "opal_client_servers": [f"{name}:{NAMES[name]}" for name in names],
        "opal_client_server_tls": True,
        "opal_client_server_ca_file": authority,
        "opal_client_health_timeout": 20,
    }
    return ("playbooks/site.yml", "--tags", "opal_client", "--extra-vars", json.dumps(given))


@pytest.fixture(scope="module")
def behind_tls(clients: Clients) -> Iterator[Clients]:
    """The fleet's clients, with TLS in front of its servers; as before afterwards."""
    fleet, source = clients.fleet, clients.addresses[SOURCE]
    fleet.shell(SOURCE, "apt-get install -qq -y --no-install-recommends haproxy openssl >/dev/null")
    fleet.shell(SOURCE, CERTIFICATES)
    configuration = proxy_configuration([clients.addresses[server] for server in clients.servers])
    fleet.shell(SOURCE, f"echo '{configuration}' >/etc/haproxy/haproxy.cfg && systemctl restart haproxy")
    authority = fleet.shell(SOURCE, "cat /srv/tls/ca.pem")
    lines = "".join(f"{source} {name}\n" for name in NAMES)
    for host in clients.hosts:
        fleet.shell(host, f"echo '{authority}' >{AUTHORITY}")
        fleet.shell(host, f"cp /etc/hosts /root/hosts && echo '{lines}' >>/etc/hosts")
    try:
        yield clients
    finally:
        # what a container has mounted can be written and not replaced
        for host in clients.hosts:
            fleet.shell(host, f"cat /root/hosts >/etc/hosts && rm /root/hosts {AUTHORITY}")
        fleet.shell(SOURCE, "systemctl stop haproxy")
        fleet.must_play("playbooks/site.yml", "--tags", "opal_client")
        clients.settle()


def test_updates_come_through_tls(behind_tls: Clients) -> None:
    behind_tls.fleet.must_play(*rollout("tls1.example.test", "tls2.example.test"))
    behind_tls.settle()
    for server in behind_tls.servers:
        place = f"Ghent by {server} {uuid.uuid4().hex[:6]}"
        behind_tls.move_bob(place)
        behind_tls.publish_bob(server)
        behind_tls.wait_for("/users/bob/location", place)
    for host in behind_tls.hosts:
        peers = behind_tls.fleet.shell(host, "ss -Htn state established '( dport = :7443 or dport = :7444 )'")
        assert behind_tls.addresses[SOURCE] in peers


@pytest.mark.parametrize(
    ("name", "authority"),
    [
        pytest.param("unnamed.example.test", AUTHORITY, id="another-name", marks=pytest.mark.slow),
        pytest.param("tls1.example.test", "/etc/ssl/certs/ca-certificates.crt", id="unknown-authority"),
    ],
)
def test_a_server_that_cannot_be_trusted_gets_no_client(behind_tls: Clients, name: str, authority: str) -> None:
    first, second = behind_tls.hosts
    run = behind_tls.fleet.play(*rollout(name, authority=authority))
    assert run.returncode != 0
    assert first in run.words
    assert not behind_tls.connected(first)
    # the other client goes on with what it had
    assert behind_tls.connected(second)
    behind_tls.fleet.must_play(*rollout("tls1.example.test", "tls2.example.test"))
    wait_until(lambda: behind_tls.connected(first), "it is connected again", 30)


def test_what_cannot_work_is_refused_before_a_change(behind_tls: Clients) -> None:
    source = behind_tls.addresses[SOURCE]
    run = behind_tls.fleet.play(
        "playbooks/site.yml",
        *("--tags", "opal_client", "--extra-vars"),
        json.dumps(
            {
                "opal_client_servers": [f"{source}:7443"],
                "opal_client_server_tls": True,
                "opal_client_server_ca_file": "/nowhere/ca.pem",
            }
        ),
    )
    assert run.returncode != 0
    assert f"has {source}:7443: the proxy compares certificates with names" in run.words
    assert "there is no /nowhere/ca.pem on this host" in run.words
    assert run.changed == 0
