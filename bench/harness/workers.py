"""The workers of the benchmarks: who they are, and how they become known.

An id has 15 characters, as many as RGrid's own ("worker-1a2b3c4d"), but is made of digits: pgbench sends a number as
it is for a text parameter, just as a driver sends an id. Putting ids together in SQL would add the same cost to
everything that is compared, and so make a heartbeat look closer to its reference than it is.
"""

from __future__ import annotations

from datetime import datetime

from .server import Connection, Server, value_of, wait_until

FIRST_ID = 100_000_000_000_000
# A transaction of this many first heartbeats stays far from any timeout.
BATCH = 20_000


def make_known(db: Connection, count: int, first: int = 0) -> None:
    """The first heartbeats of `count` workers; for workers that are known already, one more."""
    for begin in range(first, first + count, BATCH):
        end = min(begin + BATCH, first + count) - 1
        beat(db, begin, end)


def beat(db: Connection, begin: int, end: int) -> None:
    query = "SELECT count(public.rgrid_heartbeat(n::text)) FROM generate_series(%s::bigint, %s) AS n"
    value_of(db, query, FIRST_ID + begin, FIRST_ID + end)


def beat_and_flush(server: Server, db: Connection, count: int) -> None:
    """One heartbeat of each of the first `count` workers, and their rows are written."""
    started = clock(db)
    make_known(db, count)
    provoke_flush(server, db)
    wait_until("the heartbeats are in their rows", lambda: older_rows(db, started, count) == 0, timeout=60)
    calm_flushes(server, db)


def provoke_flush(server: Server, db: Connection) -> None:
    """The launcher starts a flush at once when the interval is over; for that, it becomes short for a while."""
    server.change_settings(db, {"rgrid_heartbeat.flush_interval": "10ms"})


def calm_flushes(server: Server, db: Connection) -> None:
    server.change_settings(db, {"rgrid_heartbeat.flush_interval": "10min"})


def older_rows(db: Connection, time: datetime, count: int) -> int:
    """How many of the first `count` workers have a row that is older."""
    query = "SELECT count(*) FROM public.worker_heartbeats WHERE last_heartbeat_at < %s AND worker_id < %s::text"
    return int(value_of(db, query, time, FIRST_ID + count))


def clock(db: Connection) -> datetime:
    now: datetime = value_of(db, "SELECT clock_timestamp()")
    return now


def wal_position(db: Connection) -> int:
    return int(value_of(db, "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"))


def next_xid(db: Connection) -> int:
    """The transaction id that will be given out next. Asking does not use one up."""
    return int(value_of(db, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"))


def deaths(db: Connection) -> int:
    return int(value_of(db, "SELECT count(*) FROM public.rgrid_worker_deaths"))
