"""A policy repository that is not asked for changes, but tells of them by a webhook with a secret."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator

import pytest
from decisions import SOURCE, Clients
from fleet import wait_until

SECRET = "a webhook's secret, for a test"
SETTINGS = {"opal_server_policy_repo_polling_interval": 0, "opal_server_policy_repo_webhook_secret": SECRET}
FORMER_POLLING = 5
"""How often the fleet's servers ask the repository otherwise, in seconds."""


@pytest.fixture(scope="module")
def hooked(clients: Clients) -> Iterator[Clients]:
    """The fleet's clients while no server polls; the servers are as before afterwards."""
    rollout = ("playbooks/site.yml", "--tags", "opal_server")
    clients.fleet.must_play(*rollout, "--extra-vars", json.dumps(SETTINGS))
    try:
        clients.settle()
        yield clients
    finally:
        clients.fleet.must_play(*rollout)
        clients.settle()


def call(clients: Clients, server: str, secret: str) -> int:
    """Tell a server of a push, from the repository's host and in GitHub's way; return the status of its answer."""
    repository = f"ssh://{clients.addresses[SOURCE]}/srv/git/policy.git"
    body = json.dumps({"ref": "refs/heads/main", "repository": {"ssh_url": repository}})
    signature = hmac.new(secret.encode(), body.encode(), hashlib.sha256).hexdigest() if secret else ""
    signed = f"-H 'X-Hub-Signature-256: sha256={signature}' " if signature else ""
    answer = clients.fleet.shell(
        SOURCE,
        f"curl -s -m 10 -o /dev/null -w '%{{http_code}}' -H 'X-GitHub-Event: push' {signed}"
        f"-H 'Content-Type: application/json' -d '{body}' http://{clients.addresses[server]}:7002/webhook",
    )
    return int(answer)


def test_a_push_reaches_each_opa_by_a_call_to_any_server(hooked: Clients) -> None:
    for server in hooked.servers:
        number = time.time_ns() // 1_000_000
        hooked.push_policy(number)
        time.sleep(2 * FORMER_POLLING)
        assert number not in hooked.data_everywhere("/release/number").values(), "a server polls"
        assert call(hooked, server, SECRET) == 200
        hooked.wait_for("/release/number", number)


@pytest.mark.parametrize("secret", ["", "another"], ids=["none", "wrong"])
def test_a_call_without_the_secret_brings_nothing(hooked: Clients, secret: str) -> None:
    number = time.time_ns() // 1_000_000
    hooked.push_policy(number)
    for server in hooked.servers:
        assert call(hooked, server, secret) == 401
    time.sleep(2 * FORMER_POLLING)
    assert number not in hooked.data_everywhere("/release/number").values()
    assert call(hooked, hooked.servers[0], SECRET) == 200
    hooked.wait_for("/release/number", number)


def test_a_host_that_was_down_serves_what_was_pushed_meanwhile(hooked: Clients) -> None:
    down, other = hooked.servers
    number = time.time_ns() // 1_000_000
    hooked.fleet.shell(down, "systemctl stop opal-server")
    try:
        hooked.push_policy(number)
        assert call(hooked, other, SECRET) == 200
        hooked.wait_for("/release/number", number)
    finally:
        hooked.fleet.shell(down, "systemctl start opal-server")
    served = "http://127.0.0.1:7002/policy"
    wait_until(lambda: str(number) in hooked.get(down, served)[1], f"{down} serves it, though nobody calls it", 30)
    assert hooked.go_home(hooked.hosts[0]) == down
    time.sleep(FORMER_POLLING)
    assert set(hooked.data_everywhere("/release/number").values()) == {number}
