"""OPAL-server hosts under gunicorn for the tests, and clients that listen to one worker each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from pulsar_broker import free_ports

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent


class OpalHost:
    """One host's service: gunicorn with its workers."""

    def __init__(
        self,
        name: str,
        uri: str,
        channel: str,
        directory: Path,
        workers: int = 2,
        settings: dict[str, str] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        (self.port,) = free_ports(1)
        self.directory = directory / name
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log = self.directory / "log"
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("OPAL_")},
            "PYTHONPATH": str(HERE.parent / "src"),
            "OPAL_BROADCAST_URI": uri,
            "OPAL_BROADCAST_CHANNEL_NAME": channel,
            "OPAL_REPO_WATCHER_ENABLED": "false",
            "OPAL_LOG_COLORIZE": "false",
            "OPAL_LOG_FORMAT_INCLUDE_PID": "true",
            "OPAL_LEADER_LOCK_FILE_PATH": str(self.directory / "leader.lock"),
            "OPAL_AUTH_JWKS_STATIC_DIR": str(self.directory / "jwks"),
            "OPAL_BACKBONE_STATE_DIR": str(self.directory / "run"),
            **(settings or {}),
        }
        self._arguments = [
            *(str(BIN / "gunicorn"), "-b", f"127.0.0.1:{self.port}", "--workers", str(workers)),
            *("-c", "python:opal_backbone.gunicorn_conf", *arguments, "opal_backbone.server:app"),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._arguments,
                cwd=self.directory,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def get(self, path: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                text, status = answer.read().decode(), answer.status
        except urllib.error.HTTPError as error:
            text, status = error.read().decode(), error.code
        except OSError as error:
            return 0, str(error)
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def wait_healthy(self, workers: int = 0, timeout: float = 90) -> None:
        deadline = time.monotonic() + timeout
        last: tuple[int, Any] = (0, "")
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            last = self.get("/healthcheck")
            if last[0] == 200:
                states = self.get("/backbone")[1]
                if len(states) >= workers and all(state["healthy"] for state in states):
                    return
            time.sleep(0.3)
        raise TimeoutError(f"{self.name} was not healthy: {last}; {self.log.read_text()[-2000:]}")

    def workers(self) -> list[dict[str, Any]]:
        """Return what is known of each worker; nothing at a moment in which none answers."""
        status, states = self.get("/backbone")
        return states if status == 200 else []

    def publish(self, topic: str, data: Any) -> None:
        """Publish a data update the way an operator does."""
        entry = {"url": "", "topics": [topic], "dst_path": "/x", "data": data}
        request = urllib.request.Request(
            self.url + "/data/config",
            data=json.dumps({"entries": [entry], "reason": "test"}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200

    def stop(self, timeout: float = 20) -> float:
        """Stop as systemd would; return how many seconds that took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout)
        return time.monotonic() - began

    def kill(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
