"""A host of the group opal_server, seen from inside."""

from __future__ import annotations

import re

import looks
from fleet import chosen_fleet
from testinfra.host import Host

testinfra_hosts = looks.addresses("opal_server")

UNIT = "opal-server"
CONFIGURATION = "/etc/opal-server"


def main_pid(host: Host) -> str:
    return looks.properties(host, UNIT, "MainPID")["MainPID"]


def worker_pids(host: Host) -> list[str]:
    pid = main_pid(host)
    return str(host.check_output("cat /proc/%s/task/%s/children", pid, pid)).split()


def wanted_workers(host: Host) -> int:
    return int(chosen_fleet().variables[host.check_output("hostname")]["opal_server_workers"])


def test_the_service_is_enabled_and_runs(host: Host) -> None:
    service = host.service(UNIT)
    assert service.is_enabled
    assert service.is_running
    assert looks.properties(host, UNIT, "NRestarts")["NRestarts"] == "0"


def test_it_has_the_workers_of_the_inventory(host: Host) -> None:
    assert len(worker_pids(host)) == wanted_workers(host)


def test_it_runs_as_its_own_user_without_a_shell(host: Host) -> None:
    users = host.check_output("ps -o user= -p %s", ",".join([main_pid(host), *worker_pids(host)])).split()
    assert set(users) == {"opal-server"} or set(users) == {"opal-se+"}
    assert host.user("opal-server").shell == "/usr/sbin/nologin"


def test_it_listens_and_is_healthy(host: Host) -> None:
    assert host.socket("tcp://0.0.0.0:7002").is_listening
    assert host.run("curl -sSf -m 10 http://127.0.0.1:7002/healthcheck").rc == 0


def test_it_says_that_it_uses_the_backbone(host: Host) -> None:
    journal = host.check_output("journalctl -u opal-server --no-pager -o cat")
    assert re.search(r"(?i)backbone", journal)


def test_every_worker_is_connected_to_the_broker(host: Host) -> None:
    connections = host.check_output("ss -Htnp state established '( dport = :6650 )'")
    connected = set(re.findall(r"pid=(\d+)", connections))
    assert set(worker_pids(host)) <= connected


def test_its_journal_has_no_colour_and_names_the_worker(host: Host) -> None:
    journal = host.check_output("journalctl -u opal-server --no-pager -o cat")
    assert "\x1b" not in journal
    for pid in worker_pids(host):
        assert re.search(rf"\b{pid}\b", journal), f"no line of worker {pid}"


def test_the_release_is_linked_and_whole(host: Host) -> None:
    assert host.file("/opt/opal-server/current").is_symlink
    release = host.check_output("readlink -f /opt/opal-server/current")
    assert release.startswith("/opt/opal-server/releases/")
    assert host.check_output("ls -A /opt/opal-server/releases").split() == [release.rpartition("/")[2]]
    assert host.check_output("ls /opt/opal-server").split() == ["current", "releases"]


def test_it_runs_on_the_distributions_python(host: Host) -> None:
    wanted = {"12": "3.11", "13": "3.13"}[host.system_info.release.split(".")[0]]
    version = host.check_output("/opt/opal-server/current/bin/python -c 'import sys; print(sys.version)'")
    assert version.startswith(wanted)


def test_nobody_but_root_can_change_what_it_runs(host: Host) -> None:
    assert host.check_output("find -H /opt/opal-server/current ! -user root ! -type l") == ""
    assert looks.loose_files(host, "/opt/opal-server") == []


def test_secrets_are_not_for_everybody(host: Host) -> None:
    secrets = host.file(f"{CONFIGURATION}/secrets.env")
    assert (secrets.user, secrets.mode) == ("root", 0o600)
    for name in ("secrets.env", "opal-server.env"):
        assert not looks.readable_by_others(host, "nobody", f"{CONFIGURATION}/{name}")
    assert looks.loose_files(host, CONFIGURATION) == []
    assert looks.loose_files(host, "/var/lib/opal-server") == []


def test_it_is_sandboxed(host: Host) -> None:
    assert looks.exposure(host, UNIT) <= looks.LARGEST_EXPOSURE


def test_a_verification_left_nothing_behind(host: Host) -> None:
    units = host.check_output("systemctl list-units --all --no-legend --plain 'run-*.service' '*verify*'")
    assert units == ""
    assert host.check_output("ss -Htn state established '( dport = :7002 )'") == ""
