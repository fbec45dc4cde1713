#!/usr/bin/python
# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""Everything a rollout decides by, read from one host in one execution."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_state
short_description: Read what a rollout needs to know of a host in one execution
version_added: 0.1.0
description:
  - Reads the operating system, interpreters, missing packages, systemd units, listening ports and
    installed releases of a host, and changes nothing.
  - It stands in for C(setup), C(package_facts), C(service_facts) and several C(stat) and C(command)
    tasks, because each remote execution costs a rollout more than all of these readings together.
options:
  units:
    description: Names of systemd services, without C(.service).
    type: list
    elements: str
    default: []
  ports:
    description: TCP ports whose listeners are reported.
    type: list
    elements: int
    default: []
  packages:
    description: Debian packages; those not installed come back in RV(missing_packages).
    type: list
    elements: str
    default: []
  users:
    description: Names of users; those that do not exist come back in RV(missing_users).
    type: list
    elements: str
    default: []
  prefixes:
    description: Directories that hold C(releases/) and a C(current) link.
    type: list
    elements: path
    default: []
  java_home:
    description: A Java installation whose version is reported.
    type: path
  files:
    description: Paths of files; those that are not there come back in RV(missing_files).
    type: list
    elements: path
    default: []
attributes:
  check_mode:
    support: full
    description: The module only reads.
  diff_mode:
    support: none
    description: The module changes nothing.
author: policyfleet maintainers
"""

EXAMPLES = r"""
- name: Read what the preflight decides by
  policyfleet.opal.host_state:
    units: [opal-server]
    ports: [7002]
    packages: [git]
    prefixes: [/opt/opal-server]
  register: __opal_server_host
"""

RETURN = r"""
os:
  description: The distribution, from /etc/os-release (V(id), V(version), V(name)).
  returned: always
  type: dict
arch:
  description: The machine's hardware name, for example V(x86_64).
  returned: always
  type: str
memory_mb:
  description: Physical memory in MiB.
  returned: always
  type: int
python:
  description: Version of /usr/bin/python3, empty where there is none.
  returned: always
  type: str
java:
  description: Major version found in O(java_home), 0 where there is none.
  returned: always
  type: int
missing_packages:
  description: Those of O(packages) that are not installed.
  returned: always
  type: list
  elements: str
missing_users:
  description: Those of O(users) that do not exist.
  returned: always
  type: list
  elements: str
missing_files:
  description: Those of O(files) that do not exist.
  returned: always
  type: list
  elements: str
units:
  description:
    - For each of O(units) its systemd state (V(active), V(enabled), V(main_pid), V(needs_reload))
      and V(applied), the digest that its running main process was started with.
  returned: always
  type: dict
listeners:
  description: For each listener on one of O(ports) its V(port), V(address), V(pid), V(command) and V(unit).
  returned: always
  type: list
  elements: dict
releases:
  description: For each of O(prefixes) the complete releases (V(complete)) and the V(current) one.
  returned: always
  type: dict
"""

import os
import platform
import pwd
import re
import socket
import struct
from typing import Any, Dict, List, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.policyfleet.opal.plugins.module_utils import processes

TCP_LISTEN = "0A"
"""State of a listening socket in /proc/net/tcp (Linux, include/net/tcp_states.h)."""


def read_text(path: str) -> str:
    """Return a file's text, or an empty string where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except OSError:
        return ""


def os_release() -> Dict[str, str]:
    """Return id, version and name of the distribution."""
    pairs = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', read_text("/etc/os-release"), re.MULTILINE))
    return {
        "id": pairs.get("ID", ""),
        "version": pairs.get("VERSION_ID", ""),
        "name": pairs.get("PRETTY_NAME", "an unknown system"),
    }


def memory_mb() -> int:
    """Return the physical memory in MiB."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", read_text("/proc/meminfo"), re.MULTILINE)
    return int(found.group(1)) // 1024 if found else 0


def python_version(module: AnsibleModule) -> str:
    """Return the version of the distribution's Python as "3.11"."""
    if not os.path.exists("/usr/bin/python3"):
        return ""
    code, out, _err = module.run_command(
        ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    )
    return str(out).strip() if code == 0 else ""


def java_major(module: AnsibleModule, home: Optional[str]) -> int:
    """Return the major version of the Java below a directory, 0 where there is none."""
    if not home:
        return 0
    binary = os.path.join(home, "bin", "java")
    if not os.access(binary, os.X_OK):
        return 0
    _code, out, err = module.run_command([binary, "-version"])
    found = re.search(r'version "(?:1\.)?(\d+)', out + err)
    return int(found.group(1)) if found else 0


def missing_packages(module: AnsibleModule, names: List[str]) -> List[str]:
    """Return those of the packages that dpkg does not have installed."""
    if not names or not os.path.exists("/usr/bin/dpkg-query"):
        return []
    _code, out, _err = module.run_command(
        ["/usr/bin/dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"] + names
    )
    installed = {line.split()[0] for line in out.splitlines() if line.endswith(" installed")}
    return [name for name in names if name not in installed]


