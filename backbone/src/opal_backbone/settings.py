"""What the backbone is told by its environment, checked as a whole before anything starts."""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn
from urllib.parse import urlsplit

PREFIX = "OPAL_BACKBONE_"
SCHEMES = ("pulsar", "pulsar+ssl")
DEFAULT_PORTS = {"pulsar": 6650, "pulsar+ssl": 6651}
# OPAL's own default for OPAL_BROADCAST_CHANNEL_NAME
DEFAULT_CHANNEL = "EventNotifier"
EXIT_BAD_SETTINGS = 78
"""Exit status for a wrong setting (EX_CONFIG of sysexits.h), so that a unit can leave such a service stopped."""

WhileAway = Literal["hold", "local-first"]

_HOST = re.compile(r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)$")
# what OpenSSL says of a key that is another certificate's; the last one of a key of another kind (RSA, EC)
_OTHER_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
_TOPIC_PART = re.compile(r"^[A-Za-z0-9_=:.\-]+$")


class SettingsError(ValueError):
    """One or more settings are wrong; the message names each of them, all on one line."""


@dataclass(frozen=True)
class Settings:
    """Everything the backbone needs to know. Durations are seconds, sizes are bytes."""

    service_url: str
    topic: str
    tls_ca_file: str | None = None
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    tls_verify_hostname: bool = True
    token_file: str | None = None
    connect_timeout: float = 5.0
    operation_timeout: float = 10.0
    ack_timeout: float = 10.0
    reconnect_after: float = 3.0
    heartbeat_interval: float = 5.0
    deaf_after: float = 15.0
    restart_after: float = 600.0
    buffer_events: int = 100_000
    buffer_bytes: int = 64 * 1024 * 1024
    in_flight: int = 1_000
    gap_grace: float = 2.0
    while_away: WhileAway = "hold"
    hold_after: float = 2.0
    stop_timeout: float = 5.0
    state_dir: str | None = None
    spool_dir: str | None = None

    @property
    def uses_tls(self) -> bool:
        """Whether the brokers are reached over TLS."""
        return self.service_url.startswith("pulsar+ssl://")


# name of the variable -> (field, kind, least value allowed)
_NUMBERS: dict[str, tuple[str, type[int] | type[float], float]] = {
    "CONNECT_TIMEOUT": ("connect_timeout", float, 0.1),
    "OPERATION_TIMEOUT": ("operation_timeout", float, 1),
    "ACK_TIMEOUT": ("ack_timeout", float, 0.5),
    "RECONNECT_AFTER": ("reconnect_after", float, 0.5),
    "HEARTBEAT_INTERVAL": ("heartbeat_interval", float, 0.2),
    "DEAF_AFTER": ("deaf_after", float, 1),
    "RESTART_AFTER": ("restart_after", float, 0),
    "BUFFER_EVENTS": ("buffer_events", int, 1),
    "BUFFER_BYTES": ("buffer_bytes", int, 1024),
    "IN_FLIGHT": ("in_flight", int, 1),
    "GAP_GRACE": ("gap_grace", float, 0),
    "HOLD_AFTER": ("hold_after", float, 0.5),
    "STOP_TIMEOUT": ("stop_timeout", float, 0),
}
# a stop ends within 10 s under our gunicorn configuration, and has more to do than this
_MOST = {"STOP_TIMEOUT": 5.0}
_FILES = {
    "TLS_CA_FILE": "tls_ca_file",
    "TLS_CERT_FILE": "tls_cert_file",
    "TLS_KEY_FILE": "tls_key_file",
    "TOKEN_FILE": "token_file",
}
_DIRECTORIES = {"STATE_DIR": "state_dir", "SPOOL_DIR": "spool_dir"}
_BOOLEANS = {"TLS_VERIFY_HOSTNAME": "tls_verify_hostname"}
_CHOICES: dict[str, tuple[str, tuple[str, ...]]] = {"WHILE_AWAY": ("while_away", ("hold", "local-first"))}
# read by other parts of the package: the gunicorn configuration and the command line
_ELSEWHERE = frozenset({"ADMIN_URL"})

KNOWN_NAMES = frozenset(
    PREFIX + name for name in (*_NUMBERS, *_FILES, *_DIRECTORIES, *_BOOLEANS, *_CHOICES, *_ELSEWHERE)
)


def refuse_to_start(problem: object) -> NoReturn:
    """Say in one line what is wrong, and end the process with `EXIT_BAD_SETTINGS`."""
    print(f"opal-backbone: {problem}", file=sys.stderr)
    sys.exit(EXIT_BAD_SETTINGS)


def is_pulsar_uri(uri: str | None) -> bool:
    """Tell whether OPAL's broadcast URI names Pulsar, and so this backbone."""
    return bool(uri) and str(uri).split("://", 1)[0].lower() in SCHEMES


