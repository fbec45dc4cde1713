"""The floor: pulsar-client producing and reading alone, its readers in processes of their own or all in one.

`python -m bench.floor URL TOPIC READERS MESSAGES` is one of those processes. It says "ready" when its readers are made,
and writes when each message came, as JSON, when each reader has all of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from typing import Any

import pulsar

from bench.measure import WARM, WARM_PAUSE, Load, Result

_TIMEOUT = 60


def pulsar_alone(name: str, uri: str, receivers: int, load: Load, *, processes: int) -> Result:
    """Produce in this process and read in `processes` others, which share `receivers` readers evenly.

    Raises:
        subprocess.TimeoutExpired: a reader did not get every message.
    """
    result = Result(name, receivers)
    result.expected, result.sustained_expected = load.events * receivers, load.burst * receivers
    topic, total = f"floor-{receivers}-{processes}", WARM + load.events + load.burst
    command = [sys.executable, "-m", "bench.floor", uri, topic, str(receivers // processes), str(total)]
    others = [
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    try:
        for other in others:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
        sent, began = _produce(uri, topic, load)
        arrivals = [own for other in others for own in json.loads(other.communicate(timeout=_TIMEOUT)[0])]
    finally:
        for other in others:
            other.kill()
            other.wait(10)
    ends = [when for own in arrivals for key, when in own.items() if key.startswith("burst")]
    result.note_latencies([(own[key] - when) * 1000 for own in arrivals for key, when in sent.items() if key in own])
    result.note_burst(len(ends), max(ends) - began)
    return result


def _produce(uri: str, topic: str, load: Load) -> tuple[dict[str, float], float]:
    """Produce everything; return when each paced message was sent, and when the burst began."""
    client = pulsar.Client(uri, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    producer = client.create_producer(topic, max_pending_messages=load.burst + 10)
    for number in range(WARM):
        producer.send(b"warm%d" % number)
        time.sleep(WARM_PAUSE)
    time.sleep(2)
    sent = {}
    for number in range(load.events):
        key = f"paced{number}"
        sent[key] = time.time()
        producer.send_async(key.encode(), _ignore)
        time.sleep(1 / load.rate)
    began = time.time()
    for number in range(load.burst):
        producer.send_async(b"burst%d" % number, _ignore)
    producer.flush()
    client.close()
    return sent, began


def _ignore(*_answer: object) -> None:
    """Take no notice of an acknowledgement."""


def _read(uri: str, topic: str, readers: int, total: int) -> list[dict[str, float]]:
    """Read with so many readers until each has `total` messages; return when each message came, a reader each."""
    client = pulsar.Client(uri, io_threads=2, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    arrivals: list[dict[str, float]] = [{} for _ in range(readers)]
    done = threading.Event()

    def listener(own: dict[str, float]) -> Any:
        def note(_reader: Any, message: Any) -> None:
            own[message.data().decode()] = time.time()
            if len(own) == total and all(len(each) == total for each in arrivals):
                done.set()

        return note

    for own in arrivals:
        client.create_reader(topic, pulsar.MessageId.latest, reader_listener=listener(own))
    print("ready", flush=True)
    done.wait()
    client.close()
    return arrivals


if __name__ == "__main__":
    print(json.dumps(_read(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
