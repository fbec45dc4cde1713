"""A repository's URL without its credentials, how git gets them, and what is told where it refuses."""

from __future__ import annotations

import os
import subprocess

import pytest
from ansible_collections.policyfleet.opal.plugins.filter.git_access import git_access
from ansible_collections.policyfleet.opal.plugins.module_utils.git_access import split_url
from ansible_collections.policyfleet.opal.plugins.modules import policy_repository

AWKWARD = "a b:5%s of $HOME, \"\\n\" & 'more' / @ #é"


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://git.example.com/p.git", ("https://git.example.com/p.git", "", "")),
        ("https://joe:hu%40sh@git.example.com:8443/p.git", ("https://git.example.com:8443/p.git", "joe", "hu@sh")),
        ("https://token@git.example.com/p.git", ("https://git.example.com/p.git", "token", "")),
        ("http://joe:@[::1]:80/p.git?a=b", ("http://[::1]:80/p.git?a=b", "joe", "")),
        ("ssh://git@git.example.com/p.git", ("ssh://git@git.example.com/p.git", "", "")),
        ("git@git.example.com:p.git", ("git@git.example.com:p.git", "", "")),
        ("", ("", "", "")),
    ],
)
def test_credentials_are_taken_out_of_a_url(url: str, parts: tuple[str, str, str]) -> None:
    assert split_url(url) == parts


def test_without_credentials_git_is_told_nothing() -> None:
    access = git_access("ssh://git@git.example.com/p.git")
    assert (access["credentials"], access["settings"], access["secrets"]) == ("", {}, {})


def test_it_does_not_matter_where_credentials_are_given() -> None:
    inside = git_access("https://joe:hu%40sh@git.example.com/p.git")
    assert inside == git_access("https://git.example.com/p.git", "joe", "hu@sh")
    assert inside["credentials"] == "joe:hu%40sh"
    assert "hu@sh" not in str({**inside, "secrets": {}})


def ask_git(host: str) -> subprocess.CompletedProcess[str]:
    """Have git itself find the credentials for a host in the environment that the filter makes for another."""
    access = git_access("https://git.example.com:8443/p.git", "reader@example.org", AWKWARD)
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    return subprocess.run(
        ["git", "credential", "fill"],
        input=f"protocol=https\nhost={host}\n\n",
        env={"PATH": os.environ["PATH"], **quiet, **access["settings"], **access["secrets"]},
        capture_output=True,
        text=True,
        check=False,
    )


def test_git_gets_each_sign_of_the_credentials() -> None:
    answer = ask_git("git.example.com:8443")
    assert answer.returncode == 0, answer.stderr
    assert f"username=reader@example.org\npassword={AWKWARD}\n" in answer.stdout


def test_another_host_does_not_get_them() -> None:
    answer = ask_git("elsewhere.example.com")
    assert answer.returncode != 0
    assert "reader" not in answer.stdout


@pytest.mark.parametrize(
    ("words", "ca_cert", "told"),
    [
        (
            "fatal: unable to access 'https://git.example.com/p.git/': server certificate verification failed. "
            "CAfile: none CRLfile: none",
            "",
            ["not signed by an authority of this system", "Set opal_server_policy_repo_ca_cert"],
        ),
        (
            "fatal: unable to access 'https://git.example.com/p.git/': SSL certificate problem: unable to get local "
            "issuer certificate",
            "given",
            ["not signed by the authority in opal_server_policy_repo_ca_cert"],
        ),
        (
            "fatal: unable to access 'https://git.example.com/p.git/': SSL: certificate subject name (git1) does not "
            "match target host name 'git.example.com'",
            "",
            ["for another name"],
        ),
        (
            "fatal: Authentication failed for 'https://git.example.com/p.git/'",
            "",
            ["refuses the username or the password", "opal_server_policy_repo_password"],
        ),
        (
            "fatal: could not read Username for 'https://git.example.com': terminal prompts disabled",
            "",
            ["asks for credentials", "Set opal_server_policy_repo_username"],
        ),
        (
            "fatal: unable to access 'https://git.example.com/p.git/': Could not resolve host: git.example.com",
            "",
            ["git.example.com cannot be reached", "Is the name right"],
        ),
        (
            "fatal: unable to access 'https://git.example.com/p.git/': The requested URL returned error: 403",
            "",
            ["does not let this user read it", "the right to"],
        ),
        ("fatal: repository not found", "", ["repository not found", "'git ls-remote https://git.example.com/p.git'"]),
    ],
)
def test_what_git_says_is_told_with_what_to_do(words: str, ca_cert: str, told: list[str]) -> None:
    sentence = policy_repository.explain(words, {"url": "https://git.example.com/p.git", "ca_cert": ca_cert})
    assert all(part in sentence for part in told), sentence


def test_a_number_and_a_vaulted_text_are_taken_as_text() -> None:
    class Vaulted:
        """As Ansible hands on a text that is vaulted by itself, before its release 2.19."""

        def __str__(self) -> str:
            return "https://git.example.com/p.git"

    assert git_access(Vaulted(), "joe", 123456) == git_access("https://git.example.com/p.git", "joe", "123456")  # type: ignore[arg-type]