def parse_uri(uri: str) -> str:
    """Turn a broadcast URI into the service URL that Pulsar's client takes, every broker with its port.

    Raises:
        SettingsError: the URI holds anything that could not be honoured; nothing in it is dropped silently.
    """
    scheme, separator, rest = uri.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in SCHEMES:
        raise SettingsError(f"broadcast URI must begin with pulsar:// or pulsar+ssl://, not {scheme!r}")
    if "@" in rest:
        raise SettingsError(f"broadcast URI must not hold credentials; use {PREFIX}TOKEN_FILE")
    parts = urlsplit(f"//{rest}")
    for what, value in (("query", parts.query), ("fragment", parts.fragment), ("path", parts.path.rstrip("/"))):
        if value:
            raise SettingsError(
                f"broadcast URI has a {what} ({value!r}), which would be ignored; use {PREFIX}* settings and"
                " OPAL_BROADCAST_CHANNEL_NAME"
            )
    brokers = []
    for broker in rest.split("/", 1)[0].split(","):
        host, port = _split_port(broker, DEFAULT_PORTS[scheme])
        brokers.append(f"{host}:{port}")
    return f"{scheme}://{','.join(brokers)}"


def _split_port(broker: str, default: int) -> tuple[str, int]:
    """Split one broker of the URI into host and port."""
    match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::(.*))?", broker)
    host, port_text = (match[1], match[2]) if match else (broker, None)
    if not _HOST.match(host):
        raise SettingsError(f"broadcast URI names a broker that is not a host: {broker!r}")
    if port_text is None:
        return host, default
    if not port_text.isascii() or not port_text.isdigit() or not 0 < int(port_text) < 65536:
        raise SettingsError(f"broadcast URI has a bad port in {broker!r}")
    return host, int(port_text)


def parse_topic(channel: str) -> str:
    """Turn OPAL's channel name into a fully qualified Pulsar topic.

    `name`, `tenant/namespace/name` and `persistent://tenant/namespace/name` are understood.

    Raises:
        SettingsError: the name is not one of these, or the topic would not be persistent.
    """
    name = channel
    if "://" in channel:
        domain, _, name = channel.partition("://")
        if domain != "persistent":
            raise SettingsError(f"channel {channel!r} must be a persistent:// topic: nothing else can be read again")
    parts = name.split("/")
    if len(parts) == 1 and "://" not in channel:
        parts = ["public", "default", name]
    if len(parts) != 3 or not all(_TOPIC_PART.match(part) for part in parts):
        raise SettingsError(f"channel {channel!r} is neither a name nor tenant/namespace/name")
    if "-partition-" in parts[2]:
        raise SettingsError(f"channel {channel!r} names one partition; order needs an unpartitioned topic")
    return f"persistent://{'/'.join(parts)}"


