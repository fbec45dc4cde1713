# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""What must be right before a rollout changes anything, as functions without side effects.

Each function returns a list of sentences, one a problem: what is wrong, and what to do about it.
Variables come with their types checked and converted; a host's state is what
``policyfleet.opal.host_state`` returns.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import ssl
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.policyfleet.opal.plugins.module_utils.git_access import (
    helper_settings,
    secret_settings,
    split_url,
)

SUPPORTED_DEBIAN = ("12", "13")
"""Versions of Debian that the collection is tested on."""

LEAST_JAVA = 17
"""The oldest Java that Pulsar starts with (its start script checks)."""

LEAST_PYTHON = (3, 11)
"""The oldest Python that the lock file is made for."""

ARCHITECTURES = ("x86_64", "aarch64")
"""Processors for which every locked Python package has a wheel."""

BROADCAST_SCHEMES = ("kafka", "postgres", "postgresql", "pulsar", "pulsar+ssl", "redis", "rediss")
"""Schemes of a broadcast URI that link OPAL-servers: permit-broadcaster's, and our pulsar+ssl."""

GROUPS = ("pulsar_standalone", "opal_server", "opal_client")
"""Inventory groups that mean something to the collection."""

RESERVED_SETTINGS = {
    "OPAL_BROADCAST_URI": "opal_server_broadcast_uri",
    "OPAL_BROADCAST_CHANNEL_NAME": "opal_server_broadcast_channel",
    "OPAL_LOG_LEVEL": "opal_server_log_level",
    "OPAL_POLICY_REPO_URL": "opal_server_policy_repo_url",
    "OPAL_POLICY_REPO_MAIN_BRANCH": "opal_server_policy_repo_branch",
    "OPAL_POLICY_REPO_CLONE_PATH": "nothing: the role has a clone for each repository and branch",
    "OPAL_POLICY_REPO_CLONE_FOLDER_PREFIX": "nothing: the role has a clone for each repository and branch",
    "OPAL_POLICY_REPO_REUSE_CLONE_PATH": "nothing: the role has a clone for each repository and branch",
    "GIT_SSL_CAINFO": "opal_server_policy_repo_ca_cert",
    "OPAL_AUTH_MASTER_TOKEN": "opal_server_secrets",
    "UVICORN_NUM_WORKERS": "opal_server_workers",
    "POLICYFLEET_APPLIED": "nothing: the role computes it",
}
"""Settings that have a variable of their own, and its name."""

CREDENTIAL_SETTINGS = {*helper_settings(""), *secret_settings("", "")}
"""Settings with which git gets the policy repository's credentials."""

SETTING_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
"""What the name of an environment variable looks like."""


def hosts_in(groups: Mapping[str, Sequence[str]], *names: str) -> set[str]:
    """Return the hosts of these groups together."""
    return {host for name in names for host in groups.get(name, ())}


