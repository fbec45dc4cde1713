"""Publishes lots of messages, each lot an entry of the topic, at uneven moments and without waiting for the broker.

Usage: flood.py URL TOPIC LOTS MESSAGES_IN_EACH LOTS_A_SECOND
"""

from __future__ import annotations

import random
import sys
import time

import pulsar


def main(url: str, topic: str, lots: int, each: int, rate: float) -> None:
    client = pulsar.Client(url)
    producer = client.create_producer(
        topic, batching_enabled=True, batching_max_publish_delay_ms=1000, block_if_queue_full=True
    )
    for _ in range(lots):
        for _ in range(each):
            producer.send_async(b"", _ignore)
        producer._producer.flush_async(_ignore)
        time.sleep(random.uniform(0, 2 / rate))
    producer.flush()
    client.close()


def _ignore(*_answer: object) -> None:
    """Take no notice of an acknowledgement."""


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
