"""What a heartbeat of a worker that memory knows costs its backend, in processor time: the neighbours take part of the
clock, and little of that.

Many calls in one statement, so that the round trip is not measured. A function in C that does nothing is taken off.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from harness import library, rounds
from harness.report import Report
from harness.server import Connection, Server, Servers, value_of
from harness.workers import FIRST_ID, deaths, make_known

from .heartbeat import SETTINGS, declare, silence

GOALS = {"one worker": 0.4, "one of 100,000 workers at random": 0.8}
"""Microseconds that a call may take more than one that does nothing."""

GOAL_OF_ARRAYS = 2_000_000
ARRAY = 1_000


def measure(servers: Servers, report: Report) -> None:
    workers, calls, times = (5_000, 20_000, 1) if report.quick else (100_000, 1_000_000, 15)
    with servers.running(SETTINGS) as server:
        db = set_up(server, workers, calls)
        with silence(servers, server, db):
            for (what, goal), table in zip(GOALS.items(), ("same", "drawn"), strict=True):
                variants = {
                    name: partial(microseconds, db, f"SELECT count({name}(id)) FROM {table}", calls)
                    for name in ("rgrid_heartbeat", "noop_heartbeat")
                }
                measured = rounds.side_by_side(variants, times)
                pairs = zip(measured["rgrid_heartbeat"], measured["noop_heartbeat"], strict=True)
                more = rounds.percentile([ours - nothing for ours, nothing in pairs], 0.5)
                found = f"{more:.2f} µs more than the {rounds.median(measured, 'noop_heartbeat'):.2f} µs of doing nothing"
                report.goal(f"a call, {what}", f"at most {goal:g} µs more", found, more <= goal)
            measure_arrays(db, workers, times, report)
        died = deaths(db)
        report.check("deaths declared", "0", str(died), died == 0)


def set_up(server: Server, workers: int, calls: int) -> Connection:
    db = server.create_database("CREATE EXTENSION rgrid_heartbeat")
    declare(db, library.build(server, "noop"), "noop_heartbeat")
    make_known(db, workers)
    for table, choice in (("same", "0"), ("drawn", f"floor(random() * {workers})::bigint")):
        ids = f"SELECT ({FIRST_ID} + {choice})::text AS id FROM generate_series(1, {calls})"
        db.execute(f"CREATE TABLE {table} AS {ids}")
    db.execute(
        f"CREATE TABLE arrays AS SELECT array_agg(({FIRST_ID} + n)::text) AS ids "
        f"FROM generate_series(0, {workers - 1}) AS n GROUP BY n / {ARRAY}"
    )
    db.execute("VACUUM ANALYZE")
    # Parallel workers and compiling would be in other processes, or only in some statements.
    db.execute("SET jit = off")
    db.execute("SET max_parallel_workers_per_gather = 0")
    return db


def measure_arrays(db: Connection, workers: int, times: int, report: Report) -> None:
    query = "SELECT sum((SELECT count(*) FROM rgrid_heartbeat(ids))) FROM arrays"
    spent = sorted(microseconds(db, query, workers) for _ in range(times))
    rate = 1e6 / spent[len(spent) // 2]
    report.goal(
        f"heartbeats/s of one core by arrays of {ARRAY:,} known workers",
        f"at least {GOAL_OF_ARRAYS:,}",
        f"{rate:,.0f}",
        rate >= GOAL_OF_ARRAYS,
    )


def microseconds(db: Connection, query: str, calls: int) -> float:
    """Processor time of a call."""
    before = processor_time(db)
    value_of(db, query)
    return (processor_time(db) - before) * 1e6 / calls


def processor_time(db: Connection) -> float:
    """Seconds for which the backend has run, as the scheduler counts them."""
    return int(Path(f"/proc/{db.info.backend_pid}/schedstat").read_text().split()[0]) / 1e9
