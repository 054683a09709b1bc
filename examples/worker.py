#!/usr/bin/env python3
"""A worker of a queue that rgrid_heartbeat watches. Copy it and put your work in place of pretend_to_work().

What a worker owes the database:

* it registers when it starts and deregisters when it stops on purpose;
* it beats from a thread and a connection of its own, so that no job can hold up a heartbeat, and goes on beating until
  its last job is done;
* it writes its id into executions.worker_id when it claims a job;
* it writes a result only if the job is still its own.

Should it fall silent all the same, the database fails its running jobs. A worker that was only cut off or frozen hears
of that with its next heartbeat: the incarnation that rgrid_heartbeat() answers is another one than before.

Needs psycopg 3.1, EXECUTE on rgrid_register, rgrid_heartbeat and rgrid_deregister, SELECT and UPDATE on executions, and
RGrid's columns in it: id, execution_id, status, worker_id, execution_error, started_at, completed_at.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import socket
import threading
import time
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

REGISTER = "SELECT id, incarnation FROM rgrid_register(hostname => %(hostname)s)"
HEARTBEAT = "SELECT rgrid_heartbeat(%(worker)s, %(hostname)s)"
DEREGISTER = "SELECT rgrid_deregister(%(worker)s)"

# A job that is already running under our own id is one whose claim was committed while the connection broke: we never
# heard of it, and nobody else would ever take it up.
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

# A server that vanished without a word must be noticed within seconds, or the worker dies of waiting.
# What the connection string says goes before these.
CONNECTION = {
    "fallback_application_name": "rgrid worker",
    "connect_timeout": "10",
    "tcp_user_timeout": "5000",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
}
# Another attempt on another connection may succeed; a server that has become a standby is as good as gone.
SERVER_AWAY = (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction)

log = logging.getLogger("worker")


class JobLost(Exception):
    """The job on hand was given up by the database and is no longer this worker's."""


def retry_pause() -> float:
    """Seconds until the next attempt to reach the server; random, lest all workers come back at the same moment."""
    return random.uniform(0.5, 1.5)


class Database:
    """A connection that is opened again when it is needed and broken. Not for use by two threads."""

    def __init__(self, name: str, dsn: str) -> None:
        self.name = name
        self.parameters = {**CONNECTION, **conninfo_to_dict(dsn)}
        self.connection: psycopg.Connection[Any] | None = None
        self.trouble: str | None = None  # why the server was away at the last attempt

    def query(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]] | None:
        """One attempt: the rows, or None when the server is away. Every statement is a transaction of its own."""
        try:
            if self.connection is None:
                # No statement gets a name: a pooler in transaction mode mixes up those of different clients.
                self.connection = psycopg.connect(**self.parameters, autocommit=True, prepare_threshold=None)
            rows = self.connection.execute(statement, parameters).fetchall()
        except SERVER_AWAY as error:
            self.disconnect(str(error).partition("\n")[0])
            return None
        if self.trouble is not None:
            log.info("%s: the server is back", self.name)
            self.trouble = None
        return rows

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
            log.warning("%s: the server is away: %s", self.name, trouble)
            self.trouble = trouble


class Heartbeat(threading.Thread):
    """Registers the worker, beats until it is told to finish, then deregisters: one thread, so that no heartbeat can
    overtake the deregistration and bring the worker back to life."""

    def __init__(self, dsn: str, hostname: str, interval: float) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self.database = Database("heartbeat", dsn)
        self.hostname = hostname
        self.interval = interval
        self.finishing = threading.Event()
        self.given_up = threading.Event()  # set here, cleared by whoever has looked after the jobs
        self.worker, self.incarnation = self.database.insist(REGISTER, hostname=hostname)[0]
        log.info("registered as %s, incarnation %d", self.worker, self.incarnation)

    def run(self) -> None:
        try:
            pause = self.interval
            while not self.finishing.wait(pause):
                pause = self.interval if self.beat() else min(self.interval, retry_pause())
            self.deregister()
        except Exception as error:
            # Without heartbeats the database gives the jobs up, so nothing that is still done here would count.
            log.critical("the heartbeat cannot go on: %s", error)
            os._exit(1)

    def beat(self) -> bool:
        rows = self.database.query(HEARTBEAT, worker=self.worker, hostname=self.hostname)
        if rows and rows[0][0] != self.incarnation:
            self.incarnation = rows[0][0]
            log.warning("was taken for dead, goes on as incarnation %d", self.incarnation)
            self.given_up.set()
        return rows is not None

    def deregister(self) -> None:
        # The first attempt may only find out that the connection has been broken for a while.
        for _ in range(2):
            if self.database.query(DEREGISTER, worker=self.worker) is not None:
                log.info("deregistered")
                return
        log.warning("could not deregister, the database will take the silence for a death")

    def finish(self) -> None:
        self.finishing.set()
        self.join(timeout=30)


class Worker:
    """Claims one job after the other in the main thread."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.heartbeat = Heartbeat(options.dsn, options.hostname, options.heartbeat_interval)
        self.database = Database("jobs", options.dsn)
        self.worker = self.heartbeat.worker
        self.poll = options.poll
        self.job_seconds = options.job_seconds
        self.draining = False

    def stop(self, *_: object) -> None:
        # Called by a signal, between any two instructions: no lock may be taken here.
        self.draining = True

    def run(self) -> None:
        self.heartbeat.start()
        try:
            while not self.draining:
                if (job := self.claim()) is not None:
                    self.work_on(job)
                else:
                    time.sleep(self.poll)
        finally:
            self.heartbeat.finish()

    def claim(self) -> str | None:
        rows = self.database.query(CLAIM, worker=self.worker)
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
        if not self.heartbeat.given_up.wait(seconds):
            return
        self.heartbeat.given_up.clear()
        # What an earlier incarnation had claimed is settled by now; a job that is still ours was claimed under the
        # new one, before we knew. Without an answer we work on: FINISH looks again.
        if self.database.query(IS_MINE, job=job, worker=self.worker) == []:
            raise JobLost

    def finish(self, job: str, status: str, error: str | None) -> None:
        if self.database.insist(FINISH, job=job, worker=self.worker, status=status, error=error):
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
    # Only from here on is there something to drain; before, a signal simply ends the process.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, worker.stop)
    worker.run()


if __name__ == "__main__":
    main()
