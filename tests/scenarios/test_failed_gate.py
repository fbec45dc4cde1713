"""A roll stops at the first gate that does not open, and everybody after it goes on with what they had."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from fleet import Fleet

WRONG = json.dumps({"opal_server_settings": {"OPAL_BACKBONE_NONSENSE": "1"}})
"""A setting that the backbone refuses to start with, and that no preflight can know of."""

STATE = (
    "systemctl show opal-server --property MainPID,ActiveState;"
    " sha256sum /etc/opal-server/* /etc/systemd/system/opal-server.service; readlink /opt/opal-server/current"
)


@pytest.fixture
def stopped_roll(fleet: Fleet) -> Iterator[tuple[Fleet, dict[str, str], str]]:
    """A fleet in the middle of a roll that failed, what its hosts were before, and what the run said."""
    servers = fleet.hosts("opal_server")
    before = {host: fleet.shell(host, STATE) for host in servers}
    run = fleet.play("playbooks/site.yml", "-e", WRONG)
    assert run.returncode != 0
    yield fleet, before, run.words
    fleet.must_play("playbooks/site.yml")
    assert fleet.verify().passed


def test_the_others_keep_their_configuration_and_go_on(stopped_roll: tuple[Fleet, dict[str, str], str]) -> None:
    fleet, before, words = stopped_roll
    first, *others = sorted(before)
    assert f"[{first}]: FAILED" in words
    assert "OPAL_BACKBONE_NONSENSE is not a setting of the backbone" in words
    for host in others:
        assert fleet.shell(host, STATE) == before[host]
    # The new configuration is inside the gate of the first host, and it does not serve with it.
    assert fleet.shell(first, STATE) != before[first]
    assert fleet.shell(first, "systemctl is-active opal-server", check=False).strip() == "failed"
