"""The negative control: with permit-broadcaster's own Pulsar backend the fleet loses events, and verify.yml says so.

Were it to pass there, it would prove nothing anywhere else.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fleet import Fleet

UPSTREAM = ("-e", "opal_server_backbone=upstream")


@pytest.fixture
def upstream_fleet(fleet: Fleet) -> Iterator[Fleet]:
    """The fleet with the upstream backend; gets its own back afterwards."""
    fleet.must_play("playbooks/site.yml", *UPSTREAM)
    yield fleet
    fleet.must_play("playbooks/site.yml")
    verification = fleet.verify()
    assert verification.passed, verification.run.output


def test_verify_fails_and_names_the_missing_cells(upstream_fleet: Fleet) -> None:
    verification = upstream_fleet.verify(*UPSTREAM)
    assert not verification.passed
    assert verification.missing
    assert not verification.unnamed
    # The log line alone would have let it pass: every host wrote it.
    assert all(sender["logged"] for sender in verification.report["senders"])
    print(f"missing {len(verification.missing)} of {len(verification.cells)} deliveries")
