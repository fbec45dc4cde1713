"""One fleet for all scenarios of a run: made fresh, rolled out once, and removed at the end.

TEST_KEEP_HOSTS=1 keeps it, and an earlier one that was kept is used as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from fleet import Fleet, chosen_fleet

KEEP = os.environ.get("TEST_KEEP_HOSTS", "") not in ("", "0")


@pytest.fixture(scope="session")
def hosts() -> Iterator[Fleet]:
    """Hosts that run, whatever is on them."""
    fleet = chosen_fleet()
    if not KEEP:
        fleet.must_play("molecule/shared/destroy.yml")
    fleet.must_play("molecule/shared/create.yml")
    yield fleet
    if not KEEP:
        fleet.must_play("molecule/shared/destroy.yml")


@pytest.fixture(scope="session")
def fleet(hosts: Fleet) -> Fleet:
    """A fleet that was rolled out."""
    hosts.must_play("playbooks/site.yml")
    return hosts
