"""Bad input is refused before anything on a host changes, with all that is wrong with it at once."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from fleet import ROOT, Fleet

SITE = "playbooks/site.yml"

# All that a rollout may touch: files with their owners, modes and times, packages, users, and which processes serve.
SNAPSHOT = r"""
find /etc /opt -xdev -printf '%p %y %m %U:%G %s %T@ %l\n' | sort
dpkg-query -W -f '${Package} ${Version} ${db:Status-Status}\n'
for unit in pulsar opal-server; do systemctl show -p MainPID,NRestarts,ActiveState "$unit"; done
"""


def extra(**variables: Any) -> tuple[str, str]:
    """Arguments that set variables with their types."""
    return ("-e", json.dumps(variables))


@dataclass(frozen=True)
class Case:
    """Arguments of a run that must be refused, and what it has to say."""

    name: str
    arguments: tuple[str, ...]
    says: tuple[str, ...]


CASES = [
    Case(
        "more workers than one can serve without a backbone",
        extra(opal_server_broadcast_uri=""),
        ("no backbone", "opal_server_broadcast_uri"),
    ),
    Case("scheme that OPAL cannot use", extra(opal_server_broadcast_uri="amqp://broker:5672"), ("'amqp'", "pulsar")),
    Case(
        "version without a checksum", extra(pulsar_version="3.3.1"), ("Pulsar 3.3.1 has no checksum", "pulsar_sha512")
    ),
    Case("no Java there", extra(pulsar_java_home="/opt/nowhere"), ("no bin/java below", "/opt/nowhere")),
    Case("word for a number", extra(opal_server_workers="many"), ("opal_server_workers", "int")),
    Case("word for a port", extra(pulsar_port="the usual"), ("pulsar_port", "int")),
    Case("no workers at all", extra(opal_server_workers=0), ("opal_server_workers is 0", "at least 1")),
    Case("unknown backbone", extra(opal_server_backbone="telepathy"), ("opal_server_backbone", "fanout", "upstream")),
    Case(
        "everything at once",
        extra(
            opal_server_broadcast_uri="amqp://broker:5672",
            pulsar_version="3.3.1",
            pulsar_java_home="/opt/nowhere",
            opal_server_settings={"opal log level": "INFO"},
        ),
        (
            "'amqp'",
            "Pulsar 3.3.1 has no checksum",
            "no bin/java below",
            "'opal log level'",
            "pulsar1:",
            "opal1:",
            "opal2:",
            "opal3:",
        ),
    ),
]


def snapshot(fleet: Fleet) -> dict[str, list[str]]:
    """State of all hosts that a refused run has to leave as it was."""
    return {host: fleet.shell(host, SNAPSHOT).splitlines() for host in fleet.all_hosts}


@contextmanager
def nothing_changes(fleet: Fleet) -> Iterator[None]:
    """Fails, and tells the lines that differ, if a host is not afterwards what it was before."""
    before = snapshot(fleet)
    yield
    after = snapshot(fleet)
    differing = {host: sorted(set(before[host]) ^ set(after[host])) for host in before}
    assert not {host: lines for host, lines in differing.items() if lines}


def refused(fleet: Fleet, *arguments: str) -> str:
    """Run a rollout that must be refused and leave no trace; return its words."""
    with nothing_changes(fleet):
        run = fleet.play(SITE, *arguments)
    assert run.returncode != 0, run.output
    return run.words


def overlay(folder: Path, inventory: dict[str, Any]) -> tuple[str, str]:
    """Arguments that lay a second inventory over the fleet's own."""
    path = folder / "overlay.yml"
    path.write_text(yaml.safe_dump(inventory), encoding="utf-8")
    return ("-i", str(path))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_it_is_refused(fleet: Fleet, case: Case) -> None:
    words = refused(fleet, *case.arguments)
    for part in case.says:
        assert part in words


