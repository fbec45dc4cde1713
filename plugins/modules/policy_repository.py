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
  - Neither credentials nor key are shown, nor are they in a command line. What is told names the repository's URL, the
    cause and what to do about it.
options:
  url:
    description: The repository, over HTTP, HTTPS, SSH or git's own protocol, without a password.
    type: str
    required: true
  credentials:
    description: The user and password of an HTTP URL, as V(user:password) in the way in which a URL has them.
    type: str
    default: ''
  ca_cert:
    description: The certificate of the authority that an HTTPS server's was signed by, in PEM. By default the system's.
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
from typing import Any, Dict, Mapping
from urllib.parse import unquote, urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.policyfleet.opal.plugins.module_utils.git_access import helper_settings, secret_settings

UNREACHABLE = (
    "could not resolve host",
    "couldn't connect",
    "failed to connect",
    "connection refused",
    "connection timed out",
    "network is unreachable",
    "no route to host",
    "unable to look up",
)
"""git's words, or those of what it uses, for a host that does not answer at all."""


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
    settings = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": ssh, "LC_ALL": "C"}
    if want["ca_cert"]:
        settings["GIT_SSL_CAINFO"] = private_file(os.path.join(folder, "ca.pem"), want["ca_cert"], 0o600)
    if want["credentials"]:
        user, _colon, password = want["credentials"].partition(":")
        settings.update(helper_settings(want["url"]))
        settings.update(secret_settings(unquote(user), unquote(password)))
    return settings


def explain(words: str, want: Mapping[str, Any]) -> str:
    """Return the cause that git's words tell, and what to do about it."""
    said = words.lower()
    if "certificate subject name" in said or "no alternative certificate subject name" in said:
        return "its certificate is for another name. Write the URL with a name that the certificate has"
    if "certificate" in said and ("verif" in said or "problem" in said or "issuer" in said):
        whom = "the authority in opal_server_policy_repo_ca_cert" if want["ca_cert"] else "an authority of this system"
        todo = "Set opal_server_policy_repo_ca_cert to the certificate of the authority that signed it"
        return "its certificate has expired, or was not signed by %s. %s" % (whom, todo)
    if "authentication failed" in said:
        return (
            "it refuses the username or the password. Correct opal_server_policy_repo_username and "
            "opal_server_policy_repo_password, or those in the URL"
        )
    if "could not read username" in said:
        return "it asks for credentials. Set opal_server_policy_repo_username and opal_server_policy_repo_password"
    if "returned error: 403" in said:
        return "it does not let this user read it. Give the user or the token the right to"
    if any(part in said for part in UNREACHABLE):
        todo = "Is the name right, does git run there, and does a firewall let this host through?"
        return "%s cannot be reached: %s. %s" % (urlsplit(want["url"]).hostname or "its host", words, todo)
    return "%s. Check the URL, its credentials or key with 'git ls-remote %s' on this host" % (words, want["url"])


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
        why = explain(" ".join(str(err).split())[:500].rstrip("."), want)
    module.fail_json(msg="the policy repository %s cannot be read from this host: %s" % (want["url"], why))
    return ""


def main() -> None:
    """Ask the repository for its branch."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "credentials": {"type": "str", "default": "", "no_log": True},
            "ca_cert": {"type": "str", "default": ""},
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
