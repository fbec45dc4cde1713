# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""What must be right before OPAL-client and OPA are rolled out, as pure functions.

They work like those of ``preflight_checks``: each returns a list of sentences, one a problem.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import time
from collections.abc import Mapping
from typing import Any

from ansible_collections.policyfleet.opal.plugins.plugin_utils.preflight_checks import (
    LEAST_PYTHON,
    SETTING_NAME,
    port_problems,
    python_tuple,
    system_problems,
)

PUBLIC_TOKEN = "THIS_IS_A_DEV_SECRET"
"""The token that OPAL-client has by default; it is printed in OPAL's source, so it keeps nobody out."""

SYSTEM_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
"""What Debian's ca-certificates makes."""

PORTS = {
    "opal_client_port": "opal-client",
    "opal_client_proxy_port": "opal-client-proxy",
    "opal_client_status_port": "opal-client-proxy",
    "opal_client_opa_port": "opa",
}
"""The variables that hold a port, and the unit that listens on it."""

RESERVED_SETTINGS = {
    "OPAL_SERVER_URL": "opal_client_server_url",
    "OPAL_CLIENT_TOKEN": "opal_client_token",
    "OPAL_DATA_TOPICS": "opal_client_data_topics",
    "OPAL_POLICY_SUBSCRIPTION_DIRS": "opal_client_policy_dirs",
    "OPAL_POLICY_UPDATER_ENABLED": "opal_client_policy_updates",
    "OPAL_POLICY_STORE_URL": "opal_client_opa_address and opal_client_opa_port",
    "OPAL_INLINE_OPA_ENABLED": "nothing: OPA is a unit of its own",
    "OPAL_INLINE_OPA_EXEC_PATH": "nothing: OPA is a unit of its own",
    "OPAL_INLINE_OPA_CONFIG": "opal_client_opa_settings and opal_client_opa_options",
    "OPAL_OPA_V0_COMPAT": "opal_client_opa_v0_compatible",
    "OPAL_OFFLINE_MODE_ENABLED": "opal_client_offline_mode",
    "OPAL_STORE_BACKUP_PATH": "opal_client_backup_path",
    "OPAL_STORE_BACKUP_INTERVAL": "opal_client_backup_interval",
    "OPAL_LOG_LEVEL": "opal_client_log_level",
    "POLICYFLEET_APPLIED": "nothing: the role computes it",
}
"""Settings that have a variable of their own, and its name."""


def token_claims(token: str) -> dict[str, Any] | None:
    """Return what a JSON web token says of itself, unchecked, or None where it is no such token."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    return claims if isinstance(claims, dict) else None


def token_problems(token: str, needed: bool, now: float) -> list[str]:
    """Return what is wrong with a client's token at a time given in seconds since 1970."""
    how = (
        "ask OPAL-server's /token for one of the type 'client' (opal-client obtain-token --type client) "
        "and set opal_client_token"
    )
    if token == PUBLIC_TOKEN:
        return [f"opal_client_token is OPAL's public default, which everybody knows: {how}"]
    if not needed:
        return []
    if not token:
        return [f"the OPAL-servers ask for a token, and this host has none: {how}"]
    claims = token_claims(token)
    if claims is None:
        return [f"opal_client_token is no JSON web token: {how}"]
    if claims.get("peer_type") != "client":
        return [
            f"opal_client_token is of the type '{claims.get('peer_type')}', which cannot connect as a client: {how}"
        ]
    if isinstance(claims.get("exp"), (int, float)) and claims["exp"] <= now:
        return [f"opal_client_token has expired: {how}"]
    return []


def opa_problems(variables: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with how OPA is to be had."""
    checksum = variables["opal_client_opa_sha512"].get(state["arch"], "")
    if not checksum:
        version, what = variables["opal_client_opa_version"], "the SHA-512 of the program that you trust"
        return [
            f"OPA {version} for {state['arch']} has no checksum: "
            + f"set opal_client_opa_sha512 to {{{state['arch']}: <{what}>}}"
        ]
    if len(checksum) != 128 or not all(digit in "0123456789abcdef" for digit in checksum):
        return [f"opal_client_opa_sha512 for {state['arch']} is no SHA-512 (128 hexadecimal digits in lower case)"]
    return []


def settings_problems(variables: Mapping[str, Any]) -> list[str]:
    """Return the settings that are misspelt or belong to another variable."""
    problems = []
    for place in ("opal_client_settings", "opal_client_secrets"):
        for name in sorted(variables[place]):
            if not SETTING_NAME.fullmatch(str(name)):
                problems.append(f"{place} has '{name}', which is no name of an environment variable")
            elif name in RESERVED_SETTINGS:
                problems.append(f"{place} sets {name}, which belongs in {RESERVED_SETTINGS[name]}")
    return problems


def server_problems(variables: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with where the servers are."""
    if variables["opal_client_server_url"]:
        return []
    if not variables["opal_client_servers"]:
        todo = "put hosts in the inventory's group 'opal_server', or set opal_client_server_url"
        return [f"there is no OPAL-server to connect to: {todo}"]
    return tls_problems(variables, state) if variables["opal_client_server_tls"] else []


def tls_problems(variables: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    """Return what keeps the proxy from checking the servers' certificates."""
    authorities = variables["opal_client_server_ca_file"]
    # A package that the role installs brings the system's own.
    missing = authorities in state["missing_files"] and authorities != SYSTEM_AUTHORITIES
    problems = [f"opal_client_server_ca_file: there is no {authorities} on this host"] if missing else []
    addresses = [server for server in variables["opal_client_servers"] if is_address(server)]
    if addresses:
        problems.append(
            f"opal_client_server_tls is set, and opal_client_servers has {', '.join(addresses)}: "
            + "the proxy compares certificates with names, so give each server by the name that its certificate has"
        )
    return problems


def is_address(server: str) -> bool:
    """Tell whether a server, given as host:port, is named by its IP address."""
    try:
        ipaddress.ip_address(server.rpartition(":")[0].strip("[]"))
    except ValueError:
        return False
    return True


def opal_client_problems(variables: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    """Return what stands in the way of OPAL-client and OPA on one host."""
    problems = system_problems(state)
    if python_tuple(state["python"]) < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        problems.append(f"/usr/bin/python3 is {state['python'] or 'missing'}: OPAL-client needs {least} or newer")
    problems += server_problems(variables, state)
    problems += token_problems(variables["opal_client_token"], variables["opal_client_token_needed"], time.time())
    problems += opa_problems(variables, state)
    problems += settings_problems(variables)
    if len({variables[name] for name in PORTS}) < len(PORTS):
        problems.append(f"{', '.join(PORTS)} must differ")
    for name, unit in PORTS.items():
        problems += port_problems(state, unit, {name: variables[name]})
    return problems
