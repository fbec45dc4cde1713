# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""What git needs for a repository, apart by what may be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from ansible_collections.policyfleet.opal.plugins.module_utils.git_access import (
    helper_settings,
    secret_settings,
    split_url,
)

DOCUMENTATION = r"""
name: git_access
short_description: Take the credentials out of a repository's URL, and hand them to git in another way
version_added: 0.1.0
description:
  - Takes the credentials out of a URL over HTTP, or takes those that are given beside it.
  - Tells the environment in which git finds them by a credential helper, so that no command line has them.
options:
  _input:
    description: The repository's URL.
    type: str
    required: true
  username:
    description: The user, where the URL has none.
    type: str
    default: ''
  password:
    description: The password, where the URL has none.
    type: str
    default: ''
author: policyfleet maintainers
"""

EXAMPLES = r"""
- name: Show the URL that may be seen
  ansible.builtin.debug:
    msg: "{{ ('https://joe:hush@git.example.com/policy.git' | policyfleet.opal.git_access).url }}"
"""

RETURN = r"""
_value:
  description:
    - The C(url) without credentials; the C(credentials) as a URL has them, empty where there are none; and the
      environment of git, C(settings) for what may be seen and C(secrets) for what may not.
  type: dict
"""


def git_access(url: str, username: str = "", password: str = "") -> dict[str, Any]:
    """Return a URL without credentials, the credentials, and the environment that gives them to git."""
    # Ansible hands on a number as it is, and before its release 2.19 a vaulted text as an object of its own.
    plain, user, word = split_url(str(url))
    if not user and not word:
        user, word = str(username), str(password)
    if not user and not word:
        return {"url": plain, "credentials": "", "settings": {}, "secrets": {}}
    return {
        "url": plain,
        "credentials": f"{quote(user, safe='')}:{quote(word, safe='')}",
        "settings": helper_settings(plain),
        "secrets": secret_settings(user, word),
    }


class FilterModule:
    """The filter, for Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"git_access": git_access}
