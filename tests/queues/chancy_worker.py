"""Chancy, for the tests; see tests/it/queues/mod.rs."""

import asyncio
import json
import os
import sys

from chancy import Chancy, Queue, Worker, job
from rgrid_heartbeat import Heartbeat

import runs

INTERVAL = 0.5


@job(queue="work")
def work(*, name: str):
    runs.run(name)


async def main(command, name=None, options="{}"):
    async with Chancy("dbname=" + os.environ["PGDATABASE"]) as chancy:
        if command == "install":
            await chancy.migrate()
            await chancy.declare(Queue("work", concurrency=1, executor="chancy.executors.thread.ThreadedExecutor"))
        elif command == "enqueue":
            attempts = json.loads(options).get("max_attempts", 1)
            await chancy.push(work.job.with_kwargs(name=name).with_max_attempts(attempts))
        else:
            worker = Worker(chancy)
            worker_id = f"chancy:{worker.worker_id}"
            async with Heartbeat(worker_id=worker_id, register=False, interval=INTERVAL), worker:
                await worker.wait_for_shutdown()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
