"""First heartbeats: of workers that have a row, and of which nothing is in memory. Beside the upsert of the same rows.

Rows that are written by hand are such workers: memory was filled before. Each is used once, in the order of their ids,
and so are those of the upsert.
"""

from __future__ import annotations

from functools import partial

from harness import pgbench, rounds
from harness.pgbench import Script
from harness.report import Report
from harness.server import Connection, Server, ServerProblem, Servers, value_of
from harness.workers import FIRST_ID, deaths

from .heartbeat import ASYNC, SYNC, UPSERT, UPSERTED, silence

CLIENTS = 8
GOALS = {SYNC: 0.9, ASYNC: 0.7}
"""Of the rate of the upsert, with the same synchronous_commit."""

SETTINGS = {
    "rgrid_heartbeat.max_workers": "2000000",
    "rgrid_heartbeat.stale_threshold": "1h",
}
# A client takes the next id of its own share for each call.
NEXT = "\\set number :number + 1\n\\set id {first} + :client_id * {share} + :number\n"
NUMBERS = "FROM generate_series(%s::bigint, %s) AS n"
WRITTEN = "SELECT heartbeats_in_row FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()"
BEAT = "SELECT rgrid_heartbeat(:id::text);\n"


def measure(servers: Servers, report: Report) -> None:
    share, times = (500, 1) if report.quick else (10_000, 7)
    with servers.running(SETTINGS) as server:
        db = server.create_database("CREATE EXTENSION rgrid_heartbeat", UPSERTED)
        with silence(servers, server, db):
            for against, goal in GOALS.items():
                session = {"synchronous_commit": "off"} if against == ASYNC else {}
                rate = partial(first_calls, server, db, share, session)
                variants = {"ours": partial(rate, "worker_heartbeats", BEAT), against: partial(rate, "upserted", UPSERT)}
                measured = rounds.side_by_side(variants, times)
                found = rounds.ratio(measured, "ours", against)
                report.goal(
                    f"first heartbeats of known rows, {CLIENTS} clients, against: {against}",
                    f"at least {goal:g} times",
                    f"{found:.2f} times its {rounds.median(measured, against):,.0f}/s",
                    found >= goal,
                )
        died = deaths(db)
        report.check("deaths declared", "0", str(died), died == 0)


def first_calls(
    server: Server, db: Connection, share: int, session: dict[str, str], table: str, statement: str
) -> float:
    """Writes rows that nobody has used, and calls once for each."""
    first, rows = FIRST_ID + value_of(db, f"SELECT count(*) FROM {table}"), CLIENTS * share
    ids = (first, first + rows - 1)
    db.execute(f"INSERT INTO {table} (worker_id, last_heartbeat_at) SELECT n::text, clock_timestamp() {NUMBERS}", ids)
    if statement == BEAT:
        db.execute(f"INSERT INTO rgrid_worker_owners SELECT n::text, current_user {NUMBERS}", ids)
    db.execute("VACUUM ANALYZE")
    db.execute("CHECKPOINT")
    written = value_of(db, WRITTEN)
    script = Script(NEXT.format(first=first - 1, share=share) + statement, {"number": 0}, session)
    rate = pgbench.run_each(server, script, CLIENTS, share).tps
    if statement == BEAT and value_of(db, WRITTEN) - written != rows:
        raise ServerProblem("memory knew some of the workers")
    return rate
