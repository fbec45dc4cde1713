# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""The order in which a client tries its servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

DOCUMENTATION = r"""
name: server_order
short_description: Order servers so that clients are spread over them
version_added: 0.1.0
description:
  - Gives the client of a number its own order of the servers. The first one is where it belongs, the others are where
    it goes when that one is down.
  - Clients of following numbers start with following servers, and those that start with the same server go to
    different ones when it fails.
options:
  _input:
    description: The servers.
    type: list
    elements: str
    required: true
  number:
    description: The client's number, from 0.
    type: int
    required: true
author: policyfleet maintainers
"""

EXAMPLES = r"""
- name: Show where this host's client belongs
  ansible.builtin.debug:
    msg: "{{ ['s1:7002', 's2:7002'] | policyfleet.opal.server_order(1) | first }}"
"""

RETURN = r"""
_value:
  description: The servers in this client's order.
  type: list
  elements: str
"""


def server_order(servers: Sequence[str], number: int) -> list[str]:
    """Return the servers in the order of the client with a number from 0 on."""
    if not servers:
        return []
    first, turn = number % len(servers), number // len(servers)
    others = [*servers[first + 1 :], *servers[:first]]
    start = turn % len(others) if others else 0
    return [servers[first], *others[start:], *others[:start]]


class FilterModule:
    """The filter, for Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"server_order": server_order}
