"""What is looked for on hosts of more than one kind."""

from __future__ import annotations

import re

from fleet import chosen_fleet
from testinfra.host import Host

LARGEST_EXPOSURE = 1.5


def addresses(group: str) -> list[str]:
    """How testinfra reaches the hosts of a group."""
    fleet = chosen_fleet()
    return [f"ssh://{host}?ssh_config={fleet.ssh_config}&sudo=true&controlpersist=60" for host in fleet.hosts(group)]


def variable(host: Host, name: str, default: str) -> str:
    """A variable of the host as the fleet's inventory has it."""
    return str(chosen_fleet().variables[host.backend.host.name].get(name, default))


def properties(host: Host, unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit as systemd shows them."""
    output = host.check_output("systemctl show --property %s %s", ",".join(names), unit)
    return dict(line.split("=", 1) for line in output.splitlines())


def exposure(host: Host, unit: str) -> float:
    """What systemd-analyze gives as the unit's overall exposure, 0.0 to 10.0."""
    output = host.run("systemd-analyze security --no-pager %s", f"{unit}.service").stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", output)
    assert found, output
    return float(found[1])


def loose_files(host: Host, folder: str) -> list[str]:
    """Files below a folder, or the folder itself, that anybody on the host may write."""
    return str(host.check_output("find %s -perm /o=w ! -type l", folder)).split()


def readable_by_others(host: Host, user: str, path: str) -> bool:
    """Whether a user who is neither root nor in a group of the service can read a file."""
    return bool(host.run("runuser -u %s -- cat %s", user, path).rc == 0)
