#!/usr/bin/python
# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""The directories, files and links of one service, brought to their state in one execution."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_files
short_description: Bring the directories, files and links of a service to their state in one execution
version_added: 0.1.0
description:
  - Compares directories, files and links with what a service should have, and writes what differs,
    in the order in which they are given. Directories come first, then links, then files.
  - A file is written beside its place, synced and renamed over it, so that an interruption leaves
    the old file or the new one. A link is replaced in the same way.
  - One execution does the work of a dozen C(file), C(template) and C(copy) tasks. In check mode it
    tells which of them would change, which is how a rollout finds the hosts that have to be restarted.
options:
  directories:
    description: Directories that must exist.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: Where the directory is., type: path, required: true}
      owner: {description: Name of its user., type: str, default: root}
      group: {description: Name of its group., type: str, default: root}
      mode: {description: 'Its mode as four octal digits, in quotes.', type: str, default: '0755'}
  links:
    description: Symbolic links.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: Where the link is., type: path, required: true}
      target: {description: What it points at., type: str, required: true}
  files:
    description: Files with their whole content.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: Where the file is., type: path, required: true}
      state:
        description: Whether the file is there. V(absent) removes it.
        type: str
        choices: [present, absent]
        default: present
      content:
        description: What it holds. Its difference is shown by C(--diff). Left out for a file that is secret.
        type: str
      owner: {description: Name of its user., type: str, default: root}
      group: {description: Name of its group., type: str, default: root}
      mode: {description: 'Its mode as four octal digits, in quotes.', type: str, default: '0644'}
  secret_contents:
    description:
      - What secret files hold, by path; each of these is one of O(files) without a content of its own.
      - They are kept out of output, difference and the host's journal, where Ansible logs what modules are given. It
        would not find a secret of several lines within another parameter.
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
    description: Nothing is written, and RV(changed_paths) is what would be.
  diff_mode:
    support: full
    description: Differences of files with a secret content are named, never shown.
author: policyfleet maintainers
"""

EXAMPLES = r"""
- name: Write the configuration of the service
  policyfleet.opal.service_files:
    directories:
      - {path: /etc/opal-server, group: opal-server, mode: '0750'}
    files:
      - path: /etc/opal-server/opal-server.env
        content: "{{ lookup('ansible.builtin.template', 'opal-server.env.j2') }}"
"""

RETURN = r"""
changed_paths:
  description: The paths that were changed, or would be in check mode.
  returned: always
  type: list
  elements: str
"""

import grp
import os
import pwd
import stat
import tempfile
from typing import Any, Dict, List, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule

Diff = Dict[str, str]
Row = Dict[str, Any]


class Unknown(Exception):
    """An owner or group that this host does not have."""


def owner_ids(row: Row, check_mode: bool) -> Tuple[int, int]:
    """Return uid and gid of a row; -1 for those that only a real run will have created.

    Raises Unknown where a name does not exist outside of check mode.
    """
    uid = gid = -1
    try:
        uid = pwd.getpwnam(row["owner"]).pw_uid
    except KeyError:
        if not check_mode:
            raise Unknown("%s: this host has no user %s" % (row["path"], row["owner"])) from None
    try:
        gid = grp.getgrnam(row["group"]).gr_gid
    except KeyError:
        if not check_mode:
            raise Unknown("%s: this host has no group %s" % (row["path"], row["group"])) from None
    return uid, gid


def status(path: str) -> Optional[os.stat_result]:
    """Return a path's own status without following links, None where there is nothing."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def describe(path: str, found: Optional[os.stat_result]) -> str:
    """Return owner, group and mode as a line of a diff."""
    if found is None:
        return "absent\n"
    return "owner %d group %d mode %04o\n" % (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))


def wrong_metadata(found: os.stat_result, uid: int, gid: int, mode: int) -> bool:
    """Tell whether owner, group or mode differ."""
    return (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) != (uid, gid, mode)


def bring_directory(row: Row, check_mode: bool) -> Optional[Diff]:
    """Make one directory, and return the difference if there was any."""
    path, mode = row["path"], int(row["mode"], 8)
    uid, gid = owner_ids(row, check_mode)
    found = status(path)
    if found is not None and not stat.S_ISDIR(found.st_mode):
        raise Unknown("%s exists and is not a directory; move it away" % path)
    if found is not None and not wrong_metadata(found, uid, gid, mode):
        return None
    if not check_mode:
        os.makedirs(path, exist_ok=True)
        os.chown(path, uid, gid)
        os.chmod(path, mode)
    wanted = "owner %d group %d mode %04o\n" % (uid, gid, mode)
    return {"before": describe(path, found), "after": wanted, "before_header": path, "after_header": path}


