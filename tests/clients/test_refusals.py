"""What is refused, with what to do about it, before any host is changed."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from decisions import SOURCE, Clients


def token(**claims: object) -> str:
    """Return a web token that claims this; its signature is not one."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({}, claims)]
    return ".".join([*parts, "signature"])


WRONG_KIND = token(peer_type="datasource")
WRONG_PROGRAM = "0" * 128


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"opal_client_servers": []}, "there is no OPAL-server to connect to"),
        ({"opal_client_token": "THIS_IS_A_DEV_SECRET"}, "is OPAL's public default, which everybody knows"),
        (
            {"opal_client_token": WRONG_KIND, "opal_client_token_needed": True},
            "is of the type 'datasource', which cannot connect as a client",
        ),
        ({"opal_client_token_needed": True}, "the OPAL-servers ask for a token, and this host has none"),
        ({"opal_client_opa_sha512": {"aarch64": WRONG_PROGRAM}}, "for x86_64 has no checksum"),
        (
            {"opal_client_opa_sha512": {"x86_64": WRONG_PROGRAM}},
            "to the SHA-512 of the program that you trust",
        ),
        ({"opal_client_settings": {"OPAL_DATA_TOPICS": "a"}}, "which belongs in opal_client_data_topics"),
    ],
)
def test_it_is_refused_and_nothing_is_changed(clients: Clients, given: dict[str, Any], words: str) -> None:
    run = clients.fleet.play("playbooks/site.yml", "--tags", "opal_client", "--extra-vars", json.dumps(given))
    assert run.returncode != 0
    # A message with a colon comes in quotes, and its own quotes doubled.
    assert words.lower() in run.words.replace("''", "'").lower()
    assert run.changed == 0
    assert WRONG_KIND not in run.output


@pytest.mark.parametrize(
    ("url", "branch", "words"),
    [
        ("ssh://git@{source}/srv/git/nothing.git", "main", "nothing.git cannot be read from this host"),
        ("ssh://git@{source}/srv/git/policy.git", "trunk", "it has no branch 'trunk'"),
        (
            "http://joe:hush@{source}:8000/policy.git",
            "main",
            "repository http://{source}:8000/policy.git cannot",
        ),
    ],
)
def test_a_policy_repository_that_cannot_be_read_is_told(clients: Clients, url: str, branch: str, words: str) -> None:
    source = clients.addresses[SOURCE]
    given = {
        "opal_server_policy_repo_url": url.format(source=source),
        "opal_server_policy_repo_branch": branch,
    }
    run = clients.fleet.play("playbooks/site.yml", "-vvv", "--tags", "opal_server", "--extra-vars", json.dumps(given))
    assert run.returncode != 0
    assert words.format(source=source) in run.words
    assert run.changed == 0
    assert "hush" not in run.output.replace(json.dumps(given), "")


ANOTHER_PORT = {"opal_server_policy_repo_url": "https://{source}:444/git/policy.git"}
A_STRANGER = {"opal_server_policy_repo_username": "", "opal_server_policy_repo_password": ""}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"opal_server_policy_repo_ca_cert": ""},
            ["was not signed by an authority of this system", "Set opal_server_policy_repo_ca_cert"],
        ),
        (
            {"opal_server_policy_repo_password": "a wrong heron"},
            ["it refuses the username or the password. Correct opal_server_policy_repo_username"],
        ),
        (A_STRANGER, ["it asks for credentials. Set opal_server_policy_repo_username"]),
        (ANOTHER_PORT, ["{source} cannot be reached", "Is the name right, does git run there"]),
        ({"opal_server_policy_repo_branch": "trunk"}, ["it has no branch 'trunk'. Set opal_server_policy_repo_branch"]),
        (
            {
                "opal_server_policy_repo_url": "ssh://git:heron@{source}/srv/git/policy.git",
                "opal_server_policy_repo_ca_cert": "/etc/ssl/ca.pem",
            },
            [
                "8 problems stand in the way",
                "opal1: opal_server_policy_repo_url has a password",
                "opal2: opal_server_policy_repo_username and opal_server_policy_repo_password are for HTTPS",
                "opal_server_policy_repo_ca_cert is no certificate in PEM",
                "opal_server_policy_repo_ca_cert is for HTTPS",
            ],
        ),
    ],
    ids=["no authority", "wrong password", "no password", "unreachable", "no branch", "contradictions"],
)
def test_a_repository_over_https_that_cannot_be_read_is_told(
    clients: Clients, tmp_path: Path, changes: dict[str, str], words: list[str]
) -> None:
    source = clients.addresses[SOURCE]
    given = {**clients.https_variables, **{name: value.format(source=source) for name, value in changes.items()}}
    variables = tmp_path / "variables.json"
    variables.write_text(json.dumps(given), encoding="utf-8")
    run = clients.fleet.play("playbooks/site.yml", "-vvv", "--diff", "--tags", "opal_server", "-e", f"@{variables}")
    assert run.returncode != 0
    assert run.changed == 0
    told = run.words.replace("''", "'")
    assert [part for part in words if part.format(source=source) not in told] == []
    if given["opal_server_policy_repo_url"].startswith("https"):
        assert f"the policy repository https://{source}" in told
    assert "heron" not in run.output
