"""Client certificates against a broker that demands them and takes its roles from them."""

from __future__ import annotations

import base64
import re
import ssl
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest

from certificates import Authority, Pair
from command_line import run
from fleet import QUICK, AgentProcess, Fleet
from opal_host import OpalHost
from pulsar_broker import Standalone, free_ports

SECRET = b"a secret that is long enough for HS256, 32 bytes"
AUTHENTICATION = "org.apache.pulsar.broker.authentication.AuthenticationProvider"


class DemandingBroker:
    """A standalone without any port that is not TLS, or that lets in who shows no certificate of its authority.

    It takes tokens too, from those whose certificate has opened the connection.
    """

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory, "authority")
        self.pair = self.authority.issue("broker")
        self.port, self.web_port = free_ports(2)
        shown = f"tlsCertFile:{self.pair.certificate},tlsKeyFile:{self.pair.key}"
        self.standalone = Standalone(
            directory,
            self.port,
            self.web_port,
            settings={
                "brokerServicePort": "",
                "webServicePort": "",
                "brokerServicePortTls": str(self.port),
                "webServicePortTls": str(self.web_port),
                "tlsCertificateFilePath": str(self.pair.certificate),
                "tlsKeyFilePath": str(self.pair.key),
                "tlsTrustCertsFilePath": str(self.authority.file),
                "tlsRequireTrustedClientCertOnConnect": "true",
                "authenticationEnabled": "true",
                "authorizationEnabled": "true",
                "authenticationProviders": f"{AUTHENTICATION}Tls,{AUTHENTICATION}Token",
                "tokenSecretKey": "data:;base64," + base64.b64encode(SECRET).decode(),
                "superUserRoles": "broker",
                "brokerClientTlsEnabled": "true",
                "brokerClientTrustCertsFilePath": str(self.authority.file),
                "brokerClientAuthenticationPlugin": "org.apache.pulsar.client.impl.auth.AuthenticationTls",
                "brokerClientAuthenticationParameters": shown,
            },
        )

    @property
    def url(self) -> str:
        return f"pulsar+ssl://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"https://127.0.0.1:{self.web_port}"

    def admin(self, method: str, path: str, body: str = "") -> None:
        context = ssl.create_default_context(cafile=self.authority.file)
        context.load_cert_chain(self.pair.certificate, self.pair.key)
        request = urllib.request.Request(
            f"{self.admin_url}/admin/v2/{path}",
            data=body.encode() or None,
            method=method,
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20, context=context):
            pass

    def start(self) -> None:
        self.standalone.start()
        deadline = time.monotonic() + 150
        while time.monotonic() < deadline:
            assert self.standalone.alive
            try:
                self.admin("GET", "brokers/health")
            except OSError:
                time.sleep(0.3)
            else:
                self.admin("POST", "namespaces/public/default/permissions/opal", '["produce", "consume"]')
                return
        raise TimeoutError("the broker that demands certificates was not healthy")

    def settings(self, pair: Pair | None) -> dict[str, str]:
        return {
            **QUICK,
            "OPAL_BACKBONE_TLS_CA_FILE": str(self.authority.file),
            **(pair.settings() if pair else {}),
        }


@pytest.fixture(scope="module")
def demanding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemandingBroker]:
    broker = DemandingBroker(tmp_path_factory.mktemp("demanding"))
    try:
        broker.start()
        yield broker
    finally:
        broker.standalone.kill()


@pytest.fixture(scope="module")
def opal(demanding: DemandingBroker) -> Pair:
    """What the fleet shows: its common name may publish and read."""
    return demanding.authority.issue("opal")


