"""A policy repository over HTTPS, with a private authority and a password that nobody gets to see."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from decisions import SOURCE, Clients
from fleet import Run

ROLLOUT = ("playbooks/site.yml", "--tags", "opal_server", "-vvv", "--diff")
OTHER_PASSWORD = "another heron $1 '%d'"
SAMPLES = 200
"""How often the command lines of a host are looked at, 20 times a second."""


@dataclass(frozen=True)
class OverHttps:
    """The fleet's clients while its servers watch the repository over HTTPS."""

    clients: Clients
    variables: Path
    """A file with the variables of the rollout."""
    rollout: Run

    @property
    def password(self) -> str:
        """The password that the servers have."""
        return str(json.loads(self.variables.read_text(encoding="utf-8"))["opal_server_policy_repo_password"])

    def play(self, *arguments: str, **changes: Any) -> Run:
        """Roll out with these variables changed for good."""
        given = {**json.loads(self.variables.read_text(encoding="utf-8")), **changes}
        self.variables.write_text(json.dumps(given), encoding="utf-8")
        return self.clients.fleet.must_play(*ROLLOUT, "-e", f"@{self.variables}", *arguments)

    def pids(self) -> dict[str, str]:
        """The main process of each server."""
        show = "systemctl show -P MainPID opal-server"
        return {server: self.clients.fleet.shell(server, show).strip() for server in self.clients.servers}

    def digests(self) -> dict[str, str]:
        """The digest of what each server must have been started with."""
        show = "cat /etc/opal-server/applied.env"
        return {server: self.clients.fleet.shell(server, show).strip() for server in self.clients.servers}


@pytest.fixture(scope="module")
def over_https(clients: Clients, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OverHttps]:
    """Roll out over HTTPS; the servers are as before afterwards."""
    variables = tmp_path_factory.mktemp("https") / "variables.json"
    variables.write_text(
        json.dumps({**clients.https_variables, "opal_server_policy_repo_polling_interval": 1}), "utf-8"
    )
    try:
        run = clients.fleet.must_play(*ROLLOUT, "-e", f"@{variables}")
        clients.settle()
        yield OverHttps(clients, variables, run)
    finally:
        clients.fleet.must_play("playbooks/site.yml", "--tags", "opal_server")
        clients.settle()


def push_arrives(clients: Clients) -> None:
    """Push, and wait until each OPA decides by it."""
    number = time.time_ns() // 1_000_000
    clients.push_policy(number)
    clients.wait_for("/release/number", number)


def test_a_push_reaches_each_opa(over_https: OverHttps) -> None:
    push_arrives(over_https.clients)
    log = over_https.clients.fleet.shell(SOURCE, "cat /var/log/apache2/*access.log")
    for server in over_https.clients.servers:
        assert f"{over_https.clients.addresses[server]} - reader@example.org" in log


def test_the_rollout_does_not_show_the_password(over_https: OverHttps) -> None:
    assert "its secret content differs and is not shown" in over_https.rollout.output
    # one word of it, which has the same form wherever it is quoted in some way
    assert "heron" in over_https.password
    assert "heron" not in over_https.rollout.output


def test_a_host_does_not_show_the_password(over_https: OverHttps) -> None:
    fleet = over_https.clients.fleet
    url = over_https.clients.https_variables["opal_server_policy_repo_url"]
    look = (
        f"for sample in $(seq {SAMPLES}); do"
        " cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; echo; sleep 0.05; done"
    )
    for server in over_https.clients.servers:
        commands = fleet.shell(server, look)
        seen = fleet.shell(
            server,
            "journalctl --no-pager -o cat; systemctl show opal-server;"
            " find /etc /opt/opal-server/current/bin /var/lib/opal-server /run/opal-server /tmp /var/tmp"
            " -xdev -type f -perm /o+r -size -1M -exec cat {} + 2>/dev/null | tr -d '\\0'",
        )
        assert re.findall(r"\S*heron\S*", commands + seen) == []
        assert f"remote-https origin {url}" in commands, "nothing was seen of git"


def test_a_webhook_is_not_answered_with_the_password(over_https: OverHttps) -> None:
    clients = over_https.clients
    url = clients.https_variables["opal_server_policy_repo_url"]
    body = json.dumps({"ref": "refs/heads/main", "repository": {"clone_url": url}})
    answer = clients.fleet.shell(
        SOURCE,
        "curl -sS -m 10 -H 'X-GitHub-Event: push' -H 'Content-Type: application/json' "
        f"-d {shlex.quote(body)} http://{clients.addresses[clients.servers[0]]}:7002/webhook",
    )
    assert json.loads(answer)["repo_url"] == url


def test_a_second_rollout_changes_nothing(over_https: OverHttps) -> None:
    before = over_https.pids()
    assert over_https.play().changed == 0
    assert over_https.pids() == before


def test_a_changed_authority_restarts_the_servers(over_https: OverHttps) -> None:
    before, digests = over_https.pids(), over_https.digests()
    authority = over_https.clients.https_variables["opal_server_policy_repo_ca_cert"]
    run = over_https.play(opal_server_policy_repo_ca_cert=f"The one of the test fleet\n{authority}")
    assert run.changed > 0
    assert not set(before.items()) & set(over_https.pids().items())
    # a run that breaks off between the file and the restart is completed by the next one
    assert not set(digests.items()) & set(over_https.digests().items())
    push_arrives(over_https.clients)


def test_a_changed_password_restarts_the_servers(over_https: OverHttps) -> None:
    before = over_https.pids()
    users = "/etc/apache2/policy.users"
    fleet = over_https.clients.fleet
    fleet.shell(
        SOURCE, f"cp {users} {users}.old && echo {shlex.quote(OTHER_PASSWORD)} | htpasswd -i {users} reader@example.org"
    )
    try:
        run = over_https.play(opal_server_policy_repo_password=OTHER_PASSWORD)
        assert OTHER_PASSWORD not in run.output
        assert not set(before.items()) & set(over_https.pids().items())
        push_arrives(over_https.clients)
    finally:
        fleet.shell(SOURCE, f"mv {users}.old {users}")
