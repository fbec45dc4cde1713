# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""The worker processes of a service, and which of them accepted a connection: read from /proc alone."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable

LISTEN = "0A"
"""State of a listening socket in /proc/net/tcp (Linux, include/net/tcp_states.h)."""

STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "waiting for a device",
    "T": "stopped",
    "t": "stopped by a debugger",
    "Z": "ended, not yet collected by its parent",
    "X": "dead",
    "I": "idle",
}
"""What the letters of a process state mean (proc(5))."""

STOPPED = ("T", "t", "Z", "X", "")
"""States in which a process accepts no connection, however long one waits; empty where it is gone."""

Address = tuple[str, int]
"""An IP address, an IPv4 one in its plain form, and a port."""


def read(path: str) -> str:
    """Return a file's text, empty where it is gone."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def state(pid: int) -> str:
    """Return the letter of a process's state, empty where it is gone."""
    # The command in brackets may itself hold spaces and brackets, so the last bracket counts.
    after = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return after[0] if after else ""


def state_in_words(letter: str) -> str:
    """Return a state as a person reads it, for example ``stopped (T)``."""
    return f"{STATES.get(letter, 'in a state of its own')} ({letter})" if letter else "gone"


def environment(pid: int) -> dict[str, str]:
    """Return what a process was started with; raises PermissionError where that is not to be seen."""
    pairs = (item.partition("=") for item in read(f"/proc/{pid}/environ").split("\0"))
    return {name: value for name, sign, value in pairs if sign}


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    return [int(child) for child in read(f"/proc/{pid}/task/{pid}/children").split()]


def decode_address(text: str) -> Address:
    """Return an address as /proc/net/tcp{,6} writes it: 32-bit words in the byte order of the machine."""
    raw, _colon, port = text.partition(":")
    words = [bytes.fromhex(raw[at : at + 8])[::-1] for at in range(0, len(raw), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address), int(port, 16)


def sockets() -> list[tuple[Address, Address, str, str]]:
    """Return local address, remote address, state and inode of every TCP socket."""
    rows = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in read(table).splitlines()[1:]:
            field = line.split()
            rows.append((decode_address(field[1]), decode_address(field[2]), field[3], field[9]))
    return rows


def listening_inodes(port: int) -> set[str]:
    """Return the sockets that listen on a port."""
    return {inode for local, _remote, kind, inode in sockets() if kind == LISTEN and local[1] == port}


def accepted(server: Address, clients: set[Address]) -> dict[Address, str]:
    """Return the server's end of these clients' connections, as far as somebody has accepted them."""
    return {
        remote: inode
        for local, remote, kind, inode in sockets()
        if kind != LISTEN and local == server and remote in clients and inode != "0"
    }


def inodes_of(pid: int) -> set[str]:
    """Return the sockets that a process holds; raises PermissionError where that is not to be seen."""
    found: set[str] = set()
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except (FileNotFoundError, ProcessLookupError):
        return found
    for name in names:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except (FileNotFoundError, ProcessLookupError):
            continue
        match = re.fullmatch(r"socket:\[(\d+)\]", target)
        if match:
            found.add(match[1])
    return found


def workers(main_pid: int, port: int) -> list[int]:
    """Return the processes of a service that accept on a port.

    These are the children of its main process that share its listening socket; a service without
    such children serves by itself.
    """
    listening = listening_inodes(port)
    serving = [pid for pid in children(main_pid) if inodes_of(pid) & listening]
    if serving:
        return sorted(serving)
    return [main_pid] if inodes_of(main_pid) & listening else []


def owners(inodes: Iterable[str], pids: Iterable[int]) -> dict[str, int]:
    """Return which of these processes holds each socket; a socket that none holds is left out."""
    wanted = set(inodes)
    return {inode: pid for pid in pids for inode in inodes_of(pid) & wanted}
