# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""Whether every OPA decides by the policy that the servers serve, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

from ansible_collections.policyfleet.opal.plugins.plugin_utils.verify_decisions import listed, problem_of
from ansible_collections.policyfleet.opal.plugins.plugin_utils.verify_types import Policy


class Found(TypedDict):
    """What policyfleet.opal.policy_probe returned, by host: the servers' part and the clients'."""

    served: dict[str, dict[str, Any]]
    held: dict[str, dict[str, Any]]


SHORT = 10
"""How many characters of a commit are shown."""


def policy_of(found: Found) -> Policy:
    """Return the report's part about the policy; empty texts and lists stand for hosts that did not tell."""
    return {
        "served": {host: str(step.get("commit") or "") for host, step in found["served"].items()},
        "differs": {host: list(step.get("differs") or []) for host, step in found["held"].items()},
    }


def some(paths: Sequence[str], most: int = 5) -> str:
    """Return the first of many paths."""
    return ", ".join(paths[:most]) + (f" and {len(paths) - most} more" if len(paths) > most else "")


def policy_failures(found: Found) -> list[str]:
    """Return which servers serve another policy than the others, and which OPAs decide by another one."""
    failures = [
        f"{host} serves no policy: {problem_of(step)}. Look at 'journalctl -u opal-server' there"
        for host, step in found["served"].items()
        if problem_of(step)
    ]
    commits: dict[str, list[str]] = {}
    for host, commit in policy_of(found)["served"].items():
        if commit:
            commits.setdefault(commit, []).append(host)
    if len(commits) > 1:
        shown = "; ".join(f"{commit[:SHORT]} by {listed(hosts)}" for commit, hosts in commits.items())
        failures.append(
            f"the servers do not serve the same policy: {shown}. Look for git's errors in 'journalctl -u opal-server' "
            "of those that are behind, and whether their polling or the repository's webhook reaches them"
        )
    for host, step in found["held"].items():
        if problem_of(step):
            failures.append(f"the policy of {host} could not be seen: {problem_of(step)}")
        elif step.get("differs"):
            failures.append(
                f"the OPA of {host} does not decide by the policy that its servers serve: {some(step['differs'])} "
                f"{'differs' if len(step['differs']) == 1 else 'differ'}. Look at 'journalctl -u opal-client' there; "
                "'systemctl restart opal-client' loads the whole policy anew"
            )
    return failures


def policy_warnings(found: Found) -> list[str]:
    """Return the modules that OPAs hold and that no server serves: they may decide, too."""
    return [
        f"the OPA of {host} also holds {some(step['more'])}, which no server serves"
        for host, step in found["held"].items()
        if step.get("more") and not problem_of(step)
    ]
