"""A million workers that beat every 30 seconds, for minutes, while the server flushes and sweeps as it does in life.

Each worker beats at its own turn, so that none is ever silent for longer than a turn takes: a death that is declared
is wrong. The load comes at a fixed rate, and a heartbeat's latency counts from the moment at which it was due.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from harness import pgbench, rounds
from harness.memory import MEGABYTE, reserved_memory
from harness.pgbench import Run, Script
from harness.report import Report
from harness.server import Connection, Server, ServerProblem, Servers, value_of, wait_until
from harness.workers import FIRST_ID, clock, deaths, make_known, older_rows, provoke_flush, wal_position

CLIENTS = 8

# Every client takes each eighth worker in turn.
TURNS = f"""
\\set turn :turn + 1
\\set id {FIRST_ID} + (:turn * {CLIENTS} + :client_id) % :workers
SELECT rgrid_heartbeat(:id::text);
"""


@dataclass(frozen=True)
class Size:
    workers: int
    seconds: int
    turn: float
    """Seconds between two heartbeats of a worker."""
    sampling: float
    flush_interval: str
    check_interval: str
    threshold: int

    @property
    def rate(self) -> float:
        return self.workers / self.turn


FULL = Size(1_000_000, seconds=300, turn=30, sampling=0.02, flush_interval="30s", check_interval="60s", threshold=120)
QUICK = Size(10_000, seconds=10, turn=3, sampling=1.0, flush_interval="2s", check_interval="2s", threshold=8)

# As a server has them: here, what checkpoints write belongs to what is measured.
SERVER_SETTINGS = {"checkpoint_timeout": "5min", "max_wal_size": "4GB"}


@dataclass(frozen=True)
class State:
    """Counters of the server; what a run did is the difference of two."""

    wal: int
    updates: int
    hot_updates: int
    table_size: int


def measure(servers: Servers, report: Report) -> None:
    size = QUICK if report.quick else FULL
    settings = {
        **SERVER_SETTINGS,
        "rgrid_heartbeat.max_workers": str(size.workers * 11 // 10),
        "rgrid_heartbeat.flush_interval": size.flush_interval,
        "rgrid_heartbeat.check_interval": size.check_interval,
        # Until all workers are known. It may take longer than they are allowed to be silent.
        "rgrid_heartbeat.stale_threshold": "1h",
    }
    with servers.made_ready(settings) as server:
        memory = reserved_memory(servers, server)
        server.start()
        db, silent = set_up(server, size)
        report.say(f"{size.workers:,} workers are known; {size.rate:,.0f} heartbeats/s for {size.seconds} s")
        before = state(db)
        run = pgbench.run(server, Script(TURNS, {"turn": 0, "workers": size.workers}), CLIENTS, size.seconds,
                          rate=size.rate, sampling=size.sampling)  # fmt: skip
        ended = clock(db)
        after = state(db)
        tell_load(size, run, report)
        tell_deaths(db, size, silent + run.longest_lag, report)
        tell_table(servers, size, before, after, report)
        if servers.has_shared_memory:
            provoke_flush(server, db)
        tell_rows(db, size, ended - oldest_beat(size, run), report)
        tell_memory(db, memory, report)


def set_up(server: Server, size: Size) -> tuple[Connection, float]:
    """The connection, and for how many seconds a worker may have been silent by now."""
    db = server.create_database("CREATE EXTENSION rgrid_heartbeat")
    make_known(db, size.workers)
    db.execute("VACUUM ANALYZE worker_heartbeats")
    # Everybody once more, and the threshold is in force.
    started = time.monotonic()
    make_known(db, size.workers)
    server.change_settings(db, {"rgrid_heartbeat.stale_threshold": f"{size.threshold}s"})
    return db, time.monotonic() - started


def state(db: Connection) -> State:
    row = db.execute(
        """
        SELECT n_tup_upd, n_tup_hot_upd, pg_total_relation_size(relid)
          FROM pg_stat_user_tables WHERE relname = 'worker_heartbeats'
        """
    ).fetchone()
    assert row is not None
    return State(wal_position(db), *row)


def tell_load(size: Size, run: Run, report: Report) -> None:
    due = size.rate * size.seconds
    taken = run.transactions / due
    found = f"{run.transactions:,} of {due:,.0f} that were due ({taken:.2%})"
    report.goal("heartbeats taken in time", "at least 99 %", found, taken >= 0.99)
    report.check("heartbeats refused", "0", str(run.failed), run.failed == 0)
    total = [latency.total for latency in run.latencies]
    served = [latency.total - latency.lag for latency in run.latencies]
    p99 = rounds.percentile(total, 0.99)
    report.goal("99 % of heartbeats answered", "within 5 ms of when they were due", milliseconds(p99), p99 < 0.005)
    report.note("50 % of heartbeats answered", f"within {milliseconds(rounds.percentile(total, 0.5))}")
    both = [milliseconds(rounds.percentile(served, share)) for share in (0.5, 0.99)]
    report.note("the same without the wait for a free client", f"50 % within {both[0]}, 99 % within {both[1]}")


def tell_deaths(db: Connection, size: Size, late: float, report: Report) -> None:
    """`late` is what the load generator added to a worker's silence: who is late for too long is rightly dead."""
    died = deaths(db)
    if died == 0 or size.turn + late < size.threshold:
        report.check("workers declared dead", "0", str(died), died == 0)
    else:
        report.skip("workers declared dead", f"{died}, but heartbeats came {late:.1f} s late")


