"""DBOS, for the tests; see tests/it/queues/mod.rs. `start JOB` is a worker that starts a workflow itself."""

import json
import os
import signal
import sys
import uuid

from dbos import DBOS, DBOSClient, DBOSConfig, SetWorkflowID
from rgrid_heartbeat import Heartbeat

import runs

INTERVAL = 0.5
URL = "postgresql://{PGUSER}@/{PGDATABASE}?host={PGHOST}".format(**os.environ)
OPTIONS = {
    "name": "tests",
    "system_database_url": URL,
    "application_version": "1",
    "console_log_level": "WARNING",
}


@DBOS.workflow(name="work")
def work(job):
    runs.run(job)


@DBOS.workflow(name="work_once", max_recovery_attempts=0)
def work_once(job):
    runs.run(job)


def main(command, job=None, options="{}"):
    if command == "enqueue":
        name = json.loads(options).get("workflow", "work")
        DBOSClient(system_database_url=URL).enqueue(
            {"workflow_name": name, "queue_name": "jobs", "workflow_id": job, "app_version": "1"}, job
        )
    elif command == "install":
        DBOS(config=DBOSConfig(**OPTIONS))
        DBOS.launch()
        DBOS.register_queue("jobs", worker_concurrency=1)
        DBOS.destroy()
    else:
        serve(job)


def serve(job):
    executor_id = str(uuid.uuid4())
    DBOS(config=DBOSConfig(**OPTIONS, executor_id=executor_id))
    with Heartbeat(worker_id=f"dbos:{executor_id}", register=False, interval=INTERVAL):
        DBOS.launch()
        if job:
            with SetWorkflowID(job):
                DBOS.start_workflow(work, job)
        signal.pause()


main(*sys.argv[1:])
