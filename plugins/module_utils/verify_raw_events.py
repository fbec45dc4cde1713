# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""What Pulsar itself holds of a run: its topic, read beside OPAL with pulsar-client."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

READ_PAUSE_MS = 500
"""How long one read waits, in milliseconds, before it looks whether it should end."""

CERTIFICATE_FILE = "OPAL_BACKBONE_TLS_CERT_FILE"
KEY_FILE = "OPAL_BACKBONE_TLS_KEY_FILE"
TLS_OPTIONS = {
    "OPAL_BACKBONE_TLS_CA_FILE": "tls_trust_certs_file_path",
    CERTIFICATE_FILE: "tls_certificate_file_path",
    KEY_FILE: "tls_private_key_file_path",
}
"""Settings of the backbone package that name files, and the options of Pulsar's client that they mean."""

VERIFY_HOSTNAME = "OPAL_BACKBONE_TLS_VERIFY_HOSTNAME"
TOKEN_FILE = "OPAL_BACKBONE_TOKEN_FILE"

OPERATION_SECONDS = 8
"""How long connecting and subscribing may take, in seconds."""


def qualified(channel: str) -> str:
    """Return a channel's full topic name."""
    if "://" in channel:
        return channel
    return f"persistent://{channel}" if "/" in channel else f"persistent://public/default/{channel}"


def service_url(uri: str) -> str:
    """Return a broadcast URI without anything that Pulsar's client does not know."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def client_options(environment: Mapping[str, str]) -> dict[str, str | bool]:
    """Return the client's TLS options from the settings that the service's own backbone runs with."""
    options: dict[str, str | bool] = {}
    for setting, option in TLS_OPTIONS.items():
        if environment.get(setting):
            options[option] = environment[setting]
    if environment.get(VERIFY_HOSTNAME, "true").lower() not in ("0", "false", "no", "n", "off"):
        options["tls_validate_hostname"] = True
    return options


def number_of(update: Any) -> int:
    """Return which of its sender's updates this is, 0 where it does not say so."""
    try:
        return int(update["entries"][0]["data"]["number"])
    except (KeyError, IndexError, TypeError, ValueError):
        return 0


class RawEvents:
    """Reads the topic from now on, in a thread of its own since the client's calls block."""

    def __init__(self, uri: str, channel: str, prefix: str, environment: Mapping[str, str]) -> None:
        """Remember the broadcast URI, the channel, how this run's topics begin, and the service's settings."""
        self.uri = uri
        self.environment = environment
        self.topic = qualified(channel)
        self.prefix = prefix
        self.problem = ""
        self.events: dict[str, dict[str, Any]] = {}
        self.ready = threading.Event()
        self._end = threading.Event()

    def start(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._run, daemon=True).start()

    def end(self) -> None:
        """Ask the reader to end."""
        self._end.set()

    def numbers(self) -> dict[str, list[int]]:
        """Return which updates were read, by topic."""
        return {topic: list(found["numbers"]) for topic, found in list(self.events.items())}

    def as_data(self) -> dict[str, Any]:
        """Return what was found, by topic of the run."""
        return {"topic": self.topic, "problem": self.problem, "events": self.events}

    def _run(self) -> None:
        try:
            self._read()
        except Exception as problem:  # whatever the client raises is the finding
            self.problem = f"{type(problem).__name__}: {problem}"
        finally:
            self.ready.set()

    def _read(self) -> None:
        import pulsar  # type: ignore[import-not-found]  # slow to import, so only where it is used

        options: dict[str, Any] = dict(client_options(self.environment))
        if self.environment.get(TOKEN_FILE):
            with open(self.environment[TOKEN_FILE], encoding="utf-8") as handle:
                options["authentication"] = pulsar.AuthenticationToken(handle.read().strip())
        elif self.environment.get(CERTIFICATE_FILE):
            files = [self.environment.get(name, "") for name in (CERTIFICATE_FILE, KEY_FILE)]
            options["authentication"] = pulsar.AuthenticationTLS(*files)
        client = pulsar.Client(
            service_url(self.uri),
            operation_timeout_seconds=OPERATION_SECONDS,
            connection_timeout_ms=OPERATION_SECONDS * 1000,
            logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error),
            **options,
        )
        reader = client.create_reader(self.topic, pulsar.MessageId.latest)
        self.ready.set()
        while not self._end.is_set():
            try:
                message = reader.read_next(timeout_millis=READ_PAUSE_MS)
            except pulsar.Timeout:
                continue
            self._note(message)
        client.close()

    def _note(self, message: Any) -> None:
        try:
            event = json.loads(message.data())
        except ValueError:
            return
        for topic in event.get("topics") or []:
            if not str(topic).startswith(self.prefix):
                continue
            found = self.events.setdefault(
                topic,
                {
                    "message_id": str(message.message_id()),
                    "notifier_id": event.get("notifier_id"),
                    "published_at": message.publish_timestamp() / 1000,
                    "read_at": time.time(),
                    "numbers": [],
                },
            )
            found["numbers"].append(number_of(event.get("data")))
