"""A day of flushes while somebody holds a snapshot: no version of a row can be removed, and each flush goes through all.

The UPDATE of a flush, of 500 rows, as often as the extension flushes in a day then: 22 times, which a test of
`rules/schedule.rs` counts. And 450 times, which is an hour and a quarter of flushes every ten seconds.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from harness import rounds
from harness.report import Report
from harness.server import Connection, Server, Servers
from harness.workers import make_known

SETTINGS = {
    "rgrid_heartbeat.stale_threshold": "1h",
    # No flush and no sweep but the statements that are measured.
    "rgrid_heartbeat.flush_interval": "1h",
    "rgrid_heartbeat.check_interval": "1h",
    "autovacuum": "off",
}

UPDATE = """
UPDATE worker_heartbeats h SET last_heartbeat_at = now()
  FROM unnest(%s::text[]) AS b (id) WHERE h.worker_id = b.id AND h.last_heartbeat_at < now()
"""
A_DAY = 22
"""Flushes in a day with a held snapshot."""


@dataclass(frozen=True)
class Size:
    workers: int
    without_pauses: int
    rounds: int


FULL = Size(workers=500, without_pauses=450, rounds=9)
QUICK = Size(workers=100, without_pauses=40, rounds=1)


def measure(servers: Servers, report: Report) -> None:
    size = QUICK if report.quick else FULL
    with servers.running(SETTINGS) as server:
        db = server.create_database("CREATE EXTENSION rgrid_heartbeat")
        make_known(db, size.workers)
        days = [updates(server, db, A_DAY) for _ in range(size.rounds)]
        without_pauses = updates(server, db, size.without_pauses)
    first = statistics.median(begin(times) for times in days)
    day = statistics.median(end(times) for times in days)
    grown = statistics.median(end(times) / begin(times) for times in days)
    found = f"{day * 1e3:.1f} ms against {first * 1e3:.1f} ms, {grown:.2f} times"
    report.goal(f"{size.workers:,} rows, after {A_DAY} flushes, a day with pauses", "at most 2 times", found, grown <= 2)
    last = end(without_pauses)
    found = f"{last * 1e3:.1f} ms, {last / begin(without_pauses):.2f} times"
    report.note(f"after {size.without_pauses:,}, without pauses", found)


def updates(server: Server, db: Connection, count: int) -> list[float]:
    """Seconds of each of so many updates while another session holds a snapshot."""
    db.execute("VACUUM ANALYZE worker_heartbeats")
    ids = [row[0] for row in db.execute("SELECT worker_id FROM worker_heartbeats ORDER BY worker_id")]
    with server.connect() as holder, holder.transaction():
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT count(*) FROM worker_heartbeats")
        return [rounds.seconds(lambda: db.execute(UPDATE, (ids,))) for _ in range(count)]


def begin(times: list[float]) -> float:
    """The first one writes whole pages after a checkpoint."""
    return statistics.median(times[1:6])


def end(times: list[float]) -> float:
    return statistics.median(times[-5:])
