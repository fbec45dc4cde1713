# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""What Pulsar itself holds of a run: its topic, read beside OPAL with pulsar-client."""

from __future__ import annotations

import json
import threading
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

READ_PAUSE_MS = 500
"""How long one read waits, in milliseconds, before it looks whether it should end."""

OPERATION_SECONDS = 8
"""How long connecting and subscribing may take, in seconds."""


def qualified(channel: str) -> str:
    """Return a channel's full topic name."""
    if "://" in channel:
        return channel
    return f"persistent://{channel}" if "/" in channel else f"persistent://public/default/{channel}"


def client_arguments(uri: str) -> tuple[str, dict[str, str]]:
    """Return the service URL and the options of a broadcast URI."""
    parts = urlsplit(uri)
    options = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    return f"{parts.scheme}://{parts.netloc}", options


class RawEvents:
    """Reads the topic from now on, in a thread of its own since the client's calls block."""

    def __init__(self, uri: str, channel: str, prefix: str) -> None:
        """Remember the broadcast URI, the channel, and how the topics of this run begin."""
        self.uri = uri
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
        import pulsar

        url, options = client_arguments(self.uri)
        extra: dict[str, Any] = {}
        if options.get("ca"):
            extra["tls_trust_certs_file_path"] = options["ca"]
        if options.get("token_file"):
            with open(options["token_file"], encoding="utf-8") as handle:
                extra["authentication"] = pulsar.AuthenticationToken(handle.read().strip())
        client = pulsar.Client(
            url,
            operation_timeout_seconds=OPERATION_SECONDS,
            connection_timeout_ms=OPERATION_SECONDS * 1000,
            logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error),
            **extra,
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
                    "copies": 0,
                },
            )
            found["copies"] += 1
