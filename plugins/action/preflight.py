# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""Collects what stands in the way of a rollout on each host, and tells all of it at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible_collections.policyfleet.opal.plugins.plugin_utils import client_checks
from ansible_collections.policyfleet.opal.plugins.plugin_utils import preflight_checks as checks

Variables = Mapping[str, Any]


@dataclass(frozen=True)
class Reading:
    """What is read of a host for one role, and what judges it."""

    units: tuple[str, ...]
    """The systemd units, without ``.service``."""
    packages: tuple[str, ...]
    """Debian packages that the role may install."""
    files: tuple[str, ...]
    """The variables that name a file on the host."""
    problems: Callable[[Variables, Variables, Variables], list[str]]
    """Takes the role's typed variables, the host's state and the inventory's groups."""


ROLES = {
    "pulsar": Reading(
        units=("pulsar",),
        packages=("openjdk-17-jre-headless", "openjdk-21-jre-headless"),
        files=(),
        problems=lambda values, host, groups: checks.pulsar_problems(values, host),
    ),
    "opal_server": Reading(
        units=("opal-server",),
        packages=("ca-certificates", "git", "openssh-client"),
        files=(),
        problems=lambda values, host, groups: checks.opal_server_problems(
            values, host, len(groups.get("opal_server", []))
        ),
    ),
    "opal_client": Reading(
        units=("opal-client", "opal-client-proxy", "opa"),
        packages=("ca-certificates", "haproxy"),
        files=("opal_client_server_ca_file",),
        problems=lambda values, host, groups: client_checks.opal_client_problems(values, host),
    ),
}
"""The roles that have a preflight."""


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
        """Set ``__<role>_host`` and ``__<role>_problems``, or end the play with the problems of all hosts."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        _validation, arguments = self.validate_argument_spec(
            {"role": {"type": "str", "required": True, "choices": ["fleet", *ROLES]}}
        )
        role = str(arguments["role"])
        if role == "fleet":
            return {**result, "changed": False, **self.verdict(variables)}
        host, problems = self.look(role, variables)
        facts = {f"__{role}_host": host, f"__{role}_problems": problems}
        return {**result, "changed": False, "ansible_facts": facts}

    def verdict(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Return a failure that names all problems of all hosts, or nothing where there is none."""
        found = {}
        for name in variables["ansible_play_hosts_all"]:
            facts = variables["hostvars"][name]
            told = [problem for role in ROLES for problem in facts.get(f"__{role}_problems", [])]
            found[name] = list(dict.fromkeys(told))  # a host of several roles is unreachable once
        lines = checks.verdict(found, checks.fleet_problems(variables["groups"]))
        if not lines:
            return {}
        count = "1 problem stands" if len(lines) == 1 else f"{len(lines)} problems stand"
        return {
            "failed": True,
            "msg": "\n- ".join([f"{count} in the way. Nothing was changed on any host.", *lines]),
        }

    def look(self, role: str, variables: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Return a host's state, empty where it could not be read, and the problems of a role on it."""
        values, problems = self.typed_variables(role, variables)
        host, trouble = self.read_host(role, values or {}, variables)
        problems += trouble
        if host and values is not None:
            problems += ROLES[role].problems(values, host, variables["groups"])
        return host, problems

    def typed_variables(self, role: str, variables: dict[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
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
        self, role: str, values: dict[str, Any], variables: dict[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """Return the host's state, or nothing and why it could not be read."""
        arguments = {
            "units": ROLES[role].units,
            "ports": [values[name] for name in values if name.endswith("_port")],
            "packages": ROLES[role].packages,
            "users": [values[name] for name in values if name.endswith("_user")],
            "prefixes": [values[name] for name in values if name.endswith("_prefix")],
            "files": [values[name] for name in ROLES[role].files if name in values],
            "java_home": values.get("pulsar_java_home") or None,
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
            return {}, [f"cannot be read as root: {words}"]
        return state, []