def test_an_inventory_without_servers(fleet: Fleet, tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.yml"
    inventory.write_text("pulsar_standalone: {hosts: {pulsar1: {}}}\nopal_server: {hosts: {}}\n", encoding="utf-8")
    run = Fleet(inventory).play(SITE)
    assert run.returncode != 0
    assert "'opal_server' is empty or missing" in run.words


def test_a_group_whose_name_is_misspelt(fleet: Fleet, tmp_path: Path) -> None:
    words = refused(fleet, *overlay(tmp_path, {"opal_servers": {"hosts": {"opal9": {}}}}))
    assert "'opal_servers' means nothing" in words
    assert "did you mean 'opal_server'?" in words


def test_a_host_that_cannot_be_reached(fleet: Fleet, tmp_path: Path) -> None:
    network = fleet.shell("opal1", "hostname -I").split()[0].rpartition(".")[0]
    absent = {"ansible_host": f"{network}.99", "test_ssh_dir": str(ROOT / ".cache" / "ssh")}
    # With a change for the others, which must not get it.
    change = extra(opal_server_log_level="WARNING")
    words = refused(fleet, *overlay(tmp_path, {"opal_server": {"hosts": {"opal9": absent}}}), *change)
    assert "opal9: cannot be reached" in words


def test_a_port_that_something_else_has(fleet: Fleet) -> None:
    fleet.shell("opal2", "systemd-run --unit squatter --quiet python3 -m http.server 7999 --directory /run")
    try:
        words = refused(fleet, *extra(opal_server_port=7999))
    finally:
        fleet.shell("opal2", "systemctl stop squatter")
    assert "opal2: port 7999 is taken by python3" in words
    assert "squatter.service" in words
    assert "opal1: port" not in words


def test_a_java_that_is_too_old(fleet: Fleet) -> None:
    # No old Java is to be had on these hosts; what is asked of it is its version.
    home = "/var/tmp/old-java"
    answer = """echo 'openjdk version "11.0.2" 2019-01-15' >&2"""
    lines = f"printf '%s\\n' '#!/bin/sh' {shlex.quote(answer)}"
    fleet.shell("pulsar1", f"mkdir -p {home}/bin && {lines} >{home}/bin/java && chmod +x {home}/bin/java")
    try:
        words = refused(fleet, *extra(pulsar_java_home=home))
    finally:
        fleet.shell("pulsar1", f"rm -r {home}")
    assert "is Java 11: Pulsar needs 17 or newer" in words


def test_a_system_that_is_not_supported(fleet: Fleet) -> None:
    fleet.shell("opal3", "sed 's/^VERSION_ID=.*/VERSION_ID=\"11\"/' /usr/lib/os-release >/run/os-release")
    fleet.shell("opal3", "mount --bind /run/os-release /usr/lib/os-release")
    try:
        words = refused(fleet)
    finally:
        fleet.shell("opal3", "umount /usr/lib/os-release && rm /run/os-release")
    assert "opal3:" in words
    assert "is not supported: use Debian 12 or 13" in words


@pytest.mark.parametrize("source", ["file", "url"])
def test_an_archive_that_is_not_what_its_checksum_says(fleet: Fleet, tmp_path: Path, source: str) -> None:
    archive = tmp_path / "apache-pulsar-3.3.6-bin.tar.gz"
    archive.write_bytes(b"no archive at all")
    place = {
        "file": {"pulsar_archive_file": str(archive)},
        "url": {"pulsar_archive_url": archive.as_uri(), "pulsar_cache_dir": str(tmp_path / "cache")},
    }
    words = refused(fleet, *extra(pulsar_version="3.3.6", **place[source]))
    assert hashlib.sha512(archive.read_bytes()).hexdigest() in words
    assert "Pulsar 3.3.6 must have c8a91ebea6fdf8528ec1c00b073bfe40" in words
    # The old release still serves.
    assert fleet.shell("pulsar1", "readlink /opt/pulsar/current").startswith("releases/4.0.8-")
    assert fleet.shell("pulsar1", "curl -sSf http://127.0.0.1:8080/admin/v2/brokers/health") == "ok"


def test_verify_refuses_a_word_for_a_boolean(fleet: Fleet) -> None:
    with nothing_changes(fleet):
        run = fleet.play("playbooks/verify.yml", *extra(verify_raw_event="perhaps"))
    assert run.returncode != 0
    assert "verify_raw_event" in run.words
    assert "bool" in run.words
