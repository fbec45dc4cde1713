# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""Judges what the hosts returned, writes the reports and prints the summary; runs on the controller alone."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.color import stringc
from ansible.utils.display import Display
from ansible_collections.policyfleet.opal.plugins.plugin_utils import verify_findings as findings
from ansible_collections.policyfleet.opal.plugins.plugin_utils import verify_html as html
from ansible_collections.policyfleet.opal.plugins.plugin_utils import verify_text as text
from ansible_collections.policyfleet.opal.plugins.plugin_utils.verify_decisions import Decisions
from ansible_collections.policyfleet.opal.plugins.plugin_utils.verify_policy import Found
from ansible_collections.policyfleet.opal.plugins.plugin_utils.verify_types import HostResult, Report

display = Display()

STEPS = {"listening": "__verify_listening", "published": "__verify_published", "collected": "__verify_collected"}
"""Where the role keeps what each step returned."""


def redacted(uri: str) -> str:
    """Return a URI without user, password and options."""
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def step(variables: Any, name: str) -> dict[str, Any]:
    """Return what a step returned on a host, empty where it was not taken."""
    found = variables.get(STEPS[name]) or {}
    return {} if found.get("skipped") else dict(found)


def kept(hostvars: Any, hosts: Iterable[str], name: str) -> dict[str, dict[str, Any]]:
    """Return what the hosts that took a step of the decisions' part returned."""
    found = {host: hostvars[host].get(name) for host in hosts}
    return {host: dict(result) for host, result in found.items() if result and not result.get("skipped")}


class ActionModule(ActionBase):  # type: ignore[misc]
    """The action policyfleet.opal.verify_report."""

    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return where the reports are; failed where the fleet does not deliver."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        if self._task.check_mode:
            return {
                **result,
                "skipped": True,
                "msg": "nothing was published in check mode, so there is nothing to judge",
            }
        _validation, ask = self.validate_argument_spec(
            {
                "run": {"type": "str", "required": True},
                "started_at": {"type": "float", "required": True},
                "hosts": {"type": "list", "elements": "str", "required": True},
                "fleet": {"type": "list", "elements": "str", "required": True},
                "broadcast_uri": {"type": "str", "required": True, "no_log": True},
                "channel": {"type": "str", "required": True},
                "backbone": {"type": "str", "default": "fanout"},
                "raw_event": {"type": "bool", "required": True},
                "directory": {"type": "path", "required": True},
            }
        )
        variables = task_vars or {}
        groups = variables["groups"]
        decisions: Decisions = {
            "published": kept(variables["hostvars"], groups.get("opal_server", []), "__verify_decisions_published"),
            "watched": kept(variables["hostvars"], groups.get("opal_client", []), "__verify_decisions_watched"),
            "gone": kept(variables["hostvars"], groups.get("opal_client", []), "__verify_decisions_gone"),
        }
        policy: Found = {
            "served": kept(variables["hostvars"], groups.get("opal_server", []), "__verify_policy_served"),
            "held": kept(variables["hostvars"], groups.get("opal_client", []), "__verify_policy_held"),
        }
        results = [self.result_of(host, variables["hostvars"][host], ask["run"]) for host in ask["hosts"]]
        uri = str(ask["broadcast_uri"])
        report = findings.report_of(
            results,
            run=ask["run"],
            started_at=ask["started_at"],
            ended_at=time.time(),
            backbone=redacted(uri),
            channel=ask["channel"],
            raw_applicable=bool(ask["raw_event"]) and uri.startswith("pulsar"),
            upstream_pulsar=ask["backbone"] == "upstream" and uri.startswith("pulsar"),
            not_tested=sorted(set(ask["fleet"]) - set(ask["hosts"])),
            decisions=decisions,
            policy=policy,
        )
        files = self.write(report, ask["directory"])
        for line in ["", *text.screen(report, shutil.get_terminal_size().columns, stringc), *map(named_file, files)]:
            display.display(line)
        outcome = {**result, "changed": False, "passed": report["passed"], "files": files}
        if not report["passed"]:
            # The summary has just been printed in full, so the failure itself stays short.
            more = len(report["failures"]) - 1
            others = f" (and {more} more, all named above)" if more else ""
            outcome |= {"failed": True, "msg": f"the fleet does not deliver: {report['failures'][0]}{others}"}
        return outcome

    def result_of(self, host: str, variables: Any, run: str) -> HostResult:
        """Return what the role kept of a host."""
        listening = step(variables, "listening")
        return {
            "host": host,
            "topic": f"verify-{run}-from-{host}",
            "expected_workers": int(listening.get("expected_workers", 1)),
            "listening": listening,
            "published": step(variables, "published"),
            "collected": step(variables, "collected"),
        }

    def write(self, report: Report, directory: str) -> list[str]:
        """Write the reports, and return where they are."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(report["started_at"]))
        contents = {
            "json": json.dumps(report, indent=2) + "\n",
            "md": text.markdown(report),
            "html": html.page(report),
        }
        files = []
        try:
            os.makedirs(directory, exist_ok=True)
            for ending, content in contents.items():
                path = os.path.join(directory, f"verify-{stamp}-{report['run']}.{ending}")
                with open(path, "w", encoding="utf-8") as handle:
                    handle.write(content)
                files.append(path)
        except OSError as problem:
            raise AnsibleError(f"the reports cannot be written below verify_report_dir: {problem}") from problem
        return files


def named_file(path: str) -> str:
    """Return a line that names a report."""
    return f"report: {path}"