def oldest_beat(size: Size, run: Run) -> timedelta:
    """How long ago a worker may have beaten for the last time: a turn, with some room for clients out of step."""
    return timedelta(seconds=1.2 * size.turn + run.longest_lag + 2)


def tell_rows(db: Connection, size: Size, oldest: datetime, report: Report) -> None:
    """Every worker has a row, which the flushes keep up to date."""
    with contextlib.suppress(ServerProblem):
        wait_until("the rows are written", lambda: older_rows(db, oldest, size.workers) == 0, timeout=60)
    rows = int(value_of(db, "SELECT count(*) FROM worker_heartbeats"))
    report.check("rows", f"{size.workers:,}", f"{rows:,}", rows == size.workers)
    lost = older_rows(db, oldest, size.workers)
    report.check("rows without the last heartbeat", "0", f"{lost:,}", lost == 0)


def tell_table(servers: Servers, size: Size, before: State, after: State, report: Report) -> None:
    wal = after.wal - before.wal
    report.note("WAL an hour", f"{wal * 3600 / size.seconds / 2**30:.2f} GiB")
    updates, hot = after.updates - before.updates, after.hot_updates - before.hot_updates
    share = hot / updates if updates else 0.0
    found = f"{share:.1%} of {updates:,}"
    report.goal("HOT share of the row updates", "over 95 %", found, share > 0.95)
    # In the middle of an interval, not all may have been written yet; but some must.
    report.check("rows are updated, and in place", "most of them HOT", found, share > 0.5)
    sizes = f"{before.table_size / MEGABYTE:,.1f} MiB before, {after.table_size / MEGABYTE:,.1f} MiB after"
    growth = after.table_size / before.table_size
    report.goal("size of the table with its index", "at most 1.5 times as before", sizes, growth <= 1.5)
    if servers.has_shared_memory:
        report.note("row updates for a heartbeat", f"{updates / (size.rate * size.seconds):.2f}")


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1_000:.2f} ms"


def tell_memory(db: Connection, memory: float | None, report: Report) -> None:
    if memory is None:
        report.skip("shared memory a worker", "this build has no setting rgrid_heartbeat.max_workers")
        return
    report.goal("shared memory a worker", "at most 250 bytes", f"{memory:.0f} bytes", memory <= 250)
    rows = db.execute(
        "SELECT name, allocated_size FROM pg_shmem_allocations WHERE name LIKE 'rgrid_heartbeat%' ORDER BY name"
    ).fetchall()
    report.note("named in pg_shmem_allocations", ", ".join(f"{name} {size:,}" for name, size in rows) or "nothing")
