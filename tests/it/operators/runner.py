"""Plays RGrid's runner: as it is released, with its statements in its order, or with those of
examples/rgrid_statements.py. Instead of a container there is a wait. Usage: runner.py DSN released|changed COMMAND
"""

import asyncio
import json
import sys
import time

import psycopg
import rgrid_statements

WORKER = "worker-1a2b3c4d"
CONTAINER_SECONDS = 60
NEXT = """
    SELECT execution_id FROM executions WHERE status = 'queued' ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED
"""
START = "UPDATE executions SET status = 'running', started_at = now() AT TIME ZONE 'utc' WHERE execution_id = %s"
RESULT = """
    UPDATE executions SET status = %s, execution_metadata = %s, completed_at = now() AT TIME ZONE 'utc'
     WHERE execution_id = %s
"""
BEAT = """
    INSERT INTO worker_heartbeats (worker_id, last_heartbeat_at) VALUES (%s, now() AT TIME ZONE 'utc')
        ON CONFLICT (worker_id) DO UPDATE SET last_heartbeat_at = EXCLUDED.last_heartbeat_at
"""


def find(db):
    """The lock ends with this transaction."""
    return db.execute(NEXT).fetchone()[0]


def finish_as_released(db, job):
    db.execute(RESULT, ("completed", json.dumps({"worker_id": WORKER}), job))


async def beat_as_released(db):
    while True:
        db.execute(BEAT, (WORKER,))
        await asyncio.sleep(0.2)


async def run_as_released(db, dsn):
    """Beats in the event loop, which the container holds up."""
    beating = asyncio.create_task(beat_as_released(connect(dsn)))
    await asyncio.sleep(0.5)
    job = find(db)
    db.execute(START, (job,))
    time.sleep(CONTAINER_SECONDS)
    finish_as_released(db, job)
    beating.cancel()


def run_as_changed(db, dsn):
    with rgrid_statements.heartbeat(dsn, WORKER, interval=0.2) as beating:
        job = rgrid_statements.claim(db, beating.worker_id)
        time.sleep(CONTAINER_SECONDS)
        rgrid_statements.finish(db, beating.worker_id, job, "completed")


def connect(dsn):
    return psycopg.connect(dsn, autocommit=True)


def main():
    dsn, statements, command = sys.argv[1:]
    released = statements == "released"
    db, other = connect(dsn), connect(dsn)
    if command == "run" and released:
        asyncio.run(run_as_released(db, dsn))
    elif command == "run":
        run_as_changed(db, dsn)
    elif command == "claim-twice" and released:
        jobs = find(db), find(other)
        db.execute(START, jobs[:1])
        other.execute(START, jobs[1:])
        print(jobs[0] == jobs[1])
    elif command == "claim-twice":
        with db.transaction():
            mine = rgrid_statements.claim(db, WORKER)
            print(mine == rgrid_statements.claim(other, "worker-5e6f7a8b"))
    elif command == "late-result":
        job = db.execute("SELECT execution_id FROM executions WHERE status = 'failed'").fetchone()[0]
        if released:
            finish_as_released(db, job)
        else:
            print(rgrid_statements.finish(db, WORKER, job, "completed"))


main()
