#!/usr/bin/python
# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""One host's part in proving that every update reaches every OPA."""

from __future__ import annotations

DOCUMENTATION = r"""
module: decision_probe
short_description: Take part in the proof that every update reaches every OPA
version_added: 0.1.0
description:
  - One host's part in following updates from each OPAL-server to each OPA. On clients V(watched) asks OPA again and
    again for a reserved path and notes when each update appears, and V(gone) makes sure that the path is gone. On
    servers V(published) publishes updates below that path, and V(removed) publishes its removal.
  - The path is C(/policyfleet_verify_<run>). It is removed in the same way as it came, so that OPAL-client's backup
    forgets it, too.
  - It never fails for what it finds; RV(problem) says why nothing could be found.
options:
  state:
    description: The step.
    type: str
    required: true
    choices: [watched, published, removed, gone]
  run:
    description: A name for this run, of letters and digits; part of the path.
    type: str
    required: true
  url:
    description: On clients the URL of OPA, on servers that of OPAL-server, as this host reaches it.
    type: str
    required: true
  senders:
    description: With V(watched), the hosts whose updates are awaited.
    type: list
    elements: str
    default: []
  sender:
    description: With V(published), the name of this host.
    type: str
    default: ''
  updates:
    description: How many updates each host publishes.
    type: int
    default: 1
  topics:
    description: On servers, the topics of data that the clients listen to.
    type: list
    elements: str
    default: []
  token:
    description: On servers, a token of the type C(datasource), where OPAL-server asks for one.
    type: str
  timeout:
    description: How long to wait at most, in seconds.
    type: int
    default: 15
  mark:
    description: With V(watched), a file that is there while the host watches.
    type: path
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
- name: Publish an update to each OPA
  policyfleet.opal.decision_probe:
    state: published
    run: 5f2a91c3
    url: http://127.0.0.1:7002
    sender: opal1
    topics: [policy_data]
"""

RETURN = r"""
problem:
  description: Why this host could not take part, empty where it could.
  returned: always
  type: str
published_at:
  description: When each update was published, in seconds since 1970 by this host's clock.
  returned: with O(state=published)
  type: list
  elements: float
seen:
  description: By sender, the number of each update with the time at which OPA had it.
  returned: with O(state=watched)
  type: dict
pid:
  description: OPA's process, 0 where it does not run.
  returned: with O(state=watched)
  type: int
"""

import http.client
import json
import os
import time
from typing import Any, Dict, List
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.policyfleet.opal.plugins.module_utils.verify_ask import ask

PAUSE = 0.02
"""Time between two questions, in seconds; a time that is found may be too late by as much."""

LONGEST_ANSWER = 5
"""How long one answer of OPA may take while it is watched, in seconds."""


def look(connection: http.client.HTTPConnection, path: str) -> Dict[str, Any]:
    """Return what OPA holds at a path of its data, over a connection that is kept, so that asking costs little."""
    try:
        connection.request("GET", "/v1/data" + path)
        answer = connection.getresponse()
        document = json.loads(answer.read().decode("utf-8"))
    except Exception:
        connection.close()
        raise
    found = document.get("result")
    return found if isinstance(found, dict) else {}


def path_of(run: str) -> str:
    """Return the reserved path of a run, as OPA writes it."""
    return "/policyfleet_verify_%s" % run


def name_of(sender: str, number: int) -> str:
    """Return the key of one update below the path. A whole number alone would be taken for a place in a list."""
    return "%s-%d" % (sender, number)


def opa_pid(module: AnsibleModule) -> int:
    """Return OPA's process, 0 where its unit does not run."""
    _code, out, _err = module.run_command(["systemctl", "show", "--property", "MainPID", "--value", "opa.service"])
    return int(out.strip() or 0)


def note(document: Dict[str, Any], wanted: Dict[str, Any], seen: Dict[str, List[Any]], at: float) -> None:
    """Move the updates that a document holds from the wanted to the seen."""
    for name in list(wanted):
        if name in document:
            sender, number = wanted.pop(name)
            seen[sender].append([number, at])


