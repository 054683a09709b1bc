"""A day of flushes while somebody holds a snapshot: no version of a row can be removed, and each flush goes through all.

The UPDATE of a flush, of 500 rows, as often as the extension flushes in a day then: 22 times, which a test of
`rules/schedule.rs` counts. And 450 times, which is an hour and a quarter of flushes every ten seconds.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from harness import rounds
from harness.report import Report
from harness.server import Connection, Servers
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


FULL = Size(workers=500, without_pauses=450)
QUICK = Size(workers=100, without_pauses=40)


def measure(servers: Servers, report: Report) -> None:
    size = QUICK if report.quick else FULL
    with servers.running(SETTINGS) as server:
        db = server.create_database("CREATE EXTENSION rgrid_heartbeat")
        make_known(db, size.workers)
        db.execute("VACUUM ANALYZE worker_heartbeats")
        ids = [row[0] for row in db.execute("SELECT worker_id FROM worker_heartbeats")]
        with server.connect() as holder, holder.transaction():
            holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            holder.execute("SELECT count(*) FROM worker_heartbeats")
            times = [update(db, ids) for _ in range(size.without_pauses)]
    # The first writes whole pages after a checkpoint.
    first, day, last = (statistics.median(part) for part in (times[1:6], times[A_DAY - 5 : A_DAY], times[-5:]))
    grown = f"{day * 1e3:.1f} ms against {first * 1e3:.1f} ms, {day / first:.2f} times"
    report.goal(f"{size.workers:,} rows, after {A_DAY} flushes, a day with pauses", "at most 2 times", grown, day <= 2 * first)
    report.note(f"after {size.without_pauses:,}, without pauses", f"{last * 1e3:.1f} ms, {last / first:.2f} times")


def update(db: Connection, ids: list[str]) -> float:
    return rounds.seconds(lambda: db.execute(UPDATE, (ids,)))
