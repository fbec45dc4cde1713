#!/usr/bin/python
# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""Whether a host can read the policy repository."""

from __future__ import annotations

DOCUMENTATION = r"""
module: policy_repository
short_description: Make sure that this host can read a git repository and its branch
version_added: 0.1.0
description:
  - Asks the repository for its branch, as OPAL-server will, and changes nothing. OPAL-server itself starts without its
    repository, and only its journal tells why clients never get a policy.
  - Neither credentials nor key are shown, nor are they in a command line.
options:
  url:
    description: The repository, over HTTP, HTTPS, SSH or git's own protocol, without a password.
    type: str
    required: true
  credentials:
    description: The user and password of an HTTP URL, as V(user:password) in the way in which a URL has them.
    type: str
    default: ''
  branch:
    description: The branch that must be there.
    type: str
    required: true
  ssh_key:
    description: The private key for a repository over SSH, in PEM.
    type: str
    default: ''
  timeout:
    description: How long the repository may take to answer, in seconds.
    type: int
    default: 20
attributes:
  check_mode:
    support: full
    description: The module only reads. A host without git is not asked.
  diff_mode:
    support: none
    description: The module changes nothing.
author: policyfleet maintainers
"""

EXAMPLES = r"""
- name: Make sure that the policy repository can be read
  policyfleet.opal.policy_repository:
    url: https://git.example.com/policy.git
    branch: main
"""

RETURN = r"""
commit:
  description: The commit that the branch is at; empty where the host has no git yet.
  returned: success
  type: str
"""

import os
import tempfile
from typing import Dict
from urllib.parse import unquote

from ansible.module_utils.basic import AnsibleModule

ASKPASS = """#!/bin/sh
case "$1" in
  User*) printf '%s\\n' "$POLICYFLEET_GIT_USER" ;;
  *) printf '%s\\n' "$POLICYFLEET_GIT_PASSWORD" ;;
esac
"""
"""What git asks for credentials, so that they are in no command line."""


def private_file(path: str, content: str, mode: int) -> str:
    """Write a file that only root can read; return its path."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, mode), "w", encoding="utf-8") as handle:
        handle.write(content)
    return path


def environment(module: AnsibleModule, folder: str) -> Dict[str, str]:
    """Return what keeps git from asking a person and gives it what it needs, with files in a folder."""
    want = module.params
    ssh = (
        "ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "
        "-o ConnectTimeout=%d" % want["timeout"]
    )
    if want["ssh_key"]:
        key_file = private_file(os.path.join(folder, "key"), want["ssh_key"].rstrip("\n") + "\n", 0o600)
        ssh += " -o IdentitiesOnly=yes -i %s" % key_file
    user, _colon, password = want["credentials"].partition(":")
    return {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_SSH_COMMAND": ssh,
        "GIT_ASKPASS": private_file(os.path.join(folder, "askpass"), ASKPASS, 0o700),
        "POLICYFLEET_GIT_USER": unquote(user),
        "POLICYFLEET_GIT_PASSWORD": unquote(password),
        "LC_ALL": "C",
    }


def answer(module: AnsibleModule, git: str, settings: Dict[str, str]) -> str:
    """Return the commit of the branch; ends the module where the repository does not tell it."""
    want = module.params
    limit = str(want["timeout"])
    code, out, err = module.run_command(
        ["timeout", limit, git, "ls-remote", "--exit-code", "--heads", want["url"], want["branch"]],
        environ_update=settings,
        cwd="/",
    )
    if code == 0:
        return str(out).split()[0]
    if code == 2:  # git's own word for a reference that is not there
        why = "it has no branch '%s'. Set opal_server_policy_repo_branch" % want["branch"]
    elif code == 124:  # timeout's
        why = "it does not answer within %s seconds. Does a firewall drop packets from this host?" % limit
    else:
        words = " ".join(str(err).split())[:500].rstrip(".")
        why = "%s. Check the URL, its credentials or key with 'git ls-remote %s' on this host" % (words, want["url"])
    module.fail_json(msg="the policy repository %s cannot be read from this host: %s" % (want["url"], why))
    return ""


def main() -> None:
    """Ask the repository for its branch."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "credentials": {"type": "str", "default": "", "no_log": True},
            "branch": {"type": "str", "required": True},
            "ssh_key": {"type": "str", "default": "", "no_log": True},
            "timeout": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    git = module.get_bin_path("git")
    if not git:
        module.exit_json(changed=False, commit="")
    with tempfile.TemporaryDirectory(prefix="policyfleet-") as folder:
        commit = answer(module, str(git), environment(module, folder))
    module.exit_json(changed=False, commit=commit)


if __name__ == "__main__":
    main()
