#!/usr/bin/python
# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""The health gate of a service, on its own host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_health
short_description: Wait until a service on this host is healthy, or say why it is not
version_added: 0.1.0
description:
  - Asks a URL of the service again and again, within one remote execution, until it answers with 200 (and with the
    JSON that is expected, where any is), the unit is active, it runs with the configuration that was written, and it
    has all of its worker processes.
  - Fails as soon as systemd has given the unit up, and ends with the reason and the last lines of its journal.
options:
  unit:
    description: The systemd service, without C(.service).
    type: str
    required: true
  url:
    description: An address of this host that answers 200 when the service is healthy.
    type: str
    required: true
  expect:
    description:
      - What the answer's JSON object must hold, for services that answer 200 although something is amiss, for example
        V(online=true). Where the answer is a list, one object for each of O(processes), each of them must hold it.
    type: dict
    default: {}
  applied:
    description: The digest that the running main process must have been started with; empty for any.
    type: str
    default: ''
  processes:
    description: How many child processes the main process must have at least.
    type: int
    default: 0
  timeout:
    description: How long to wait, in seconds.
    type: int
    default: 90
attributes:
  check_mode:
    support: full
    description: The service is not asked, since it may not have been installed.
  diff_mode:
    support: none
    description: The module changes nothing.
author: policyfleet maintainers
"""

EXAMPLES = r"""
- name: Wait until OPAL-server is healthy
  policyfleet.opal.service_health:
    unit: opal-server
    url: http://127.0.0.1:7002/healthcheck
    processes: 2
"""

RETURN = r"""
seconds:
  description: How long it took until the service was healthy.
  returned: success
  type: float
"""

import json
import time
import urllib.error
from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url
from ansible_collections.policyfleet.opal.plugins.module_utils import processes

PAUSE = 0.25
"""Time between two looks, in seconds."""

FAILED_LOOKS = 4
"""How many looks in a row must find the unit failed before that is taken for its end."""

MOST_RESTARTS = 3
"""How often systemd may restart the unit while it is waited for."""

JOURNAL_LINES = 15
"""How many lines of the journal a failure shows."""


def unexpected(body: str, expect: Dict[str, Any], processes: int) -> str:
    """Return what a JSON body holds that is not as expected, empty where all of it is.

    A list is one object for each of so many processes, and each of them must be as expected.
    """
    try:
        found = json.loads(body)
    except ValueError:
        return "something that is no JSON: %s" % body[:300]
    rows = found if isinstance(found, list) else [found]
    if not all(isinstance(row, dict) for row in rows):
        return "no JSON object: %s" % body[:300]
    if isinstance(found, list) and len(rows) < processes:
        return "%d of %d processes" % (len(rows), processes)
    wrong = [(row, key) for row in rows for key in sorted(expect) if row.get(key) != expect[key]]
    return ", ".join("%s%s=%s" % (name_of(row), key, json.dumps(row.get(key))) for row, key in wrong)


def name_of(row: Dict[str, Any]) -> str:
    """Return how a process of a list is told from the others, and why it says that it is not well."""
    if "pid" not in row:
        return ""
    return "process %s (%s): " % (row["pid"], row.get("reason") or "no reason given")


def answer(url: str, expect: Dict[str, Any], processes: int) -> str:
    """Return what is wrong with the answer of a URL, empty where it is 200 and holds what is expected."""
    try:
        response = open_url(url, timeout=5, use_proxy=False, follow_redirects="none")
        status, body = response.getcode(), response.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as problem:
        body = problem.read(300).decode("utf-8", "replace").strip()
        return "%s answers %d %s" % (url, problem.code, body)
    except Exception as problem:  # refused, timed out, reset: all mean not yet
        return "%s does not answer (%s)" % (url, problem)
    if status != 200:
        return "%s answers %d" % (url, status)
    wrong = unexpected(body, expect, processes) if expect else ""
    return "%s answers 200 with %s" % (url, wrong) if wrong else ""


def unit_properties(module: AnsibleModule) -> Dict[str, str]:
    """Return what systemd knows of the unit now."""
    _code, out, _err = module.run_command(
        ["systemctl", "show", "--property", "ActiveState,SubState,Result,MainPID,NRestarts"]
        + ["%s.service" % module.params["unit"]]
    )
    return dict(line.split("=", 1) for line in out.splitlines() if "=" in line)


def complaint(module: AnsibleModule, unit: Dict[str, str]) -> str:
    """Return what keeps the service from being healthy at this moment, empty where nothing does."""
    ask = module.params
    if unit.get("ActiveState") != "active":
        return "the unit is %s (%s)" % (unit.get("ActiveState"), unit.get("SubState"))
    pid = int(unit.get("MainPID") or 0)
    if ask["applied"] and processes.applied(pid) != ask["applied"]:
        return "its process %s still runs with an older configuration" % pid
    found = len(processes.children(pid))
    if found < ask["processes"]:
        return "it has %d of %d worker processes" % (found, ask["processes"])
    return answer(ask["url"], ask["expect"], ask["processes"])


def journal(module: AnsibleModule) -> str:
    """Return the last lines that the service wrote."""
    _code, out, _err = module.run_command(
        ["journalctl", "--unit", module.params["unit"], "--lines", str(JOURNAL_LINES)]
        + ["--no-pager", "--output", "cat"]
    )
    return str(out).rstrip()


def fail(module: AnsibleModule, reason: str) -> None:
    """End the module with the reason, the next step and the service's own words."""
    unit = module.params["unit"]
    module.fail_json(
        msg="%s is not healthy: %s. Look at 'systemctl status %s' and 'journalctl -u %s' on this host. "
        "Its last words:\n%s" % (unit, reason, unit, unit, journal(module))
    )


def main() -> None:
    """Look until the service is healthy, has failed for good, or the time is up."""
    arguments: Dict[str, Any] = {
        "unit": {"type": "str", "required": True},
        "url": {"type": "str", "required": True},
        "expect": {"type": "dict", "default": {}},
        "applied": {"type": "str", "default": ""},
        "processes": {"type": "int", "default": 0},
        "timeout": {"type": "int", "default": 90},
    }
    module = AnsibleModule(argument_spec=arguments, supports_check_mode=True)
    if module.check_mode:
        module.exit_json(changed=False, seconds=0.0)
    started = time.monotonic()
    failed_looks = 0
    fewest_restarts = None
    while True:
        unit = unit_properties(module)
        reason = complaint(module, unit)
        waited = time.monotonic() - started
        if not reason:
            module.exit_json(changed=False, seconds=round(waited, 2))
        # A restart that has only just been asked for may not have left the old failure behind yet.
        failed_looks = failed_looks + 1 if unit.get("ActiveState") == "failed" else 0
        if failed_looks >= FAILED_LOOKS:
            fail(module, "systemd gave it up (%s)" % unit.get("Result"))
        restarts = int(unit.get("NRestarts") or 0)
        fewest_restarts = restarts if fewest_restarts is None else min(fewest_restarts, restarts)
        if restarts - fewest_restarts >= MOST_RESTARTS:
            fail(module, "it ends as soon as it is started, %d times while the gate waited" % MOST_RESTARTS)
        if waited > module.params["timeout"]:
            fail(module, "%s, %d seconds after the gate began" % (reason, round(waited)))
        time.sleep(PAUSE)


if __name__ == "__main__":
    main()
