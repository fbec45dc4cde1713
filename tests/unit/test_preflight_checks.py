"""What a preflight finds, and how it says it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.policyfleet.opal.plugins.plugin_utils import preflight_checks as checks

AUTHORITY = """\
-----BEGIN CERTIFICATE-----
MIIBhTCCASugAwIBAgIUWChL0l7OYTJP7pgsfx6ngzVhyl0wCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMQW4gYXV0aG9yaXR5MCAXDTI2MTEyNTIxNDcyNVoYDzIxMjYx
MTAxMjE0NzI1WjAXMRUwEwYDVQQDDAxBbiBhdXRob3JpdHkwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAARI7cQ9HjzzQfTE7vWC8GH7njY04rEQqLm36NoRUGHTygBA
3MtButINmm9I21qdzi4QyuZGyDcnUH7xhBrB2zfNo1MwUTAdBgNVHQ4EFgQUWTp6
/j1BW+Fsk1Y0Yq++aVyNnCwwHwYDVR0jBBgwFoAUWTp6/j1BW+Fsk1Y0Yq++aVyN
nCwwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiBcTYBIezEW9A2Q
MZGd8UKR0zRYxrn2hg6cgjqGKlXadQIhAJCz0CRSBtLjRO2vEz63bQsmtA9sfy55
7I2GQS2RkZUu
-----END CERTIFICATE-----
"""
"""A certificate that signs itself; nobody has its key."""


def host(**changes: Any) -> dict[str, Any]:
    """Return the state of a host on which nothing is wrong."""
    state: dict[str, Any] = {
        "os": {"id": "debian", "version": "12", "name": "Debian GNU/Linux 12 (bookworm)"},
        "arch": "x86_64",
        "memory_mb": 8000,
        "python": "3.11",
        "java": 0,
        "listeners": [],
        "units": {},
    }
    return {**state, **changes}


def server(**changes: Any) -> dict[str, Any]:
    """Return variables of OPAL-server with which nothing is wrong."""
    values: dict[str, Any] = {
        "opal_server_workers": 2,
        "opal_server_broadcast_uri": "pulsar://b1:6650",
        "opal_server_backbone": "fanout",
        "opal_server_settings": {},
        "opal_server_secrets": {},
        "opal_server_port": 7002,
        "opal_server_policy_repo_url": "",
        "opal_server_policy_repo_username": "",
        "opal_server_policy_repo_password": "",
        "opal_server_policy_repo_ca_cert": "",
    }
    return {**values, **changes}


def pulsar(**changes: Any) -> dict[str, Any]:
    """Return variables of Pulsar with which nothing is wrong."""
    values: dict[str, Any] = {
        "pulsar_version": "4.0.8",
        "pulsar_sha512": "a" * 128,
        "pulsar_archive_file": "",
        "pulsar_java_home": "",
        "pulsar_heap_mb": 1024,
        "pulsar_direct_memory_mb": 512,
        "pulsar_port": 6650,
        "pulsar_web_port": 8080,
        "pulsar_bookie_port": 3181,
    }
    return {**values, **changes}


def test_a_right_fleet_has_no_problems() -> None:
    assert checks.fleet_problems({"opal_server": ["o1"], "pulsar_standalone": ["p1"]}) == []
    assert checks.opal_server_problems(server(), host(), servers=3) == []
    assert checks.pulsar_problems(pulsar(), host()) == []


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"opal_servers": ["o1"]}, ["'opal_servers'", "did you mean 'opal_server'"]),
        ({"pulsar_standalone": ["p1"]}, ["'opal_server' is empty or missing"]),
        ({"opal_server": ["o1"], "pulsar_standalone": ["p1", "p2"]}, ["2 hosts (p1, p2)", "Keep one"]),
    ],
)
def test_an_inventory_with_wrong_groups_is_told(groups: dict[str, list[str]], words: list[str]) -> None:
    text = "\n".join(checks.fleet_problems(groups))
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("values", "state", "words"),
    [
        ({"opal_server_broadcast_uri": ""}, {}, ["no backbone", "pulsar_standalone"]),
        ({"opal_server_broadcast_uri": "amqp://b1"}, {}, ["scheme 'amqp'", "pulsar"]),
        ({"opal_server_broadcast_uri": "pulsar:b1"}, {}, ["names no host"]),
        (
            {"opal_server_broadcast_uri": "pulsar://a,b", "opal_server_backbone": "upstream"},
            {},
            ["one broker", "'fanout'"],
        ),
        ({"opal_server_workers": 0}, {}, ["at least 1"]),
        ({"opal_server_settings": {"OPAL_BROADCAST_URI": "x"}}, {}, ["belongs in opal_server_broadcast_uri"]),
        ({"opal_server_settings": {"opal-x": 1}}, {}, ["no name of an environment variable"]),
        ({}, {"python": "3.9"}, ["3.9", "3.11 or newer"]),
        ({}, {"python": ""}, ["missing"]),
        ({}, {"os": {"id": "ubuntu", "version": "24.04", "name": "Ubuntu 24.04"}}, ["Ubuntu 24.04 is not supported"]),
        ({}, {"arch": "riscv64"}, ["riscv64 is not supported"]),
        (
            {},
            {"listeners": [{"port": 7002, "unit": "nginx", "command": "nginx", "pid": 7, "address": "0.0.0.0"}]},
            ["port 7002 is taken by nginx (pid 7, nginx.service)", "set opal_server_port"],
        ),
    ],
)
def test_problems_of_an_opal_server_say_what_to_do(
    values: dict[str, Any], state: dict[str, Any], words: list[str]
) -> None:
    text = "\n".join(checks.opal_server_problems(server(**values), host(**state), servers=2))
    assert all(word in text for word in words), text


def repository(url: str, **given: str) -> dict[str, str]:
    """Return variables of a policy repository."""
    names = {"user": "username", "password": "password", "ca": "ca_cert"}
    return {
        "opal_server_policy_repo_url": url,
        **{f"opal_server_policy_repo_{names[name]}": value for name, value in given.items()},
    }


@pytest.mark.parametrize(
    "values",
    [
        repository("https://joe:hush@git.example.com/p.git"),
        repository("https://git.example.com/p.git", user="joe", password="hush"),
        repository("ssh://git@git.example.com/p.git"),
        repository("git@git.example.com:p.git"),
        repository("https://git.example.com/p.git", ca=AUTHORITY),
    ],
)
def test_a_right_repository_has_no_problems(values: dict[str, str]) -> None:
    assert checks.opal_server_problems(server(**values), host(), servers=1) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (repository("", password="hush"), ["opal_server_policy_repo_password given without", "policy_repo_url"]),
        (repository("https://[x/p.git"), ["is no URL"]),
        (repository("https://joe:hu/sh@git.example.com/p.git"), ["'@' behind its host", "%40"]),
        (
            repository("ssh://git:hush@git.example.com/p.git"),
            ["has a password, and is not for HTTPS", "policy_repo_ssh_key"],
        ),
        (repository("ssh://git@git.example.com/p.git", user="joe", password="hush"), ["are for HTTPS"]),
        (
            repository("https://joe:hush@git.example.com/p.git", user="joe", password="hush"),
            ["both in opal_server_policy_repo_url", "keep the latter"],
        ),
        (repository("https://git.example.com/p.git", user="joe"), ["only one of", "set both"]),
        (repository("https://git.example.com/p.git", user="joe", password="hush\n"), ["line break"]),
        (repository("https://joe:hush%0a@git.example.com/p.git"), ["line break"]),
        (repository("http://git.example.com/p.git", ca=AUTHORITY), ["ca_cert is for HTTPS"]),
        (repository("https://git.example.com/p.git", ca="/etc/ssl/ca.pem"), ["no certificate in PEM", "content"]),
        (repository("https://git.example.com/p.git", ca=AUTHORITY.replace("A", "B")), ["no certificate in PEM"]),
        (repository("https://git.example.com/p.git", ca="-----BEGIN PRIVATE KEY-----"), ["private key"]),
        (
            repository("ssh://git@git.example.com/p.git", password="hush", ca="nothing"),
            ["are for HTTPS", "ca_cert is for HTTPS", "no certificate in PEM"],
        ),
        (
            {**repository("https://joe:hush@git.example.com/p.git"), "opal_server_settings": {"OPAL_SCOPES": True}},
            ["by libgit2", "give each scope its own"],
        ),
        (
            {**repository("https://joe:hush@git.example.com/p.git"), "opal_server_settings": {"GIT_CONFIG_COUNT": 1}},
            ["sets GIT_CONFIG_COUNT", "GIT_CONFIG_GLOBAL"],
        ),
        (
            {
                **repository("https://git.example.com/p.git", user="joe", password="hush"),
                "opal_server_secrets": {"GIT_CONFIG_KEY_0": "http.extraHeader"},
            },
            ["opal_server_secrets sets GIT_CONFIG_KEY_0"],
        ),
        ({"opal_server_settings": {"GIT_SSL_CAINFO": "x"}}, ["belongs in opal_server_policy_repo_ca_cert"]),
    ],
)
def test_a_repository_that_contradicts_itself_is_told_without_its_secrets(
    values: dict[str, Any], words: list[str]
) -> None:
    text = "\n".join(checks.opal_server_problems(server(**values), host(), servers=1))
    assert all(word in text for word in words), text
    assert "hush" not in text and "hu/sh" not in text


def test_a_single_worker_needs_no_backbone() -> None:
    values = server(opal_server_broadcast_uri="", opal_server_workers=1)
    assert checks.opal_server_problems(values, host(), servers=1) == []


def test_the_port_of_the_service_itself_is_not_taken() -> None:
    own = [{"port": 7002, "unit": "opal-server", "command": "python", "pid": 7, "address": "0.0.0.0"}]
    assert checks.opal_server_problems(server(), host(listeners=own), servers=2) == []


def test_a_listener_that_cannot_be_seen_is_the_units_while_that_runs() -> None:
    hidden = [{"port": 7002, "unit": "", "command": "", "pid": 0, "address": "0.0.0.0"}]
    running = host(listeners=hidden, units={"opal-server": {"main_pid": 7}})
    stopped = host(listeners=hidden, units={"opal-server": {"main_pid": 0}})
    assert checks.opal_server_problems(server(), running, servers=2) == []
    found = checks.opal_server_problems(server(), stopped, servers=2)
    assert "port 7002 is taken by a process (pid unknown)" in found[0]


@pytest.mark.parametrize(
    ("values", "state", "words"),
    [
        ({"pulsar_version": "9.9.9", "pulsar_sha512": ""}, {}, ["9.9.9 has no checksum", "pulsar_sha512"]),
        ({"pulsar_java_home": "/opt/jdk"}, {"java": 11}, ["Java 11", "17 or newer"]),
        ({"pulsar_java_home": "/opt/jdk"}, {"java": 0}, ["no bin/java below"]),
        ({"pulsar_heap_mb": 64000}, {}, ["64512 MiB", "8000 MiB"]),
        ({"pulsar_web_port": 6650}, {}, ["must differ"]),
        (
            {},
            {"listeners": [{"port": 8080, "unit": "", "command": "java", "pid": 9, "address": "::"}]},
            ["port 8080 is taken by java (pid 9)", "pulsar_web_port"],
        ),
    ],
)
def test_problems_of_a_broker_say_what_to_do(values: dict[str, Any], state: dict[str, Any], words: list[str]) -> None:
    text = "\n".join(checks.pulsar_problems(pulsar(**values), host(**state)))
    assert all(word in text for word in words), text


def test_an_archive_of_the_operators_is_held_against_its_checksum(tmp_path: Path) -> None:
    archive = tmp_path / "pulsar.tar.gz"
    archive.write_bytes(b"an archive")
    right = hashlib.sha512(b"an archive").hexdigest()
    given = {"pulsar_archive_file": str(archive)}
    assert checks.archive_problems(pulsar(**given, pulsar_sha512=right)) == []
    wrong = checks.archive_problems(pulsar(**given))
    assert right in wrong[0] and "a" * 128 in wrong[0]
    gone = checks.archive_problems(pulsar(pulsar_archive_file=str(tmp_path / "gone")))
    assert "cannot be read on the controller: No such file or directory" in gone[0]


def test_the_verdict_names_the_inventory_first_and_every_host() -> None:
    lines = checks.verdict({"o2": ["b"], "o1": ["a", "c"]}, ["wrong"])
    assert lines == ["inventory: wrong", "o1: a", "o1: c", "o2: b"]
