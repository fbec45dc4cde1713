#!/usr/bin/python
# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""Documentation of the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: verify_report
short_description: Judge a verification, write its reports and print its summary
version_added: 0.1.0
description:
  - Puts together what M(policyfleet.opal.fleet_probe) returned on each host, writes a JSON, a Markdown and an HTML
    report on the controller, prints the matrix of senders and workers, and fails where a cell is missing.
  - Nothing is executed on a host.
options:
  run:
    description: The name of the run.
    type: str
    required: true
  started_at:
    description: When the run began, in seconds since the epoch.
    type: float
    required: true
  hosts:
    description: The hosts that were tested.
    type: list
    elements: str
    required: true
  fleet:
    description: All hosts of the fleet; those that were not tested are named in the report.
    type: list
    elements: str
    required: true
  broadcast_uri:
    description: The fleet's backbone; shown without user, password and options.
    type: str
    required: true
  channel:
    description: The backbone's channel, in Pulsar its topic.
    type: str
    required: true
  backbone:
    description: The kind of backbone, as in the role variable C(opal_server_backbone).
    type: str
    default: fanout
  raw_event:
    description: Whether the events must have been read from Pulsar's topic as well.
    type: bool
    required: true
  directory:
    description: The directory of the reports on the controller.
    type: path
    required: true
attributes:
  check_mode:
    support: none
    description: Without a test there is nothing to judge.
  diff_mode:
    support: none
    description: Nothing on a host is changed.
author: policyfleet maintainers
"""

EXAMPLES = r"""
- name: Judge the fleet
  policyfleet.opal.verify_report:
    run: 5f2a91c3
    started_at: 1764032400.0
    hosts: "{{ ansible_play_hosts_all }}"
    fleet: "{{ groups['opal_server'] }}"
    broadcast_uri: "{{ opal_server_broadcast_uri }}"
    channel: "{{ opal_server_broadcast_channel }}"
    raw_event: true
    directory: reports
  run_once: true
"""

RETURN = r"""
passed:
  description: Whether every update reached every worker.
  returned: always
  type: bool
files:
  description: Where the reports were written.
  returned: always
  type: list
  elements: str
"""
