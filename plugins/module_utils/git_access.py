# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""How git gets at a repository over HTTPS without a secret in its URL.

A URL with a password would be in git's command lines, which every user of a host can read, and in OPAL-server's answers
to webhooks. So the URL loses it, and git is told by its environment to ask a helper, which takes the credentials out of
that environment.
"""

from __future__ import annotations

from typing import Dict, Tuple
from urllib.parse import unquote, urlsplit, urlunsplit

USERNAME = "POLICYFLEET_GIT_USERNAME"
PASSWORD = "POLICYFLEET_GIT_PASSWORD"

HELPER = ('!f() { if test "$1" = get; then printf \'username=%%s\\npassword=%%s\\n\' "$%s" "$%s"; fi; }; f') % (
    USERNAME,
    PASSWORD,
)
"""git's credential helper, which a shell runs. Its printf is the shell's own, so the values are in no command line."""


def split_url(url: str) -> Tuple[str, str, str]:
    """Return a URL without the credentials in it, and the user and password that these are; empty where there are none.

    Only HTTP has such credentials: the user in a URL for SSH is part of the address.
    """
    parts = urlsplit(url)
    login, at, place = parts.netloc.rpartition("@")
    if parts.scheme not in ("http", "https") or not at:
        return url, "", ""
    user, _colon, password = login.partition(":")
    return urlunsplit(parts._replace(netloc=place)), unquote(user), unquote(password)


def helper_settings(url: str) -> Dict[str, str]:
    """Return the environment in which git asks the helper for this URL's host, and for no other."""
    parts = urlsplit(url)
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "credential.%s://%s.helper" % (parts.scheme, parts.netloc),
        "GIT_CONFIG_VALUE_0": HELPER,
    }


def secret_settings(user: str, password: str) -> Dict[str, str]:
    """Return the part of the environment that is secret."""
    return {USERNAME: user, PASSWORD: password}
