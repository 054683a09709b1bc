"""PgQueuer, for the tests; see tests/it/queues/mod.rs."""

import asyncio
import json
import sys

import asyncpg
from pgqueuer import PgQueuer, Queries
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import TracebackRecord
from rgrid_heartbeat import Heartbeat

import runs

INTERVAL = 0.5


async def work(driver):
    pgq = PgQueuer(driver)

    # It blocks the event loop, so that the worker takes no second job: the library has no limit of one.
    @pgq.entrypoint("work")
    async def work(job):
        runs.run(job.payload.decode())

    pgq.entrypoint("limited", concurrency_limit=1)(work)

    worker_id = f"pgqueuer:{pgq.qm.queue_manager_id}"
    async with Heartbeat(worker_id=worker_id, register=False, interval=INTERVAL):
        await pgq.run(batch_size=1, max_concurrent_tasks=2)


async def main(command, job=None, options="{}"):
    driver = AsyncpgDriver(await asyncpg.connect())
    if command == "install":
        await Queries(driver).install()
    elif command == "enqueue":
        entrypoint = json.loads(options).get("entrypoint", "work")
        await Queries(driver).enqueue(entrypoint, job.encode())
    elif command == "log":
        for row in await driver.fetch("SELECT traceback::text FROM pgqueuer_log WHERE traceback IS NOT NULL"):
            print(TracebackRecord.model_validate_json(row["traceback"]))
    else:
        await work(driver)


asyncio.run(main(*sys.argv[1:]))
