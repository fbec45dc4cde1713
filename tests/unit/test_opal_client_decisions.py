"""From what servers published and OPAs showed to the matrix, and to what is said about it."""

from __future__ import annotations

from ansible_collections.policyfleet.opal.plugins.plugin_utils import verify_decisions as decisions_of
from ansible_collections.policyfleet.opal.plugins.plugin_utils.verify_decisions import Decisions


def fleet() -> Decisions:
    """Return two servers and two clients where everything arrived, a tenth and a fifth of a second later."""
    seen = {"s1": [[0, 100.1], [1, 101.2]], "s2": [[0, 200.1], [1, 201.2]]}
    return {
        "published": {
            "s1": {"problem": "", "published_at": [100.0, 101.0]},
            "s2": {"problem": "", "published_at": [200.0, 201.0]},
        },
        "watched": {host: {"problem": "", "pid": 7, "seen": seen} for host in ("c1", "c2")},
        "gone": {host: {"problem": ""} for host in ("c1", "c2")},
    }


def test_a_whole_fleet_has_every_cell_with_its_times() -> None:
    found = fleet()
    matrix = decisions_of.decision_matrix(found)
    assert [(cell["sender"], cell["host"], cell["state"]) for cell in matrix["cells"]] == [
        (sender, host, "delivered") for sender in ("s1", "s2") for host in ("c1", "c2")
    ]
    assert {(cell["latency_ms"], cell["max_ms"]) for cell in matrix["cells"]} == {(100.0, 200.0)}
    assert decisions_of.decision_failures(matrix, found) == []
    assert decisions_of.decision_warnings(found) == []


def test_an_update_that_one_opa_did_not_get_is_named() -> None:
    found = fleet()
    found["watched"]["c2"] = {"problem": "", "pid": 7, "seen": {"s1": [[0, 100.1]], "s2": [[0, 200.1], [1, 201.2]]}}
    matrix = decisions_of.decision_matrix(found)
    (failure,) = decisions_of.decision_failures(matrix, found)
    assert failure.startswith("the OPA of c2 did not get the update of s1. Look at")


def test_a_client_that_cannot_be_reached_is_a_failure_and_not_a_gap_in_the_table() -> None:
    found = fleet()
    found["watched"]["c2"] = {"unreachable": True, "msg": "no route to host"}
    matrix = decisions_of.decision_matrix(found)
    assert [cell["state"] for cell in matrix["cells"] if cell["host"] == "c2"] == ["missing", "missing"]
    (failure,) = decisions_of.decision_failures(matrix, found)
    assert "the update of s1, s2: no route to host" in failure


def test_a_server_that_publishes_nothing_is_named_once() -> None:
    found = fleet()
    found["published"]["s1"] = {"problem": "OPAL-server did not accept the update: refused", "published_at": []}
    for host in ("c1", "c2"):
        found["watched"][host]["seen"]["s1"] = []
    failures = decisions_of.decision_failures(decisions_of.decision_matrix(found), found)
    assert failures == ["s1 published no update for OPAs: OPAL-server did not accept the update: refused"]


def test_a_path_that_stayed_is_worth_knowing() -> None:
    found = fleet()
    found["gone"]["c1"] = {"problem": "it stayed"}
    assert decisions_of.decision_warnings(found) == ["c1: it stayed"]
