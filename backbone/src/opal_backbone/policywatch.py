"""The watch over the policy repository: OPAL's own ends at the first surprise, and nobody is told.

A server whose watch has ended goes on serving the policy that it had. So the watch is looked at, started again where it
has ended, and the host is unhealthy until it is under way again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from loguru import logger
from opal_server.server import OpalServer

from opal_backbone.upstream import policy_watch, watch_repository_again

_AGAIN_AFTER = 5.0
"""Seconds between two attempts to watch again."""

_WORDS = 300
"""How many characters of a failure are told: git's are long."""


class PolicyWatch:
    """Looks after the watch of one worker. Only the one that leads its host has any."""

    def __init__(self, server: OpalServer, restart_after: float, restart: Callable[[str], None]) -> None:
        """Look at a server's watch when asked to.

        Args:
            server: OPAL's server in this process.
            restart_after: seconds without a watch after which `restart` is called, 0 for never.
            restart: starts the host's service anew; it is given the reason.
        """
        self.reason = ""
        """Why the repository is not watched, empty where it is or where that is not this worker's part."""
        self._server = server
        self._restart_after = restart_after
        self._restart = restart
        self._failed_at = 0.0
        self._tried_at = 0.0

    def look(self) -> None:
        """Note a watch that has ended, and start it again; call this about once a second."""
        tasks, now = policy_watch(self._server), time.monotonic()
        failures = {name: words for name, task in tasks.items() if (words := _failure(task))}
        if not failures:
            repository = tasks.get("repository")
            if self.reason and (repository is None or repository.done()):
                logger.info(f"Backbone: the policy repository is watched again after {now - self._failed_at:.0f} s")
                self.reason = ""
            return
        if not self.reason:
            self._failed_at = self._tried_at = now
        reason = f"OPAL no longer watches the policy repository: {next(iter(failures.values()))}"
        if reason != self.reason:
            what_now = f"trying again every {_AGAIN_AFTER:g} s"
            if "repository" not in failures:
                what_now = "only a restart of the service begins that anew"
            logger.error(f"Backbone: {reason}; {what_now}")
            self.reason = reason
        if self._restart_after and now - self._failed_at > self._restart_after:
            self._failed_at = now
            self._restart(reason)
        elif "repository" in failures and now - self._tried_at > _AGAIN_AFTER:
            self._tried_at = now
            watch_repository_again(self._server)


def _failure(task: asyncio.Task[None]) -> str:
    """Return what a task ended with that it should not have ended with."""
    failure = task.exception() if task.done() and not task.cancelled() else None
    if failure is None:
        return ""
    # OPAL's own exception says nothing, but the one that it was raised for does
    said = str(failure) or str(failure.__context__ or "")
    return " ".join(said.split())[:_WORDS] or repr(failure)