def command(broker: DemandingBroker, channel: str, environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    return run(broker.url, channel, *arguments, environment=environment)


def failures(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("FAIL")]


def test_events_travel_between_workers_that_show_their_certificate(
    demanding: DemandingBroker, opal: Pair, channel: str, tmp_path: Path
) -> None:
    settings = demanding.settings(opal)
    fleet = Fleet([AgentProcess(f"a{n}", demanding.url, channel, tmp_path, settings) for n in range(2)])
    try:
        fleet.ready(30)
        fleet.publish(each=20, rate=0)
        assert fleet.wait_received(40, 20)
        assert [(tally.lost, tally.duplicates) for tally in fleet.tally()] == [(0, 0)] * 2
        status, text = command(demanding, channel, settings, "doctor")
        assert (status, failures(text)) == (0, []), text
        assert "the client certificate is what authenticates" in text
        assert "round trip" in text
    finally:
        fleet.close()


def test_the_doctor_shows_the_certificate_to_the_web_service_too(
    demanding: DemandingBroker, opal: Pair, channel: str
) -> None:
    # only who administers the tenant may ask for the retention, and the broker itself is a superuser
    asked = ("doctor", "--admin-url", demanding.admin_url)
    status, text = command(demanding, channel, demanding.settings(demanding.pair), *asked)
    assert status == 0, text
    assert "retention: not set for public/default" in text
    status, text = command(demanding, channel, demanding.settings(opal), *asked)
    assert status == 1
    assert len(failures(text)) == 1, text
    assert "FAIL  retention" in text
    assert "HTTP Error 401" in text or "HTTP Error 403" in text


def test_who_is_refused_is_told_why_in_one_line(demanding: DemandingBroker, channel: str, tmp_path: Path) -> None:
    demands = "FAIL  TLS: .*: the broker demands a client certificate; set OPAL_BACKBONE_TLS_CERT_FILE and .*_KEY_FILE"
    refuses = r"FAIL  TLS: .*: the broker does not accept the client certificate .*/{}\.pem \(.*\)$"
    authority = demanding.authority
    cases = {
        "bare": (None, demands),
        "foreign": (Authority(tmp_path / "other", "other").issue("opal"), refuses.format("opal")),
        "late": (authority.issue("late", days=-1), refuses.format("late")),
        "nobody": (authority.issue("nobody"), "FAIL  topic: .*AuthorizationError.*common name, may not do this; grant"),
    }
    agents = {
        name: AgentProcess(name, demanding.url, channel, tmp_path, demanding.settings(pair))
        for name, (pair, _) in cases.items()
    }
    try:
        for name, (pair, words) in cases.items():
            status, text = command(demanding, channel, demanding.settings(pair), "doctor")
            assert status == 1, (name, text)
            (line,) = failures(text)
            assert re.match(words, line), (name, text)
        # the worker itself says why as far as the client library does, and that it goes on trying
        for name, agent in agents.items():
            assert not agent.ask(do="ready", timeout=0)["ready"]
            deadline = time.monotonic() + 15
            while "cannot connect" not in agent.log.read_text() and time.monotonic() < deadline:
                time.sleep(0.2)
            said = next(line for line in agent.log.read_text().splitlines() if "cannot connect" in line)
            assert "AuthorizationError" in said if name == "nobody" else "Timeout" in said
            assert "trying again" in said
    finally:
        for agent in agents.values():
            agent.kill()


def test_a_certificate_opens_the_connection_and_a_token_has_the_role(
    demanding: DemandingBroker, opal: Pair, channel: str, tmp_path: Path
) -> None:
    nobody = demanding.authority.issue("nobody")

    def doctor(pair: Pair | None, role: str) -> tuple[int, str]:
        file = tmp_path / role
        file.write_text(jwt.encode({"sub": role}, SECRET, algorithm="HS256"))
        settings = {**demanding.settings(pair), "OPAL_BACKBONE_TOKEN_FILE": str(file)}
        return command(demanding, channel, settings, "doctor")

    status, text = doctor(nobody, "opal")
    assert status == 0, text
    assert "its role counts, the client certificate opens the connection" in text
    status, text = doctor(opal, "nobody")
    assert status == 1
    assert "the token's role may not do this" in failures(text)[0]
    # and the certificate is not dropped for the token: the connection does not open without
    status, text = doctor(None, "opal")
    assert status == 1
    assert "demands a client certificate" in failures(text)[0]


@pytest.mark.parametrize("wrong", ["another key", "nowhere"])
def test_a_key_that_is_of_no_use_stops_the_start_with_one_line(
    demanding: DemandingBroker, opal: Pair, channel: str, tmp_path: Path, wrong: str
) -> None:
    key = demanding.authority.issue("another").key if wrong == "another key" else tmp_path / "nowhere"
    host = OpalHost("host", demanding.url, channel, tmp_path, 1, demanding.settings(opal._replace(key=key)))
    host.start()
    try:
        assert host.process is not None
        assert host.process.wait(30) == 78
        (line,) = host.log.read_text().strip().splitlines()
        assert line.startswith("opal-backbone: OPAL_BACKBONE_TLS_KEY_FILE ")
        assert str(key) in line
        assert ("is not the key of" if wrong == "another key" else "cannot be read") in line
    finally:
        host.kill()
