# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""The address of a fleet's Pulsar brokers, from the inventory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: pulsar_service_url
short_description: Make the service URL of brokers from their inventory variables
version_added: 0.1.0
description:
  - Names every broker by C(pulsar_advertised_address), else C(ansible_host), else its inventory name, with
    C(pulsar_port) or 6650, in the order given. Gives an empty string for no broker.
options:
  _input:
    description: The variables of the brokers' hosts.
    type: list
    elements: dict
    required: true
author: policyfleet maintainers
"""

EXAMPLES = r"""
- name: Show where the brokers are
  ansible.builtin.debug:
    msg: "{{ groups['pulsar_standalone'] | map('extract', hostvars) | policyfleet.opal.pulsar_service_url }}"
"""

RETURN = r"""
_value:
  description: For example V(pulsar://b1:6650,b2:6650).
  type: str
"""

DEFAULT_PORT = 6650
"""Pulsar's own port for its binary protocol."""


def pulsar_service_url(hosts: Iterable[Mapping[str, Any]]) -> str:
    """Return the service URL of brokers, empty where there is none."""
    places = []
    for host in hosts:
        name = str(host.get("pulsar_advertised_address") or host.get("ansible_host") or host["inventory_hostname"])
        if ":" in name:
            name = f"[{name}]"  # a bare IPv6 address
        places.append(f"{name}:{host.get('pulsar_port', DEFAULT_PORT)}")
    return f"pulsar://{','.join(places)}" if places else ""


class FilterModule:
    """The filter, for Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"pulsar_service_url": pulsar_service_url}
