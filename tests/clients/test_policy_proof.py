"""verify.yml fails where a server serves an old policy, and where an OPA decides by another one than is served."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator

import pytest
from decisions import Clients
from fleet import wait_until


def test_a_whole_fleet_is_shown_to_agree(settled: Clients) -> None:
    proof = settled.fleet.verify()
    assert proof.run.returncode == 0, proof.run.output
    policy = proof.report["policy"]
    assert set(policy["served"]) == set(settled.servers)
    assert len(set(policy["served"].values())) == 1
    assert policy["differs"] == {host: [] for host in settled.hosts}
    assert f"held by {len(settled.hosts)} of {len(settled.hosts)} OPAs" in proof.run.output


def test_an_opa_with_another_policy_is_named(settled: Clients) -> None:
    changed, untouched = settled.hosts
    policy = "http://127.0.0.1:8181/v1/policies/release.rego"
    settled.fleet.shell(changed, f"curl -sf -X PUT --data-binary {shlex.quote('package release')} {policy}")
    try:
        proof = settled.fleet.verify()
    finally:
        settled.fleet.shell(changed, "systemctl restart opal-client")
    assert proof.run.returncode != 0, proof.run.output
    assert proof.report["policy"]["differs"] == {changed: ["release.rego"], untouched: []}
    assert f"the OPA of {changed} does not decide by the policy" in " ".join(proof.report["failures"])
    # what the failure advises
    wait_until(lambda: settled.data(changed, "/release/number") is not None, "the whole policy is loaded anew", 30)


@pytest.fixture
def stuck(settled: Clients) -> Iterator[str]:
    """A server whose git cannot get on, and whose health is as good as before."""
    server = settled.servers[1]
    lock = "/var/lib/opal-server/policy/*/.git"
    settled.fleet.shell(server, f"touch $(echo {lock})/index.lock")
    yield server
    settled.fleet.shell(server, f"rm -f {lock}/index.lock")


def test_a_server_that_is_behind_is_named(settled: Clients, stuck: str) -> None:
    number = time.time_ns() // 1_000_000
    settled.push_policy(number)
    ahead = settled.servers[0]
    wait_until(lambda: str(number) in settled.get(ahead, "http://127.0.0.1:7002/policy")[1], "the other has it", 30)
    assert settled.get(stuck, "http://127.0.0.1:7002/healthcheck")[0] == 200
    proof = settled.fleet.verify()
    assert proof.run.returncode != 0, proof.run.output
    served = proof.report["policy"]["served"]
    assert served[ahead] != served[stuck]
    assert "the servers do not serve the same policy" in " ".join(proof.report["failures"])
    settled.fleet.shell(stuck, "rm -f /var/lib/opal-server/policy/*/.git/index.lock")
    settled.wait_for("/release/number", number)
    assert settled.fleet.verify().run.returncode == 0
