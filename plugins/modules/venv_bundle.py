#!/usr/bin/python
# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""What a host needs for a Python release, gathered on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: venv_bundle
short_description: Gather on the controller what a host needs for a Python release
version_added: 0.1.0
description:
  - Makes one tar file in a cache on the controller, with the C(uv) program for the hosts' processor (from its
    hash-locked wheel), a hash-locked requirements file and the wheel of a local package.
  - Its name is the digest of what goes in, so that it is made once and never confused with another.
  - Run it on the controller (C(delegate_to=localhost)); it needs C(uv), which C(pip install uv) brings.
options:
  requirements:
    description: The hash-locked requirements file of the release.
    type: path
    required: true
  uv_requirements:
    description: The hash-locked requirements file that pins C(uv) itself.
    type: path
    required: true
  package:
    description: Source directory of a local Python package that is built into the bundle.
    type: path
    required: true
  arch:
    description: The hosts' processor as C(uname -m) names it.
    type: str
    required: true
  cache:
    description: Directory of the controller where bundles are kept.
    type: path
    required: true
  index_url:
    description: A Python package index in place of the default one. It may hold credentials.
    type: str
attributes:
  check_mode:
    support: full
    description: Nothing is made; the digest and path are returned.
  diff_mode:
    support: none
    description: A bundle has no text to compare.
author: policyfleet maintainers
"""

EXAMPLES = r"""
- name: Gather the OPAL-server release on the controller
  policyfleet.opal.venv_bundle:
    requirements: "{{ role_path }}/files/python/requirements.txt"
    uv_requirements: "{{ role_path }}/files/python/uv.txt"
    package: "{{ role_path }}/../../backbone"
    arch: x86_64
    cache: "{{ opal_server_cache_dir }}"
  delegate_to: localhost
"""

RETURN = r"""
digest:
  description: Twelve hexadecimal digits that stand for everything in the bundle but the processor.
  returned: always
  type: str
path:
  description: Where the bundle is.
  returned: always
  type: str
"""

import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
from typing import Dict, List

from ansible.module_utils.basic import AnsibleModule


def source_files(package: str) -> List[str]:
    """Return the files that a package's wheel is made from, sorted."""
    found = [os.path.join(package, name) for name in ("pyproject.toml", "README.md")]
    for folder, folders, names in os.walk(os.path.join(package, "src")):
        # What an editable installation or a test run leaves there is no source.
        folders[:] = [name for name in folders if name != "__pycache__" and not name.endswith(".egg-info")]
        found += [os.path.join(folder, name) for name in names]
    return sorted(path for path in found if os.path.exists(path))


def digest_of(package: str, locks: List[str]) -> str:
    """Return the digest of everything that decides what a bundle holds."""
    digest = hashlib.sha256()
    for path in locks + source_files(package):
        name = os.path.relpath(path, package) if path.startswith(package) else os.path.basename(path)
        with open(path, "rb") as handle:
            digest.update(name.encode() + b"\0" + handle.read() + b"\0")
    return digest.hexdigest()[:12]


def find_uv(module: AnsibleModule) -> str:
    """Return the controller's uv: beside its Python, or on PATH."""
    beside = os.path.join(os.path.dirname(sys.executable), "uv")
    found = beside if os.access(beside, os.X_OK) else shutil.which("uv")
    if not found:
        module.fail_json(
            msg="the controller has no 'uv', with which Python releases are made. "
            "Install it beside Ansible: %s -m pip install uv" % sys.executable
        )
    return str(found)


def gather(module: AnsibleModule, uv: str, folder: str) -> None:
    """Put uv for the hosts, the lock and the package's wheel into a folder."""
    ask = module.params
    settings: Dict[str, str] = {"UV_SYSTEM_CERTS": "true", "UV_NO_CONFIG": "true"}
    if ask["index_url"]:
        settings["UV_DEFAULT_INDEX"] = ask["index_url"]
    tool = os.path.join(folder, "tool")
    source = os.path.join(folder, "source")
    for path in source_files(ask["package"]):
        copy = os.path.join(source, os.path.relpath(path, ask["package"]))
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        shutil.copyfile(path, copy)
    steps = [
        [uv, "pip", "install", "--quiet", "--target", tool, "--python", sys.executable]
        + ["--python-platform", "%s-manylinux_2_28" % ask["arch"], "--only-binary", ":all:"]
        + ["--require-hashes", "--requirements", ask["uv_requirements"]],
        [uv, "build", "--quiet", "--wheel", "--no-build-logs", "--out-dir", folder, source],
    ]
    for step in steps:
        code, out, err = module.run_command(step, environ_update=settings)
        if code != 0:
            module.fail_json(
                msg="'uv %s' failed on the controller: %s" % (" ".join(step[1:3]), (err or out).strip()[-3000:])
            )
    shutil.copyfile(ask["requirements"], os.path.join(folder, "requirements.txt"))
    os.rename(os.path.join(tool, "bin", "uv"), os.path.join(folder, "uv"))
    shutil.rmtree(tool)
    shutil.rmtree(source)


def pack(folder: str, path: str) -> None:
    """Write the bundle beside its place and rename it, so that it is whole or not there."""
    temporary = "%s.partial" % path
    with tarfile.open(temporary, "w") as bundle:
        for name in sorted(os.listdir(folder)):
            if name == "uv" or name.endswith((".whl", ".txt")):
                bundle.add(os.path.join(folder, name), arcname=name)
    os.replace(temporary, path)


def main() -> None:
    """Make the bundle unless the cache has it."""
    module = AnsibleModule(
        argument_spec={
            "requirements": {"type": "path", "required": True},
            "uv_requirements": {"type": "path", "required": True},
            "package": {"type": "path", "required": True},
            "arch": {"type": "str", "required": True},
            "cache": {"type": "path", "required": True},
            "index_url": {"type": "str", "no_log": True},
        },
        supports_check_mode=True,
    )
    ask = module.params
    ask["package"] = os.path.realpath(ask["package"])
    digest = digest_of(ask["package"], [ask["requirements"], ask["uv_requirements"]])
    path = os.path.join(ask["cache"], "opal-%s-%s.tar" % (digest, ask["arch"]))
    if os.path.exists(path) or module.check_mode:
        module.exit_json(changed=False, digest=digest, path=path)
    os.makedirs(ask["cache"], exist_ok=True)
    uv = find_uv(module)
    with tempfile.TemporaryDirectory(dir=ask["cache"], prefix=".bundle-") as folder:
        gather(module, uv, folder)
        pack(folder, path)
    # The cache is the controller's own; no host has changed.
    module.exit_json(changed=False, digest=digest, path=path)


if __name__ == "__main__":
    main()
