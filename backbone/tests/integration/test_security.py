"""TLS, tokens and permissions against a broker that insists on them."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from command_line import run
from fleet import QUICK, AgentProcess, Fleet
from pulsar_broker import Standalone, free_ports

SECRET = b"a secret that is long enough for HS256, 32 bytes"


def token(role: str) -> str:
    return jwt.encode({"sub": role}, SECRET, algorithm="HS256")


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """Make a self-signed certificate for 127.0.0.1; return certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    paths = directory / f"{name}.pem", directory / f"{name}.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


class SecureBroker:
    """A standalone with TLS, tokens and authorization."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.ca, key = certificate(directory, "broker")
        port, web_port, self.tls_port = free_ports(3)
        admin = token("admin")
        self.standalone = Standalone(
            directory,
            port,
            web_port,
            settings={
                "brokerServicePortTls": str(self.tls_port),
                "tlsCertificateFilePath": str(self.ca),
                "tlsKeyFilePath": str(key),
                "tlsTrustCertsFilePath": str(self.ca),
                "authenticationEnabled": "true",
                "authorizationEnabled": "true",
                "authenticationProviders": "org.apache.pulsar.broker.authentication.AuthenticationProviderToken",
                "tokenSecretKey": "data:;base64," + base64.b64encode(SECRET).decode(),
                "superUserRoles": "admin",
                "brokerClientAuthenticationPlugin": "org.apache.pulsar.client.impl.auth.AuthenticationToken",
                "brokerClientAuthenticationParameters": f"token:{admin}",
            },
        )

    @property
    def url(self) -> str:
        return f"pulsar+ssl://127.0.0.1:{self.tls_port}"

    def admin(self, method: str, path: str, body: str = "") -> int:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.standalone.web_port}/admin/v2/{path}",
            data=body.encode() or None,
            method=method,
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {token('admin')}"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)

    def start(self) -> None:
        self.standalone.start()
        deadline = time.monotonic() + 150
        while time.monotonic() < deadline:
            assert self.standalone.alive
            try:
                self.admin("GET", "brokers/health")
                return
            except OSError:
                time.sleep(0.5)
        raise TimeoutError("the secure broker was not healthy")


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    broker = SecureBroker(tmp_path_factory.mktemp("secure"))
    try:
        broker.start()
        broker.admin("POST", "namespaces/public/default/permissions/opal", '["produce", "consume"]')
        yield broker
    finally:
        broker.standalone.kill()


def settings(secure: SecureBroker, token_file: Path) -> dict[str, str]:
    return {**QUICK, "OPAL_BACKBONE_TLS_CA_FILE": str(secure.ca), "OPAL_BACKBONE_TOKEN_FILE": str(token_file)}


def doctor(secure: SecureBroker, channel: str, environment: dict[str, str], uri: str = "") -> tuple[int, str]:
    return run(uri or secure.url, channel, "doctor", environment=environment, timeout=90)


def test_events_travel_over_tls_with_a_token_that_may_be_rotated(
    secure: SecureBroker, channel: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(token("opal") + "\n")
    topic = f"persistent://public/default/{channel}"
    fleet = Fleet([AgentProcess(f"a{n}", secure.url, topic, tmp_path, settings(secure, file)) for n in range(2)])
    try:
        fleet.ready()
        fleet.publish(each=20, rate=0)
        assert fleet.wait_received(40, 20)
        # the old token is good no longer: only who reads the file anew gets in after the broker's restart
        secure.admin("DELETE", "namespaces/public/default/permissions/opal")
        secure.admin("POST", "namespaces/public/default/permissions/opal2", '["produce", "consume"]')
        file.write_text(token("opal2"))
        secure.standalone.kill()
        secure.start()
        fleet.publish(each=20, rate=0)
        assert fleet.wait_received(80, 60)
        assert [tally.lost for tally in fleet.tally()] == [0, 0]
        assert "eyJ" not in fleet.agents[0].log.read_text()
    finally:
        fleet.close()
        secure.admin("POST", "namespaces/public/default/permissions/opal", '["produce", "consume"]')


def test_the_doctor_says_what_is_wrong(secure: SecureBroker, channel: str, tmp_path: Path) -> None:
    good, stranger, forged = (tmp_path / name for name in ("good", "stranger", "forged"))
    good.write_text(token("opal"))
    stranger.write_text(token("nobody"))
    forged.write_text(jwt.encode({"sub": "opal"}, b"another secret, as long as the real one is", algorithm="HS256"))
    other_ca, _ = certificate(tmp_path, "other")
    quick = {"OPAL_BACKBONE_OPERATION_TIMEOUT": "4"}

    status, text = doctor(secure, channel, settings(secure, good) | quick)
    assert status == 0, text
    assert "is who it says" in text
    assert "round trip" in text

    status, text = doctor(secure, channel, settings(secure, stranger) | quick)
    assert status == 1
    assert "FAIL" in text
    assert "AuthorizationError" in text

    status, text = doctor(secure, channel, settings(secure, forged) | quick)
    assert status == 1
    assert "does not accept the token" in text, text

    status, text = doctor(
        secure, channel, settings(secure, good) | quick | {"OPAL_BACKBONE_TLS_CA_FILE": str(other_ca)}
    )
    assert status == 1
    assert "FAIL  TLS" in text
    assert "certificate" in text

    plain = {k: v for k, v in settings(secure, good).items() if "TLS" not in k} | quick
    status, text = doctor(secure, channel, plain, f"pulsar://127.0.0.1:{secure.standalone.port}")
    assert status == 0, text
    for each in (good, stranger, forged):
        assert each.read_text() not in text
