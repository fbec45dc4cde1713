#!/usr/bin/python
# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""Documentation of the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Collect what stands in the way of a rollout
version_added: 0.1.0
description:
  - Checks a role's variables against its argument specs, reads the host in one remote execution
    (M(policyfleet.opal.host_state)) and returns every problem that it finds, each with what to do about it.
  - It does not fail, not even for a host that is unreachable, so that a play can tell all problems of all hosts at once.
options:
  role:
    description: The role that is checked, or V(fleet) for the inventory as a whole.
    type: str
    required: true
    choices: [fleet, pulsar, opal_server]
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
  register: __opal_server_preflight
"""

RETURN = r"""
problems:
  description: What stands in the way, a sentence each.
  returned: always
  type: list
  elements: str
host:
  description: What M(policyfleet.opal.host_state) returned; empty where the host could not be read.
  returned: always
  type: dict
"""
