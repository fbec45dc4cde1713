"""Measure delivery end to end through OPAL-server, side by side for several backbones.

`python -m bench` starts real brokers and real OPAL-server workers on loopback, publishes through the HTTP interface of
one worker, and notes when a websocket subscriber of each other worker has each event. Beside them, in the same run,
stand the floors: pulsar-client alone, with as many reading processes as there are workers and with all readers in one,
and OPAL-server with the subscribers on the worker that publishes. All take turns, so that what disturbs the machine
disturbs each. Results go to standard output as a Markdown table, and to charts in SVG.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from bench import chart, services
from bench.floor import pulsar_alone
from bench.measure import Load, Result, over_rounds, through_opal
from bench.opal import workers

FLOOR, ONE_PROCESS = "pulsar-client alone", "pulsar-client in one process"
MEMORY, OURS = "OPAL in memory", "this backend"
BACKBONES = {
    OURS: (services.pulsar, "opal_backbone.server:app"),
    "upstream Pulsar": (services.pulsar, "opal_server.main:app"),
    "upstream Redis": (services.redis, "opal_server.main:app"),
    "upstream Postgres": (services.postgres, "opal_server.main:app"),
}


def measure(name: str, receivers: int, load: Load, directory: Path) -> Result:
    """Measure one backbone, or one of the floors, with that many receivers."""
    directory.mkdir()
    if name in (FLOOR, ONE_PROCESS):
        with services.pulsar(directory) as uri:
            return pulsar_alone(name, uri, receivers, load, processes=receivers if name == FLOOR else 1)
    if name == MEMORY:
        with workers("opal_server.main:app", "", 1, directory) as fleet:
            return asyncio.run(through_opal(name, fleet, receivers, load))
    service, app = BACKBONES[name]
    with service(directory) as uri, workers(app, uri, receivers + 1, directory) as fleet:
        return asyncio.run(through_opal(name, fleet, receivers, load))


def table(results: list[Result]) -> str:
    """Draw the results as a Markdown table."""
    lines = [
        "| backbone | receiving workers | delivered | p50 ms | p99 ms"
        " | sustained events/s (lowest to highest) | delivered at that rate"
        " | processor ms per event: publisher | each receiver |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in results:
        processor = [f"{value:.2f}" if value == value else "" for value in (r.publisher_ms, r.receiver_ms)]
        lines.append(
            f"| {r.backbone} | {r.receivers} | {r.delivered} of {r.expected} | {r.p50:.1f} | {r.p99:.1f}"
            f" | {r.sustained:.0f} ({r.lowest:.0f} to {r.highest:.0f})"
            f" | {r.sustained_delivered} of {r.sustained_expected} | {' | '.join(processor)} |"
        )
    return "\n".join(lines)


def ratios(results: list[Result]) -> str:
    """Say how this backend stands to the floors and to upstream's backends, for each number of receivers."""
    lines = []
    for receivers in dict.fromkeys(result.receivers for result in results):
        of = {result.backbone: result for result in results if result.receivers == receivers}
        if not {FLOOR, MEMORY, OURS} <= of.keys():
            continue
        ours, floor = of[OURS], of[FLOOR].p50 + of[MEMORY].p50
        line = f"{receivers} receivers: p50 is {ours.p50 / floor:.2f} of both floors together ({floor:.1f} ms)"
        if ONE_PROCESS in of:
            floor = of[ONE_PROCESS].p50 + of[MEMORY].p50
            line += f", {ours.p50 / floor:.2f} of those with all of Pulsar's readers in one process ({floor:.1f} ms)"
        for other in BACKBONES:
            if other != OURS and other in of and of[other].sustained:
                line += f"; events/s {ours.sustained / of[other].sustained:.1f} x {other}"
        lines.append(f"- {line}.")
    return "\n".join(lines)


def main() -> int:
    """Run what the command line asks for."""
    top = argparse.ArgumentParser(prog="bench", description=__doc__)
    top.add_argument("--workers", default="2,8,32", help="numbers of receiving workers, comma-separated")
    top.add_argument("--events", type=int, default=200, help="events published at --rate, for latency")
    top.add_argument("--rate", type=float, default=20, help="events per second")
    top.add_argument("--burst", type=int, default=1000, help="events published as fast as possible")
    every = ",".join([FLOOR, ONE_PROCESS, MEMORY, *BACKBONES])
    top.add_argument("--backbones", default=every, help="which, comma-separated")
    top.add_argument("--rounds", type=int, default=3, help="how often each is measured, in turns; medians are shown")
    top.add_argument("--output", type=Path, default=Path("bench-results"), help="directory for results")
    arguments = top.parse_args()
    load = Load(arguments.events, arguments.rate, arguments.burst)
    results: list[Result] = []
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="opal-backbone-bench-") as temporary:
        for count in (int(text) for text in arguments.workers.split(",")):
            names = arguments.backbones.split(",")
            taken: dict[str, list[Result]] = {name: [] for name in names}
            for turn, name in itertools.product(range(arguments.rounds), names):
                directory = Path(temporary) / f"{name}-{count}-{turn}".replace(" ", "-")
                taken[name].append(measure(name, count, load, directory))
                print(table(taken[name][-1:]).splitlines()[-1], flush=True)
            results += [over_rounds(rounds) for rounds in taken.values()]
            (arguments.output / "results.json").write_text(json.dumps([asdict(r) for r in results], indent=1))
    average = " ".join(f"{value:.1f}" for value in os.getloadavg())
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, load at the end {average}"
    text = f"Machine: {machine}\n\n{table(results)}\n\n{ratios(results)}\n"
    (arguments.output / "results.md").write_text(text)
    (arguments.output / "latency.svg").write_text(chart.latencies(results))
    (arguments.output / "rate.svg").write_text(chart.rates(results))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
