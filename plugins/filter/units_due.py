# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""Which units of a host have to be restarted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: units_due
short_description: Tell which systemd units have to be restarted
version_added: 0.1.0
description:
  - Compares units with their state on a host. One is due where its process does not carry the digest of its
    configuration, where it is not active or not enabled, where systemd has not read its file, or where one of its files
    was written in this run.
  - What decides is the running process, so a restart that an interrupted run owes is found by the next one.
options:
  _input:
    description: The units, each with its C(name), C(digest) and the C(paths) of its files.
    type: list
    elements: dict
    required: true
  states:
    description: The units' states as M(policyfleet.opal.host_state) returns them.
    type: dict
    required: true
  changed_paths:
    description: The files that were written, or would be in check mode.
    type: list
    elements: str
    default: []
author: policyfleet maintainers
"""

EXAMPLES = r"""
- name: Show what has to be restarted
  ansible.builtin.debug:
    msg: "{{ [{'name': 'opa', 'digest': 'c0ffee', 'paths': []}] | policyfleet.opal.units_due(found.units) }}"
"""

RETURN = r"""
_value:
  description: The names of the units that are due, in the order given.
  type: list
  elements: str
"""


def units_due(
    units: Iterable[Mapping[str, Any]],
    states: Mapping[str, Mapping[str, Any]],
    changed_paths: Iterable[str] = (),
) -> list[str]:
    """Return the names of the units that have to be restarted."""
    written = set(changed_paths)
    due = []
    for unit in units:
        state = states[unit["name"]]
        fine = (
            state["applied"] == unit["digest"]
            and state["active"] == "active"
            and state["enabled"]
            and not state["needs_reload"]
            and written.isdisjoint(unit["paths"])
        )
        if not fine:
            due.append(str(unit["name"]))
    return due


class FilterModule:
    """The filter, for Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"units_due": units_due}
