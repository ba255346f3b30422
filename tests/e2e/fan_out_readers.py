"""Many consumers in one process, for test_fan_out.py:

    python -m tests.e2e.fan_out_readers ADDRESS TOPIC COUNT RECORDS MODE PAUSE_MS

They are consumers of `zmqmq.aio`, each with a client of its own. Prints how many of them had every
record once and in order; values are "NUMBER …".
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Literal, cast

import zmqmq.aio

SECONDS = 200
SMALL = 65_536
"""What one that pauses may keep ahead: it leaves the subject again and again."""


async def read(consumer: zmqmq.aio.Consumer, records: int, pause: float) -> bool:
    """Whether everything came once and in order."""
    expected = 0
    while expected < records:
        for record in await consumer.fetch(200, max_wait_ms=1_000):
            number = int((record.value or b"").split()[0])
            if (record.offset, number) != (expected, expected):
                print(f"expected {expected}, got {number} at {record.offset}")  # noqa: T201
                return False
            expected += 1
        await asyncio.sleep(pause)
    return True


async def main(address: str, topic: str, count: int, records: int, mode: str, pause: int) -> None:
    """All of them at once."""
    kind = cast('Literal["push", "pull"]', mode)
    ahead = SMALL if pause else 16_777_216
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(SECONDS):
        consumers = []
        for _ in range(count):
            client = await stack.enter_async_context(await zmqmq.aio.connect(address))
            consumer = client.consumer(topic, mode=kind, start="start", prefetch_bytes=ahead)
            consumers.append(await stack.enter_async_context(consumer))
        print("ready", flush=True)  # noqa: T201
        good = sum(await asyncio.gather(*(read(c, records, pause / 1_000) for c in consumers)))
    print(good, flush=True)  # noqa: T201


if __name__ == "__main__":
    _, address, topic, count, records, mode, pause = sys.argv
    asyncio.run(main(address, topic, int(count), int(records), mode, int(pause)))