def watched(module: AnsibleModule) -> Dict[str, Any]:
    """Ask OPA until it holds every update, or the time is up."""
    want = module.params
    connection = http.client.HTTPConnection(urlsplit(want["url"]).netloc, timeout=LONGEST_ANSWER)
    wanted = {
        name_of(sender, number): (sender, number) for sender in want["senders"] for number in range(want["updates"])
    }
    seen: Dict[str, List[Any]] = {sender: [] for sender in want["senders"]}
    ends = time.monotonic() + want["timeout"]
    problem = ""
    try:
        while wanted and time.monotonic() < ends:
            try:
                note(look(connection, path_of(want["run"])), wanted, seen, time.time())
                problem = ""
            except Exception as reason:  # refused, timed out, reset: OPA may come back
                problem = "OPA does not answer at %s (%s)" % (want["url"], reason)
            if want["mark"] and not os.path.exists(want["mark"]):
                with open(want["mark"], "w", encoding="ascii"):
                    pass
            time.sleep(PAUSE)
    finally:
        if want["mark"] and os.path.exists(want["mark"]):
            os.unlink(want["mark"])
    return {"problem": problem, "seen": seen, "pid": opa_pid(module)}


def update_of(want: Dict[str, Any], path: str, method: str, data: Any) -> Dict[str, Any]:
    """Return a data update as OPAL-server takes it."""
    entry = {"url": "", "topics": want["topics"], "dst_path": path, "save_method": method, "data": data}
    return {"id": "verify-%s" % want["run"], "reason": "verification %s" % want["run"], "entries": [entry]}


def publish(want: Dict[str, Any], path: str, method: str, data: Any) -> str:
    """Publish an update through this host's OPAL-server; return why it was not accepted, empty where it was."""
    try:
        ask(want["url"] + "/data/config", "POST", update_of(want, path, method, data), want["token"] or "")
    except Exception as reason:
        return "OPAL-server did not accept the update: %s" % reason
    return ""


def published(module: AnsibleModule) -> Dict[str, Any]:
    """Publish this host's updates."""
    want = module.params
    times: List[float] = []
    for number in range(want["updates"]):
        at = time.time()
        path = "%s/%s" % (path_of(want["run"]), name_of(want["sender"], number))
        problem = publish(want, path, "PUT", {"run": want["run"], "from": want["sender"], "number": number})
        if problem:
            return {"problem": problem, "published_at": times}
        times.append(at)
    return {"problem": "", "published_at": times}


def removed(module: AnsibleModule) -> Dict[str, Any]:
    """Publish that the path is removed."""
    want = module.params
    return {"problem": publish(want, path_of(want["run"]), "PATCH", [{"op": "remove", "path": ""}])}


def gone(module: AnsibleModule) -> Dict[str, Any]:
    """Wait until the path is gone, and remove it by hand where it stays."""
    want = module.params
    url = want["url"] + "/v1/data" + path_of(want["run"])
    ends = time.monotonic() + want["timeout"]
    try:
        while time.monotonic() < ends:
            if "result" not in (ask(url) or {}):
                return {"problem": ""}
            time.sleep(0.2)
        ask(url, "DELETE")
    except Exception as reason:
        return {"problem": "OPA does not answer at %s (%s)" % (want["url"], reason)}
    return {
        "problem": "%s stayed after its removal was published. It was removed from OPA by hand, and may come back once "
        "with OPAL-client's backup" % path_of(want["run"])
    }


def main() -> None:
    """Take one step."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "required": True, "choices": ["watched", "published", "removed", "gone"]},
            "run": {"type": "str", "required": True},
            "url": {"type": "str", "required": True},
            "senders": {"type": "list", "elements": "str", "default": []},
            "sender": {"type": "str", "default": ""},
            "updates": {"type": "int", "default": 1},
            "topics": {"type": "list", "elements": "str", "default": []},
            "token": {"type": "str", "no_log": True},
            "timeout": {"type": "int", "default": 15},
            "mark": {"type": "path"},
        }
    )
    steps = {"watched": watched, "published": published, "removed": removed, "gone": gone}
    module.exit_json(changed=False, **steps[module.params["state"]](module))


if __name__ == "__main__":
    main()
