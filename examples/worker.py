#!/usr/bin/env python3
"""A worker of a queue that rgrid_heartbeat watches. Copy it and put your work in place of pretend_to_work().

What a worker has to do:

* It registers when it starts, sends heartbeats until its last job is done, and deregisters when it stops on purpose. No
  job can hold up a heartbeat. The client in clients/python does all of that.
* It claims a job only while the client says so, and writes its id into executions.worker_id.
* It writes a result only if the job is still its own.

If it falls silent, the database fails its running jobs. A worker that was only cut off or frozen learns that with its
next heartbeat.

Needs psycopg 3.1, the client (`pip install clients/python`, or its folder beside this file), EXECUTE on rgrid_register,
rgrid_heartbeat and rgrid_deregister, and on rgrid_attach for its death to be seen at once, SELECT and UPDATE on
executions, and RGrid's columns in it: id, execution_id, status, worker_id, execution_error, started_at, completed_at.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
from rgrid_heartbeat import Heartbeat, split_hosts

# If a job is already running under our own id, its claim was committed while the connection broke: we got no answer,
# and no other worker would ever take the job.
CLAIM = """
    UPDATE executions
       SET status = 'running', worker_id = %(worker)s, started_at = now() AT TIME ZONE 'utc'
     WHERE id = (SELECT id
                   FROM executions
                  WHERE status = 'queued' OR (status = 'running' AND worker_id = %(worker)s)
                  ORDER BY id
                  LIMIT 1
                    FOR UPDATE SKIP LOCKED)
    RETURNING execution_id
"""
IS_MINE = "SELECT 1 FROM executions WHERE execution_id = %(job)s AND worker_id = %(worker)s AND status = 'running'"
FINISH = """
    UPDATE executions
       SET status = %(status)s, execution_error = %(error)s, completed_at = now() AT TIME ZONE 'utc'
     WHERE execution_id = %(job)s AND worker_id = %(worker)s AND status = 'running'
    RETURNING execution_id
"""

# For connecting, and for a statement: a frozen server does not answer, but its kernel still answers TCP.
DEADLINE = 10
# Another attempt on another connection may succeed. A server that has become a standby counts as away.
SERVER_AWAY = (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction)

log = logging.getLogger("worker")


class JobLost(Exception):
    """The job on hand was given up by the database and is no longer this worker's."""


def retry_pause() -> float:
    """Seconds until the next attempt to reach the server; random, so that workers do not all come back together."""
    return random.uniform(0.5, 1.5)


@contextlib.contextmanager
def deadline(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Cuts the connection if what is done here takes longer: psycopg itself would wait for ever."""
    with socket.socket(fileno=os.dup(connection.fileno())) as twin:
        timer = threading.Timer(DEADLINE, twin.shutdown, [socket.SHUT_RDWR])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


class Database:
    """A connection for the jobs, opened again when it is needed and broken. Not for use by two threads."""

    def __init__(self, dsn: str) -> None:
        self.servers = split_hosts(dsn)
        self.connection: psycopg.Connection[Any] | None = None
        self.trouble: str | None = None  # why the server was away at the last attempt

    def query(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]] | None:
        """One attempt: the rows, or None when the server is away. Every statement is a transaction of its own."""
        try:
            if self.connection is None:
                self.connection = self.connect()
            with deadline(self.connection):
                rows = self.connection.execute(statement, parameters).fetchall()
        except SERVER_AWAY as error:
            self.disconnect(str(error).partition("\n")[0])
            return None
        if self.trouble is not None:
            log.info("the server is back")
            self.trouble = None
        return rows

    def connect(self) -> psycopg.Connection[Any]:
        """To the first server that can be written to. No statement gets a name: a pooler in transaction mode mixes up
        those of different clients."""
        *others, last = self.servers
        for server in others:
            with contextlib.suppress(psycopg.OperationalError):
                return psycopg.connect(server, connect_timeout=DEADLINE, autocommit=True, prepare_threshold=None)
        return psycopg.connect(last, connect_timeout=DEADLINE, autocommit=True, prepare_threshold=None)

    def insist(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """The rows, however long the server is away. The statement may run twice: an answer can be lost."""
        while (rows := self.query(statement, **parameters)) is None:
            time.sleep(retry_pause())
        return rows

    def disconnect(self, trouble: str) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        if trouble != self.trouble:
            log.warning("the server is away: %s", trouble)
            self.trouble = trouble


class Worker:
    """Claims one job after the other in the main thread."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.given_up = threading.Event()  # set by the heartbeat, cleared by wait_or_lose()
        self.heartbeat = Heartbeat(
            options.dsn,
            hostname=options.hostname,
            interval=options.heartbeat_interval,
            deadline=DEADLINE,
            on_given_up=lambda heartbeat: self.given_up.set(),
        )
        self.database = Database(options.dsn)
        self.poll = options.poll
        self.job_seconds = options.job_seconds
        self.draining = False

    @property
    def id(self) -> str | None:
        return self.heartbeat.worker_id

    def stop(self, *_: object) -> None:
        # Called by a signal, between any two instructions: no lock may be taken here.
        self.draining = True

    def run(self) -> None:
        try:
            while not self.draining:
                if (job := self.claim()) is not None:
                    self.work_on(job)
                else:
                    time.sleep(self.poll)
        finally:
            self.heartbeat.stop()

    def claim(self) -> str | None:
        rows = self.database.query(CLAIM, worker=self.id) if self.heartbeat.may_claim else None
        return rows[0][0] if rows else None

    def work_on(self, job: str) -> None:
        log.info("%s started", job)
        try:
            self.pretend_to_work(job)
        except JobLost:
            log.warning("%s dropped, the database has given it up", job)
        except Exception as error:
            self.finish(job, "failed", str(error))
        else:
            self.finish(job, "completed", None)

    def pretend_to_work(self, job: str) -> None:
        """Your work goes here; it calls wait_or_lose() now and then, with 0 seconds if there is nothing to wait for."""
        deadline = time.monotonic() + self.job_seconds
        while (left := deadline - time.monotonic()) > 0:
            self.wait_or_lose(job, left)

    def wait_or_lose(self, job: str, seconds: float) -> None:
        """Waits, at most so long; raises JobLost as soon as the job turns out to be given up."""
        if not self.given_up.wait(seconds):
            return
        self.given_up.clear()
        # Jobs that an earlier incarnation had claimed are settled by now. A job that is still ours was claimed under
        # the new one, before we knew of it. Without an answer we go on: FINISH checks again.
        if self.database.query(IS_MINE, job=job, worker=self.id) == []:
            raise JobLost

    def finish(self, job: str, status: str, error: str | None) -> None:
        if self.database.insist(FINISH, job=job, worker=self.id, status=status, error=error):
            log.info("%s %s", job, status)
        else:
            log.warning("%s was settled already, its result is not written", job)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="An example of an RGrid worker; its jobs only wait.")
    parser.add_argument("--dsn", default="", help="connection string (default: the PG* environment variables)")
    parser.add_argument("--hostname", default=socket.gethostname(), help="what operators see (default: %(default)s)")
    parser.add_argument("--heartbeat-interval", type=float, default=30, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument("--job-seconds", type=float, default=10, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument("--poll", type=float, default=1, metavar="SECONDS", help="pause when nothing is queued")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    logging.basicConfig(format=f"%(asctime)s {options.hostname}: %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    worker = Worker(options)
    worker.heartbeat.start()
    # Only from here on is there something to drain; before, a signal simply ends the process.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, worker.stop)
    worker.run()


if __name__ == "__main__":
    main()
