"""OPAL-server with this backbone: the application that gunicorn runs instead of `opal_server.main:app`."""

from __future__ import annotations

import asyncio
import gc
import inspect
import itertools
import os
import signal
import time
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from loguru import logger
from opal_server.config import opal_server_config
from opal_server.server import OpalServer

from opal_backbone import __version__, watchdog
from opal_backbone.core import Core
from opal_backbone.metrics import Metrics
from opal_backbone.policywatch import PolicyWatch
from opal_backbone.settings import Settings, SettingsError, is_pulsar_uri, load, refuse_to_start
from opal_backbone.state import StateFiles
from opal_backbone.upstream import in_place_of_upstream, leave_out_what_nobody_reads, replayable, verify_built

_STATE_INTERVAL = 1.0
_WATCHDOG_ROUNDS = 5
_OPALS_ANSWERS_TO_GAPS = (
    "BROADCAST_RECONNECT_ENABLED",
    "BROADCAST_RESYNC_ON_RECONNECT",
    "BROADCAST_REPLAY_BUFFER_SIZE",
)
_OPAL_STOPS_WITHIN = (1.0, 6.0)
"""Seconds for OPAL's own part of a stop, before the backbone's part and in all: it may wait for clients that are cut
off."""


class BackboneServer:
    """One worker: OPAL's server, the core, and what the outside world may ask about them."""

    def __init__(self, settings: Settings) -> None:
        """Build OPAL's application on a core, which connects when the application starts."""
        self.settings = settings
        self.core = Core(settings, Metrics())
        with in_place_of_upstream(self.core):
            self.opal = OpalServer()
        verify_built(self.opal)
        leave_out_what_nobody_reads()
        self.core.on_deaf = self._restart_service
        self.app: FastAPI = self.opal.app
        self._states = StateFiles(settings.state_dir)
        # listens and shares for as long as the worker lives, not only while a client is connected
        self._context = self.opal.pubsub.broadcaster.get_context(listen=True, share=True)
        self._writer: asyncio.Task[None] | None = None
        self._policy = PolicyWatch(self.opal, settings.restart_after, self._restart_service)
        self._add_routes()
        self.app.router.on_startup.append(self._start)
        self._opals_own = list(self.app.router.on_shutdown)
        self.app.router.on_shutdown[:] = [self._stop]

    async def _start(self) -> None:
        logger.info(
            f"Backbone: fan-out over Pulsar {self.settings.service_url} topic {self.settings.topic}, "
            f"{self.settings.while_away} while it is away (opal-pulsar-backbone {__version__})"
        )
        # What OPAL and its libraries made so far stays. A full collection would stand still over it for nearly a tenth
        # of a second, and in all workers of the fleet at the same event, since all of them see the same events.
        gc.collect()
        gc.freeze()
        self.core.start()
        await self._context.__aenter__()
        self._writer = asyncio.create_task(self._write_state(), name="opal-backbone state")

    async def _stop_opal(self) -> None:
        for handler in self._opals_own:
            answer = handler()
            if inspect.isawaitable(answer):
                await answer

    async def _stop(self) -> None:
        """Stop OPAL's own part first, which may still publish. Whatever becomes of it, the backbone's part follows."""
        began = time.monotonic()
        first, in_all = _OPAL_STOPS_WITHIN
        opal = asyncio.create_task(self._stop_opal(), name="opal-backbone stop of OPAL")
        await asyncio.wait({opal}, timeout=first)
        if self._writer is not None:
            self._writer.cancel()
        left = await self.core.stop()
        await self._context.__aexit__(None, None, None)
        self._states.remove()
        await asyncio.wait({opal}, timeout=max(0.0, began + in_all - time.monotonic()))
        if not opal.done():
            logger.warning(f"Backbone: OPAL has not stopped its tasks within {in_all:g} s")
        elif not opal.cancelled() and (error := opal.exception()) is not None:
            logger.error(f"Backbone: OPAL could not stop its tasks: {error!r}")
        logger.info(f"Backbone: stopped with {left} event(s) unpublished")

    def _state(self) -> dict[str, Any]:
        state = self.core.state()
        reason = state["reason"] or self._policy.reason
        return {
            **state,
            "healthy": not reason,
            "reason": reason,
            "replay_buffer": replayable(self.opal.pubsub.broadcaster),
        }

    async def _write_state(self) -> None:
        """Tell siblings how this worker is, and systemd that the host's workers are alive."""
        rounds = itertools.count()
        while True:
            try:
                self._policy.look()
            except Exception:
                logger.exception("Backbone: could not look after the watch of the policy repository")
            try:
                own = self._state()
                self._states.write(own)
                # reading every sibling's state costs more than writing one's own
                if next(rounds) % _WATCHDOG_ROUNDS == 0 and watchdog.is_wanted():
                    watchdog.ping(self._states.read(own), self.settings)
            except Exception:
                logger.exception("Backbone: could not write the worker's state")
            await asyncio.sleep(_STATE_INTERVAL)

    def _restart_service(self, reason: str) -> None:
        """End this host's service in an orderly way; systemd starts it anew."""
        master = os.getppid()
        logger.critical(f"Backbone: {reason}; ending the service so that it is started anew")
        os.kill(master if watchdog.is_gunicorn_worker() else os.getpid(), signal.SIGTERM)

    def _health(self) -> tuple[int, dict[str, Any]]:
        """Judge this worker, and every other one of the host that is past its start."""
        own = self._state()
        problems = []
        for state in self._states.read(own):
            if state["pid"] == own["pid"]:
                if reason := own["reason"]:
                    problems.append(f"worker {own['pid']}: {reason}")
            elif state["age"] > self.settings.deaf_after:
                problems.append(f"worker {state['pid']}: stopped telling its state {state['age']:.0f} s ago")
            elif state["reason"] and state["uptime"] > self.settings.deaf_after:
                problems.append(f"worker {state['pid']}: {state['reason']}")
        if not problems and not self.opal.pubsub.broadcaster.is_reader_healthy():
            problems.append(f"worker {own['pid']}: OPAL's reader has ended")
        if problems and opal_server_config.BROADCAST_HEALTHCHECK_ENABLED:
            return 503, {"status": "error", "broadcaster": "unhealthy", "reason": "; ".join(problems)}
        return 200, {"status": "ok"}

    def _add_routes(self) -> None:
        async def healthcheck() -> JSONResponse:
            status, body = self._health()
            return JSONResponse(status_code=status, content=body)

        async def metrics() -> Response:
            return Response(self.core.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

        async def backbone() -> list[dict[str, Any]]:
            own = self._state()
            self._states.write(own)
            return self._states.read(own)

        # first of all routes, so that it answers instead of OPAL's own
        self.app.router.routes.insert(0, APIRoute("/healthcheck", healthcheck, include_in_schema=False))
        self.app.router.routes.append(APIRoute("/metrics", metrics, include_in_schema=False))
        self.app.router.routes.append(APIRoute("/backbone", backbone, include_in_schema=False))


def make_app() -> Any:
    """Build the application for the backbone that OPAL's settings name.

    With a broadcast URI of another scheme, or none, this is OPAL-server as it is.
    """
    uri = opal_server_config.BROADCAST_URI
    if not is_pulsar_uri(uri):
        app = OpalServer().app
        scheme = str(uri).split("://", 1)[0] if uri else "none"
        logger.info(f"Backbone: broadcast scheme {scheme!r} is not Pulsar, so OPAL's own backend is left as it is")
        return app
    try:
        settings = load(
            # OPAL may have these from another place than the environment
            {
                **os.environ,
                **{f"OPAL_{name}": str(getattr(opal_server_config, name)) for name in _OPALS_ANSWERS_TO_GAPS},
            },
            uri=uri,
            channel=opal_server_config.BROADCAST_CHANNEL_NAME,
            freeze=opal_server_config.BROADCAST_FREEZE_ON_DISCONNECT,
        )
    except SettingsError as error:
        refuse_to_start(error)
    server = BackboneServer(settings)
    server.app.state.backbone = server
    return server.app


app = make_app()
