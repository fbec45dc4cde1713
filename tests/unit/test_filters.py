"""The filters, against what reads their output."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from ansible_collections.policyfleet.opal.plugins.filter.pulsar_service_url import pulsar_service_url
from ansible_collections.policyfleet.opal.plugins.filter.systemd_value import systemd_value


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        (True, '"true"'),
        (7, '"7"'),
        ("two words", '"two words"'),
        ('a "b" $c `d` \\', '"a \\"b\\" \\$c \\`d\\` \\\\"'),
        ({"a": [1]}, '"{\\"a\\": [1]}"'),
    ],
)
def test_values_are_quoted_for_systemd(value: Any, quoted: str) -> None:
    assert systemd_value(value) == quoted


def test_a_quoted_value_means_the_same_to_a_shell() -> None:
    """systemd reads double quotes as a POSIX shell does, for what a backslash keeps literal."""
    text = 'a "b" $HOME `id` \\ and\nanother line'
    found = subprocess.run(["sh", "-c", f"printf %s {systemd_value(text)}"], capture_output=True, text=True, check=True)
    assert found.stdout == text


def test_brokers_are_named_by_their_advertised_address_first() -> None:
    hosts: list[dict[str, Any]] = [
        {"inventory_hostname": "b1", "ansible_host": "10.0.0.1", "pulsar_advertised_address": "b1.example"},
        {"inventory_hostname": "b2", "ansible_host": "10.0.0.2", "pulsar_port": 7650},
        {"inventory_hostname": "b3", "ansible_host": "fd00::3"},
        {"inventory_hostname": "b4"},
    ]
    assert pulsar_service_url(hosts) == "pulsar://b1.example:6650,10.0.0.2:7650,[fd00::3]:6650,b4:6650"


def test_no_broker_is_no_address() -> None:
    assert pulsar_service_url([]) == ""
