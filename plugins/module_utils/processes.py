# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""What /proc tells of a host's processes. Whatever has gone meanwhile, or may not be seen, reads as nothing."""

from __future__ import annotations

from typing import List

APPLIED = "POLICYFLEET_APPLIED"
"""The variable that each service starts with: a digest of everything that it was made of."""


def applied(pid: int) -> str:
    """Return the digest that a service's main process was started with, empty where it has none."""
    try:
        with open("/proc/%d/environ" % pid, "rb") as handle:
            variables = handle.read().split(b"\0")
    except OSError:
        return ""
    prefix = APPLIED.encode() + b"="
    return next((v[len(prefix) :].decode() for v in variables if v.startswith(prefix)), "")


def children(pid: int) -> List[int]:
    """Return the child processes of a process."""
    try:
        with open("/proc/%d/task/%d/children" % (pid, pid), encoding="ascii") as handle:
            return [int(child) for child in handle.read().split()]
    except OSError:
        return []
