#!/usr/bin/python
# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""A release made from an archive whose checksum is known."""

from __future__ import annotations

DOCUMENTATION = r"""
module: archive_release
short_description: Unpack a checked archive as a release
version_added: 0.1.0
description:
  - Checks the SHA-512 of an archive that is already on the host, unpacks it under a temporary name
    and renames it to C(<prefix>/releases/<release>) when it is whole, so that an interrupted unpacking
    is never taken for a finished one (which C(unarchive) with C(creates) does).
  - Nothing is unpacked from an archive whose checksum differs. The C(current) link is not touched.
options:
  prefix:
    description: The directory that holds C(releases/).
    type: path
    required: true
  release:
    description: The name of the release.
    type: str
    required: true
  archive:
    description: A tar archive on the host with a single top directory. It is removed when the release is whole.
    type: path
    required: true
  program:
    description: The archive is no tar file but a single program, and the release holds it under this name.
    type: str
  sha512:
    description: The SHA-512 that the archive must have, in hexadecimal.
    type: str
    required: true
  keep:
    description: How many releases stay beside the running and this one.
    type: int
    default: 1
attributes:
  check_mode:
    support: full
    description: Nothing is unpacked.
  diff_mode:
    support: none
    description: A release has no text to compare.
author: policyfleet maintainers
"""

EXAMPLES = r"""
- name: Unpack the Pulsar release
  policyfleet.opal.archive_release:
    prefix: /opt/pulsar
    release: "4.0.8"
    archive: /opt/pulsar/apache-pulsar-4.0.8.tar.gz
    sha512: 65b769b10696cdfebf7fc5bcdc95dd663702e27051e616c1a13cb100e9127952...
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

import hashlib
import os
from typing import List, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.policyfleet.opal.plugins.module_utils import releases

CHUNK = 4 * 1024 * 1024
"""How much of an archive is read at once, in bytes."""


def sha512_of(path: str) -> str:
    """Return the SHA-512 of a file in hexadecimal."""
    digest = hashlib.sha512()
    with open(path, "rb") as handle:
        for chunk in iter(lambda: handle.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def check_archive(module: AnsibleModule, path: str, wanted: str) -> None:
    """End the module where the archive is missing or is not the one that was meant."""
    if not os.path.exists(path):
        module.fail_json(msg="%s is not on the host: the transfer before this step did not happen" % path)
    found = sha512_of(path)
    if found != wanted:
        os.unlink(path)
        module.fail_json(
            msg="%s was not unpacked: its SHA-512 is %s, expected %s. The file was removed; "
            "run again to transfer it anew." % (path, found, wanted)
        )


def filling_command(archive: str, folder: str, program: Optional[str]) -> List[str]:
    """Return the command that fills a release's folder."""
    if program:
        return ["install", "--mode", "0755", archive, os.path.join(folder, program)]
    return ["tar", "-xzf", archive, "-C", folder, "--strip-components=1", "--no-same-owner"]


def main() -> None:
    """Unpack the archive unless its release is complete."""
    module = AnsibleModule(
        argument_spec={
            "prefix": {"type": "path", "required": True},
            "release": {"type": "str", "required": True},
            "archive": {"type": "path", "required": True},
            "program": {"type": "str"},
            "sha512": {"type": "str", "required": True},
            "keep": {"type": "int", "default": 1},
        },
        supports_check_mode=True,
    )
    ask = module.params
    path = releases.release_path(ask["prefix"], ask["release"])
    if releases.is_complete(ask["prefix"], ask["release"]):
        module.exit_json(changed=False, path=path)
    if module.check_mode:
        module.exit_json(changed=True, path=path, removed=[])
    check_archive(module, ask["archive"], ask["sha512"])
    with releases.filling(ask["prefix"], ask["release"]) as partial:
        module.run_command(filling_command(ask["archive"], partial, ask["program"]), check_rc=True)
    releases.remove_handed_over(ask["prefix"])
    gone = releases.prune(ask["prefix"], ask["keep"], ask["release"])
    module.exit_json(changed=True, path=path, removed=gone)


if __name__ == "__main__":
    main()
