"""What RGrid's runner has to do differently, so that rgrid_heartbeat finds the jobs of a runner that has died.

These replace the runner's own statements:

* claim(): one statement sets the status and the worker. The released runner leaves executions.worker_id NULL, so it is
  not known which worker runs the job. It also locks the job in a transaction that ends before it sets the status, so
  two runners may run one job.
* finish(): a result is written only while the job is still this worker's. The released runner overwrites the status
  that a sweep, or another worker, has set.
* heartbeat(): a thread with a connection of its own, which no container holds up, for as long as the block lasts:

      with heartbeat(conninfo, worker_id) as beating, psycopg.connect(conninfo, autocommit=True) as connection:
          while not stopped:
              if beating.may_claim and (job := claim(connection, beating.worker_id)):
                  status, error = run_in_container(job)
                  finish(connection, beating.worker_id, job, status, error)

  So the heartbeats end after the last job. The released runner ends them first when it is asked to stop.

For psycopg 3 and the client in clients/python. With SQLAlchemy's text() a parameter is :worker instead of %(worker)s.
"""

from __future__ import annotations

from typing import Any

import psycopg
from rgrid_heartbeat import Heartbeat

CLAIM = """
    UPDATE executions
       SET status = 'running', worker_id = %(worker)s, started_at = now() AT TIME ZONE 'utc'
     WHERE id = (SELECT id FROM executions WHERE status = 'queued' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING execution_id
"""
FINISH = """
    UPDATE executions
       SET status = %(status)s, execution_error = %(error)s, completed_at = now() AT TIME ZONE 'utc'
     WHERE execution_id = %(job)s AND worker_id = %(worker)s AND status = 'running'
    RETURNING execution_id
"""


def claim(connection: psycopg.Connection[Any], worker: str | None) -> str | None:
    """The job that is the worker's from now on; None if none is queued."""
    row = connection.execute(CLAIM, {"worker": worker}).fetchone()
    return row[0] if row else None


def finish(
    connection: psycopg.Connection[Any], worker: str | None, job: str, status: str, error: str | None = None
) -> bool:
    """Whether the result was written. If not, the job was given up meanwhile: throw the result away."""
    parameters = {"job": job, "worker": worker, "status": status, "error": error}
    return connection.execute(FINISH, parameters).fetchone() is not None


def heartbeat(conninfo: str, worker: str, interval: float = 30) -> Heartbeat:
    """Use it in a `with` around all the work: the worker registers, sends heartbeats, and deregisters at the end."""
    return Heartbeat(conninfo, worker_id=worker, interval=interval)
