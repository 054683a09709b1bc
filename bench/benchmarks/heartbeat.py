"""Heartbeats a second, side by side with what they can be compared with, and what one leaves behind.

Each variant is one statement with one parameter, the worker's id, chosen at random by pgbench. The reference is a
function in C that does nothing; the opponent is the upsert that a heartbeat would be without the extension.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness import library, pgbench, rounds
from harness.chart import Bar
from harness.pgbench import Script
from harness.report import Report
from harness.server import Connection, Server, Servers, value_of, wait_until
from harness.workers import FIRST_ID, beat_and_flush, deaths, make_known, next_xid, wal_position

CLIENTS = (2, 8)

OURS = "rgrid_heartbeat()"
SELECT = "SELECT of the id"
NOOP = "C function that does nothing"
ASYNC = "upsert, synchronous_commit off"
SYNC = "upsert"

# As the extension's own table is, so that the upsert has the same good conditions: room on each page for HOT updates.
UPSERTED = """
CREATE TABLE upserted (
    worker_id text PRIMARY KEY,
    hostname text,
    last_heartbeat_at timestamptz NOT NULL
) WITH (fillfactor = 50)
"""
UPSERT = """
INSERT INTO upserted (worker_id, last_heartbeat_at) VALUES (:id::text, clock_timestamp())
ON CONFLICT (worker_id) DO UPDATE SET last_heartbeat_at = EXCLUDED.last_heartbeat_at;
"""

# Nobody is to die of not being chosen for a while, and what is measured runs with the default flushes and sweeps.
SETTINGS = {
    "rgrid_heartbeat.max_workers": "150000",
    "rgrid_heartbeat.stale_threshold": "1h",
}
# While what heartbeats leave behind is counted, nothing else may write.
SILENCE = {
    "rgrid_heartbeat.flush_interval": "10min",
    "rgrid_heartbeat.check_interval": "10min",
    "autovacuum": "off",
}
# A checkpointer's or background writer's record now and then is not a heartbeat's.
WAL_NOISE = 0.1


@dataclass(frozen=True)
class Size:
    workers: int
    seconds: int
    rounds: int


FULL = Size(workers=100_000, seconds=10, rounds=3)
QUICK = Size(workers=5_000, seconds=1, rounds=1)


def measure(servers: Servers, report: Report) -> None:
    size = QUICK if report.quick else FULL
    with servers.running(SETTINGS) as server:
        db = set_up(server, size)
        report.say(f"{size.workers:,} workers are known")
        for clients in CLIENTS:
            # What a heartbeat costs; the flush, which depends on the interval, is counted apart.
            with silence(servers, server, db):
                compare(server, db, size, clients, report)
        count_what_is_left(servers, server, db, size, report)
        count_flush(servers, server, db, size, report)
        died = deaths(db)
        report.check("deaths declared", "0", str(died), died == 0)


def set_up(server: Server, size: Size) -> Connection:
    db = server.create_database("CREATE EXTENSION rgrid_heartbeat", UPSERTED)
    declare(db, library.build(server, "noop"), "noop_heartbeat")
    make_known(db, size.workers)
    rows = "SELECT n::text, NULL, clock_timestamp() FROM generate_series(%s::bigint, %s) AS n"
    db.execute(f"INSERT INTO upserted {rows}", (FIRST_ID, FIRST_ID + size.workers - 1))
    db.execute("VACUUM ANALYZE")
    return db


def declare(db: Connection, file: Path, name: str) -> None:
    """Has a function in C called as rgrid_heartbeat() is."""
    arguments = "worker_id text, hostname text DEFAULT NULL"
    db.execute(f"CREATE FUNCTION {name}({arguments}) RETURNS bigint AS '{file}' LANGUAGE C")


def scripts(size: Size) -> dict[str, Script]:
    choice = f"\\set id random({FIRST_ID}, {FIRST_ID + size.workers - 1})\n"
    statements = {
        SELECT: "SELECT :id::text;\n",
        NOOP: "SELECT noop_heartbeat(:id::text);\n",
        OURS: "SELECT rgrid_heartbeat(:id::text);\n",
        ASYNC: UPSERT,
        SYNC: UPSERT,
    }
    sessions = {ASYNC: {"synchronous_commit": "off"}}
    return {name: Script(choice + sql, session=sessions.get(name, {})) for name, sql in statements.items()}


def compare(server: Server, db: Connection, size: Size, clients: int, report: Report) -> None:
    def rate(script: Script) -> float:
        # What the variant before left behind is cleared away outside of the measurement.
        db.execute("VACUUM upserted")
        db.execute("CHECKPOINT")
        return pgbench.run(server, script, clients, size.seconds).tps

    variants = {name: partial(rate, script) for name, script in scripts(size).items()}
    measured = rounds.side_by_side(variants, size.rounds)
    for name in measured:
        report.bars.append(Bar(f"{clients} clients", name, rounds.median(measured, name), name == OURS))
    ours = rounds.median(measured, OURS)
    report.note(f"{clients} clients", f"{ours:,.0f} heartbeats/s")
    for reference, goal in ((SELECT, None), (NOOP, 0.95), (SYNC, 8.0), (ASYNC, 3.0)):
        times = rounds.ratio(measured, OURS, reference)
        what = f"{clients} clients, against: {reference}"
        found = f"{times:.2f} times its {rounds.median(measured, reference):,.0f}/s"
        if goal is None:
            report.note(what, found)
        else:
            report.goal(what, f"at least {goal:g} times", found, times >= goal)


@contextlib.contextmanager
def silence(servers: Servers, server: Server, db: Connection) -> Iterator[None]:
    """No flush, no sweep, no autovacuum."""
    settings = servers.known(SILENCE)
    server.change_settings(db, settings)
    kinds = "('rgrid_heartbeat sweeper', 'autovacuum worker')"
    others = f"SELECT count(*) FROM pg_stat_activity WHERE backend_type IN {kinds}"
    wait_until("nothing else writes", lambda: value_of(db, others) == 0, timeout=60)
    yield
    server.change_settings(db, dict.fromkeys(settings))


def count_what_is_left(servers: Servers, server: Server, db: Connection, size: Size, report: Report) -> None:
    """WAL and transaction ids of heartbeats of workers that are known."""
    with silence(servers, server, db):
        # Once before, so that what new sessions do to the catalogs for the first time is not counted.
        pgbench.run(server, scripts(size)[OURS], CLIENTS[0], 1)
        wal, xid = wal_position(db), next_xid(db)
        beats = pgbench.run(server, scripts(size)[OURS], CLIENTS[0], size.seconds).transactions
        wal, xids = wal_position(db) - wal, next_xid(db) - xid
    found_wal = f"{wal / beats:.2f} bytes ({wal:,} bytes for {beats:,} heartbeats)"
    found_xids = f"{xids / beats:.2f} ({xids:,} for {beats:,} heartbeats)"
    if servers.has_shared_memory:
        report.check("WAL of a heartbeat", "0", found_wal, wal / beats < WAL_NOISE)
        report.check("transaction ids of a heartbeat", "0", found_xids, xids == 0)
    else:
        report.note("WAL of a heartbeat, which this build writes to the table", found_wal)
        report.note("transaction ids of a heartbeat", found_xids)


def count_flush(servers: Servers, server: Server, db: Connection, size: Size, report: Report) -> None:
    """WAL of the rows that a flush writes. Counted apart: it depends on the interval, not on the heartbeats."""
    if not servers.has_shared_memory:
        report.skip("WAL of a flush", "this build has no flush")
        return
    with silence(servers, server, db):
        # The first change of a page after a checkpoint writes all of it; that is a checkpoint's cost, not a flush's.
        beat_and_flush(server, db, size.workers)
        wal = wal_position(db)
        beat_and_flush(server, db, size.workers)
        wal = wal_position(db) - wal
    report.note("WAL of a flush", f"{wal / size.workers:.0f} bytes a row, however many heartbeats it had")
