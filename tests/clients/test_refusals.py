"""What is refused, with what to do about it, before any host is changed."""

from __future__ import annotations

import base64
import json
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
