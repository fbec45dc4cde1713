"""A host of the group opal_client, seen from inside."""

from __future__ import annotations

import json

import looks
import pytest
from testinfra.host import Host

testinfra_hosts = looks.addresses("opal_client")

UNITS = ("opa", "opal-client-proxy", "opal-client")
CONFIGURATION = "/etc/opal-client"


@pytest.mark.parametrize("unit", UNITS)
def test_the_service_is_enabled_and_runs(host: Host, unit: str) -> None:
    service = host.service(unit)
    assert service.is_enabled
    assert service.is_running


@pytest.mark.parametrize("unit", UNITS)
def test_it_is_sandboxed(host: Host, unit: str) -> None:
    assert looks.exposure(host, unit) <= looks.LARGEST_EXPOSURE


def test_everything_listens_on_the_loopback_only(host: Host) -> None:
    listeners = host.check_output("ss -Htln '( sport = :7000 or sport = :7001 or sport = :7003 or sport = :8181 )'")
    addresses = [line.split()[3] for line in listeners.splitlines()]
    assert sorted(addresses) == ["127.0.0.1:7000", "127.0.0.1:7001", "127.0.0.1:7003", "127.0.0.1:8181"]


def test_haproxys_own_service_is_off(host: Host) -> None:
    service = host.service("haproxy")
    assert not service.is_enabled
    assert not service.is_running


def test_the_client_is_online_and_connected(host: Host) -> None:
    body = json.loads(host.check_output("curl -sSf -m 10 http://127.0.0.1:7000/healthy"))
    assert body == {"status": "ok", "online": True}
    assert host.run("curl -sSf -m 10 http://127.0.0.1:7003/connected").rc == 0


def test_opa_runs_as_a_user_who_cannot_read_the_clients_secrets(host: Host) -> None:
    pid = looks.properties(host, "opa", "MainPID")["MainPID"]
    assert host.check_output("ps -o user= -p %s", pid).strip() == "opa"
    assert not looks.readable_by_others(host, "opa", f"{CONFIGURATION}/secrets.env")
    assert not looks.readable_by_others(host, "opal-client", f"{CONFIGURATION}/opa.yaml")


def test_the_releases_are_linked_and_whole(host: Host) -> None:
    for prefix in ("/opt/opal-client", "/opt/opa"):
        release = host.check_output("readlink -f %s/current", prefix)
        assert host.check_output("ls -A %s/releases", prefix).split() == [release.rpartition("/")[2]]
        assert host.check_output("ls %s", prefix).split() == ["current", "releases"]
        assert looks.loose_files(host, prefix) == []


def test_secrets_are_not_for_everybody(host: Host) -> None:
    assert host.file(f"{CONFIGURATION}/secrets.env").mode == 0o600
    for name in ("secrets.env", "opal-client.env", "opa.yaml"):
        assert not looks.readable_by_others(host, "nobody", f"{CONFIGURATION}/{name}")
    assert looks.loose_files(host, CONFIGURATION) == []


def test_its_journal_has_no_colour(host: Host) -> None:
    assert "\x1b" not in host.check_output("journalctl -u opal-client --no-pager -o cat")
