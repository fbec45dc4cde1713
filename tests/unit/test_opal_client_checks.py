"""What is refused before OPAL-client is rolled out."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from ansible_collections.policyfleet.opal.plugins.plugin_utils import client_checks as checks

STATE: dict[str, Any] = {
    "os": {"id": "debian", "version": "12", "name": "Debian 12"},
    "arch": "x86_64",
    "python": "3.11",
    "listeners": [],
    "units": {},
    "missing_files": [],
}

VARIABLES: dict[str, Any] = {
    "opal_client_server_url": "",
    "opal_client_servers": ["s1:7002"],
    "opal_client_server_tls": False,
    "opal_client_server_ca_file": "/etc/ssl/ca.pem",
    "opal_client_token": "",
    "opal_client_token_needed": False,
    "opal_client_opa_version": "1.22.2",
    "opal_client_opa_sha512": {"x86_64": "0" * 128},
    "opal_client_settings": {},
    "opal_client_secrets": {},
    "opal_client_port": 7000,
    "opal_client_proxy_port": 7001,
    "opal_client_status_port": 7003,
    "opal_client_opa_port": 8181,
}

NOW = 1_700_000_000.0


def token(**claims: object) -> str:
    """Return a web token that claims this; its signature is not one."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({}, claims)]
    return ".".join([*parts, "signature"])


@pytest.mark.parametrize(
    ("servers", "named"), [(["s1:7002", "10.0.0.1:7002"], "10.0.0.1:7002"), (["[fd00::1]:443"], "[fd00::1]:443")]
)
def test_certificates_are_compared_with_names(servers: list[str], named: str) -> None:
    assert f"opal_client_servers has {named}:" in only_problem(opal_client_servers=servers, opal_client_server_tls=True)
    assert checks.server_problems({**VARIABLES, "opal_client_servers": servers}, STATE) == []


def test_the_authorities_must_be_on_the_host_where_they_are_used() -> None:
    state = {**STATE, "missing_files": ["/etc/ssl/ca.pem", checks.SYSTEM_AUTHORITIES]}
    tls = {**VARIABLES, "opal_client_server_tls": True}
    assert checks.server_problems(VARIABLES, state) == []
    assert "no /etc/ssl/ca.pem on this host" in checks.server_problems(tls, state)[0]
    assert checks.server_problems({**tls, "opal_client_server_ca_file": checks.SYSTEM_AUTHORITIES}, state) == []


def only_problem(**changes: Any) -> str:
    """Return the single problem that a change to good variables makes."""
    problems = checks.opal_client_problems({**VARIABLES, **changes}, STATE)
    assert len(problems) == 1, problems
    return problems[0]


def test_nothing_is_wrong_with_the_defaults_of_an_open_fleet() -> None:
    assert checks.opal_client_problems(VARIABLES, STATE) == []


def test_a_client_without_a_server_is_told_where_to_put_one() -> None:
    assert "put hosts in the inventory's group 'opal_server'" in only_problem(opal_client_servers=[])
    assert (
        checks.opal_client_problems(
            {**VARIABLES, "opal_client_servers": [], "opal_client_server_url": "https://opal.example"}, STATE
        )
        == []
    )


@pytest.mark.parametrize("needed", [True, False])
def test_the_public_default_token_is_refused_everywhere(needed: bool) -> None:
    problems = checks.token_problems("THIS_IS_A_DEV_SECRET", needed, NOW)
    assert ["public default" in problem for problem in problems] == [True]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "this host has none"),
        ("secret", "no JSON web token"),
        ("a.b.c", "no JSON web token"),
        (token(peer_type="datasource"), "of the type 'datasource'"),
        (token(), "of the type 'None'"),
        (token(peer_type="client", exp=NOW - 1), "expired"),
    ],
)
def test_a_token_of_the_wrong_kind_is_refused_where_servers_check_it(given: str, words: str) -> None:
    problems = checks.token_problems(given, True, NOW)
    assert len(problems) == 1
    assert words in problems[0]
    assert "set opal_client_token" in problems[0]
    assert not given or given not in problems[0]
    assert checks.token_problems(given, False, NOW) == []


def test_a_client_token_that_is_still_good_is_taken() -> None:
    assert checks.token_problems(token(peer_type="client", exp=NOW + 60), True, NOW) == []
    assert checks.token_problems(token(peer_type="client"), True, NOW) == []


def test_opa_without_a_checksum_is_not_installed() -> None:
    assert "x86_64 has no checksum" in only_problem(opal_client_opa_sha512={"aarch64": "0" * 128})
    assert "is no SHA-512" in only_problem(opal_client_opa_sha512={"x86_64": "c0ffee"})


def test_a_setting_with_a_variable_of_its_own_is_sent_there() -> None:
    problem = only_problem(opal_client_settings={"OPAL_DATA_TOPICS": "a"})
    assert problem == "opal_client_settings sets OPAL_DATA_TOPICS, which belongs in opal_client_data_topics"
    assert "no name of an environment variable" in only_problem(opal_client_secrets={"opal-token": "x"})


def test_a_port_that_another_process_has_is_named_with_its_owner() -> None:
    listener = {"port": 8181, "address": "127.0.0.1", "pid": 7, "command": "opa", "unit": "other"}
    problems = checks.opal_client_problems(VARIABLES, {**STATE, "listeners": [listener]})
    assert problems == [
        "port 8181 is taken by opa (pid 7, other.service): stop it, or set opal_client_opa_port to another port"
    ]
    own = {**listener, "unit": "opa"}
    assert checks.opal_client_problems(VARIABLES, {**STATE, "listeners": [own]}) == []


def test_the_ports_differ() -> None:
    assert "must differ" in only_problem(opal_client_port=8181)
