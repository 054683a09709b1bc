"""Heartbeats while a synchronous standby is away.

Upserts are started first: that all of them wait for the standby proves that it is missed. While they stand still, the
heartbeats are measured, and compared with a run that waits for nobody.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from harness import pgbench, rounds
from harness.pgbench import Script
from harness.report import Report
from harness.server import Connection, Server, ServerProblem, Servers, wait_until
from harness.workers import FIRST_ID, deaths, make_known

CLIENTS = 2
SETTINGS = {
    "rgrid_heartbeat.stale_threshold": "1h",
    # It would wait for the standby, too.
    "autovacuum": "off",
}
ABSENT = "nobody_has_this_name"

ALONE, AWAY = "no standby wanted", "standby away"


@dataclass(frozen=True)
class Size:
    workers: int
    seconds: int
    rounds: int


FULL = Size(workers=10_000, seconds=10, rounds=3)
QUICK = Size(workers=1_000, seconds=1, rounds=1)


def measure(servers: Servers, report: Report) -> None:
    if not servers.has_shared_memory:
        report.skip("heartbeats while the standby is away", "this build writes them to the table: they wait, too")
        return
    size = QUICK if report.quick else FULL
    with servers.running(SETTINGS) as server:
        db = set_up(server, size)
        came_back: list[int] = []
        measured = rounds.side_by_side(
            {
                ALONE: lambda: heartbeat_rate(server, size),
                AWAY: lambda: heartbeat_rate_while_away(server, db, size, came_back),
            },
            size.rounds,
        )
        tell(measured, sum(came_back), report)
        died = deaths(db)
        report.check("deaths declared", "0", str(died), died == 0)


def set_up(server: Server, size: Size) -> Connection:
    db = server.create_database(
        "CREATE EXTENSION rgrid_heartbeat",
        "CREATE TABLE upserted (worker_id text PRIMARY KEY, last_heartbeat_at timestamptz NOT NULL)",
    )
    make_known(db, size.workers)
    return db


def choice(size: Size) -> str:
    return f"\\set id random({FIRST_ID}, {FIRST_ID + size.workers - 1})\n"


def heartbeat_rate(server: Server, size: Size) -> float:
    """Heartbeats a second; none when they do not come to an end."""
    script = Script(choice(size) + "SELECT rgrid_heartbeat(:id::text);\n")
    try:
        return pgbench.run(server, script, CLIENTS, size.seconds, patience=15).tps
    except ServerProblem as problem:
        if "did not end" in str(problem):
            return 0.0
        raise


def heartbeat_rate_while_away(server: Server, db: Connection, size: Size, came_back: list[int]) -> float:
    """The rate; notes how many of the upserts that waited before have come back after."""
    server.change_settings(db, {"synchronous_standby_names": ABSENT})
    upserts = start_upserts(server, size)
    try:
        wait_until("all upserts wait for the standby", lambda: len(waiting(db)) == CLIENTS, timeout=30)
        before = waiting(db)
        rate = heartbeat_rate(server, size)
        came_back.append(len(before - waiting(db)))
        return rate
    finally:
        server.change_settings(db, {"synchronous_standby_names": None})
        upserts.kill()
        upserts.communicate()


def start_upserts(server: Server, size: Size) -> subprocess.Popen[str]:
    """Upserts without an end in sight: whoever starts them kills them."""
    upsert = """
        INSERT INTO upserted VALUES (:id::text, clock_timestamp())
        ON CONFLICT (worker_id) DO UPDATE SET last_heartbeat_at = EXCLUDED.last_heartbeat_at;
    """
    return pgbench.start(server, Script(choice(size) + upsert), CLIENTS, seconds=600)


def waiting(db: Connection) -> set[tuple[object, ...]]:
    """The sessions that wait for a standby, each with the start of its statement."""
    query = """
        SELECT pid, query_start FROM pg_stat_activity
         WHERE backend_type = 'client backend' AND wait_event = 'SyncRep'
    """
    return set(db.execute(query).fetchall())


def tell(measured: rounds.Measurements, came_back: int, report: Report) -> None:
    rate = rounds.median(measured, AWAY)
    times = rounds.ratio(measured, AWAY, ALONE)
    report.check("heartbeats go on", "they do", f"{rate:,.0f}/s with {CLIENTS} clients", min(measured[AWAY]) > 0)
    found = f"{times:.2f} times the {rounds.median(measured, ALONE):,.0f}/s without a standby"
    report.goal("at full rate", "at least 0.9 times", found, times >= 0.9)
    report.check("upserts that come back meanwhile", "0", str(came_back), came_back == 0)
