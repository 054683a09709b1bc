"""The extension against a daemon that does what RGrid's did, on RGrid's tables, at three sizes.

The fleet and its running jobs stay the same; more and more of the workers die, at most half of them, and the others go
on running theirs. The first sweep settles the jobs of the dead. The next one has nothing to do, which the daemon only
finds out by treating everybody again.

The extension has the index that it recommends, the daemon what it had: RGrid's own indexes. What the daemon could do
with that index is told beside it, and not judged.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial

import daemon
from harness import rounds
from harness.report import Report
from harness.server import Connection, Server, ServerProblem, Servers
from harness.workers import FIRST_ID

from . import executions

SETTINGS = {
    "rgrid_heartbeat.stale_threshold": "1h",
    "rgrid_heartbeat.check_interval": "1h",
    "rgrid_heartbeat.batch_size": "100000",
    "autovacuum": "off",
}
JOBS_EACH = 4

# RGrid's own table, which the extension adopts as it is.
HEARTBEATS = """
CREATE TABLE worker_heartbeats (
    worker_id varchar(64) PRIMARY KEY,
    last_heartbeat_at timestamp NOT NULL,
    ray_available_resources json
)
"""
FLEET = "INSERT INTO worker_heartbeats SELECT n::text, now() FROM generate_series(%s::bigint, %s) AS n"
# The living have a whole threshold until the sweep; a heartbeat from the future would be taken as of now.
FATES = """
UPDATE worker_heartbeats
   SET last_heartbeat_at = now() AT TIME ZONE 'utc'
       + CASE WHEN worker_id < %s::text THEN interval '-1 day' ELSE interval '0' END
"""

EXTENSION, DAEMON, INDEXED_DAEMON = "rgrid_sweep()", "daemon", "daemon with the index"


@dataclass(frozen=True)
class Size:
    executions: int
    fleet: int
    dead: tuple[int, ...]
    rounds: int
    patience: float
    """Seconds that the daemon gets for a sweep; what it would take for the rest is extrapolated."""
    threshold: float
    """Seconds. The server must have listened for this long before anybody is judged."""


FULL = Size(executions=1_000_000, fleet=10_000, dead=(500, 1_000, 5_000), rounds=3, patience=60, threshold=30)
QUICK = Size(executions=50_000, fleet=1_000, dead=(50, 100, 500), rounds=1, patience=3, threshold=5)


@dataclass
class Times:
    """Of the first sweep and of the next one, for each round."""

    first: rounds.Measurements = field(default_factory=lambda: {EXTENSION: [], DAEMON: [], INDEXED_DAEMON: []})
    next: rounds.Measurements = field(default_factory=lambda: {EXTENSION: [], DAEMON: [], INDEXED_DAEMON: []})
    extrapolated: bool = False


def measure(servers: Servers, report: Report) -> None:
    size = QUICK if report.quick else FULL
    with servers.running(SETTINGS) as server:
        db = set_up(server, size)
        fleet = f"{size.executions:,} executions, {size.fleet:,} workers with {JOBS_EACH} running jobs each"
        report.note("the fleet", fleet)
        for dead in size.dead:
            tell(dead, race(db, size, dead), report, is_judged=dead == size.dead[-1])


def set_up(server: Server, size: Size) -> Connection:
    db = server.create_database(HEARTBEATS)
    executions.create(db)
    executions.fill(db, size.executions)
    db.execute(FLEET, (FIRST_ID, FIRST_ID + size.fleet - 1))
    db.execute("CREATE EXTENSION rgrid_heartbeat")
    time.sleep(size.threshold + 0.1)
    return db


def race(db: Connection, size: Size, dead: int) -> Times:
    times = Times()
    variants = {
        EXTENSION: partial(let_sweep, db, times, size.threshold),
        DAEMON: partial(let_daemon_sweep, db, times, DAEMON, dead, size.patience),
        INDEXED_DAEMON: partial(let_daemon_sweep, db, times, INDEXED_DAEMON, dead, size.patience),
    }

    def from_the_start(name: str) -> float:
        set_back(db, size, dead, has_index=name != DAEMON)
        variants[name]()
        check_settled(db, size, dead)
        return 0.0

    rounds.side_by_side({name: partial(from_the_start, name) for name in variants}, size.rounds)
    return times


def set_back(db: Connection, size: Size, dead: int, has_index: bool) -> None:
    """All jobs run, nobody is in the ledger, and the first `dead` workers are silent."""
    db.execute("DROP INDEX IF EXISTS ix_executions_running")
    # Before the pages are touched: their first change after a checkpoint is not to fall into the measurement.
    db.execute("CHECKPOINT")
    db.execute("TRUNCATE rgrid_worker_deaths")
    executions.run_jobs(db, size.fleet * JOBS_EACH, JOBS_EACH)
    if has_index:
        db.execute(executions.RECOMMENDED_INDEX)
    db.execute("VACUUM ANALYZE")
    # Last, because the living are not to fall silent meanwhile.
    db.execute(FATES, (FIRST_ID + dead,))
    db.execute("VACUUM ANALYZE worker_heartbeats")


def let_sweep(db: Connection, times: Times, threshold: float) -> None:
    db.execute(f"SET rgrid_heartbeat.stale_threshold = '{threshold:g}s'")
    for measured in (times.first, times.next):
        measured[EXTENSION].append(rounds.seconds(lambda: db.execute("SELECT count(*) FROM rgrid_sweep()")))
    db.execute("RESET rgrid_heartbeat.stale_threshold")


def let_daemon_sweep(db: Connection, times: Times, name: str, dead: int, patience: float) -> None:
    for measured in (times.first, times.next):
        done = daemon.sweep(db, patience)
        if done.silent != dead:
            raise ServerProblem(f"the daemon found {done.silent} silent workers instead of {dead}")
        if done.treated < done.silent:
            times.extrapolated = True
            # The rest at once, so that the next sweep finds what it would have found.
            db.execute(
                "UPDATE executions SET status = 'failed', completed_at = now() AT TIME ZONE 'utc' "
                "WHERE status = 'running' AND worker_id < %s::text",
                (FIRST_ID + dead,),
            )
        measured[name].append(done.seconds * done.silent / done.treated)


def check_settled(db: Connection, size: Size, dead: int) -> None:
    found = (executions.count(db, "running"), executions.count(db, "failed"))
    if found != ((size.fleet - dead) * JOBS_EACH, dead * JOBS_EACH):
        raise ServerProblem(f"(running, failed) jobs are {found} after {dead} workers died")


def tell(dead: int, times: Times, report: Report, is_judged: bool) -> None:
    """Goals are for the largest size; the others show the growth."""
    for what, measured, goal in (("first sweep", times.first, 100), ("next sweep", times.next, 1_000)):
        faster = rounds.ratio(measured, DAEMON, EXTENSION)
        took = f"{rounds.median(measured, EXTENSION):.4f} s against {rounds.median(measured, DAEMON):.2f} s"
        extrapolated = ", extrapolated from a part" if times.extrapolated else ""
        found = f"{faster:,.0f} times faster ({took}{extrapolated})"
        if is_judged:
            report.goal(f"{dead:,} dead, {what}", f"at least {goal:,} times faster", found, faster >= goal)
        else:
            report.note(f"{dead:,} dead, {what}", found)
        indexed = f"{rounds.ratio(measured, INDEXED_DAEMON, EXTENSION):,.0f} times faster"
        against = f"{rounds.median(measured, INDEXED_DAEMON):.2f} s"
        report.note(f"{dead:,} dead, {what}, had the daemon that index", f"{indexed} (against {against})")
