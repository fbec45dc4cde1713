"""An examination of everything between this host and the topic, one line each, worst first to blame."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

from opal_backbone import wire
from opal_backbone.link import Link, LinkError, make_client, make_producer, make_reader
from opal_backbone.settings import PREFIX, Settings

_HINTS = {
    "AuthenticationError": "the broker does not accept the token or certificate",
    "ConnectError": "no broker could be reached",
    "LookupError": "the brokers could not say which of them serves the topic",
    "TopicNotFound": "the topic, or its tenant or namespace, does not exist, and may not be made automatically",
    "BrokerMetadataError": "the tenant or namespace does not exist",
}

_REFUSAL_WAIT = 1.0
"""How long a broker may take to refuse a client certificate, in s: in TLS 1.3 it does so after the handshake."""


class Doctor:
    """Runs the examinations in order. A failed one ends those that need it."""

    def __init__(self, settings: Settings, admin_url: str | None) -> None:
        """Prepare to examine `settings`; `admin_url` is Pulsar's web service, if it may be asked."""
        self._settings = settings
        self._admin_url = admin_url.rstrip("/") if admin_url else None
        self._failed = False
        self._reached = False
        self._greeted = True

    async def examine(self) -> int:
        """Print one line an examination; return 0 if all is well, and 1 if not."""
        settings = self._settings
        self._say("ok", "URI", settings.service_url)
        self._reached = await self._step("brokers", self._brokers)
        if settings.uses_tls:
            await self._step("TLS", self._tls)
        await self._step("token", self._token)
        if self._greeted:
            await self._examine_topic()
        else:
            self._say("skip", "topic", "not examined, as no broker can be talked to over TLS")
        await self._step("retention", self._retention)
        return 1 if self._failed else 0

    async def _examine_topic(self) -> None:
        link = Link(make_client(self._settings), asyncio.get_running_loop())
        try:
            if await self._step("topic", lambda: self._topic(link)):
                produces = await self._step("may publish", lambda: self._produce(link))
                reads = await self._step("may read", lambda: self._read(link))
                if produces and reads:
                    await self._step("round trip", lambda: self._round_trip(link))
        finally:
            await link.close(timeout=2)

    def _say(self, verdict: str, what: str, detail: str) -> None:
        print(f"{verdict:<5} {what}: {detail}", flush=True)

    async def _step(self, what: str, examine: Callable[[], Awaitable[str]]) -> bool:
        try:
            detail = await examine()
        except LinkError as error:
            hint = self._permission() if error.reason == "AuthorizationError" else _HINTS.get(error.reason)
            if hint is None and self._reached:
                if self._settings.token_file or self._settings.tls_cert_file:
                    hint = "a broker that does not accept the token or certificate hangs up without a word"
                elif error.reason == "Timeout":
                    hint = "a broker that demands a token or certificate hangs up without a word, and none is set"
            self._say("FAIL", what, f"{error}" + (f" ({hint})" if hint else ""))
        except (OSError, ValueError) as error:
            self._say("FAIL", what, str(error))
        else:
            self._say("skip" if detail.startswith("not ") else "ok", what, detail)
            return True
        self._failed = True
        return False

    def _permission(self) -> str:
        if self._settings.token_file:
            role = "the token's role"
        elif self._settings.tls_cert_file:
            role = "the role, which is the client certificate's common name,"
        else:
            role = "who shows neither token nor client certificate"
        return f"{role} may not do this; grant it produce and consume on the namespace"

    def _addresses(self) -> list[tuple[str, int]]:
        brokers = self._settings.service_url.partition("://")[2].split(",")
        return [(host.strip("[]"), int(port)) for host, _, port in (broker.rpartition(":") for broker in brokers)]

    async def _brokers(self) -> str:
        reached, failed = [], []
        for host, port in self._addresses():
            try:
                async with asyncio.timeout(self._settings.connect_timeout):
                    _, writer = await asyncio.open_connection(host, port)
                writer.close()
                reached.append(f"{host}:{port}")
            except TimeoutError:
                failed.append(f"{host}:{port} does not answer")
            except OSError as error:
                failed.append(f"{host}:{port}: {error.strerror or error}")
        if failed:
            raise OSError("; ".join(failed) + (f" ({', '.join(reached)} can be reached)" if reached else ""))
        return f"{', '.join(reached)} can be reached"

    def _context(self) -> ssl.SSLContext:
        """Make what the client library makes of the settings: whom to trust, and what to show."""
        settings = self._settings
        context = ssl.create_default_context(cafile=settings.tls_ca_file)
        if settings.tls_ca_file is None:
            import certifi

            context.load_verify_locations(certifi.where())
        context.check_hostname = settings.tls_verify_hostname
        if settings.tls_cert_file:
            context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
        return context

    async def _tls(self) -> str:
        self._greeted = False
        context, addresses = self._context(), self._addresses()
        results = await asyncio.gather(*(self._greet(*each, context) for each in addresses), return_exceptions=True)
        said, failed = [], False
        for (host, port), result in zip(addresses, results, strict=True):
            if isinstance(result, str):
                self._greeted = True
                said.append(f"{host}:{port} {result}")
            elif isinstance(result, OSError):
                failed = True
                said.insert(0, f"{host}:{port}: {result}")
            else:
                raise result
        if failed:
            raise OSError("; ".join(said))
        return "; ".join(said)

    async def _greet(self, host: str, port: int, context: ssl.SSLContext) -> str:
        """Shake hands with a broker, and wait whether it takes its own back.

        Raises:
            OSError: it is not who it says, or does not accept who we say we are.
        """
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
        except ssl.SSLError as error:
            reason = error.reason or str(error)
            if "ALERT" in reason:
                raise self._refused(reason, sure="CERTIFICATE" in reason or "UNKNOWN_CA" in reason) from None
            raise OSError(getattr(error, "verify_message", "") or reason) from None
        except (TimeoutError, OSError) as error:
            raise OSError(f"{str(error) or type(error).__name__}, which is no answer of TLS") from None
        try:
            certificate = writer.get_extra_info("peercert") or {}
            async with asyncio.timeout(_REFUSAL_WAIT):
                # a broker that is content waits for us to speak
                if not await reader.read(1):
                    raise self._refused("it hung up", sure=False)
        except TimeoutError:
            pass
        except ssl.SSLError as error:
            raise self._refused(error.reason or str(error), sure=True) from None
        except ConnectionResetError:
            raise self._refused("it hung up", sure=False) from None
        finally:
            writer.close()
        until = ssl.cert_time_to_seconds(certificate["notAfter"]) if "notAfter" in certificate else 0
        days = (until - time.time()) / 86400
        if until and days < 0:
            raise OSError("the certificate has expired")
        return f"is who it says, for {days:.0f} more days"

    def _refused(self, reason: str, *, sure: bool) -> OSError:
        """Put into words that a broker has ended a connection because of the client certificate, or for want of one."""
        reason = reason.lower().replace("_", " ")
        if file := self._settings.tls_cert_file:
            why = f"does not accept the client certificate {file}"
        else:
            why = f"demands a client certificate; set {PREFIX}TLS_CERT_FILE and {PREFIX}TLS_KEY_FILE"
        return OSError(f"the broker {'' if sure else 'ended the connection, perhaps because it '}{why} ({reason})")

    async def _token(self) -> str:
        if not self._settings.token_file:
            return "not used" + (
                ", the client certificate is what authenticates" if self._settings.tls_cert_file else ""
            )
        token, mode = await asyncio.to_thread(_read_token, Path(self._settings.token_file))
        if not token:
            raise ValueError(f"{self._settings.token_file} holds nothing")
        return (
            f"read from {self._settings.token_file}"
            + (", which everybody can read" if mode & 0o007 else "")
            + ("; its role counts, the client certificate opens the connection" if self._settings.tls_cert_file else "")
        )

    async def _topic(self, link: Link) -> str:
        partitions = await link.partitions(self._settings)
        if partitions != [self._settings.topic]:
            raise ValueError(f"{self._settings.topic} has {len(partitions)} partitions; order needs a topic without")
        return f"{self._settings.topic} is served, and not partitioned"

    async def _produce(self, link: Link) -> str:
        await make_producer(link, self._settings)
        return "a producer was accepted"

    async def _read(self, link: Link) -> str:
        await make_reader(link, self._settings, "latest")
        return "a reader was accepted"

    async def _round_trip(self, link: Link) -> str:
        name = f"doctor:{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        began = time.monotonic()
        stamp = wire.Stamp(name, 0, "heartbeat", time.time())
        await link.publish(wire.heartbeat_payload(name), self._settings, stamp.properties())
        while True:
            left = began + self._settings.operation_timeout - time.monotonic()
            message = await link.read_one(left) if left > 0 else None
            if message is None:
                raise ValueError(f"what was published did not come back in {self._settings.operation_timeout:g} s")
            with contextlib.suppress(wire.MalformedError):
                if wire.read_stamp(message.properties) == stamp or message.properties == stamp.properties():
                    return f"{(time.monotonic() - began) * 1000:.1f} ms, at {message.position}"

    async def _retention(self) -> str:
        if self._admin_url is None:
            return "not examined; give --admin-url, Pulsar's web service, to see how far back a reader can catch up"
        tenant, namespace, _ = self._settings.topic.partition("://")[2].split("/")
        policy = await asyncio.to_thread(self._ask, f"namespaces/{tenant}/{namespace}/retention")
        minutes = (policy or {}).get("retentionTimeInMinutes", 0)
        size = (policy or {}).get("retentionSizeInMB", 0)
        if not policy:
            return (
                f"not set for {tenant}/{namespace}, the brokers' default holds; with Pulsar's own default a worker that"
                " was away misses what was published meanwhile"
            )
        if minutes == 0 or size == 0:
            raise ValueError(f"{tenant}/{namespace} keeps nothing: a worker that was away misses what was published")
        unlimited = "for ever" if minutes < 0 else f"for {minutes} minutes"
        return f"{tenant}/{namespace} keeps messages {unlimited}" + (f", at most {size} MB" if size > 0 else "")

    def _ask(self, path: str) -> dict[str, int] | None:
        """Ask Pulsar's web service.

        Raises:
            ValueError: it refused or did not answer.
        """
        request = urllib.request.Request(f"{self._admin_url}/admin/v2/{path}")
        if self._settings.token_file:
            request.add_header("Authorization", f"Bearer {Path(self._settings.token_file).read_text().strip()}")
        context = self._context() if str(self._admin_url).startswith("https:") else None
        try:
            with urllib.request.urlopen(request, timeout=10, context=context) as answer:
                text = answer.read().decode()
        except (urllib.error.URLError, OSError) as error:
            raise ValueError(f"{self._admin_url} did not tell: {error}") from None
        found = json.loads(text) if text else None
        return found if isinstance(found, dict) else None


def _read_token(path: Path) -> tuple[str, int]:
    return path.read_text().strip(), path.stat().st_mode
