"""What a fence costs jobs that nobody gave up.

A trigger with a WHEN clause that is false: the old row is read again, and compared if the UPDATE sets the status.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import psycopg

from harness import rounds
from harness.report import Report
from harness.server import Connection, Servers

from . import executions

SETTINGS = {"rgrid_heartbeat.check_interval": "1h", "autovacuum": "off"}

FENCED, UNFENCED = "with a fence", "without"

# What is measured: the status, and a column that is not the status.
FINISH = "UPDATE executions SET status = 'completed', completed_at = now() AT TIME ZONE 'utc'"
COUNT_UP = "UPDATE executions SET retry_count = retry_count + 1"
SET_BACK = "UPDATE executions SET status = 'running', worker_id = '1', execution_error = NULL, completed_at = NULL"
GIVE_UP = f"UPDATE executions SET status = 'failed', execution_error = '{executions.MESSAGE}' WHERE id = 1"


@dataclass(frozen=True)
class Size:
    jobs: int
    rounds: int


FULL = Size(jobs=100_000, rounds=5)
QUICK = Size(jobs=5_000, rounds=1)


def measure(servers: Servers, report: Report) -> None:
    size = QUICK if report.quick else FULL
    with servers.running(SETTINGS) as server:
        db = server.create_database("CREATE EXTENSION rgrid_heartbeat")
        executions.create(db)
        executions.fill(db, size.jobs)
        late = try_late_result(db)
        report.check("a late result of a job that was given up", "refused", late, late == "refused")
        for what, statement, limit in (("the status is set", FINISH, 1.1), ("it is not", COUNT_UP, 1.05)):
            measured = rounds.side_by_side(
                {FENCED: partial(update, db, statement, True), UNFENCED: partial(update, db, statement, False)},
                size.rounds,
            )
            tell(what, measured, limit, size, report)


def try_late_result(db: Connection) -> str:
    db.execute("SELECT rgrid_fence('executions')")
    db.execute(SET_BACK)
    db.execute(GIVE_UP)
    try:
        db.execute(FINISH)
    except psycopg.errors.ObjectNotInPrerequisiteState:
        return "refused"
    return "accepted"


def update(db: Connection, statement: str, is_fenced: bool) -> float:
    """Seconds that the statement takes on jobs that are all running."""
    db.execute(f"SELECT {'rgrid_fence' if is_fenced else 'rgrid_unfence'}('executions')")
    db.execute(SET_BACK)
    db.execute("VACUUM ANALYZE executions")
    db.execute("CHECKPOINT")
    return rounds.seconds(lambda: db.execute(statement))


def tell(what: str, measured: rounds.Measurements, limit: float, size: Size, report: Report) -> None:
    times = rounds.ratio(measured, FENCED, UNFENCED)
    took, against = rounds.median(measured, FENCED), rounds.median(measured, UNFENCED)
    found = f"{times:.3f} times the time ({took:.3f} s against {against:.3f} s)"
    report.goal(f"UPDATE of {size.jobs:,} jobs in which {what}", f"under {limit:g} times", found, times < limit)
