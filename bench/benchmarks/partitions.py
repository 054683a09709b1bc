"""A watched table of 2,500 partitions in which nothing runs: registering, and the health check, in a session of their own.

Compared with one statement for the running jobs of a worker in a session of its own: it opens all partitions and their
indexes, and was what each of the two began with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from harness import rounds
from harness.report import Report
from harness.server import Connection, Server, Servers

SETTINGS = {
    "rgrid_heartbeat.stale_threshold": "1h",
    "rgrid_heartbeat.check_interval": "1h",
    # The plan of one statement locks each partition and its indexes.
    "max_locks_per_transaction": "512",
    "autovacuum": "off",
}

TABLE = """
CREATE TABLE executions (
    id bigint PRIMARY KEY, status varchar(50) NOT NULL, worker_id varchar(64), execution_error text, completed_at timestamp
) PARTITION BY RANGE (id)
"""
INDEXES = (
    "CREATE INDEX ON executions (worker_id) WHERE status = 'running'",
    "CREATE INDEX ON executions (status)",
)
JOBS_OF_EACH = 10
FILL = f"INSERT INTO executions SELECT n, 'completed', 'earlier' FROM generate_series(0, %s * {JOBS_OF_EACH} - 1) n"

REGISTER, HEALTH, STATEMENT = "rgrid_register()", "rgrid_health()", "one statement for all partitions"
CALLS = {
    REGISTER: "SELECT rgrid_register('worker-1a2b3c4d')",
    HEALTH: "SELECT count(*) FROM rgrid_health()",
    STATEMENT: "SELECT FROM executions WHERE worker_id = ANY ('{worker-1a2b3c4d}') AND status = 'running'",
}
GOAL = 0.2
"""Seconds."""


@dataclass(frozen=True)
class Size:
    partitions: int
    rounds: int


FULL = Size(partitions=2_500, rounds=9)
QUICK = Size(partitions=200, rounds=1)


def measure(servers: Servers, report: Report) -> None:
    size = QUICK if report.quick else FULL
    with servers.running(SETTINGS) as server:
        db = server.create_database("CREATE EXTENSION rgrid_heartbeat")
        set_up(db, size)
        variants: dict[str, Callable[[], float]] = {
            name: partial(in_a_new_session, server, call) for name, call in CALLS.items()
        }
        rounds.side_by_side(variants, 1)
        measured = rounds.side_by_side(variants, size.rounds)
    against = rounds.median(measured, STATEMENT)
    report.note(f"{STATEMENT}, {size.partitions:,} of them", f"{against * 1e3:.0f} ms")
    for name in (REGISTER, HEALTH):
        took, times = rounds.median(measured, name), rounds.ratio(measured, name, STATEMENT)
        found = f"{took * 1e3:.0f} ms, {times:.2f} times the time of the statement"
        report.goal(f"{name} where nothing runs in them", f"under {GOAL * 1e3:.0f} ms", found, took < GOAL)


def set_up(db: Connection, size: Size) -> None:
    db.execute(TABLE)
    for number in range(size.partitions):
        limits = f"FROM ({number * JOBS_OF_EACH}) TO ({(number + 1) * JOBS_OF_EACH})"
        db.execute(f"CREATE TABLE executions_{number} PARTITION OF executions FOR VALUES {limits}")
    for index in INDEXES:
        db.execute(index)
    db.execute(FILL, (size.partitions,))
    db.execute("VACUUM ANALYZE executions")


def in_a_new_session(server: Server, call: str) -> float:
    """Seconds that the call takes in a session that knows nothing of the table yet."""
    with server.connect() as session:
        return rounds.seconds(lambda: session.execute(call))
