"""What is refused, with what to do about it, before any host is changed."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from decisions import Clients


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
            "is of the type 'datasource', not of the type 'client'",
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
    assert words.lower() in run.words.lower()
    assert run.changed == 0
    assert WRONG_KIND not in run.output
