#!/usr/bin/python
# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""A Pulsar topic with the policies that a backbone needs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pulsar_topic
short_description: Make a Pulsar topic that stays, and set how long it keeps its messages
version_added: 0.1.0
description:
  - Makes a non-partitioned persistent topic through Pulsar's admin API and sets, on its namespace, the retention and
    that inactive topics are not deleted. Readers are not durable, so retention alone decides how far back a host
    that was cut off can catch up, and a topic with readers only counts as inactive.
options:
  admin_url:
    description: The admin address of a broker, for example V(http://127.0.0.1:8080).
    type: str
    required: true
  topic:
    description: The topic as V(persistent://tenant/namespace/name).
    type: str
    required: true
  retention_minutes:
    description: How long messages are kept, in minutes; V(-1) for ever.
    type: int
    required: true
  retention_mb:
    description: How much is kept, in MiB; V(-1) without bound.
    type: int
    required: true
attributes:
  check_mode:
    support: full
    description: Where no broker answers, as on a fresh host, everything counts as to be changed.
  diff_mode:
    support: full
    description: Shows the topic and its policies before and after.
author: policyfleet maintainers
"""

EXAMPLES = r"""
- name: Make the topic that OPAL broadcasts on
  policyfleet.opal.pulsar_topic:
    admin_url: http://127.0.0.1:8080
    topic: persistent://public/default/broadcast
    retention_minutes: 4320
    retention_mb: 1024
"""

RETURN = r"""
state:
  description: The topic and its policies as they are now.
  returned: always
  type: dict
"""

import json
import re
import urllib.error
from typing import Any, Dict, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

TOPIC = re.compile(r"persistent://(?P<namespace>[^/]+/[^/]+)/(?P<name>[^/]+)")
"""What a fully qualified persistent topic looks like."""


class Admin:
    """Pulsar's admin API at one address."""

    def __init__(self, url: str) -> None:
        """Remember the address, for example http://127.0.0.1:8080."""
        self.base = "%s/admin/v2" % url.rstrip("/")

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the decoded answer of a call; raises urllib's errors."""
        reply = open_url(
            "%s/%s" % (self.base, path),
            method=method,
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": "application/json"},
            timeout=30,
            use_proxy=False,
        )
        text = reply.read().decode("utf-8")
        return json.loads(text) if text else None


def read_state(admin: Admin, namespace: str, topic: str) -> Dict[str, Any]:
    """Return whether the topic exists, and the policies of its namespace."""
    retention = admin.call("GET", "namespaces/%s/retention" % namespace) or {}
    inactive = admin.call("GET", "namespaces/%s/inactiveTopicPolicies" % namespace) or {}
    return {
        "topic": topic if topic in (admin.call("GET", "persistent/%s" % namespace) or []) else "absent",
        "retention_minutes": retention.get("retentionTimeInMinutes", 0),
        "retention_mb": retention.get("retentionSizeInMB", 0),
        "delete_while_inactive": inactive.get("deleteWhileInactive", True),
    }


def write_state(admin: Admin, namespace: str, name: str, before: Dict[str, Any], after: Dict[str, Any]) -> None:
    """Change what differs."""
    if (before["retention_minutes"], before["retention_mb"]) != (after["retention_minutes"], after["retention_mb"]):
        body = {
            "retentionTimeInMinutes": after["retention_minutes"],
            "retentionSizeInMB": after["retention_mb"],
        }
        admin.call("POST", "namespaces/%s/retention" % namespace, body)
    if before["delete_while_inactive"]:
        body = {
            "inactiveTopicDeleteMode": "delete_when_no_subscriptions",
            "maxInactiveDurationSeconds": 60,
            "deleteWhileInactive": False,
        }
        admin.call("POST", "namespaces/%s/inactiveTopicPolicies" % namespace, body)
    if before["topic"] == "absent":
        make_topic(admin, namespace, name, after["topic"])


def make_topic(admin: Admin, namespace: str, name: str, topic: str) -> None:
    """Make the topic; one that a client has made since it was looked for is as good."""
    try:
        admin.call("PUT", "persistent/%s/%s" % (namespace, name))
    except urllib.error.HTTPError as problem:
        if problem.code != 409 or topic not in (admin.call("GET", "persistent/%s" % namespace) or []):
            raise


def current_state(admin: Admin, namespace: str, topic: str, check_mode: bool) -> Optional[Dict[str, Any]]:
    """Return the state, or None in check mode where no broker answers yet."""
    try:
        return read_state(admin, namespace, topic)
    except urllib.error.HTTPError:
        raise
    except OSError:
        if check_mode:
            return None
        raise


def main() -> None:
    """Compare the topic with what is wanted, and change what differs."""
    module = AnsibleModule(
        argument_spec={
            "admin_url": {"type": "str", "required": True},
            "topic": {"type": "str", "required": True},
            "retention_minutes": {"type": "int", "required": True},
            "retention_mb": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    ask = module.params
    parts = TOPIC.fullmatch(ask["topic"])
    if parts is None:
        module.fail_json(msg="%s is not of the form persistent://tenant/namespace/name" % ask["topic"])
        return
    after = {
        "topic": ask["topic"],
        "retention_minutes": ask["retention_minutes"],
        "retention_mb": ask["retention_mb"],
        "delete_while_inactive": False,
    }
    admin = Admin(ask["admin_url"])
    try:
        before = current_state(admin, parts["namespace"], ask["topic"], module.check_mode)
        if before is not None and before != after and not module.check_mode:
            write_state(admin, parts["namespace"], parts["name"], before, after)
    except urllib.error.HTTPError as problem:
        module.fail_json(
            msg="Pulsar's admin API answers %d to %s: %s"
            % (problem.code, problem.url, problem.read(500).decode("utf-8", "replace"))
        )
    except OSError as problem:
        module.fail_json(msg="no broker answers at %s: %s" % (ask["admin_url"], problem))
    module.exit_json(
        changed=before != after,
        state=after if not module.check_mode else before or {},
        diff={"before": before or {}, "after": after},
    )


if __name__ == "__main__":
    main()
