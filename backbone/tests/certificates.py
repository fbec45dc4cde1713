"""Certificate authorities for the tests, and what they sign."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Pair(NamedTuple):
    """A certificate and its key."""

    certificate: Path
    key: Path

    def settings(self) -> dict[str, str]:
        return {
            "OPAL_BACKBONE_TLS_CERT_FILE": str(self.certificate),
            "OPAL_BACKBONE_TLS_KEY_FILE": str(self.key),
        }


class Authority:
    """Signs certificates for 127.0.0.1, good for 30 days; the name is the common name and the file's."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = directory / "ca.pem"
        self.file.write_bytes(self._sign(self._name, self._key.public_key(), 30, ca=True))

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, days: int, ca: bool) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), True)
            .sign(self._key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )

    def issue(self, name: str, *, days: int = 30, passphrase: bytes | None = None) -> Pair:
        """Sign a certificate that expires in so many days; a negative number means one that has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        pair = Pair(self.directory / f"{name}.pem", self.directory / f"{name}.key")
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        pair.certificate.write_bytes(self._sign(subject, key.public_key(), days, ca=False))
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            encryption = serialization.BestAvailableEncryption(passphrase)
        pair.key.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
        return pair
