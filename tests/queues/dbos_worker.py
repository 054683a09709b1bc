"""DBOS, for the tests; see tests/it/queues/mod.rs. `start JOB` is a worker that starts a workflow itself."""

import json
import os
import signal
import sys
import uuid

from dbos import DBOS, DBOSClient, DBOSConfig
from rgrid_heartbeat import Heartbeat

import runs

INTERVAL = 0.5
URL = "postgresql://{PGUSER}@/{PGDATABASE}?host={PGHOST}".format(**os.environ)


@DBOS.workflow(name="work")
def work(job):
    runs.run(job)


@DBOS.workflow(name="work_once", max_recovery_attempts=0)
def work_once(job):
    runs.run(job)


executor_id = str(uuid.uuid4())
config = DBOSConfig(
    name="tests", system_database_url=URL, application_version="1", executor_id=executor_id, console_log_level="WARNING"
)


def main(command, job=None, options="{}"):
    if command == "enqueue":
        name = json.loads(options).get("workflow", "work")
        DBOSClient(system_database_url=URL).enqueue(
            {"workflow_name": name, "queue_name": "jobs", "workflow_id": job, "app_version": "1"}, job
        )
        return
    DBOS(config=config)
    if command == "install":
        DBOS.launch()
        DBOS.register_queue("jobs", worker_concurrency=1)
        DBOS.destroy()
        return
    with Heartbeat(worker_id=f"dbos:{executor_id}", register=False, interval=INTERVAL):
        DBOS.launch()
        serve(command, job)


def serve(command, job):
    if command == "start":
        DBOS.start_workflow(work, job)
    signal.pause()


main(*sys.argv[1:])
