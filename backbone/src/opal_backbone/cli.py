"""The command `opal-backbone`: publish into the topic, follow it, and find out why it does not work."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loguru import logger

from opal_backbone import __version__, wire
from opal_backbone.settings import EXIT_BAD_SETTINGS, Settings, SettingsError, load

NOTIFIER = "opal-backbone publish"


def topic_combinations(topic: str) -> list[str]:
    """Return the topics that OPAL notifies for one: `a/b` is told to those who listen to `a` and to `a/b`."""
    prefix, colon, name = topic.rpartition(":")
    parts = name.split("/")
    return [prefix + colon + "/".join(parts[: end + 1]) for end in range(len(parts))]


def data_update(arguments: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """Make OPAL's data update from the command line.

    Raises:
        ValueError: the arguments do not make an update.
    """
    data = None
    if arguments.data is not None:
        text = sys.stdin.read() if arguments.data == "-" else arguments.data
        if text.startswith("@"):
            text = Path(text[1:]).read_text()
        data = json.loads(text)
        if not isinstance(data, dict | list):
            raise ValueError("--data must be a JSON object or array: OPAL takes nothing else")
    elif not arguments.url:
        raise ValueError("give --url, from which clients fetch, or --data, which they get with the update")
    topics = sorted({each for topic in arguments.topic for each in topic_combinations(topic)})
    entry = {
        "url": arguments.url or "",
        "config": None,
        "topics": topics,
        "dst_path": arguments.dst_path,
        "save_method": arguments.save_method,
        "data": data,
    }
    return topics, {
        "id": uuid.uuid4().hex,
        "entries": [entry],
        "reason": arguments.reason,
        "callback": {"callbacks": []},
    }


async def publish(arguments: argparse.Namespace, settings: Settings) -> int:
    """Publish one data update and say where in the topic it is."""
    from opal_backbone.link import Link, make_client, make_producer

    try:
        topics, update = data_update(arguments)
    except (ValueError, OSError) as error:
        print(f"opal-backbone: {error}", file=sys.stderr)
        return 2
    link = Link(make_client(settings), asyncio.get_running_loop())
    try:
        await make_producer(link, settings)
        # one message per topic, as OPAL-server itself sends them
        for topic in topics:
            position = await link.publish(wire.notification_payload(NOTIFIER, [topic], update), settings)
            print(f"published {update['id']} to {settings.topic} at {position} for topic {topic}")
    finally:
        await link.close(timeout=2)
    return 0


async def tail(arguments: argparse.Namespace, settings: Settings) -> int:
    """Print the topic, one line a message, until interrupted or until there have been enough."""
    from opal_backbone.link import Link, make_client, make_reader

    link = Link(make_client(settings), asyncio.get_running_loop())
    try:
        await make_reader(link, settings, "earliest" if arguments.earliest else "latest")
        if arguments.verbose:
            print(f"following {settings.topic}", file=sys.stderr, flush=True)
        shown = 0
        while not arguments.count or shown < arguments.count:
            message = await link.read_one(arguments.timeout)
            if message is None:
                break
            line = describe(message.payload, message.properties, str(message.position), message.publish_time, arguments)
            if line is not None:
                print(line, flush=True)
                shown += 1
    finally:
        await link.close(timeout=2)
    return 0 if shown or not arguments.count else 1


def describe(
    payload: bytes, properties: dict[str, str], position: str, when: float, arguments: argparse.Namespace
) -> str | None:
    """Put a message into one line; None if it is not to be shown."""
    try:
        stamp = wire.read_stamp(properties)
        problem = ""
    except wire.MalformedError as error:
        stamp, problem = None, str(error)
    if stamp is not None and stamp.kind == "heartbeat" and not arguments.heartbeats:
        return None
    try:
        message = wire.peek(wire.check_payload(payload))
    except wire.MalformedError as error:
        message, problem = {}, str(error)
    if arguments.json:
        fields = {"id": position, "published": when, "properties": properties, "problem": problem or None}
        return json.dumps({**fields, "message": message or payload.decode(errors="replace")})
    clock = datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if problem:
        return f"{clock} {position:>10} MALFORMED {problem}: {payload[:80]!r}"
    sender = f"{stamp.publisher} #{stamp.number}" if stamp else f"{message['notifier_id']} (foreign)"
    text = json.dumps(message.get("data"))
    short = text if len(text) <= arguments.width else text[: arguments.width] + "..."
    return f"{clock} {position:>10} {sender} {','.join(message['topics'])} {short}"


async def doctor(arguments: argparse.Namespace, settings: Settings) -> int:
    """Examine everything between here and the topic, one line each."""
    from opal_backbone.doctor import Doctor

    return await Doctor(settings, arguments.admin_url or os.environ.get("OPAL_BACKBONE_ADMIN_URL")).examine()


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    top = argparse.ArgumentParser(
        prog="opal-backbone",
        description="Work on the Pulsar topic that is an OPAL fleet's backbone. Settings are read from the environment:"
        " OPAL_BROADCAST_URI, OPAL_BROADCAST_CHANNEL_NAME and OPAL_BACKBONE_*.",
    )
    top.add_argument("--version", action="version", version=f"opal-pulsar-backbone {__version__}")
    top.add_argument("--uri", help="broadcast URI, instead of OPAL_BROADCAST_URI")
    top.add_argument("--channel", help="channel, instead of OPAL_BROADCAST_CHANNEL_NAME")
    commands = top.add_subparsers(dest="command", required=True)

    one = commands.add_parser("publish", help="publish a data update, which every worker hands to its clients")
    one.add_argument("--topic", action="append", help="OPAL topic, may be repeated (default: policy_data)")
    one.add_argument("--url", help="where clients fetch the data")
    one.add_argument("--data", help="the data itself as JSON, @FILE, or - for standard input")
    one.add_argument("--dst-path", default="", help="where in OPA the data goes")
    one.add_argument("--save-method", choices=["PUT", "PATCH"], default="PUT")
    one.add_argument("--reason", default="opal-backbone publish")
    one.set_defaults(run=publish)

    two = commands.add_parser("tail", help="follow the topic, one line a message")
    two.add_argument("--earliest", action="store_true", help="begin with the oldest message that the topic still has")
    two.add_argument("--heartbeats", action="store_true", help="show heartbeats too")
    two.add_argument("--json", action="store_true", help="one JSON object a line")
    two.add_argument("--count", type=int, default=0, help="end after so many messages; status 1 if there was none")
    two.add_argument("--timeout", type=float, default=0, help="end after so many seconds without a message")
    two.add_argument("--width", type=int, default=120, help="characters of the data that are shown")
    two.add_argument("--verbose", action="store_true", help="say on standard error when following begins")
    two.set_defaults(run=tail)

    three = commands.add_parser("doctor", help="examine URI, TLS, token, topic, permissions, retention and round trip")
    three.add_argument("--admin-url", help="Pulsar's web service, to read retention from (or OPAL_BACKBONE_ADMIN_URL)")
    three.set_defaults(run=doctor)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 for success, 1 if something is wrong with the backbone, 2 for bad arguments, 78 for bad settings.
    """
    arguments = parser().parse_args(argv)
    if arguments.command == "publish" and not arguments.topic:
        arguments.topic = ["policy_data"]
    try:
        settings = load(uri=arguments.uri, channel=arguments.channel)
    except SettingsError as error:
        print(f"opal-backbone: {error}", file=sys.stderr)
        return EXIT_BAD_SETTINGS
    # what the client library says is part of the errors already
    logger.remove()
    try:
        status: int = asyncio.run(arguments.run(arguments, settings))
    except KeyboardInterrupt:
        return 0
    except ConnectionError as error:
        print(f"opal-backbone: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0
    return status


if __name__ == "__main__":
    sys.exit(main())
