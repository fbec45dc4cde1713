"""A run that finds no host says so and fails: a verification of nothing must not pass for one of the fleet."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet import Fleet

INVENTORY = """
pulsar_standalone: {hosts: {pulsar1: }}
opal_server: {hosts: {opal1: }}
opal_client: {hosts: {client1: }}
another: {hosts: {another1: }}
"""


@pytest.mark.parametrize(
    ("playbook", "inventory", "limit", "says"),
    [
        ("verify", INVENTORY, "another1", "--limit leaves no OPAL-server"),
        ("verify", INVENTORY, "client1", "--limit leaves no OPAL-server"),
        ("verify", "{}", "", "'opal_server' is empty or missing"),
        ("verify", "opal_client: {hosts: {client1: }}", "", "'opal_server' is empty or missing"),
        ("site", INVENTORY, "another1", "--limit leaves no host of opal_client, opal_server, pulsar_standalone"),
        ("site", "{}", "", "'opal_server' is empty or missing"),
        ("site", "opal_client: {hosts: {client1: }}", "client1", "'opal_server' is empty or missing"),
    ],
)
def test_a_run_on_no_host_fails(tmp_path: Path, playbook: str, inventory: str, limit: str, says: str) -> None:
    hosts = tmp_path / "hosts.yml"
    hosts.write_text(inventory, encoding="utf-8")
    run = Fleet(hosts).play(f"playbooks/{playbook}.yml", *(["--limit", limit] if limit else []))
    assert run.returncode != 0, run.words
    assert says in run.words
