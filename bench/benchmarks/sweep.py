"""The sweep on a large installation: nobody dead, one worker of a hundred, one of ten.

Compared with the least that PostgreSQL has to do: the scan that finds nobody, and one UPDATE of the same jobs. The
rest of what a sweep does - locks, ledger, a line of the log for each death - is what the ratio shows.
Everything is set back after each measurement, so that both find the same rows in the same state.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from harness import rounds
from harness.report import Report
from harness.server import Connection, Server, ServerProblem, Servers
from harness.workers import FIRST_ID, beat_and_flush, clock, deaths, make_known

from . import executions

SETTINGS = {
    "rgrid_heartbeat.max_workers": "1100000",
    # Nobody is to be judged but by the sweeps that are measured, which set a threshold of their own.
    "rgrid_heartbeat.stale_threshold": "1h",
    "rgrid_heartbeat.check_interval": "1h",
    "rgrid_heartbeat.flush_interval": "10min",
    # One call settles all.
    "rgrid_heartbeat.batch_size": "1000000",
    "autovacuum": "off",
}
JOBS_EACH = 10

SWEEP, BARE = "rgrid_sweep()", "bare statement"

SILENT = "SELECT worker_id, hostname, last_heartbeat_at FROM worker_heartbeats WHERE last_heartbeat_at < %s"
SETTLE = f"""
UPDATE executions e
   SET status = 'failed', execution_error = '{executions.MESSAGE}', completed_at = now() AT TIME ZONE 'utc'
  FROM worker_heartbeats h
 WHERE h.last_heartbeat_at < %s AND e.worker_id = h.worker_id AND e.status = 'running'
