"""In a fleet without data sources, clients are healthy, and what was published to them outlives their connection."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from decisions import Clients
from fleet import ROOT, wait_until

VARIABLE = "opal_server_data_config_sources"


def default_sources() -> Any:
    """The role's default."""
    return yaml.safe_load((ROOT / "roles/opal_server/defaults/main.yml").read_text(encoding="utf-8"))[VARIABLE]


@pytest.fixture(scope="module")
def sourceless(clients: Clients) -> Iterator[Clients]:
    """The fleet's clients while its servers name the default's source; as before afterwards."""
    rollout = ("playbooks/site.yml", "--tags", "opal_server")
    clients.fleet.must_play(*rollout, "--extra-vars", json.dumps({VARIABLE: default_sources()}))
    try:
        yield clients
    finally:
        clients.fleet.must_play(*rollout)
        for host in clients.hosts:
            clients.go_home(host)
        clients.settle()


def connect_again(clients: Clients) -> None:
    """Let each client connect anew, and wait until it has subscribed: it fetches its sources after that."""
    clients.wait_for("/policyfleet/loaded", True)
    for host in clients.hosts:
        clients.fleet.shell(host, "curl -sSf -X DELETE http://127.0.0.1:8181/v1/data/policyfleet")
        clients.go_home(host)
    clients.wait_for("/policyfleet/loaded", True)


def test_published_data_stay_when_clients_connect_again(sourceless: Clients) -> None:
    nonce = uuid.uuid4().hex
    connect_again(sourceless)
    sourceless.publish(sourceless.servers[0], "/published/nonce", data={"is": nonce})
    sourceless.wait_for("/published/nonce/is", nonce)
    connect_again(sourceless)
    sourceless.wait_for("/published/nonce/is", nonce, 1)


def test_a_client_that_starts_becomes_healthy(sourceless: Clients) -> None:
    for host in sourceless.hosts:
        sourceless.fleet.shell(host, "systemctl restart opal-client")
    wait_until(
        lambda: all(sourceless.healthy(host).get("online") is True for host in sourceless.hosts), "each is healthy", 60
    )
    sourceless.wait_for("/policyfleet/loaded", True)
