#!/usr/bin/env python3
"""A stand-in for the cleanup daemon of RGrid, which the extension replaces: the same statements in the same order.

One sweep selects the workers that have been silent for longer than the threshold, runs one UPDATE for each of them,
and commits. Like the original it judges by its own clock, and at every sweep it treats everybody again who ever died.

    daemon.py CONNINFO            # sweep every minute, until interrupted
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg

CHECK_INTERVAL = 60.0
STALE_THRESHOLD = timedelta(minutes=2)

SILENT_WORKERS = "SELECT worker_id, last_heartbeat_at FROM worker_heartbeats WHERE last_heartbeat_at < %s"
FAIL_JOBS = """
UPDATE executions SET status = 'failed', execution_error = %s, completed_at = %s
 WHERE worker_id = %s AND status = 'running'
"""
MESSAGE = "Worker died unexpectedly"


@dataclass(frozen=True)
class Sweep:
    """What a sweep did; `treated` is less than `silent` when its time was up."""

    silent: int
    treated: int
    jobs: int
    seconds: float


def utc_now() -> datetime:
    """As RGrid stores times: UTC, without saying so."""
    return datetime.now(timezone.utc).replace(tzinfo=None)


def sweep(db: psycopg.Connection[Any], seconds: float = float("inf")) -> Sweep:
    """One sweep. The daemon knows no limit; with one, it stops there and commits what it has done."""
    started = time.perf_counter()
    jobs = treated = 0
    with db.transaction():
        silent = db.execute(SILENT_WORKERS, (utc_now() - STALE_THRESHOLD,)).fetchall()
        for worker_id, _ in silent:
            jobs += db.execute(FAIL_JOBS, (MESSAGE, utc_now(), worker_id)).rowcount
            treated += 1
            if time.perf_counter() - started > seconds:
                break
    return Sweep(len(silent), treated, jobs, time.perf_counter() - started)


def main() -> None:
    with psycopg.connect(sys.argv[1], autocommit=True) as db:
        while True:
            print(sweep(db), flush=True)
            time.sleep(CHECK_INTERVAL)


if __name__ == "__main__":
    main()
