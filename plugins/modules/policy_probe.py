#!/usr/bin/python
# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""One host's part in proving that every OPA decides by the policy that the servers serve."""

from __future__ import annotations

DOCUMENTATION = r"""
module: policy_probe
short_description: Tell which policy a host serves, or decides by
version_added: 0.1.0
description:
  - On servers V(served) asks OPAL-server for its policy, as a client does. On clients V(held) asks OPA for the modules
    that it decides by, and compares them with those that a server serves.
  - It never fails for what it finds; RV(problem) says why nothing could be found.
options:
  state:
    description: The step.
    type: str
    required: true
    choices: [served, held]
  url:
    description: On servers the URL of OPAL-server, on clients that of OPA, as this host reaches it.
    type: str
    required: true
  token:
    description: On servers, a token of the type C(client), where OPAL-server asks for one.
    type: str
  modules:
    description: With V(held), what a server serves, as V(served) returned it.
    type: dict
    default: {}
  directories:
    description: With V(held), the directories of the policy that this client follows.
    type: list
    elements: str
    default: ['.']
attributes:
  check_mode:
    support: full
    description: It only asks.
  diff_mode:
    support: none
    description: Nothing is changed.
author: policyfleet maintainers
"""

EXAMPLES = r"""
- name: Ask which policy is served
  policyfleet.opal.policy_probe:
    state: served
    url: http://127.0.0.1:7002
"""

RETURN = r"""
problem:
  description: Why nothing could be found, empty where it could.
  returned: always
  type: str
commit:
  description: The commit whose policy is served.
  returned: with O(state=served), where it could be found
  type: str
modules:
  description: By path, the SHA-256 of each module.
  returned: with O(state=served), where it could be found
  type: dict
differs:
  description: The paths of modules that OPA holds in another form, or not at all.
  returned: with O(state=held), where it could be found
  type: list
  elements: str
more:
  description: The modules that OPA holds and the servers do not serve.
  returned: with O(state=held), where it could be found
  type: list
  elements: str
"""

import hashlib
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.policyfleet.opal.plugins.module_utils.verify_ask import ask

LONGEST_ANSWER = 20
"""How long one answer may take, in seconds: a policy can be large."""


def digest(text: str) -> str:
    """Return the SHA-256 of a module's text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def below(path: str, directories: List[str]) -> bool:
    """Tell whether a client that follows these directories gets a module."""
    return any(each in (".", "") or path.startswith(each.rstrip("/") + "/") for each in directories)


def compared(held: Dict[str, str], served: Dict[str, str], directories: List[str]) -> Dict[str, List[str]]:
    """Return where the modules that OPA holds are not those that are served to it; both are digests by path."""
    due = {path: value for path, value in served.items() if below(path, directories)}
    return {
        "differs": sorted(path for path, value in due.items() if held.get(path) != value),
        "more": sorted(set(held) - set(due)),
    }


def served(want: Dict[str, Any]) -> Dict[str, Any]:
    """Return the commit and the modules that OPAL-server serves."""
    bundle = ask(want["url"] + "/policy", token=want["token"] or "", timeout=LONGEST_ANSWER)
    modules = {module["path"]: digest(module["rego"]) for module in bundle["policy_modules"]}
    return {"commit": bundle["hash"], "modules": modules}


def held(want: Dict[str, Any]) -> Dict[str, Any]:
    """Return how the modules that OPA holds differ from those that are served."""
    policies = ask(want["url"] + "/v1/policies", timeout=LONGEST_ANSWER)["result"]
    return compared({each["id"]: digest(each["raw"]) for each in policies}, want["modules"], want["directories"])


def main() -> None:
    """Take one step."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "required": True, "choices": ["served", "held"]},
            "url": {"type": "str", "required": True},
            "token": {"type": "str", "no_log": True},
            "modules": {"type": "dict", "default": {}},
            "directories": {"type": "list", "elements": "str", "default": ["."]},
        },
        supports_check_mode=True,
    )
    want = module.params
    try:
        found = {"problem": "", **{"served": served, "held": held}[want["state"]](want)}
    except Exception as reason:  # refused, timed out, 503 while it clones, something else at that port
        what = "no policy came from" if want["state"] == "served" else "OPA does not answer at"
        found = {"problem": "%s %s (%s)" % (what, want["url"], reason)}
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
