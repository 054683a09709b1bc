"""The flush: what beat since the last one is written to the table, compared with the bare UPDATE of as many rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from harness import rounds
from harness.report import Report
from harness.server import Connection, Server, ServerProblem, Servers, value_of, wait_until
from harness.workers import calm_flushes, clock, deaths, make_known, older_rows, provoke_flush

SETTINGS = {
    "rgrid_heartbeat.max_workers": "1100000",
    "rgrid_heartbeat.stale_threshold": "1h",
    # Flushes happen when they are measured.
    "rgrid_heartbeat.flush_interval": "10min",
    "rgrid_heartbeat.check_interval": "10min",
    # The flush reports itself at this level.
    "log_min_messages": "debug1",
    "autovacuum": "off",
}

FLUSH, BARE = "flush", "bare UPDATE"

# The same rows as the extension's table, in a table like it.
COPY = """
CREATE TABLE bare_heartbeats (LIKE worker_heartbeats INCLUDING ALL) WITH (fillfactor = 50);
INSERT INTO bare_heartbeats SELECT * FROM worker_heartbeats ORDER BY worker_id;
"""
# The arrays are made before the clock starts: a flush, too, has its workers in memory.
BARE_UPDATE = """
CREATE FUNCTION bare_update() RETURNS double precision LANGUAGE plpgsql SET jit = off SET work_mem = '64MB' AS $$
DECLARE
    ids text[];
    times timestamptz[];
    started timestamptz;
BEGIN
    SELECT array_agg(worker_id ORDER BY worker_id), array_agg(now() ORDER BY worker_id) INTO ids, times
      FROM bare_heartbeats;
    started := clock_timestamp();
    UPDATE bare_heartbeats h SET last_heartbeat_at = n.last_heartbeat_at
      FROM unnest(ids, times) AS n (worker_id, last_heartbeat_at)
     WHERE h.worker_id = n.worker_id;
    RETURN extract(epoch FROM clock_timestamp() - started);
END
$$
"""


@dataclass(frozen=True)
class Size:
    fleets: tuple[int, ...]
    rounds: int


FULL = Size(fleets=(200_000, 1_000_000), rounds=3)
QUICK = Size(fleets=(5_000, 12_000), rounds=1)


def measure(servers: Servers, report: Report) -> None:
    if not servers.has_shared_memory:
        report.skip("against the bare UPDATE FROM unnest", "this build has no flush")
        return
    size = QUICK if report.quick else FULL
    for workers in size.fleets:
        with servers.running(SETTINGS) as server:
            compare(server, workers, size.rounds, report)


def compare(server: Server, workers: int, repetitions: int, report: Report) -> None:
    db = set_up(server, workers)
    variants = {
        FLUSH: lambda: workers / timed_flush(server, db, workers),
        BARE: lambda: workers / bare_update(db),
    }
    # Both once before: the first change of a page after a checkpoint writes all of it.
    rounds.side_by_side(variants, 1)
    on_clean_tables = {name: partial(cleared, db, work) for name, work in variants.items()}
    measured = rounds.side_by_side(on_clean_tables, repetitions)
    times = rounds.ratio(measured, FLUSH, BARE)
    found = f"{times:.2f} times its {rounds.median(measured, BARE):,.0f} rows/s"
    report.note(f"{workers:,} workers", f"{rounds.median(measured, FLUSH):,.0f} rows/s")
    report.goal(f"{workers:,} workers, against the bare UPDATE FROM unnest", "at least 0.9 times", found, times >= 0.9)
    died = deaths(db)
    report.check(f"{workers:,} workers, deaths declared", "0", str(died), died == 0)


def set_up(server: Server, workers: int) -> Connection:
    db = server.create_database("CREATE EXTENSION rgrid_heartbeat")
    make_known(db, workers)
    for statement in (*COPY.strip().split(";\n"), BARE_UPDATE):
        db.execute(statement)
    db.execute("VACUUM ANALYZE")
    return db


def cleared(db: Connection, work: Callable[[], float]) -> float:
    """Runs the work on tables without dead rows."""
    db.execute("VACUUM worker_heartbeats, bare_heartbeats")
    return work()


def bare_update(db: Connection) -> float:
    return float(value_of(db, "SELECT bare_update()"))


def timed_flush(server: Server, db: Connection, workers: int) -> float:
    """Seconds that the flush of one heartbeat of each worker takes.

    THE TIME OF THE FLUSH is the server's own: it logs "flushed N heartbeats in M ms, and rested for R ms" at DEBUG1, once
    or several times. Taken from outside, it would hold the start of the process that flushes, and the sweep after it.
    """
    started = clock(db)
    make_known(db, workers)
    begin = server.log.stat().st_size
    provoke_flush(server, db)
    wait_until("the flush is logged", lambda: flushed_since(server, begin)[0] >= workers, timeout=60)
    calm_flushes(server, db)
    heartbeats, seconds = flushed_since(server, begin)
    if heartbeats != workers:
        raise ServerProblem(f"{heartbeats} heartbeats were flushed instead of {workers}")
    if lost := older_rows(db, started, workers):
        raise ServerProblem(f"{lost} rows are older than the heartbeats that were flushed")
    return seconds


def flushed_since(server: Server, position: int) -> tuple[int, float]:
    """Heartbeats that were flushed according to the log from a position on, and the seconds that it took."""
    with server.log.open("rb") as log:
        log.seek(position)
        text = log.read().decode(errors="replace")
    found = re.findall(r"flushed (\d+) heartbeats in ([\d.]+) ms", text)
    return sum(int(number) for number, _ in found), sum(float(time) for _, time in found) / 1_000
