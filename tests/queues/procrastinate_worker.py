"""Procrastinate, for the tests; see tests/it/queues/mod.rs."""

import asyncio
import json
import sys

import procrastinate
from rgrid_heartbeat import Heartbeat

import runs

INTERVAL = 0.5

app = procrastinate.App(connector=procrastinate.PsycopgConnector())

# Under the worker's number, which the database makes up: from before its first job on.
register = app.job_manager.register_worker


async def register_worker():
    number = await register()
    heartbeat = Heartbeat(worker_id=f"procrastinate:{number}", register=False, interval=INTERVAL)
    await heartbeat.astart()
    return number


app.job_manager.register_worker = register_worker


@app.task(name="work", pass_context=True)
async def work(context, job):
    await asyncio.to_thread(runs.run, job)


async def main(command, job=None, options="{}"):
    async with app.open_async():
        if command == "install":
            await app.schema_manager.apply_schema_async()
        elif command == "enqueue":
            await work.configure(**json.loads(options)).defer_async(job=job)
        else:
            await app.run_worker_async(stalled_worker_timeout=86400)


asyncio.run(main(*sys.argv[1:]))
