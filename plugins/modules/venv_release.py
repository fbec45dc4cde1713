#!/usr/bin/python
# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""A release that is a Python virtual environment, made from a bundle."""

from __future__ import annotations

DOCUMENTATION = r"""
module: venv_release
short_description: Make a Python virtual environment as a release
version_added: 0.1.0
description:
  - Makes a virtual environment with the C(uv) of a bundle (see M(policyfleet.opal.venv_bundle)), from its
    hash-locked requirements and its wheels, under a temporary name, and renames it to
    C(<prefix>/releases/<release>) when it is whole.
  - Nothing is built on the host, only wheels whose hash is in the lock are installed. The C(current) link is not
    touched.
options:
  prefix:
    description: The directory that holds C(releases/).
    type: path
    required: true
  release:
    description: The name of the release.
    type: str
    required: true
  bundle:
    description: The bundle on the host. It is removed when the release is whole.
    type: path
    required: true
  python:
    description: The interpreter that the environment is made for.
    type: path
    default: /usr/bin/python3
  index_url:
    description: A Python package index in place of the default one. It may hold credentials.
    type: str
  keep:
    description: How many releases stay beside the running and this one.
    type: int
    default: 1
attributes:
  check_mode:
    support: full
    description: Nothing is installed.
  diff_mode:
    support: none
    description: A release has no text to compare.
author: policyfleet maintainers
"""

EXAMPLES = r"""
- name: Make the OPAL-server release
  policyfleet.opal.venv_release:
    prefix: /opt/opal-server
    release: 2f1c66aa90b1-py3.11
    bundle: /opt/opal-server/2f1c66aa90b1.tar
"""

RETURN = r"""
path:
  description: Where the release is.
  returned: always
  type: str
removed:
  description: Older releases that were removed.
  returned: changed
  type: list
  elements: str
"""

import glob
import os
import tempfile
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.policyfleet.opal.plugins.module_utils import releases


def environment(index_url: str) -> Dict[str, str]:
    """Return uv's settings: this host's own certificates, no other interpreter, nothing left behind."""
    values = {
        "UV_SYSTEM_CERTS": "true",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_CACHE": "true",
        "UV_NO_CONFIG": "true",
        "UV_NO_PROGRESS": "true",
    }
    if index_url:
        values["UV_DEFAULT_INDEX"] = index_url
    return values


def install(module: AnsibleModule, bundle: str, venv: str) -> None:
    """Fill an environment from an unpacked bundle; ends the module with uv's own words where that fails."""
    uv = os.path.join(bundle, "uv")
    python = ["--python", os.path.join(venv, "bin", "python")]
    steps: List[List[str]] = [
        [uv, "venv", "--quiet", "--allow-existing", "--relocatable", "--python", module.params["python"], venv],
        # The lock is whole, and overrides a pin of one of its packages: what they ask for is not asked again.
        [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
        + ["--compile-bytecode"]
        + python
        + ["--requirements", os.path.join(bundle, "requirements.txt")],
        [uv, "pip", "install", "--quiet", "--no-index", "--no-deps", "--compile-bytecode"]
        + python
        + sorted(glob.glob(os.path.join(bundle, "*.whl"))),
    ]
    for step in steps:
        code, out, err = module.run_command(step, environ_update=environment(module.params["index_url"]))
        if code != 0:
            module.fail_json(
                msg="'uv %s' failed, and no release was made. Does this host reach its Python package index, "
                "and does it trust its certificate?\n%s" % (" ".join(step[1:3]), (err or out).strip()[-3000:])
            )
    # uv's own, which anybody could write
    lock = os.path.join(venv, ".lock")
    if os.path.exists(lock):
        os.unlink(lock)


def main() -> None:
    """Make the environment unless its release is complete."""
    specification: Dict[str, Any] = {
        "prefix": {"type": "path", "required": True},
        "release": {"type": "str", "required": True},
        "bundle": {"type": "path", "required": True},
        "python": {"type": "path", "default": "/usr/bin/python3"},
        "index_url": {"type": "str", "no_log": True},
        "keep": {"type": "int", "default": 1},
    }
    module = AnsibleModule(argument_spec=specification, supports_check_mode=True)
    ask = module.params
    path = releases.release_path(ask["prefix"], ask["release"])
    if releases.is_complete(ask["prefix"], ask["release"]):
        module.exit_json(changed=False, path=path)
    if module.check_mode:
        module.exit_json(changed=True, path=path, removed=[])
    with tempfile.TemporaryDirectory(prefix="opal-bundle-", dir=ask["prefix"]) as unpacked:
        module.run_command(["tar", "-xf", ask["bundle"], "-C", unpacked, "--no-same-owner"], check_rc=True)
        with releases.filling(ask["prefix"], ask["release"]) as partial:
            install(module, unpacked, partial)
    releases.remove_handed_over(ask["prefix"])
    gone = releases.prune(ask["prefix"], ask["keep"], ask["release"])
    module.exit_json(changed=True, path=path, removed=gone)


if __name__ == "__main__":
    main()
