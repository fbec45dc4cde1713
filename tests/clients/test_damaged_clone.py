"""A host that was killed in the middle of git's work has the next policy all the same."""

from __future__ import annotations

import time

import pytest
from decisions import Clients

DAMAGE = {
    "a lock": "touch .git/index.lock .git/refs/remotes/origin/main.lock",
    "half of a checkout": "echo 'package release' >release.rego && echo >>app.rego",
    "half of a clone": "rm -rf .git/refs/heads/* .git/refs/remotes .git/packed-refs .git/index",
    "an empty reference": ": >.git/refs/remotes/origin/main",
    "an empty object": "for object in $(find .git/objects -type f); do chmod u+w $object && : >$object; done",
    "an empty index": ": >.git/index",
}
"""What a kill or a loss of power leaves in a clone, by a name for it, and the commands that make it."""


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_host_gets_the_next_policy_whatever_is_left_of_its_clone(settled: Clients, damage: str) -> None:
    server = settled.servers[0]
    settled.fleet.shell(server, "systemctl stop opal-server")
    settled.fleet.shell(server, f"cd /var/lib/opal-server/policy/* && runuser -u opal-server -- sh -c '{damage}'")
    settled.fleet.shell(server, "systemctl start opal-server")
    settled.wait_healthy(server)
    settled.go_home(settled.hosts[0])
    number = time.time_ns() // 1_000_000
    settled.push_policy(number)
    settled.wait_for("/release/number", number)
    head = "runuser -u opal-server -- git -C /var/lib/opal-server/policy/* show HEAD:release.rego"
    assert str(number) in settled.fleet.shell(server, head)
