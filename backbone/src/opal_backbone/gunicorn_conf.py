"""gunicorn's configuration for OPAL-server on this backbone: `gunicorn -c python:opal_backbone.gunicorn_conf ...`.

Read by gunicorn's master before any worker is forked; nothing of Pulsar's client is made here. Options on gunicorn's
command line come before what is set here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from opal_backbone.settings import SettingsError, is_pulsar_uri, load, refuse_to_start


def _workers() -> int:
    number = os.environ.get("UVICORN_NUM_WORKERS") or "1"
    if not number.isdecimal():
        refuse_to_start(f"UVICORN_NUM_WORKERS must be a whole number, not {number!r}")
    return int(number)


bind = f"{os.environ.get('OPAL_SERVER_HOST') or '0.0.0.0'}:{os.environ.get('OPAL_SERVER_PORT') or '7002'}"
workers = _workers()
worker_class = "uvicorn.workers.UvicornWorker"
timeout = 30
keepalive = 5
# A stopping worker publishes what it still holds, and keeps on disk what it cannot; systemd's TimeoutStopSec lies above
# this. It holds the second for connections, one for OPAL's own part, STOP_TIMEOUT's 5 s at most, one for the
# connection to the broker, and the writing.
graceful_timeout = 9
_CONNECTIONS_END_WITHIN = 1


def _check_settings() -> None:
    if not is_pulsar_uri(os.environ.get("OPAL_BROADCAST_URI")):
        return
    try:
        load()
    except SettingsError as error:
        refuse_to_start(error)


def _state_directory() -> Path:
    given = os.environ.get("OPAL_BACKBONE_STATE_DIR") or os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    directory = Path(given or tempfile.mkdtemp(prefix="opal-backbone-"))
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        for leftover in directory.glob("*worker-*"):
            leftover.unlink(missing_ok=True)
        figures = directory / "prometheus"
        shutil.rmtree(figures, ignore_errors=True)
        figures.mkdir(mode=0o750)
    except OSError as error:
        refuse_to_start(f"OPAL_BACKBONE_STATE_DIR {directory} cannot be used: {error.strerror}")
    # read by prometheus_client when a worker imports it
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(figures)
    os.environ["OPAL_BACKBONE_STATE_DIR"] = str(directory)
    return directory


_check_settings()
_directory = _state_directory()
# gunicorn's own default lies in the home directory, which a sandboxed service cannot write
control_socket = str(_directory / "gunicorn.ctl")


def on_starting(server: Any) -> None:
    """Refuse an application that is made before workers are: all of them would publish under one name."""
    if server.cfg.preload_app:
        refuse_to_start("gunicorn's --preload cannot be used: each worker must make a backbone of its own")


def post_fork(server: Any, worker: Any) -> None:
    """Have a stopping worker wait for its connections for a moment only.

    uvicorn waits for them first and without end, so that one client which is cut off would have the worker killed
    before it could publish or keep what it holds.
    """
    if hasattr(worker, "config") and is_pulsar_uri(os.environ.get("OPAL_BROADCAST_URI")):
        worker.config.timeout_graceful_shutdown = _CONNECTIONS_END_WITHIN


def child_exit(server: Any, worker: Any) -> None:
    """Forget the gauges and the state of a worker that has ended; its counts stay in the host's sums."""
    with contextlib.suppress(Exception):
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
    (_directory / f"worker-{worker.pid}.json").unlink(missing_ok=True)


def when_ready(server: Any) -> None:
    """Do what OPAL's own image does before workers start: fetch the registered scopes, where there are any."""
    if os.environ.get("OPAL_SCOPES", "").lower() in ("1", "true", "yes", "on", "y"):
        from opal_server.scopes.task import ScopesPolicyWatcherTask

        ScopesPolicyWatcherTask.preload_scopes()
