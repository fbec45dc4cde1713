"""URIs, topics and settings: what is understood, and that everything else is refused with its name."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from certificates import Authority
from opal_backbone.settings import SettingsError, is_pulsar_uri, load, parse_topic, parse_uri

URI = {"OPAL_BROADCAST_URI": "pulsar://broker"}


@pytest.mark.parametrize(
    ("uri", "url"),
    [
        ("pulsar://broker", "pulsar://broker:6650"),
        ("pulsar://broker:7000/", "pulsar://broker:7000"),
        ("pulsar://a:6650,b,c:1", "pulsar://a:6650,b:6650,c:1"),
        ("pulsar+ssl://a,b:7651", "pulsar+ssl://a:6651,b:7651"),
        ("pulsar://[::1]:6650,10.0.0.1", "pulsar://[::1]:6650,10.0.0.1:6650"),
        ("PULSAR://a", "pulsar://a:6650"),
    ],
)
def test_uris_that_are_understood(uri: str, url: str) -> None:
    assert parse_uri(uri) == url


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("redis://a", "must begin with"),
        ("", "must begin with"),
        ("pulsar://", "not a host"),
        ("pulsar://a,,b", "not a host"),
        ("pulsar://a:b:1", "bad port"),
        ("pulsar://a:0", "bad port"),
        ("pulsar://a:70000", "bad port"),
        ("pulsar://a:", "bad port"),
        ("pulsar://user:secret@a", "credentials"),
        ("pulsar://a/tenant/ns", "path"),
        ("pulsar://a?token=x", "query"),
        ("pulsar://a#x", "fragment"),
        ("pulsar://a b", "not a host"),
    ],
)
def test_uris_that_are_refused(uri: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        parse_uri(uri)


def test_refusal_of_credentials_does_not_repeat_them() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_uri("pulsar://user:hunter2@a")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("channel", "topic"),
    [
        ("broadcast", "persistent://public/default/broadcast"),
        ("acme/authz/broadcast", "persistent://acme/authz/broadcast"),
        ("persistent://acme/authz/broadcast", "persistent://acme/authz/broadcast"),
    ],
)
def test_topics_that_are_understood(channel: str, topic: str) -> None:
    assert parse_topic(channel) == topic


@pytest.mark.parametrize(
    "channel", ["a/b", "a/b/c/d", "non-persistent://a/b/c", "a//c", "persistent://c", "no spaces", "x-partition-0"]
)
def test_topics_that_are_refused(channel: str) -> None:
    with pytest.raises(SettingsError):
        parse_topic(channel)


def test_scheme_decides_whether_the_backbone_is_ours() -> None:
    assert is_pulsar_uri("pulsar://a")
    assert is_pulsar_uri("pulsar+ssl://a")
    assert not is_pulsar_uri("redis://a")
    assert not is_pulsar_uri(None)


def test_defaults() -> None:
    settings = load(URI)
    assert settings.service_url == "pulsar://broker:6650"
    assert settings.topic == "persistent://public/default/EventNotifier"
    assert settings.while_away == "hold"


def test_opals_freeze_decides_what_happens_while_away_unless_told_otherwise() -> None:
    freeze_off = {**URI, "OPAL_BROADCAST_FREEZE_ON_DISCONNECT": "false"}
    assert load(freeze_off).while_away == "local-first"
    assert load({**freeze_off, "OPAL_BACKBONE_WHILE_AWAY": "hold"}).while_away == "hold"
    assert load(URI, freeze=False).while_away == "local-first"


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load(
            {
                "OPAL_BROADCAST_URI": "redis://x",
                "OPAL_BACKBONE_BUFFER_EVENTS": "many",
                "OPAL_BACKBONE_DEAF_AFTER": "-1",
                "OPAL_BACKBONE_TOKEN_FIEL": "/x",
                "OPAL_BACKBONE_TLS_CA_FILE": "/does/not/exist",
                "OPAL_BACKBONE_WHILE_AWAY": "panic",
            }
        )
    message = str(caught.value)
    assert "\n" not in message
    for name in ("redis", "BUFFER_EVENTS", "DEAF_AFTER", "TOKEN_FIEL is not a setting", "TLS_CA_FILE", "WHILE_AWAY"):
        assert name in message


@pytest.mark.parametrize(
    "settings",
    [
        {"OPAL_BACKBONE_HEARTBEAT_INTERVAL": "10", "OPAL_BACKBONE_DEAF_AFTER": "15"},
        {"OPAL_BACKBONE_RESTART_AFTER": "10"},
        {"OPAL_BACKBONE_BUFFER_EVENTS": "1.5"},
        {"OPAL_BACKBONE_BUFFER_BYTES": "0"},
        {"OPAL_BACKBONE_ACK_TIMEOUT": "nan"},
        {"OPAL_BACKBONE_HOLD_AFTER": "0.4"},
        {"OPAL_BACKBONE_STOP_TIMEOUT": "6"},
        {"OPAL_BACKBONE_TLS_VERIFY_HOSTNAME": "perhaps"},
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=next(iter(settings)).removesuffix("_INTERVAL")):
        load({**URI, **settings})


def test_files_must_be_there_and_hold_something(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("")
    with pytest.raises(SettingsError, match="empty"):
        load({**URI, "OPAL_BACKBONE_TOKEN_FILE": str(token)})
    token.write_text("x")
    assert load({**URI, "OPAL_BACKBONE_TOKEN_FILE": str(token)}).token_file == str(token)


def test_tls_settings_without_tls_are_refused(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("x")
    with pytest.raises(SettingsError, match="has no TLS"):
        load({**URI, "OPAL_BACKBONE_TLS_CA_FILE": str(ca)})
    with pytest.raises(SettingsError, match="belong together"):
        load({"OPAL_BROADCAST_URI": "pulsar+ssl://a", "OPAL_BACKBONE_TLS_CERT_FILE": str(ca)})


def test_hostname_checks_without_tls_are_refused() -> None:
    with pytest.raises(SettingsError, match="has no TLS"):
        load({**URI, "OPAL_BACKBONE_TLS_VERIFY_HOSTNAME": "true"})


def test_certificates_and_keys_must_be_of_use(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    good, other, locked = authority.issue("good"), authority.issue("other"), authority.issue("locked", passphrase=b"x")
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("-----BEGIN RUBBISH-----\n")
    rsa_key = tmp_path / "rsa.key"
    rsa_key.write_bytes(
        rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    tls = {"OPAL_BROADCAST_URI": "pulsar+ssl://a"}
    assert load({**tls, **good.settings()}).tls_key_file == str(good.key)
    for pair, words in (
        (good._replace(key=other.key), rf"TLS_KEY_FILE \({other.key}\) is not the key of .*TLS_CERT_FILE"),
        (good._replace(key=rsa_key), "is not the key of"),
        (good._replace(key=rubbish), "TLS_KEY_FILE .* holds no private key"),
        (good._replace(key=good.certificate), "TLS_KEY_FILE .* holds no private key"),
        (good._replace(key=tmp_path), "TLS_KEY_FILE names a file that cannot be read"),
        (good._replace(certificate=rubbish), "TLS_CERT_FILE .* holds no certificate"),
        (locked, "TLS_KEY_FILE .* is encrypted"),
    ):
        with pytest.raises(SettingsError, match=words) as caught:
            load({**tls, **pair.settings()})
        assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match=r"TLS_CA_FILE .* holds no certificate"):
        load({**tls, "OPAL_BACKBONE_TLS_CA_FILE": str(rubbish)})


def test_a_key_that_this_user_may_not_read_is_named() -> None:
    # not below pytest's own directory, which only its user may enter
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        pair = Authority(directory, "authority").issue("good")
        pair.key.chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(SettingsError) as caught:
                load({"OPAL_BROADCAST_URI": "pulsar+ssl://a", **pair.settings()})
        finally:
            os.seteuid(user)
    assert str(caught.value) == (
        f"OPAL_BACKBONE_TLS_KEY_FILE names a file that cannot be read ({pair.key}: Permission denied)"
    )


def test_every_setting_is_in_the_readme() -> None:
    from opal_backbone.settings import KNOWN_NAMES

    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert [name for name in sorted(KNOWN_NAMES) if f"`{name}`" not in readme] == []
