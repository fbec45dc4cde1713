# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""Runs policyfleet.opal.fleet_probe on a host, and keeps the host in the play whatever comes back."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase

MODULE = "policyfleet.opal.fleet_probe"
"""The module that does the work."""


def last_line(text: str) -> str:
    """Return the last line of a text that has words in it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason was given"


class ActionModule(ActionBase):  # type: ignore[misc]
    """The controller's side of policyfleet.opal.fleet_probe."""

    _requires_connection = True
    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what the module found, or ``problem`` where it could not be run."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        result["expected_workers"] = int(self._task.args.get("workers", 1))
        try:
            found = self._execute_module(module_name=MODULE, module_args=self._task.args, task_vars=task_vars)
        except AnsibleConnectionFailure as problem:
            found = {"unreachable": True, "msg": str(problem)}
        except AnsibleError as problem:
            found = {"failed": True, "msg": str(problem)}
        if found.get("skipped"):
            return {**result, **found}
        words = str(found.get("module_stderr") or found.get("msg") or "")
        if found.get("unreachable"):
            return {**result, "changed": False, "up": False, "problem": f"cannot be reached: {last_line(words)}"}
        if found.get("failed"):
            return {**result, "changed": False, "up": False, "problem": f"cannot be tested: {last_line(words)}"}
        return {**result, **found}
