"""The backbones under measurement, each a real broker on loopback with its data in a temporary directory."""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from pulsar_broker import free_ports, running

POSTGRES_USER = "postgres"


def need(package: str, program: str) -> str:
    """Find a program, installing the distribution's package if need be."""
    found = shutil.which(program) or next(iter(sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{program}"))), None)
    if found is None:
        subprocess.run(["apt-get", "update", "-qq"], check=True, capture_output=True)
        subprocess.run(
            ["apt-get", "install", "-qq", "-y", "--no-install-recommends", package],
            check=True,
            capture_output=True,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
        found = shutil.which(program) or sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{program}"))[0]
    return found


def wait_port(port: int, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")


@contextlib.contextmanager
def pulsar(directory: Path) -> Iterator[str]:
    with running(directory / "pulsar") as broker:
        yield broker.url


@contextlib.contextmanager
def redis(directory: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    command = [need("redis-server", "redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen([*command, "--dir", str(directory)], stdout=subprocess.DEVNULL)
    try:
        wait_port(port)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def postgres(directory: Path) -> Iterator[str]:
    initdb, server = need("postgresql", "initdb"), need("postgresql", "postgres")
    (port,) = free_ports(1)
    data = directory / "postgres"
    data.mkdir()
    user = pwd.getpwnam(POSTGRES_USER)
    for parent in (data, *data.parents):
        with contextlib.suppress(PermissionError):
            if parent == Path("/tmp"):
                break
            parent.chmod(0o711)
    os.chown(data, user.pw_uid, user.pw_gid)
    as_user = {"user": user.pw_uid, "group": user.pw_gid, "cwd": "/"}
    subprocess.run([initdb, "-D", data, "-U", "opal", "-A", "trust"], check=True, capture_output=True, **as_user)  # type: ignore[call-overload]
    options = ["-p", str(port), "-h", "127.0.0.1", "-k", "/tmp", "-c", "max_connections=500"]
    process = subprocess.Popen(
        [server, "-D", data, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **as_user,  # type: ignore[call-overload]
    )
    try:
        wait_port(port)
        yield f"postgres://opal@127.0.0.1:{port}/postgres"
    finally:
        process.terminate()
        process.wait(20)
