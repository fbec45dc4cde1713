# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""Collects what stands in the way of a rollout on one host, and never fails itself."""

from __future__ import annotations

import os
from typing import Any

import yaml
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible_collections.policyfleet.opal.plugins.plugin_utils import preflight_checks as checks

UNITS = {"pulsar": "pulsar", "opal_server": "opal-server"}
"""The systemd unit of each role."""


def main_options(role: str) -> dict[str, Any]:
    """Return the options of a role's main entry point from its argument specs."""
    root = os.path.join(os.path.dirname(__file__), "..", "..", "roles", role)
    with open(os.path.join(root, "meta", "argument_specs.yml"), encoding="utf-8") as handle:
        options: dict[str, Any] = yaml.safe_load(handle)["argument_specs"]["main"]["options"]
    return options


class ActionModule(ActionBase):  # type: ignore[misc]
    """The controller's side of policyfleet.opal.preflight."""

    _requires_connection = True
    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return ``problems`` and, where the host could be read, ``host``."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        _validation, arguments = self.validate_argument_spec(
            {"role": {"type": "str", "required": True, "choices": ["fleet", *UNITS]}}
        )
        if arguments["role"] == "fleet":
            problems = checks.fleet_problems(variables["groups"])
            return {**result, "changed": False, "problems": problems, "host": {}}
        role = str(arguments["role"])
        values, problems = self.typed_variables(role, variables)
        host, trouble = self.read_host(role, values, variables)
        problems += trouble
        if host and values is not None:
            problems += self.role_problems(role, values, host, variables)
        return {**result, "changed": False, "problems": problems, "host": host}

    def typed_variables(
        self, role: str, variables: dict[str, Any]
    ) -> tuple[dict[str, Any] | None, list[str]]:
        """Return a role's public variables with their types, or None and what is wrong with them."""
        options = main_options(role)
        given, problems = {}, []
        for name in options:
            if name not in variables:
                continue
            try:
                given[name] = self._templar.template(variables[name])
            except AnsibleError as problem:
                problems.append(f"{name} cannot be worked out: {problem}")
        checked = ArgumentSpecValidator(options).validate(given)
        problems += [str(message) for message in checked.error_messages]
        return (None if problems else checked.validated_parameters), problems

    def read_host(
        self, role: str, values: dict[str, Any] | None, variables: dict[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """Return the host's state, or nothing and why it could not be read."""
        known = values or {}
        ports = [known[name] for name in known if name.endswith("_port")]
        arguments = {
            "units": [UNITS[role]],
            "ports": ports,
            "prefixes": [known[f"{role}_prefix"]] if known else [],
            "java_home": known.get("pulsar_java_home") or None,
        }
        try:
            state = self._execute_module("policyfleet.opal.host_state", module_args=arguments, task_vars=variables)
        except AnsibleConnectionFailure as problem:
            state = {"unreachable": True, "msg": str(problem)}
        except AnsibleError as problem:
            state = {"failed": True, "msg": str(problem)}
        words = str(state.get("msg") or state.get("module_stderr") or "").strip()
        if state.get("unreachable"):
            return {}, [f"cannot be reached: {words}"]
        if state.get("failed"):
            return {}, [f"cannot be read (does the user {self._play_context.remote_user} have sudo?): {words}"]
        return state, []

    def role_problems(
        self, role: str, values: dict[str, Any], host: dict[str, Any], variables: dict[str, Any]
    ) -> list[str]:
        """Return what the role's own checks find."""
        if role == "pulsar":
            return checks.pulsar_problems(values, host)
        servers = len(variables["groups"].get("opal_server", []))
        return checks.opal_server_problems(values, host, servers)
