"""What it costs to settle jobs with their owner's rights, and to have many tables watched.

One worker with all the jobs dies, so that hardly anything but settling is measured: as the table's owner, in a
subtransaction, with names checked and keys returned. Compared with the UPDATE of the same jobs by itself.
Then tables without jobs of the dead are watched in growing number, and the same sweep is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from harness import rounds
from harness.report import Report
from harness.server import Connection, ServerProblem, Servers, value_of

from . import executions

SETTINGS = {
    "rgrid_heartbeat.stale_threshold": "100ms",
    # Nobody sweeps but the sweeps that are measured.
    "rgrid_heartbeat.check_interval": "1h",
    "autovacuum": "off",
}

SWEEP, BARE = "rgrid_sweep()", "bare UPDATE"
NONE, MANY = "no further table", "twenty further tables"
TABLES = 20

WORKER = "worker-1a2b3c4d"
START = "UPDATE executions SET status = 'running', worker_id = %s, execution_error = NULL, completed_at = NULL"
SETTLE = f"""
UPDATE executions
   SET status = 'failed', execution_error = '{executions.MESSAGE}', completed_at = now() AT TIME ZONE 'utc'
 WHERE worker_id = %s AND status = 'running'
"""
SILENCE = """
INSERT INTO worker_heartbeats VALUES (%s, NULL, now() - interval '1 day')
    ON CONFLICT (worker_id) DO UPDATE SET last_heartbeat_at = EXCLUDED.last_heartbeat_at
"""


@dataclass(frozen=True)
class Size:
    jobs: int
    rounds: int
    repetitions: int
    """Of a sweep that settles nothing, which is short."""


FULL = Size(jobs=10_000, rounds=9, repetitions=101)
QUICK = Size(jobs=1_000, rounds=1, repetitions=5)


def measure(servers: Servers, report: Report) -> None:
    size = QUICK if report.quick else FULL
    with servers.running(SETTINGS) as server:
        db = server.create_database("CREATE EXTENSION rgrid_heartbeat", "CREATE ROLE owner")
        set_up(db, size)
        measure_jobs(db, size, report)
        measure_tables(db, size, report)


def set_up(db: Connection, size: Size) -> None:
    executions.create(db)
    executions.fill(db, size.jobs)
    db.execute(executions.RECOMMENDED_INDEX)
    db.execute("ALTER TABLE executions OWNER TO owner")
    # A server that has just started judges nobody yet.
    time.sleep(0.5)


def measure_jobs(db: Connection, size: Size, report: Report) -> None:
    variants = {
        SWEEP: lambda: settle(db, size, lambda: sweep(db, size.jobs)),
        BARE: lambda: settle(db, size, lambda: db.execute(SETTLE, (WORKER,))),
    }
    rounds.side_by_side(variants, 1)
    measured = rounds.side_by_side(variants, size.rounds)
    times = rounds.ratio(measured, SWEEP, BARE)
    took, against = rounds.median(measured, SWEEP) * 1e3, rounds.median(measured, BARE) * 1e3
    found = f"{times:.2f} times its time ({took:.1f} ms against {against:.1f} ms)"
    what = f"{size.jobs:,} jobs settled as their owner, against the bare UPDATE"
    report.goal(what, "at most 1.1 times", found, times <= 1.1)


def settle(db: Connection, size: Size, work: Callable[[], object]) -> float:
    """Seconds that the work takes, with all jobs running on a worker that is silent and not yet dead."""
    db.execute("TRUNCATE rgrid_worker_deaths")
    db.execute(START, (WORKER,))
    db.execute(SILENCE, (WORKER,))
    db.execute("VACUUM ANALYZE executions, worker_heartbeats")
    db.execute("CHECKPOINT")
    seconds = rounds.seconds(work)
    if (settled := executions.count(db, "failed")) != size.jobs:
        raise ServerProblem(f"{settled} of {size.jobs} jobs are settled")
    return seconds


def sweep(db: Connection, jobs: int) -> None:
    """One sweep, which must settle so many jobs."""
    if (failed := value_of(db, "SELECT coalesce(sum(jobs_failed), 0) FROM rgrid_sweep()")) != jobs:
        raise ServerProblem(f"a sweep settled {failed} jobs instead of {jobs}")


def measure_tables(db: Connection, size: Size, report: Report) -> None:
    """The worker is dead and runs nothing any more: each table is asked for jobs that it might have left."""
    db.execute(SILENCE, (WORKER,))
    sweep_if_dead = "SELECT rgrid_sweep() WHERE NOT EXISTS (SELECT FROM rgrid_worker_deaths WHERE returned_at IS NULL)"
    db.execute(sweep_if_dead)
    for number in range(TABLES):
        db.execute(f"CREATE TABLE jobs_{number} (LIKE executions INCLUDING ALL)")
        db.execute(f"ALTER TABLE jobs_{number} OWNER TO owner")
    variants = {NONE: lambda: timed_sweep(db, watched=0), MANY: lambda: timed_sweep(db, watched=TABLES)}
    rounds.side_by_side(variants, 1)
    measured = rounds.side_by_side(variants, size.repetitions)
    added = (rounds.median(measured, MANY) - rounds.median(measured, NONE)) * 1e3
    found = f"{added:.2f} ms ({rounds.median(measured, MANY) * 1e3:.2f} ms for the sweep)"
    report.goal("twenty more watched tables with nothing to settle add to a sweep", "under 2 ms", found, added < 2)


def timed_sweep(db: Connection, watched: int) -> float:
    db.execute("DELETE FROM rgrid_job_tables")
    for number in range(watched):
        db.execute(f"SELECT rgrid_watch_jobs('jobs_{number}')")
    return rounds.seconds(lambda: sweep(db, 0))