def unknown_groups(groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a problem for each group that looks like one of ours, misspelt."""
    known = hosts_in(groups, *GROUPS)
    problems = []
    for name in sorted(groups):
        if name in GROUPS or set(groups[name]) <= known or not groups[name]:
            continue
        near = difflib.get_close_matches(name, GROUPS, n=1, cutoff=0.75)
        if near:
            problems.append(
                f"the inventory's group '{name}' means nothing to this collection: did you mean '{near[0]}'?"
            )
    return problems


def fleet_problems(groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the problems of the inventory as a whole."""
    problems = unknown_groups(groups)
    if not hosts_in(groups, "opal_server"):
        problems.append(
            "the inventory's group 'opal_server' is empty or missing: put the hosts that should run OPAL-server in it"
        )
    brokers = sorted(hosts_in(groups, "pulsar_standalone"))
    if len(brokers) > 1:
        problems.append(
            f"the group 'pulsar_standalone' has {len(brokers)} hosts ({', '.join(brokers)}): standalone brokers do not "
            "know of each other, so the fleet would be split between them. Keep one"
        )
    return problems


def system_problems(state: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a host's operating system and processor."""
    problems = []
    system = state["os"]
    if system["id"] != "debian" or system["version"] not in SUPPORTED_DEBIAN:
        problems.append(f"{system['name']} is not supported: use Debian {' or '.join(SUPPORTED_DEBIAN)}")
    if state["arch"] not in ARCHITECTURES:
        problems.append(f"the processor {state['arch']} is not supported: use {' or '.join(ARCHITECTURES)}")
    return problems


def is_own(listener: Mapping[str, Any], state: Mapping[str, Any], unit: str) -> bool:
    """Tell whether a listener belongs to the unit.

    Where root may not look at other users' processes, as in some containers, a listener has no pid; it is then taken
    for the unit's own as long as that is running.
    """
    if not listener["pid"]:
        return bool(state["units"].get(unit, {}).get("main_pid"))
    return bool(listener["unit"] == unit)


def port_problems(state: Mapping[str, Any], unit: str, ports: Mapping[str, int]) -> list[str]:
    """Return the ports that something other than the unit listens on."""
    problems = []
    for variable, port in ports.items():
        others = [row for row in state["listeners"] if row["port"] == port and not is_own(row, state, unit)]
        for row in others[:1]:
            owner = f"{row['command'] or 'a process'} (pid {row['pid'] or 'unknown'}" + (
                f", {row['unit']}.service)" if row["unit"] else ")"
            )
            problems.append(f"port {port} is taken by {owner}: stop it, or set {variable} to another port")
    return problems


def pulsar_problems(variables: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    """Return what stands in the way of Pulsar on one host."""
    problems = system_problems(state)
    version = variables["pulsar_version"]
    if not variables["pulsar_sha512"]:
        problems.append(
            f"Pulsar {version} has no checksum in this collection: choose a version that has one, "
            "or set pulsar_sha512 to the SHA-512 of your archive"
        )
    home = variables["pulsar_java_home"]
    if home and not state["java"]:
        problems.append(f"there is no bin/java below pulsar_java_home ({home})")
    elif home and state["java"] < LEAST_JAVA:
        problems.append(f"pulsar_java_home ({home}) is Java {state['java']}: Pulsar needs {LEAST_JAVA} or newer")
    memory = variables["pulsar_heap_mb"] + variables["pulsar_direct_memory_mb"]
    if memory > state["memory_mb"]:
        problems.append(
            f"pulsar_heap_mb and pulsar_direct_memory_mb ask for {memory} MiB, "
            f"and the host has {state['memory_mb']} MiB"
        )
    ports = {name: variables[name] for name in ("pulsar_port", "pulsar_web_port", "pulsar_bookie_port")}
    if len(set(ports.values())) < len(ports):
        problems.append("pulsar_port, pulsar_web_port and pulsar_bookie_port must differ")
    return problems + port_problems(state, "pulsar", ports) + archive_problems(variables)


def archive_problems(variables: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with an archive on the controller that the operator names; it is read as a whole."""
    path = variables["pulsar_archive_file"]
    wanted = variables["pulsar_sha512"]
    if not path or not wanted:
        return []
    try:
        with open(path, "rb") as handle:
            found = hashlib.file_digest(handle, "sha512").hexdigest()
    except OSError as problem:
        return [f"pulsar_archive_file ({path}) cannot be read on the controller: {problem.strerror}"]
    if found == wanted:
        return []
    return [
        f"pulsar_archive_file ({path}) has the SHA-512 {found}, and Pulsar {variables['pulsar_version']} must have "
        f"{wanted}: fetch it again, or correct pulsar_sha512"
    ]


def uri_problems(variables: Mapping[str, Any], servers: int) -> list[str]:
    """Return what is wrong with the broadcast URI of a fleet of so many hosts."""
    uri = variables["opal_server_broadcast_uri"]
    workers = variables["opal_server_workers"]
    if not uri:
        if workers * servers <= 1:
            return []
        return [
            f"{servers} host(s) with {workers} worker(s) have no backbone, so an update would reach one worker only: "
            "put a host in the group 'pulsar_standalone', or set opal_server_broadcast_uri"
        ]
    parts = urlsplit(uri)
    problems = []
    if parts.scheme not in BROADCAST_SCHEMES:
        problems.append(
            f"opal_server_broadcast_uri has the scheme '{parts.scheme}', which OPAL cannot use: "
            f"take one of {', '.join(BROADCAST_SCHEMES)}"
        )
    elif not parts.netloc:
        problems.append("opal_server_broadcast_uri names no host: write it as scheme://host:port")
    if variables["opal_server_backbone"] == "upstream" and (parts.scheme == "pulsar+ssl" or "," in parts.netloc):
        problems.append(
            "opal_server_backbone 'upstream' knows one broker and no TLS: take 'fanout', or one pulsar:// address"
        )
    return problems


def certificate_problems(name: str, pem: str) -> list[str]:
    """Return what is wrong with certificates of authorities that a variable holds."""
    if "PRIVATE KEY" in pem:
        return [f"{name} holds a private key, which does not belong on other hosts: give the certificate only"]
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except (ssl.SSLError, TypeError, ValueError):
        what = "the content of the authority's file, from '-----BEGIN CERTIFICATE-----' on"
        return [f"{name} is no certificate in PEM: give it {what}"]
    return []


def credential_problems(variables: Mapping[str, Any]) -> list[str]:
    """Return what contradicts itself in the credentials for a URL; neither is shown, it may hold a secret."""
    url = variables["opal_server_policy_repo_url"]
    username, password = variables["opal_server_policy_repo_username"], variables["opal_server_policy_repo_password"]
    pair = "opal_server_policy_repo_username and opal_server_policy_repo_password"
    instead = "for SSH set opal_server_policy_repo_ssh_key"
    parts = urlsplit(url)
    over_http = parts.scheme in ("http", "https")
    _plain, url_user, url_password = split_url(url)
    problems = []
    if over_http and "@" in parts.path + parts.query + parts.fragment:
        problems.append(
            f"opal_server_policy_repo_url has an '@' behind its host: move credentials to {pair}, or write it as %40"
        )
    if not over_http and ":" in parts.netloc.rpartition("@")[0]:
        problems.append(f"opal_server_policy_repo_url has a password, and is not for HTTPS: remove it; {instead}")
    if (username or password) and not over_http:
        problems.append(f"{pair} are for HTTPS, and opal_server_policy_repo_url is not: remove them; {instead}")
    elif (username or password) and (url_user or url_password):
        problems.append(f"there are credentials both in opal_server_policy_repo_url and in {pair}: keep the latter")
    elif bool(username) != bool(password):
        problems.append(f"only one of {pair} is set: set both, for a token with the name that the git service wants")
    if any(sign in value for value in (username, password, url_user, url_password) for sign in "\r\n\0"):
        problems.append(f"the credentials in {pair} or in the URL have a line break, which git cannot take: remove it")
    return problems


def repository_problems(variables: Mapping[str, Any]) -> list[str]:
    """Return what contradicts itself in how the policy repository is reached."""
    url = variables["opal_server_policy_repo_url"]
    ca_cert = variables["opal_server_policy_repo_ca_cert"]
    names = [f"opal_server_policy_repo_{name}" for name in ("username", "password", "ca_cert")]
    given = [name for name in names if variables[name]]
    if given and not url:
        return [f"{', '.join(given)} given without opal_server_policy_repo_url: set that too, or remove them"]
    try:
        scheme = urlsplit(url).scheme
    except ValueError:
        return ["opal_server_policy_repo_url is no URL: write it as https://host/p.git or ssh://user@host/p.git"]
    problems = credential_problems(variables)
    _plain, user, password = split_url(url)
    scopes = str(variables["opal_server_settings"].get("OPAL_SCOPES", "")).lower() in ("true", "1", "yes", "on")
    if scopes and (given or user or password):
        problems.append(
            "OPAL_SCOPES makes OPAL-server fetch by libgit2, which gets neither the credentials nor the certificate of "
            "opal_server_policy_repo_*: remove them and give each scope its own, or remove OPAL_SCOPES"
        )
    credentials = user or password or variables["opal_server_policy_repo_username"]
    if credentials:
        problems += [
            f"{place} sets {name}, by which the role gives git the repository's credentials: remove it, or have your "
            "own configuration in a file that GIT_CONFIG_GLOBAL names"
            for place in ("opal_server_settings", "opal_server_secrets")
            for name in sorted(set(variables[place]) & CREDENTIAL_SETTINGS)
        ]
    if ca_cert:
        problems += certificate_problems("opal_server_policy_repo_ca_cert", ca_cert)
    if ca_cert and scheme != "https":
        problems.append(
            "opal_server_policy_repo_ca_cert is for HTTPS, and opal_server_policy_repo_url does not begin with "
            "https://: correct the URL, or remove the certificate"
        )
    return problems


def settings_problems(variables: Mapping[str, Any]) -> list[str]:
    """Return the settings that are misspelt or belong to another variable."""
    problems = []
    for place in ("opal_server_settings", "opal_server_secrets"):
        for name in sorted(variables[place]):
            if not SETTING_NAME.fullmatch(str(name)):
                problems.append(f"{place} has '{name}', which is no name of an environment variable")
            elif RESERVED_SETTINGS.get(name, place) != place:
                problems.append(f"{place} sets {name}, which belongs in {RESERVED_SETTINGS[name]}")
    return problems


def python_tuple(version: str) -> tuple[int, ...]:
    """Return "3.11" as (3, 11), and () for no version."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def opal_server_problems(variables: Mapping[str, Any], state: Mapping[str, Any], servers: int) -> list[str]:
    """Return what stands in the way of OPAL-server on one host of a fleet of so many."""
    problems = system_problems(state)
    if python_tuple(state["python"]) < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        problems.append(f"/usr/bin/python3 is {state['python'] or 'missing'}: OPAL-server needs {least} or newer")
    if variables["opal_server_workers"] < 1:
        problems.append(f"opal_server_workers is {variables['opal_server_workers']}: it must be at least 1")
    problems += uri_problems(variables, servers)
    problems += repository_problems(variables)
    problems += settings_problems(variables)
    return problems + port_problems(state, "opal-server", {"opal_server_port": variables["opal_server_port"]})


def verdict(by_host: Mapping[str, Iterable[str]], fleet: Iterable[str]) -> list[str]:
    """Return all problems of a run as lines, those of the inventory first."""
    lines = [f"inventory: {problem}" for problem in fleet]
    for host in sorted(by_host):
        lines += [f"{host}: {problem}" for problem in by_host[host]]
    return lines
