#!/usr/bin/python
# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""One host's part in proving that every update reaches every worker."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_probe
short_description: Take part in the proof that every update reaches every worker
version_added: 0.1.0
description:
  - One host's part in a verification of an OPAL-server fleet, in three steps. V(listening) subscribes to the topics of
    all senders on each worker process of this host; V(published) publishes data updates through this host and looks
    for them in the journal; V(collected) returns what each worker delivered, and when.
  - It finds out which worker accepted a connection from C(/proc), and opens connections until each worker has one.
  - Between the steps a transient systemd unit with the user of the OPAL-server unit holds the subscriptions. It ends
    with V(collected), or by itself after O(deadline), and leaves nothing behind.
  - It must run as root, with the Python of OPAL-server's release, which has the packages that it needs.
  - It never fails for what it finds. A host that cannot be reached or tested comes back with RV(problem), so that
    M(policyfleet.opal.verify_report) can tell everything at once.
options:
  state:
    description: The step.
    type: str
    required: true
    choices: [listening, published, collected]
  run:
    description: A name for this run, of letters and digits; part of every topic.
    type: str
    required: true
  unit:
    description: The systemd service of OPAL-server, without C(.service).
    type: str
    default: opal-server
  address:
    description: The address that OPAL-server listens on, as this host connects to it.
    type: str
    default: 127.0.0.1
  port:
    description: The port that OPAL-server listens on.
    type: int
    default: 7002
  workers:
    description: How many worker processes this host should have.
    type: int
    default: 1
  topics:
    description: With V(listening), the topics to subscribe to.
    type: list
    elements: str
    default: []
  topic:
    description: With V(published), the topic of this host's updates.
    type: str
    default: ''
  updates:
    description: With V(published), how many updates this host publishes.
    type: int
    default: 1
  expected:
    description: With V(collected), how many updates each topic has had.
    type: dict
    default: {}
  client_token:
    description: A token of the type C(client), where OPAL-server asks for one.
    type: str
    default: ''
  datasource_token:
    description: A token of the type C(datasource), where OPAL-server asks for one.
    type: str
    default: ''
  broadcast_uri:
    description: The fleet's backbone; a V(pulsar://) one is also read beside OPAL.
    type: str
    default: ''
  channel:
    description: The backbone's channel, in Pulsar its topic.
    type: str
    default: broadcast
  cover_timeout:
    description: How long to try to reach each worker, in seconds.
    type: int
    default: 15
  settle_timeout:
    description: How long to wait until each worker hears the backbone, in seconds.
    type: int
    default: 10
  publish_timeout:
    description: How long publishing, and the journal's line about it, may take, in seconds each.
    type: int
    default: 10
  delivery_timeout:
    description: How long to wait for deliveries, in seconds.
    type: int
    default: 15
  deadline:
    description: When the subscriptions end by themselves, in seconds.
    type: int
    default: 600
attributes:
  check_mode:
    support: none
    description: Nothing can be shown without publishing.
  diff_mode:
    support: none
    description: Nothing is changed.
author: policyfleet maintainers
"""

EXAMPLES = r"""
- name: Listen on every worker
  policyfleet.opal.fleet_probe:
    state: listening
    run: 5f2a91c3
    topics: [verify-5f2a91c3-from-opal1, verify-5f2a91c3-from-opal2]
  vars:
    ansible_python_interpreter: /opt/opal-server/current/bin/python
  register: __verify_listening
"""

RETURN = r"""
up:
  description: Whether OPAL-server runs on this host, so that publishing through it makes sense.
  returned: always
  type: bool
problem:
  description: What kept this step from being taken, empty where nothing did.
  returned: always
  type: str
expected_workers:
  description: How many worker processes this host should have.
  returned: always
  type: int
workers:
  description:
    - For each worker process its V(pid), V(state), whether it is V(covered) by a subscription and V(ready) (it heard
      the backbone), when its connection V(closed), a V(note), and by topic its V(deliveries), each the update's number
      and the seconds since the epoch.
  returned: with V(listening) and V(collected)
  type: list
  elements: dict
raw:
  description: What pulsar-client read of this run, by topic; nothing with another backbone.
  returned: with V(listening) and V(collected)
  type: dict
published_at:
  description: When each update was published, in seconds since the epoch.
  returned: with V(published)
  type: list
  elements: float
broadcast:
  description:
    - Whether the journal says that all updates were broadcast (V(logged)), how often it does (V(lines)), and of the
      first V(line) the V(pid) and when it was written (V(at)).
  returned: with V(published)
  type: dict
backbone:
  description: What the backbone package tells of each worker.
  returned: with V(collected)
  type: list
  elements: dict
"""

import os
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.policyfleet.opal.plugins.module_utils import verify_host as host

ANSWER_SECONDS = 30
"""How much longer than its own time limits the listener may take to answer, in seconds."""


def host_header(address: str) -> str:
    """Return an address as a URL has it."""
    return f"[{address}]" if ":" in address else address


def base_url(ask: dict[str, Any]) -> str:
    """Return where OPAL-server's API is."""
    return f"http://{host_header(ask['address'])}:{ask['port']}"


