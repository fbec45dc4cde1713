"""How clients are spread over servers, and what of a host is restarted."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from ansible_collections.policyfleet.opal.plugins.filter.server_order import server_order
from ansible_collections.policyfleet.opal.plugins.filter.units_due import units_due

UNIT = {"name": "opa", "digest": "new", "paths": ["/etc/opa.yaml"]}
STATE: dict[str, Any] = {"applied": "new", "active": "active", "enabled": True, "needs_reload": False}


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_each_order_holds_every_server_once(count: int) -> None:
    servers = [f"s{number}" for number in range(count)]
    for number in range(20):
        assert sorted(server_order(servers, number)) == servers


def test_clients_are_spread_evenly() -> None:
    servers = ["a", "b", "c"]
    assert set(Counter(server_order(servers, number)[0] for number in range(12)).values()) == {4}


def test_the_clients_of_a_server_that_fails_go_to_different_ones() -> None:
    servers = ["a", "b", "c"]
    orders = [server_order(servers, number) for number in range(12)]
    assert Counter(order[1] for order in orders if order[0] == "a") == {"b": 2, "c": 2}


def test_no_server_is_no_order() -> None:
    assert server_order([], 3) == []


def test_a_unit_that_runs_with_its_configuration_is_left_alone() -> None:
    assert units_due([UNIT], {"opa": STATE}, ["/etc/other"]) == []


@pytest.mark.parametrize(
    "change",
    [{"applied": "old"}, {"active": "failed"}, {"enabled": False}, {"needs_reload": True}],
)
def test_a_unit_whose_process_differs_is_restarted(change: dict[str, Any]) -> None:
    assert units_due([UNIT], {"opa": {**STATE, **change}}) == ["opa"]


def test_a_unit_whose_file_was_written_is_restarted() -> None:
    assert units_due([UNIT], {"opa": STATE}, ["/etc/opa.yaml"]) == ["opa"]