def missing_users(names: List[str]) -> List[str]:
    """Return those of the users that this host does not have."""
    missing = []
    for name in names:
        try:
            pwd.getpwnam(name)
        except KeyError:
            missing.append(name)
    return missing


def unit_state(module: AnsibleModule, name: str) -> Dict[str, Any]:
    """Return the state of a service as systemd has it now."""
    properties = "LoadState,ActiveState,SubState,UnitFileState,MainPID,NeedDaemonReload"
    code, out, err = module.run_command(["systemctl", "show", "--property", properties, "%s.service" % name])
    if code != 0:
        module.fail_json(msg="systemd does not answer on this host: %s" % err.strip())
    values = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
    pid = int(values.get("MainPID") or 0)
    return {
        "exists": values.get("LoadState") == "loaded",
        "active": values.get("ActiveState", ""),
        "sub": values.get("SubState", ""),
        "enabled": values.get("UnitFileState") == "enabled",
        "main_pid": pid,
        "needs_reload": values.get("NeedDaemonReload") == "yes",
        "applied": processes.applied(pid) if pid else "",
    }


def hex_address(encoded: str) -> str:
    """Return the textual form of an address as /proc/net/tcp and tcp6 write it."""
    raw = bytes.fromhex(encoded)
    words = struct.unpack("=%dI" % (len(raw) // 4), raw)
    packed = struct.pack("!%dI" % len(words), *words)
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, packed)


def listening_sockets(ports: List[int]) -> Dict[str, Tuple[int, str]]:
    """Return inode -> (port, address) of the listening TCP sockets on these ports."""
    found = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in read_text(table).splitlines()[1:]:
            fields = line.split()
            address, port = fields[1].split(":")
            if fields[3] == TCP_LISTEN and int(port, 16) in ports:
                found[fields[9]] = (int(port, 16), hex_address(address))
    return found


def descriptor_targets(pid: int) -> List[str]:
    """Return what a process's file descriptors point at; those that close meanwhile are left out."""
    folder = "/proc/%d/fd" % pid
    targets = []
    try:
        descriptors = os.listdir(folder)
    except OSError:
        return []
    for descriptor in descriptors:
        try:
            targets.append(os.readlink(os.path.join(folder, descriptor)))
        except OSError:
            continue
    return targets


def socket_owners(inodes: List[str]) -> Dict[str, int]:
    """Return inode -> the lowest pid that holds the socket."""
    wanted = {"socket:[%s]" % inode: inode for inode in inodes}
    owners: Dict[str, int] = {}
    for pid in sorted(int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        for target in descriptor_targets(pid):
            if target in wanted:
                owners.setdefault(wanted[target], pid)
    return owners


def unit_of(pid: int) -> str:
    """Return the systemd service that a process belongs to, empty where it is none."""
    found = re.search(r"/([^/\n]+)\.service", read_text("/proc/%d/cgroup" % pid))
    return found.group(1) if found else ""


def listeners(ports: List[int]) -> List[Dict[str, Any]]:
    """Return who listens on these ports."""
    if not ports:
        return []
    sockets = listening_sockets(ports)
    owners = socket_owners(list(sockets))
    rows = []
    for inode, (port, address) in sorted(sockets.items(), key=lambda item: item[1]):
        pid = owners.get(inode, 0)
        rows.append(
            {
                "port": port,
                "address": address,
                "pid": pid,
                "command": read_text("/proc/%d/comm" % pid).strip() if pid else "",
                "unit": unit_of(pid) if pid else "",
            }
        )
    return rows


def release_state(prefix: str) -> Dict[str, Any]:
    """Return the complete releases below a prefix and the one that its link names."""
    root = os.path.join(prefix, "releases")
    names = sorted(os.listdir(root)) if os.path.isdir(root) else []
    link = os.path.join(prefix, "current")
    current = os.path.basename(os.readlink(link)) if os.path.islink(link) else ""
    return {"complete": [n for n in names if not n.startswith(".")], "current": current}


def main() -> None:
    """Read the host and return what was asked for."""
    module = AnsibleModule(
        argument_spec={
            "units": {"type": "list", "elements": "str", "default": []},
            "ports": {"type": "list", "elements": "int", "default": []},
            "packages": {"type": "list", "elements": "str", "default": []},
            "users": {"type": "list", "elements": "str", "default": []},
            "prefixes": {"type": "list", "elements": "path", "default": []},
            "java_home": {"type": "path"},
            "files": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    ask = module.params
    module.exit_json(
        changed=False,
        os=os_release(),
        arch=platform.machine(),
        memory_mb=memory_mb(),
        python=python_version(module),
        java=java_major(module, ask["java_home"]),
        missing_packages=missing_packages(module, ask["packages"]),
        missing_users=missing_users(ask["users"]),
        missing_files=[path for path in ask["files"] if not os.path.isfile(path)],
        units={name: unit_state(module, name) for name in ask["units"]},
        listeners=listeners(ask["ports"]),
        releases={prefix: release_state(prefix) for prefix in ask["prefixes"]},
    )


if __name__ == "__main__":
    main()