def _boolean(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on", "y"):
        return True
    if lowered in ("0", "false", "no", "off", "n"):
        return False
    raise ValueError("must be true or false")


def _number(text: str, kind: type[int] | type[float], least: float, most: float | None) -> int | float:
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(f"must be {'a whole number' if kind is int else 'a number'}") from None
    if not least <= value < float("inf"):
        raise ValueError(f"must be at least {least:g}")
    if most is not None and value > most:
        raise ValueError(f"must be at most {most:g}")
    return value


def _readable_file(text: str) -> str:
    path = Path(text)
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise ValueError(f"names an empty file ({text})")
    except OSError as error:
        raise ValueError(f"names a file that cannot be read ({text}: {error.strerror})") from None
    return str(path)


def load(
    environ: Mapping[str, str] | None = None,
    *,
    uri: str | None = None,
    channel: str | None = None,
    freeze: bool | None = None,
) -> Settings:
    """Read and check all settings.

    Args:
        environ: where to read from; the process environment by default.
        uri: the broadcast URI, when OPAL has read it already.
        channel: OPAL's channel name, when OPAL has read it already.
        freeze: OPAL's OPAL_BROADCAST_FREEZE_ON_DISCONNECT, when OPAL has read it already; the default of
            OPAL_BACKBONE_WHILE_AWAY follows it.

    Raises:
        SettingsError: naming every wrong setting at once.
    """
    env = os.environ if environ is None else environ
    problems: list[str] = []
    values: dict[str, object] = {}

    def check(label: str, field: str, parse: object, *args: object) -> None:
        try:
            values[field] = parse(*args)  # type: ignore[operator]
        except SettingsError as error:
            problems.append(str(error))
        except ValueError as error:
            problems.append(f"{label} {error}")

    check("", "service_url", parse_uri, uri if uri is not None else env.get("OPAL_BROADCAST_URI", ""))
    check("", "topic", parse_topic, channel or env.get("OPAL_BROADCAST_CHANNEL_NAME") or DEFAULT_CHANNEL)

    # OPAL's answer to the same question is the default of ours
    if freeze is None:
        try:
            freeze = _boolean(env.get("OPAL_BROADCAST_FREEZE_ON_DISCONNECT", "true"))
        except ValueError as error:
            problems.append(f"OPAL_BROADCAST_FREEZE_ON_DISCONNECT {error}")
    values["while_away"] = "hold" if freeze else "local-first"

    problems += _hidden_gaps(env)
    given = {name: text for name, text in env.items() if name.startswith(PREFIX) and text != ""}
    problems += [f"{name} is not a setting of the backbone" for name in sorted(set(given) - KNOWN_NAMES)]
    for name, (field, kind, least) in _NUMBERS.items():
        if (text := given.get(PREFIX + name)) is not None:
            check(PREFIX + name, field, _number, text, kind, least, _MOST.get(name))
    for name, field in _FILES.items():
        if (text := given.get(PREFIX + name)) is not None:
            check(PREFIX + name, field, _readable_file, text)
    for name, field in _DIRECTORIES.items():
        if (text := given.get(PREFIX + name)) is not None:
            values[field] = text
    for name, field in _BOOLEANS.items():
        if (text := given.get(PREFIX + name)) is not None:
            check(PREFIX + name, field, _boolean, text)
    for name, (field, allowed) in _CHOICES.items():
        if (text := given.get(PREFIX + name)) is not None:
            if text in allowed:
                values[field] = text
            else:
                problems.append(f"{PREFIX + name} must be one of {', '.join(allowed)}, not {text!r}")

    settings = None if problems else Settings(**values)  # type: ignore[arg-type]
    if settings is not None:
        problems += _contradictions(settings, given)
    if settings is None or problems:
        raise SettingsError("; ".join(problems))
    return settings


def _hidden_gaps(env: Mapping[str, str]) -> list[str]:
    """Name OPAL's own settings with which a gap would be told to OPAL for nothing."""
    problems = []
    for name in ("OPAL_BROADCAST_RECONNECT_ENABLED", "OPAL_BROADCAST_RESYNC_ON_RECONNECT"):
        with contextlib.suppress(ValueError):  # of what is no boolean, OPAL itself complains
            if not _boolean(env.get(name) or "true"):
                problems.append(f"{name} must be true: without it clients do not learn that events were missed")
    name = "OPAL_BROADCAST_REPLAY_BUFFER_SIZE"
    with contextlib.suppress(ValueError):
        if int(env.get(name) or 1) < 1:
            problems.append(f"{name} must be at least 1: OPAL keeps there what a full buffer refuses")
    return problems


def _contradictions(settings: Settings, given: Mapping[str, str]) -> list[str]:
    """Name settings that are each right but cannot stand together; `given` are those that somebody has set."""
    problems = []
    if settings.deaf_after < 2 * settings.heartbeat_interval:
        problems.append(
            f"{PREFIX}DEAF_AFTER ({settings.deaf_after:g} s) must be at least twice {PREFIX}HEARTBEAT_INTERVAL"
            f" ({settings.heartbeat_interval:g} s)"
        )
    if 0 < settings.restart_after <= settings.deaf_after:
        problems.append(f"{PREFIX}RESTART_AFTER must be longer than {PREFIX}DEAF_AFTER, or 0 for never")
    if bool(settings.tls_cert_file) != bool(settings.tls_key_file):
        problems.append(f"{PREFIX}TLS_CERT_FILE and {PREFIX}TLS_KEY_FILE belong together")
    if settings.uses_tls:
        problems += _bad_certificates(settings)
    elif any(name.startswith(f"{PREFIX}TLS_") for name in given):
        problems.append(f"{PREFIX}TLS_* is given but the broadcast URI is pulsar://, which has no TLS")
    return problems


class _EncryptedKeyError(Exception):
    """A key asks for a passphrase, which nobody is there to give."""


def _no_passphrase() -> str:
    raise _EncryptedKeyError


def _bad_certificates(settings: Settings) -> list[str]:
    """Name certificates and keys with which no connection could ever be made.

    The client library does not say why it cannot use them: every call would only end with "Timeout".
    """
    problems = []
    for name, file in (("TLS_CA_FILE", settings.tls_ca_file), ("TLS_CERT_FILE", settings.tls_cert_file)):
        if file:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
            except OSError:
                problems.append(f"{PREFIX}{name} ({file}) holds no certificate in PEM format")
    certificate, key = settings.tls_cert_file, settings.tls_key_file
    if not problems and certificate and key:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # how strong the key is, the broker judges
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        try:
            context.load_cert_chain(certificate, key, password=_no_passphrase)
        except _EncryptedKeyError:
            problems.append(f"{PREFIX}TLS_KEY_FILE ({key}) is encrypted, and there is no setting for its passphrase")
        except ssl.SSLError as error:
            if error.reason in _OTHER_KEY:
                problems.append(f"{PREFIX}TLS_KEY_FILE ({key}) is not the key of {PREFIX}TLS_CERT_FILE ({certificate})")
            else:
                problems.append(f"{PREFIX}TLS_KEY_FILE ({key}) holds no private key in PEM format")
        except OSError as error:
            problems.append(f"{PREFIX}TLS_KEY_FILE ({key}) cannot be read: {error.strerror}")
    return problems