"""


@dataclass(frozen=True)
class Size:
    workers: int
    executions: int
    rounds: int
    repetitions: int
    """Of a sweep that finds nobody, which is short."""
    threshold: timedelta
    """Long enough for what lies between the last heartbeats of the living and a sweep."""


FULL = Size(workers=1_000_000, executions=10_000_000, rounds=3, repetitions=15, threshold=timedelta(seconds=60))
QUICK = Size(workers=10_000, executions=100_000, rounds=1, repetitions=3, threshold=timedelta(seconds=5))


def measure(servers: Servers, report: Report) -> None:
    size = QUICK if report.quick else FULL
    with servers.running(SETTINGS) as server:
        db = set_up(server, size)
        report.say(f"{size.workers:,} workers, {size.executions:,} executions")
        Bench(servers, server, db, size, report).measure()


def set_up(server: Server, size: Size) -> Connection:
    db = server.create_database("CREATE EXTENSION rgrid_heartbeat")
    executions.create(db)
    executions.fill(db, size.executions)
    db.execute(executions.RECOMMENDED_INDEX)
    make_known(db, size.workers)
    executions.run_jobs(db, size.workers // 100 * JOBS_EACH, JOBS_EACH)
    db.execute("VACUUM ANALYZE")
    db.execute("CHECKPOINT")
    return db


@dataclass
class Bench:
    """What the steps have in common."""

    servers: Servers
    server: Server
    db: Connection
    size: Size
    report: Report

    def measure(self) -> None:
        self.measure_nobody()
        for share in (100, 10):
            self.measure_dead(self.size.workers // share, f"{100 // share} % dead")

    def measure_nobody(self) -> None:
        time.sleep(self.size.threshold.total_seconds() + 0.1)
        self.let_live(dead=0)
        variants = {
            SWEEP: lambda: self.sweep(expected_dead=0),
            BARE: lambda: rounds.seconds(lambda: self.db.execute(SILENT, (self.cutoff(),)).fetchall()),
        }
        rounds.side_by_side(variants, 1)
        measured = rounds.side_by_side(variants, self.size.repetitions)
        self.tell("nobody dead, against the bare scan", measured, limit=1.5)

    def measure_dead(self, dead: int, what: str) -> None:
        variants = {
            SWEEP: lambda: self.with_dead(dead, lambda: self.sweep(expected_dead=dead)),
            BARE: lambda: self.with_dead(dead, lambda: self.bare_settlement(dead)),
        }
        measured = rounds.side_by_side(variants, self.size.rounds)
        self.tell(f"{what}, {JOBS_EACH} jobs each, against the bare UPDATE", measured, limit=1.3)

    def tell(self, what: str, measured: rounds.Measurements, limit: float) -> None:
        times = rounds.ratio(measured, SWEEP, BARE)
        took, against = rounds.median(measured, SWEEP), rounds.median(measured, BARE)
        found = f"{times:.2f} times its time ({took:.3f} s against {against:.3f} s)"
        self.report.goal(what, f"under {limit:g} times", found, times < limit)

    def cutoff(self) -> datetime:
        """As a sweep with the threshold would compute it."""
        return clock(self.db) - self.size.threshold

    def with_dead(self, dead: int, work: Callable[[], float]) -> float:
        """Does the work with the first `dead` workers silent, all of their jobs running, and nobody in the ledger."""
        db = self.db
        # Before the pages are touched: their first change after a checkpoint is not to fall into the measurement.
        db.execute("CHECKPOINT")
        db.execute("TRUNCATE rgrid_worker_deaths")
        executions.run_jobs(db, dead * JOBS_EACH, JOBS_EACH)
        if self.servers.has_shared_memory:
            # The sweep before has taken them out of memory: as in real life, they have been there before they die.
            beat_and_flush(self.server, db, dead)
        beaten, threshold = time.monotonic(), self.size.threshold.total_seconds()
        silence = "UPDATE worker_heartbeats SET last_heartbeat_at = now() - interval '1 day' WHERE worker_id < %s::text"
        db.execute(silence, (FIRST_ID + dead,))
        db.execute("VACUUM ANALYZE executions, rgrid_worker_deaths")
        # Later than the last heartbeats of the dead, and then wait until these are silent.
        time.sleep(max(0.0, beaten + threshold / 2 - time.monotonic()))
        self.let_live(dead)
        time.sleep(max(0.0, beaten + threshold + 0.1 - time.monotonic()))
        seconds = work()
        self.check_settled(dead)
        return seconds

    def let_live(self, dead: int) -> None:
        """Has all but the first `dead` workers beaten now."""
        beat = "UPDATE worker_heartbeats SET last_heartbeat_at = now() WHERE worker_id >= %s::text"
        self.db.execute(beat, (FIRST_ID + dead,))
        self.db.execute("VACUUM ANALYZE worker_heartbeats")

    def sweep(self, expected_dead: int) -> float:
        """Seconds that one sweep takes, commit included."""
        self.db.execute(f"SET rgrid_heartbeat.stale_threshold = '{self.size.threshold.total_seconds():g}s'")
        started = time.perf_counter()
        row = self.db.execute("SELECT count(*), coalesce(sum(jobs_failed), 0) FROM rgrid_sweep()").fetchone()
        seconds = time.perf_counter() - started
        self.db.execute("RESET rgrid_heartbeat.stale_threshold")
        if row != (expected_dead, expected_dead * JOBS_EACH):
            raise ServerProblem(f"a sweep settled {row} instead of {expected_dead} workers with {JOBS_EACH} jobs each")
        if (written := deaths(self.db)) != expected_dead:
            raise ServerProblem(f"{written} deaths are in the ledger instead of {expected_dead}")
        return seconds

    def bare_settlement(self, dead: int) -> float:
        started = time.perf_counter()
        settled = self.db.execute(SETTLE, (self.cutoff(),)).rowcount
        seconds = time.perf_counter() - started
        if settled != dead * JOBS_EACH:
            raise ServerProblem(f"the bare UPDATE changed {settled} jobs")
        return seconds

    def check_settled(self, dead: int) -> None:
        found = (executions.count(self.db, "running"), executions.count(self.db, "failed"))
        if found != (0, dead * JOBS_EACH):
            raise ServerProblem(f"(running, failed) jobs are {found} after {dead} workers died")
