"""A fleet that asks for tokens is rolled out and proved like any other, and none of its secrets is seen anywhere."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fleet import Fleet

MASTER_TOKEN = "quiet-heron-master"
WEBHOOK_SECRET = "quiet-heron-webhook"
OTHER_SECRET = "quiet-heron-other"
SOURCE_TOKEN = "quiet-heron-source"


@dataclass(frozen=True)
class Secured:
    """A fleet in secured mode."""

    fleet: Fleet
    rollout: str
    """What its rollout said, at -vvv and with --diff."""
    key: str
    """A line out of the middle of the private key."""
    arguments: tuple[str, ...]
    """What playbooks need to know of the keys."""

    def token(self, kind: str) -> str:
        """Have the first server issue a token."""
        body = json.dumps({"type": kind, "id": "0b6b2f6e-7f4c-4b52-9d0f-1f6f3f0f9a11"})
        answer = self.fleet.shell(
            self.fleet.hosts("opal_server")[0],
            f"curl -sf -X POST http://127.0.0.1:7002/token -H 'Authorization: Bearer {MASTER_TOKEN}'"
            f" -H 'Content-Type: application/json' -d '{body}'",
        )
        return str(json.loads(answer)["token"])


@pytest.fixture(scope="module")
def secured(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Roll out with keys; the fleet is open again afterwards."""
    folder = tmp_path_factory.mktemp("keys")
    private = folder / "opal_rsa"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-m", "pem", "-f", str(private), "-N", ""], check=True
    )
    values = {
        "opal_server_auth_private_key": private.read_text(encoding="utf-8"),
        "opal_server_auth_public_key": Path(f"{private}.pub").read_text(encoding="utf-8").strip(),
        "opal_server_auth_master_token": MASTER_TOKEN,
        "opal_server_policy_repo_webhook_secret": WEBHOOK_SECRET,
        "opal_server_secrets": {"OPAL_POLICY_BUNDLE_SERVER_TOKEN": OTHER_SECRET},
        "opal_server_data_config_sources": {
            "config": {
                "entries": [
                    {
                        "url": "http://127.0.0.1:9/",
                        "topics": ["policy_data"],
                        "config": {"headers": {"Authorization": SOURCE_TOKEN}},
                    }
                ]
            }
        },
    }
    variables = folder / "secrets.json"
    variables.write_text(json.dumps(values), encoding="utf-8")
    arguments = ("-e", f"@{variables}")
    run = fleet.must_play("playbooks/site.yml", *arguments, "-vvv", "--diff")
    yield Secured(fleet, run.output, private.read_text(encoding="utf-8").splitlines()[5], arguments)
    fleet.must_play("playbooks/site.yml")


def secrets(secured: Secured) -> list[str]:
    """Return everything that must not be seen."""
    return [MASTER_TOKEN, WEBHOOK_SECRET, OTHER_SECRET, SOURCE_TOKEN, secured.key]


def test_the_rollout_shows_no_secret_at_any_verbosity(secured: Secured) -> None:
    assert [secret for secret in secrets(secured) if secret in secured.rollout] == []
    assert "its secret content differs and is not shown" in secured.rollout


def test_a_host_shows_no_secret_to_its_users(secured: Secured) -> None:
    for host in secured.fleet.hosts("opal_server"):
        seen = secured.fleet.shell(
            host,
            "ps axww -o args; journalctl --no-pager -o cat; systemctl show opal-server;"
            " find /etc/opal-server /opt/opal-server /var/lib/opal-server /run/opal-server /etc/systemd/system"
            " -xdev -type f -perm /o+r -size -1M -exec cat {} + 2>/dev/null | tr -d '\\0'",
        )
        assert [secret for secret in secrets(secured) if secret in seen] == []


def test_verify_passes_with_tokens_and_does_not_show_them(secured: Secured, tmp_path: Path) -> None:
    tokens = {"verify_client_token": secured.token("client"), "verify_datasource_token": secured.token("datasource")}
    variables = tmp_path / "tokens.json"
    variables.write_text(json.dumps(tokens), encoding="utf-8")
    verification = secured.fleet.verify(*secured.arguments, "-e", f"@{variables}", "-vvv")
    assert verification.passed, verification.run.output[-3000:]
    everything = verification.run.output + json.dumps(verification.report)
    assert [token for token in tokens.values() if token in everything] == []


def test_verify_fails_without_tokens_and_says_which_to_set(secured: Secured) -> None:
    verification = secured.fleet.verify(*secured.arguments)
    assert not verification.passed
    assert "verify_client_token" in verification.run.words


def test_a_second_rollout_with_the_same_secrets_changes_nothing(secured: Secured) -> None:
    assert secured.fleet.must_play("playbooks/site.yml", *secured.arguments).changed == 0
