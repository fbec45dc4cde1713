"""What a message on the topic looks like.

The payload is OPAL's own backbone schema, a JSON object with `notifier_id`, `topics` and `data`, so that publishers and
readers which know nothing of this package take part. What is ours travels in the message's properties.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["event", "heartbeat"]

_PUBLISHER = "opal-backbone-publisher"
_NUMBER = "opal-backbone-number"
_KIND = "opal-backbone-kind"
_SENT = "opal-backbone-sent"
HEARTBEAT_TOPIC = "__opal_backbone_heartbeat__"


class MalformedError(ValueError):
    """A message that OPAL could not have used. `kind` is a short name for what is wrong with it."""

    def __init__(self, kind: str, detail: str) -> None:
        """Remember the kind (a few fixed words) and the detail (free text)."""
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a publisher of ours says about a message. `sent` is seconds of its wall clock."""

    publisher: str
    number: int
    kind: Kind
    sent: float

    def properties(self) -> dict[str, str]:
        """Return the stamp as message properties."""
        return {
            _PUBLISHER: self.publisher,
            _NUMBER: str(self.number),
            _KIND: self.kind,
            _SENT: f"{self.sent:.6f}",
        }


def read_stamp(properties: Mapping[str, str]) -> Stamp | None:
    """Read a publisher's stamp; None for a foreign message.

    Raises:
        MalformedError: the message has a stamp that makes no sense.
    """
    publisher = properties.get(_PUBLISHER)
    if publisher is None:
        return None
    kind = properties.get(_KIND)
    try:
        number, sent = int(properties[_NUMBER]), float(properties[_SENT])
    except (KeyError, ValueError):
        raise MalformedError("bad stamp", f"publisher {publisher!r} sent no number or time") from None
    if kind == "heartbeat":
        return Stamp(publisher, number, "heartbeat", sent)
    if kind == "event":
        return Stamp(publisher, number, "event", sent)
    raise MalformedError("bad stamp", f"unknown kind {kind!r}")


def heartbeat_payload(publisher: str) -> bytes:
    """Make a heartbeat's payload: valid for OPAL, on a topic to which nobody subscribes."""
    return json.dumps({"notifier_id": publisher, "topics": [HEARTBEAT_TOPIC], "data": None}).encode()


def notification_payload(notifier_id: str, topics: list[str], data: Any) -> bytes:
    """Make the payload of one event in OPAL's backbone schema.

    Raises:
        TypeError, ValueError: `data` cannot be said in JSON.
    """
    return json.dumps({"notifier_id": notifier_id, "topics": topics, "data": data}).encode()


def check_payload(payload: bytes) -> str:
    """Check a foreign message against OPAL's backbone schema, and return it as text.

    Raises:
        MalformedError: OPAL could not use the message.
    """
    try:
        text = payload.decode()
    except UnicodeDecodeError as error:
        raise MalformedError("not UTF-8", str(error)) from None
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedError("not JSON", str(error)) from None
    if not isinstance(message, dict):
        raise MalformedError("not an object", f"the message is {type(message).__name__}")
    if not isinstance(message.get("notifier_id"), str):
        raise MalformedError("no notifier_id", "the message names no notifier_id")
    topics = message.get("topics")
    if not isinstance(topics, list) or not all(isinstance(topic, str) for topic in topics):
        raise MalformedError("no topics", "the message has no list of topics")
    return text


def peek(text: str) -> dict[str, Any]:
    """Read a payload for a person to look at: its topics and notifier, or nothing if it cannot be read."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}
