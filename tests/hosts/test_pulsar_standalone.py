"""A host of the group pulsar_standalone, seen from inside."""

from __future__ import annotations

import json

import looks
from testinfra.host import Host

testinfra_hosts = looks.addresses("pulsar_standalone")

UNIT = "pulsar"
CONFIGURATION = "/etc/pulsar"
TOPIC = "persistent/public/default/broadcast"


def test_the_service_is_enabled_and_runs(host: Host) -> None:
    service = host.service(UNIT)
    assert service.is_enabled
    assert service.is_running
    assert looks.properties(host, UNIT, "NRestarts")["NRestarts"] == "0"


def test_it_runs_as_its_own_user_without_a_shell(host: Host) -> None:
    pid = looks.properties(host, UNIT, "MainPID")["MainPID"]
    assert host.check_output("ps -o user= -p %s", pid).strip() == "pulsar"
    assert host.user("pulsar").shell == "/usr/sbin/nologin"


def test_it_listens_where_clients_expect_it(host: Host) -> None:
    for port in (6650, 8080):
        assert host.socket(f"tcp://0.0.0.0:{port}").is_listening or host.socket(f"tcp://:::{port}").is_listening


def test_it_produces_and_consumes(host: Host) -> None:
    assert host.check_output("curl -sSf -m 30 http://127.0.0.1:8080/admin/v2/brokers/health") == "ok"


def test_the_topic_exists_and_keeps_events(host: Host) -> None:
    admin = "http://127.0.0.1:8080/admin/v2"
    topics = json.loads(host.check_output("curl -sSf %s/persistent/public/default", admin))
    assert "persistent://public/default/broadcast" in topics
    retention = json.loads(host.check_output("curl -sSf %s/%s/retention?applied=true", admin, TOPIC))
    assert retention["retentionTimeInMinutes"] > 0
    assert retention["retentionSizeInMB"] > 0


def test_a_topic_that_only_has_readers_stays(host: Host) -> None:
    lines = host.check_output("cat %s/standalone.conf", CONFIGURATION).splitlines()
    assert "brokerDeleteInactiveTopicsEnabled=false" in lines


def test_the_release_is_linked_and_whole(host: Host) -> None:
    link = host.file("/opt/pulsar/current")
    assert link.is_symlink
    release = host.check_output("readlink -f /opt/pulsar/current")
    assert release.startswith(f"/opt/pulsar/releases/{looks.variable(host, 'pulsar_version', '4.0.8')}-")
    assert host.check_output("ls -A /opt/pulsar/releases").split() == [release.rpartition("/")[2]]
    assert host.check_output("ls /opt/pulsar").split() == ["current", "releases"]


def test_nobody_but_root_can_change_what_it_runs(host: Host) -> None:
    assert host.check_output("find -H /opt/pulsar/current ! -user root ! -type l") == ""
    assert looks.loose_files(host, "/opt/pulsar") == []


def test_its_configuration_is_not_for_everybody(host: Host) -> None:
    for name in ("standalone.conf", "pulsar.env"):
        assert host.file(f"{CONFIGURATION}/{name}").mode == 0o640
        assert not looks.readable_by_others(host, "nobody", f"{CONFIGURATION}/{name}")


def test_data_lives_outside_the_release(host: Host) -> None:
    data = host.file("/var/lib/pulsar")
    assert (data.user, data.group, data.mode) == ("pulsar", "pulsar", 0o750)
    assert host.file("/var/lib/pulsar/metadata").exists


def test_it_is_sandboxed(host: Host) -> None:
    assert looks.exposure(host, UNIT) <= looks.LARGEST_EXPOSURE


def test_its_memory_is_what_the_inventory_says(host: Host) -> None:
    pid = looks.properties(host, UNIT, "MainPID")["MainPID"]
    arguments = host.check_output("tr '\\0' '\\n' </proc/%s/cmdline", pid).splitlines()
    assert "-Xmx512m" in arguments
    assert "-XX:MaxDirectMemorySize=256m" in arguments


def test_it_stops_as_a_jvm_does(host: Host) -> None:
    stop = looks.properties(host, UNIT, "KillSignal", "SuccessExitStatus", "TimeoutStopUSec", "Restart", "LimitNOFILE")
    assert stop["KillSignal"] == "15"
    assert "143" in stop["SuccessExitStatus"]
    assert stop["Restart"] == "always"
    assert int(stop["LimitNOFILE"]) >= 65536


def test_its_journal_has_no_colour(host: Host) -> None:
    journal = host.check_output("journalctl -u pulsar --no-pager -o cat")
    assert journal
    assert "\x1b" not in journal
