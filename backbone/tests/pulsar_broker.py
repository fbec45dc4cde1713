"""Real Pulsar brokers for the tests, started and tormented by the test run. Loopback only, small heaps."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

VERSION = "4.0.8"
SHA512 = "65b769b10696cdfebf7fc5bcdc95dd663702e27051e616c1a13cb100e91279525be35352171befe7b0011176330aab29bd0a6c8a0f2f0646641af46d2e33cbd6"  # noqa: E501
CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("PULSAR_TEST_CACHE") or CHECKOUT / ".cache" / "pulsar")
MEMORY = "-Xms128m -Xmx512m -XX:MaxDirectMemorySize=256m -XX:+UseSerialGC"


def _sha512(path: Path) -> str:
    digest = hashlib.sha512()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def fetch() -> Path:
    """Return the distribution's archive, fetched by its Maven coordinates if the cache has it not, and verified."""
    archive = CACHE / f"apache-pulsar-{VERSION}.tar.gz"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        part = archive.with_suffix(".part")
        ansible = CHECKOUT / ".venv" / "bin" / "ansible"
        coordinates = (
            f"group_id=org.apache.pulsar artifact_id=pulsar-server-distribution version={VERSION}"
            f" classifier=bin extension=tar.gz dest={part} mode=0644"
        )
        subprocess.run(
            [ansible, "localhost", "-m", "community.general.maven_artifact", "-a", coordinates], check=True, timeout=900
        )
        if _sha512(part) != SHA512:
            raise RuntimeError(f"{part} is not the archive that was expected")
        part.rename(archive)
    return archive


@functools.cache
def home() -> Path:
    """Return an unpacked distribution."""
    archive = fetch()
    root = CACHE / f"unpacked-{VERSION}"
    if not root.exists():
        if _sha512(archive) != SHA512:
            raise RuntimeError(f"{archive} is not the archive that was expected")
        part = root.with_name(f".{root.name}-{os.getpid()}")
        with tarfile.open(archive) as tar:
            tar.extractall(part, filter="fully_trusted")
        with contextlib.suppress(OSError):
            part.rename(root)
        shutil.rmtree(part, ignore_errors=True)
    return root / f"apache-pulsar-{VERSION}"


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on, below those that the system gives out; suites may run side by side."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(26660, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                found.append(port)
            except OSError:
                continue
    return found


def edited(template: Path, target: Path, values: dict[str, str]) -> None:
    """Write a configuration file with some values set, appending those that the template lacks."""
    left = dict(values)
    lines = []
    for line in template.read_text().splitlines():
        name = line.lstrip("#").split("=", 1)[0].strip()
        if "=" in line and name in left and not line.startswith("# "):
            line = f"{name}={left.pop(name)}"
        lines.append(line)
    lines += [f"{name}={value}" for name, value in left.items()]
    target.write_text("\n".join(lines) + "\n")


class Process:
    """A JVM of ours, in a process group of its own."""

    def __init__(self, name: str, arguments: list[str], directory: Path, environment: dict[str, str]) -> None:
        self.name = name
        self._arguments = arguments
        self._directory = directory
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self._directory / f"{self.name}.log").open("ab")
        self._process = subprocess.Popen(
            self._arguments,
            cwd=self._directory,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **self._environment},
            start_new_session=True,
        )
        log.close()

    def signal(self, number: int) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait(30)
            self._process = None

    def terminate(self, timeout: float = 40) -> None:
        """End it in an orderly way."""
        if self._process is None:
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None


class Standalone(Process):
    """Pulsar standalone on loopback."""

    def __init__(
        self,
        directory: Path,
        port: int,
        web_port: int,
        *,
        settings: dict[str, str] | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port, self.web_port, self.address = port, web_port, address
        conf = directory / "standalone.conf"
        edited(
            home() / "conf" / "standalone.conf",
            conf,
            {
                "bindAddress": "127.0.0.1",
                "advertisedAddress": "127.0.0.1",
                "brokerServicePort": str(port),
                "webServicePort": str(web_port),
                "brokerDeleteInactiveTopicsEnabled": "false",
                "defaultRetentionTimeInMinutes": "1440",
                "defaultRetentionSizeInMB": "1024",
                "brokerShutdownTimeoutMs": "2000",
                "statusFilePath": "",
                **(settings or {}),
            },
        )
        super().__init__(
            f"standalone-{port}",
            [
                str(home() / "bin" / "pulsar"),
                "standalone",
                "--no-functions-worker",
                "-nss",
                "--config",
                str(conf),
                "--bookkeeper-dir",
                str(directory / "bookkeeper"),
                "--metadata-dir",
                str(directory / "metadata"),
            ],
            directory,
            {
                "PULSAR_MEM": MEMORY,
                "PULSAR_LOG_DIR": str(directory / "logs"),
                "PULSAR_GC": " ",
                "PULSAR_STANDALONE_USE_ZOOKEEPER": "",
            },
        )

    @property
    def url(self) -> str:
        return f"pulsar://{self.address}:{self.port}"

    def wait_healthy(self, timeout: float = 120) -> None:
        wait_healthy(self.web_port, timeout, self, self.address)

    def topic_admin(self, method: str, path: str, body: str | None = None) -> str:
        return admin(self.web_port, method, path, body)


def wait_healthy(web_port: int, timeout: float, process: Process | None = None, address: str = "127.0.0.1") -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process is not None and not process.alive:
            raise RuntimeError(f"{process.name} ended while starting")
        with contextlib.suppress(OSError, urllib.error.URLError):
            url = f"http://{address}:{web_port}/admin/v2/brokers/health"
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        time.sleep(0.3)
    raise TimeoutError(f"Pulsar on port {web_port} was not healthy within {timeout:g} s")


def admin(web_port: int, method: str, path: str, body: str | None = None) -> str:
    """Call Pulsar's admin API."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{web_port}/admin/v2/{path}",
        data=None if body is None else body.encode(),
        method=method,
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(answer.read().decode())


@contextlib.contextmanager
def running(directory: Path, **arguments: object) -> Iterator[Standalone]:
    """Run a standalone on free ports."""
    port, web_port = free_ports(2)
    broker = Standalone(directory, port, web_port, **arguments)  # type: ignore[arg-type]
    broker.start()
    try:
        broker.wait_healthy()
        yield broker
    finally:
        broker.kill()
