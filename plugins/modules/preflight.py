#!/usr/bin/python
# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""Documentation of the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Collect what stands in the way of a rollout, and tell all of it at once
version_added: 0.1.0
description:
  - With a role's name it checks the role's variables against its argument specs, reads the host in one remote
    execution (M(policyfleet.opal.host_state)), and sets the facts C(__<role>_host) and C(__<role>_problems).
    It does not fail, not even for a host that is unreachable.
  - With V(fleet) it ends the play with every problem that was collected on any of its hosts, each with what to do
    about it, together with those of the inventory; it passes where there is none.
options:
  role:
    description: The role that is checked, or V(fleet) for the verdict on all hosts.
    type: str
    required: true
    choices: [fleet, pulsar, opal_server, opal_client]
attributes:
  check_mode:
    support: full
    description: Nothing is changed.
  diff_mode:
    support: none
    description: Nothing is changed.
author: policyfleet maintainers
"""

EXAMPLES = r"""
- name: Collect the problems of this host
  policyfleet.opal.preflight:
    role: opal_server

- name: Stop where anything stands in the way, before anything changes
  policyfleet.opal.preflight:
    role: fleet
  run_once: true
"""

RETURN = r"""
ansible_facts:
  description: The state of the host and its problems, under the role's name.
  returned: when O(role) is not V(fleet)
  type: dict
"""