def prefix(run: str) -> str:
    """Return how the topics of a run's senders begin."""
    return f"verify-{run}-from-"


def listen(module: AnsibleModule) -> dict[str, Any]:
    """Subscribe on every worker, and leave the subscriptions to the listener."""
    ask = module.params
    if os.geteuid() != 0:
        raise host.Trouble("the verification must run as root: set become for it")
    unit = host.unit_state(module, ask["unit"])
    if unit.get("ActiveState") != "active":
        state = "not installed" if unit.get("LoadState") == "not-found" else unit.get("ActiveState")
        raise host.Trouble(
            f"{ask['unit']}.service is {state}: look at 'systemctl status {ask['unit']}' and "
            f"'journalctl -u {ask['unit']}' on this host"
        )
    task = {
        "main_pid": int(unit["MainPID"]),
        "address": ask["address"],
        "host_header": host_header(ask["address"]),
        "port": ask["port"],
        "topics": ask["topics"],
        "prefix": prefix(ask["run"]),
        "canary": f"verify-{ask['run']}-canary",
        "client_token": ask["client_token"],
        "pulsar_uri": ask["broadcast_uri"] if ask["broadcast_uri"].startswith("pulsar") else "",
        "channel": ask["channel"],
        "cover_seconds": ask["cover_timeout"],
        "settle_seconds": ask["settle_timeout"],
    }
    host.start_listener(module, ask["run"], task, unit.get("User", ""), ask["deadline"])
    limit = ask["cover_timeout"] + ask["settle_timeout"] + ANSWER_SECONDS
    answer = host.ask_listener(ask["run"], {"do": "report"}, limit)
    return {**answer, "up": True, "main_pid": task["main_pid"]}


def update_of(ask: dict[str, Any], number: int) -> dict[str, Any]:
    """Return one of this host's updates."""
    return {
        "id": f"{ask['run']}-{number}",
        "reason": f"verification {ask['run']}: nobody but its own listeners subscribes to this topic",
        "entries": [
            {
                "url": "",
                "topics": [ask["topic"]],
                "dst_path": f"/policyfleet/verify/{ask['run']}",
                "data": {"run": ask["run"], "number": number},
            }
        ],
    }


def publish(module: AnsibleModule) -> dict[str, Any]:
    """Publish this host's updates, and look for them in the journal."""
    ask = module.params
    started = time.time()
    published_at = []
    for number in range(ask["updates"]):
        published_at.append(time.time())
        host.publish(base_url(ask), update_of(ask, number), ask["datasource_token"], ask["publish_timeout"])
    broadcast = host.wait_for_broadcasts(
        module, ask["unit"], started - 1, ask["topic"], ask["updates"], ask["publish_timeout"]
    )
    return {
        "up": True,
        "problem": "",
        "topic": ask["topic"],
        "updates": ask["updates"],
        "published_at": published_at,
        "broadcast": broadcast,
    }


def collect(module: AnsibleModule) -> dict[str, Any]:
    """Return what was delivered, and leave nothing behind."""
    ask = module.params
    try:
        question = {"do": "collect", "updates": ask["expected"], "seconds": ask["delivery_timeout"]}
        answer = host.ask_listener(ask["run"], question, ask["delivery_timeout"] + ANSWER_SECONDS)
    finally:
        host.stop_listener(module, ask["run"])
    return {**answer, "up": True, "backbone": host.backbone_states(base_url(ask))}


def main() -> None:
    """Take one step."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "required": True, "choices": ["listening", "published", "collected"]},
            "run": {"type": "str", "required": True},
            "unit": {"type": "str", "default": "opal-server"},
            "address": {"type": "str", "default": "127.0.0.1"},
            "port": {"type": "int", "default": 7002},
            "workers": {"type": "int", "default": 1},
            "topics": {"type": "list", "elements": "str", "default": []},
            "topic": {"type": "str", "default": ""},
            "updates": {"type": "int", "default": 1},
            "expected": {"type": "dict", "default": {}},
            "client_token": {"type": "str", "default": "", "no_log": True},
            "datasource_token": {"type": "str", "default": "", "no_log": True},
            "broadcast_uri": {"type": "str", "default": "", "no_log": True},
            "channel": {"type": "str", "default": "broadcast"},
            "cover_timeout": {"type": "int", "default": 15},
            "settle_timeout": {"type": "int", "default": 10},
            "publish_timeout": {"type": "int", "default": 10},
            "delivery_timeout": {"type": "int", "default": 15},
            "deadline": {"type": "int", "default": 600},
        },
        supports_check_mode=False,
    )
    steps = {"listening": listen, "published": publish, "collected": collect}
    try:
        found = steps[module.params["state"]](module)
    except host.Trouble as trouble:
        found = {"up": False, "problem": str(trouble)}
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
