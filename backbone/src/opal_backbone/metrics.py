"""Figures of one worker, kept for prometheus_client and for the JSON state at once."""

from __future__ import annotations

import os
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

_COUNTERS = {
    "received": "Events read from the topic and handed on, or recognised as this worker's own.",
    "delivered": "Events handed to OPAL.",
    "published": "Events acknowledged by a broker.",
    "accepted": "Events accepted for publishing.",
    "retried": "Sendings of an event beyond its first.",
    "refused": "Events not accepted because the buffer was full; OPAL's replay buffer has them.",
    "given_up": "Accepted events that were dropped without reaching a broker.",
    "deferred": "Events held back from this worker's own clients until a broker had them.",
    "duplicates": "Repeated events recognised and dropped.",
    "malformed": "Messages skipped because OPAL could not have used them.",
    "gaps": "Times that events were or may have been missed, so that OPAL resynchronises its clients.",
    "missed": "Events known to have been published and never received.",
    "searches": "Times that the topic was read again because an event was missing.",
    "heartbeats_sent": "Heartbeats acknowledged by a broker.",
    "heartbeats_received": "Heartbeats read from the topic, of every worker.",
    "connects": "Connections made to the brokers.",
    "connect_failures": "Attempts to connect that failed.",
}
_GAUGES = {
    "connected": "1 while the worker is connected and hears the topic.",
    "waiting": "Events accepted and not yet acknowledged.",
    "waiting_bytes": "Payload of the events accepted and not yet acknowledged, in bytes.",
    "heard_age_seconds": "Seconds since anything was read from the topic.",
    "last_event_timestamp_seconds": "When an event was last read from the topic, in seconds since the epoch; 0: never.",
    "oldest_waiting_seconds": "Age of the oldest event not yet acknowledged, in seconds.",
}


def _in_fleet_of_processes() -> bool:
    return bool(os.environ.get("PROMETHEUS_MULTIPROC_DIR"))


class Metrics:
    """Counts things under one name for Prometheus, summed over the host's workers, and for this worker alone."""

    def __init__(self) -> None:
        """Register the metrics; in a host of several workers PROMETHEUS_MULTIPROC_DIR must be set before."""
        self._registry = CollectorRegistry()
        prefix = "opal_backbone_"
        self._counters = {
            name: Counter(prefix + name, text, registry=self._registry) for name, text in _COUNTERS.items()
        }
        many = _in_fleet_of_processes()
        self._gauges = {
            name: Gauge(prefix + name, text, registry=self._registry, multiprocess_mode="liveall" if many else "all")
            for name, text in _GAUGES.items()
        }
        self._latency = Histogram(
            prefix + "latency_seconds",
            "From acceptance at the publishing worker to this worker, by the two hosts' clocks.",
            buckets=LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._round_trip = Histogram(
            prefix + "round_trip_seconds",
            "From sending a heartbeat to reading it back, by one clock.",
            buckets=LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._values = dict.fromkeys(_COUNTERS, 0)
        self._latencies = [0] * (len(LATENCY_BUCKETS) + 1)

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter."""
        if by:
            self._values[name] += by
            self._counters[name].inc(by)

    def value(self, name: str) -> int:
        """Return this worker's own count."""
        return self._values[name]

    def gauge(self, name: str, value: float) -> None:
        """Set a gauge."""
        self._gauges[name].set(value)

    def latency(self, seconds: float) -> None:
        """Note how long an event took from acceptance at its publisher to here."""
        seconds = max(0.0, seconds)
        self._latency.observe(seconds)
        for index, bound in enumerate(LATENCY_BUCKETS):
            if seconds <= bound:
                self._latencies[index] += 1
                return
        self._latencies[-1] += 1

    def round_trip(self, seconds: float) -> None:
        """Note how long a heartbeat took from this worker back to itself."""
        self._round_trip.observe(max(0.0, seconds))

    def as_dict(self) -> dict[str, Any]:
        """Return this worker's counters, and its latencies as counts per bucket (not cumulative; last is beyond)."""
        buckets = [*(f"{bound:g}" for bound in LATENCY_BUCKETS), "+Inf"]
        return {
            **self._values,
            "latency_seconds": {b: n for b, n in zip(buckets, self._latencies, strict=True) if n},
        }

    def exposition(self) -> bytes:
        """Return the text that Prometheus scrapes, of all workers of the host together."""
        if not _in_fleet_of_processes():
            return bytes(generate_latest(self._registry))
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return bytes(generate_latest(registry))
