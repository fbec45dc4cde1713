# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""Values as systemd's EnvironmentFile= reads them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

DOCUMENTATION = r"""
name: systemd_value
short_description: Quote a value for systemd's EnvironmentFile
version_added: 0.1.0
description:
  - Writes a value so that systemd (C(EnvironmentFile=), see systemd.exec(5)) hands exactly it to the process.
  - Booleans become V(true) or V(false); lists and dictionaries become JSON, as OPAL's settings want them.
options:
  _input:
    description: The value.
    type: raw
    required: true
author: policyfleet maintainers
"""

EXAMPLES = r"""
- name: Quote a value
  ansible.builtin.debug:
    msg: OPAL_LOG_LEVEL={{ 'INFO' | policyfleet.opal.systemd_value }}
"""

RETURN = r"""
_value:
  description: The value in double quotes.
  type: str
"""

SPECIAL = re.compile(r'(["\\$`])')
"""What a backslash keeps literal within double quotes (systemd.exec(5), EnvironmentFile=)."""


def systemd_value(value: Any) -> str:
    """Return a value quoted for an environment file of systemd."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, (dict, list)):
        text = json.dumps(value)
    else:
        text = str(value)
    return '"%s"' % SPECIAL.sub(r"\\\1", text)


class FilterModule:
    """The filter, for Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"systemd_value": systemd_value}