def bring_link(row: Row, check_mode: bool) -> Optional[Diff]:
    """Point one link, atomically, and return the difference if there was any."""
    path, target = row["path"], row["target"]
    found = status(path)
    if found is not None and not stat.S_ISLNK(found.st_mode):
        raise Unknown("%s exists and is not a link; move it away" % path)
    before = os.readlink(path) if found is not None else ""
    if before == target:
        return None
    if not check_mode:
        temporary = "%s.new" % path
        if os.path.lexists(temporary):
            os.unlink(temporary)  # left by an interrupted run
        os.symlink(target, temporary)
        os.replace(temporary, path)
    return {"before": before + "\n", "after": target + "\n", "before_header": path, "after_header": path}


def read_bytes(path: str) -> bytes:
    """Return what a file holds."""
    with open(path, "rb") as handle:
        return handle.read()


def write_file(path: str, content: bytes, uid: int, gid: int, mode: int) -> None:
    """Write a file beside its place, with its final owner and mode, and rename it over."""
    descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".new", dir=os.path.dirname(path))
    try:
        with os.fdopen(descriptor, "wb") as handle:
            os.fchown(handle.fileno(), uid, gid)
            os.fchmod(handle.fileno(), mode)
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def file_diff(row: Row, before: bytes, after: bytes, found: Optional[os.stat_result], wanted: str) -> Diff:
    """Return what --diff shows of a file: its text, or that a secret one differs."""
    path = row["path"]
    if before == after:
        return {"before": describe(path, found), "after": wanted, "before_header": path, "after_header": path}
    if row["secret_content"] is not None:
        return {"prepared": "%s: its secret content differs and is not shown\n" % path}
    return {
        "before": before.decode("utf-8", "replace"),
        "after": after.decode("utf-8", "replace"),
        "before_header": path,
        "after_header": path,
    }


def remove_file(path: str, found: Optional[os.stat_result], check_mode: bool) -> Optional[Diff]:
    """Remove one file, and return the difference if it was there."""
    if found is None:
        return None
    if not check_mode:
        os.unlink(path)
    return {"before": describe(path, found), "after": "absent\n", "before_header": path, "after_header": path}


def bring_file(row: Row, check_mode: bool) -> Optional[Diff]:
    """Write one file where it differs, or remove it; return the difference if there was any."""
    path, mode = row["path"], int(row["mode"], 8)
    uid, gid = owner_ids(row, check_mode)
    text = row["content"] if row["secret_content"] is None else row["secret_content"]
    after = text.encode("utf-8")
    found = status(path)
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise Unknown("%s exists and is not a regular file; move it away" % path)
    if row["state"] == "absent":
        return remove_file(path, found, check_mode)
    before = read_bytes(path) if found is not None else b""
    if found is not None and before == after and not wrong_metadata(found, uid, gid, mode):
        return None
    if not check_mode:
        write_file(path, after, uid, gid, mode)
    wanted = "owner %d group %d mode %04o\n" % (uid, gid, mode)
    return file_diff(row, before, after, found, wanted)


def assign_secrets(files: List[Row], secrets: Dict[str, str]) -> None:
    """Give each file its secret content, if it has one.

    Raises Unknown where a file has none of both contents, or both.
    """
    for row in files:
        row["secret_content"] = secrets.get(row["path"])
        if (row["content"] is None) == (row["secret_content"] is None):
            raise Unknown("%s: give it either a content or a secret one" % row["path"])


def bring_all(params: Dict[str, List[Row]], check_mode: bool) -> Tuple[List[str], List[Diff]]:
    """Bring every row to its state, and return the changed paths with their differences."""
    changed, diffs = [], []
    for rows, bring in (
        (params["directories"], bring_directory),
        (params["links"], bring_link),
        (params["files"], bring_file),
    ):
        for row in rows:
            diff = bring(row, check_mode)
            if diff is not None:
                changed.append(row["path"])
                diffs.append(diff)
    return changed, diffs


def main() -> None:
    """Compare, write what differs, and tell what that was."""
    access = {"owner": {"type": "str", "default": "root"}, "group": {"type": "str", "default": "root"}}
    path = {"path": {"type": "path", "required": True}}
    module = AnsibleModule(
        argument_spec={
            "directories": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {**path, **access, "mode": {"type": "str", "default": "0755"}},
            },
            "links": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {**path, "target": {"type": "str", "required": True}},
            },
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    **path,
                    **access,
                    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
                    "content": {"type": "str"},
                    "mode": {"type": "str", "default": "0644"},
                },
            },
            "secret_contents": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    try:
        assign_secrets(module.params["files"], module.params["secret_contents"])
        changed, diffs = bring_all(module.params, module.check_mode)
    except (Unknown, OSError) as problem:
        module.fail_json(msg=str(problem))
    module.exit_json(changed=bool(changed), changed_paths=changed, diff=diffs)


if __name__ == "__main__":
    main()
