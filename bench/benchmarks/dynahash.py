"""The extension's table of heartbeats side by side with PostgreSQL's own shared hash table, dynahash.

Functions in C do what a fast heartbeat does: over dynahash as PostgreSQL offers it, over dynahash with a hash like the
extension's, and over a table that is laid out like the extension's, too. They tell what is owed to the hash, to the
layout, and to neither. First as clients call it, with pgbench; then within one statement, without the round trip,
which hides most of a table. A call of a function that does nothing is beside both.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg

from harness import library, pgbench, rounds
from harness.memory import FEW, MANY, reserved_memory
from harness.pgbench import Script
from harness.report import Report
from harness.rounds import Measurements
from harness.server import Connection, Server, Servers, value_of
from harness.workers import FIRST_ID, clock, deaths, make_known, next_xid

from . import heartbeat
from .heartbeat import NOOP, OURS

DYNAHASH = "dynahash"
SEEDED = "dynahash with our hash"
CHAINED = "our table in C"

# The function of each.
FUNCTIONS = {
    NOOP: "noop_heartbeat",
    DYNAHASH: "dynahash_heartbeat",
    SEEDED: "dynahash_seeded_heartbeat",
    CHAINED: "chained_heartbeat",
    OURS: "rgrid_heartbeat",
}
OPPONENTS = (DYNAHASH, SEEDED, CHAINED)

# What a client calls: the round trip hides what tells the other tables apart.
CALLED = (NOOP, DYNAHASH, OURS)
CALLED_PAIRS = ((OURS, DYNAHASH), (OURS, NOOP), (DYNAHASH, NOOP))

# Within a statement: the whole, then step by step: the hash, the layout, and what is neither.
LOOPED_PAIRS = (
    (OURS, DYNAHASH),
    (SEEDED, DYNAHASH),
    (CHAINED, SEEDED),
    (OURS, CHAINED),
    (OURS, NOOP),
    (DYNAHASH, NOOP),
)

HOSTNAME = "host"


@dataclass(frozen=True)
class Size:
    workers: int
    clients: tuple[int, ...]
    seconds: int
    rounds: int
    fleets: tuple[int, ...]
    """Workers for the loops in a statement: with more of them, fewer of their entries are in a cache."""
    calls: int
    """Of one loop."""
    loops: int
    """Rounds of loops, which are short."""


FULL = Size(100_000, (2, 8), seconds=2, rounds=15, fleets=(100_000, 1_000_000), calls=1_000_000, loops=25)
QUICK = Size(5_000, (2,), seconds=1, rounds=1, fleets=(5_000,), calls=20_000, loops=1)


def measure(servers: Servers, report: Report) -> None:
    if not servers.has_shared_memory:
        report.skip("the tables in shared memory", "this build has none")
        return
    size = QUICK if report.quick else FULL
    for workers in dict.fromkeys((size.workers, *size.fleets)):
        measure_fleet(servers, size, workers, report)


def measure_fleet(servers: Servers, size: Size, workers: int, report: Report) -> None:
    dynahash = library.build(servers.template, "dynahash")
    settings = {
        "shared_preload_libraries": f"rgrid_heartbeat, {dynahash}",
        "dynahash.max_workers": str(workers),
        "rgrid_heartbeat.max_workers": str(workers),
        "rgrid_heartbeat.stale_threshold": "1h",
    }
    with servers.made_ready(settings) as server:
        # A server that runs does not tell.
        memory = reserved_memory(servers, server)
        server.start()
        db = set_up(server, dynahash, workers, size.calls)
        report.say(f"{workers:,} workers are known")
        check(db, workers, report)
        with heartbeat.silence(servers, server, db):
            xid = next_xid(db)
            if workers == size.workers:
                tell_memory(db, memory, report)
                compare_clients(server, size, report)
            if workers in size.fleets:
                compare_loops(db, size, workers, report)
            xids = next_xid(db) - xid
        # A heartbeat that does not find its entry goes to the row, and would be something else.
        report.check(f"{workers:,} workers, heartbeats that went to a row", "0", str(xids), xids == 0)
        died = deaths(db)
        report.check(f"{workers:,} workers, deaths declared", "0", str(died), died == 0)


def set_up(server: Server, dynahash: Path, workers: int, calls: int) -> Connection:
    db = server.create_database("CREATE EXTENSION rgrid_heartbeat")
    heartbeat.declare(db, library.build(server, "noop"), FUNCTIONS[NOOP])
    for name in OPPONENTS:
        heartbeat.declare(db, dynahash, FUNCTIONS[name])
    for function in (
        "dynahash_fill(first bigint, workers int, hostname text) RETURNS void",
        "dynahash_beat_at(worker_id text) RETURNS timestamptz",
        "dynahash_size(workers int) RETURNS bigint",
    ):
        db.execute(f"CREATE FUNCTION {function} AS '{dynahash}' LANGUAGE C STRICT")
    make_known(db, workers)
    value_of(db, "SELECT dynahash_fill(%s, %s, %s)", FIRST_ID, workers, HOSTNAME)
    make_ids(db, workers, calls)
    return db


def make_ids(db: Connection, workers: int, calls: int) -> None:
    """The ids that are called in one statement: drawn at random, and one again and again."""
    for table, choice in (("drawn", f"floor(random() * {workers})::bigint"), ("same", "0")):
        ids = f"SELECT ({FIRST_ID} + {choice})::text AS id FROM generate_series(1, {calls})"
        db.execute(f"CREATE TABLE {table} AS {ids}")
    db.execute("VACUUM ANALYZE")
    # It would compile some statements and not others.
    db.execute("SET jit = off")


def check(db: Connection, workers: int, report: Report) -> None:
    """That the opponent does its work."""
    started = clock(db)
    everybody = f"(SELECT n::text AS id FROM generate_series({FIRST_ID}, {FIRST_ID + workers - 1}) AS n) AS everybody"
    for name in OPPONENTS:
        query = f"SELECT count(*) FROM {everybody} WHERE {FUNCTIONS[name]}(id, '{HOSTNAME}') = 1"
        found = int(value_of(db, query))
        report.check(f"{workers:,} workers, known to: {name}", f"{workers:,}", f"{found:,}", found == workers)
        refused = all(is_refused(db, name, *who) for who in ((FIRST_ID, "other"), (FIRST_ID - 1, HOSTNAME)))
        report.check(f"another host and another worker, {name}", "refused", "refused" if refused else "not", refused)
    late = int(value_of(db, f"SELECT count(*) FROM {everybody} WHERE dynahash_beat_at(id) >= %s", started))
    report.check(f"{workers:,} workers, times that were stored", f"{workers:,}", f"{late:,}", late == workers)


def is_refused(db: Connection, name: str, worker: int, hostname: str) -> bool:
    try:
        db.execute(f"SELECT {FUNCTIONS[name]}(%s::text, %s)", (worker, hostname))
    except psycopg.errors.InternalError:
        return True
    return False


def tell_memory(db: Connection, ours: float | None, report: Report) -> None:
    """Both for the same numbers of workers: buckets are a power of two, so the share of a worker varies."""
    sizes = [int(value_of(db, "SELECT dynahash_size(%s)", workers)) for workers in (FEW, MANY)]
    theirs = (sizes[1] - sizes[0]) / (MANY - FEW)
    if ours is not None:
        found = f"{ours:.0f} bytes, {ours / theirs:.2f} times the {theirs:.0f} bytes of {DYNAHASH}"
        report.note("shared memory a worker", found)


def compare_clients(server: Server, size: Size, report: Report) -> None:
    """As clients call it: one of all workers at random, and each client the same one again and again."""
    choices = {
        f"{size.workers:,} workers at random": f"random({FIRST_ID}, {FIRST_ID + size.workers - 1})",
        "one worker a client": f"{FIRST_ID} + :client_id",
    }
    for clients in size.clients:
        for what, choice in choices.items():

            def rate(name: str, clients: int = clients, choice: str = choice) -> float:
                script = Script(f"\\set id {choice}\nSELECT {FUNCTIONS[name]}(:id::text);\n")
                return pgbench.run(server, script, clients, size.seconds).tps

            measured = side_by_side(rate, CALLED, size.rounds)
            tell_rate(f"{clients} clients, {what}", measured, report)
            for name, reference in CALLED_PAIRS:
                report.note(title(f"{clients} clients, {what}", name, reference), times(measured, name, reference))


def compare_loops(db: Connection, size: Size, workers: int, report: Report) -> None:
    """Within one statement. With one worker, all that it touches is in the nearest cache."""
    for table, choice in (("drawn", f"{workers:,} workers at random"), ("same", f"one of {workers:,} workers")):

        def rate(name: str, table: str = table) -> float:
            query = f"SELECT count({FUNCTIONS[name]}(id)) FROM {table}"
            return size.calls / rounds.seconds(lambda: value_of(db, query))

        what = f"one statement, {choice}"
        measured = side_by_side(rate, tuple(FUNCTIONS), size.loops)
        tell_rate(what, measured, report)
        for name, reference in LOOPED_PAIRS:
            found = times(measured, name, reference)
            # Of a quick run, the difference may be anything.
            if reference != NOOP and not report.quick:
                found += f"; {times_without_call(measured, name, reference):.2f} times without the call"
            report.note(title(what, name, reference), found)


def side_by_side(rate: Callable[[str], float], names: tuple[str, ...], number: int) -> Measurements:
    return rounds.side_by_side({name: partial(rate, name) for name in names}, number)


def tell_rate(what: str, measured: Measurements, report: Report) -> None:
    report.note(what, f"{rounds.median(measured, OURS):,.0f} heartbeats/s")


def title(what: str, name: str, reference: str) -> str:
    return f"{what}, {'' if name == OURS else name + ' '}against: {reference}"


def times(measured: Measurements, name: str, reference: str) -> str:
    """With the middle half of the rounds: a difference that is smaller than that is none."""
    ratios = rounds.ratios(measured, name, reference)
    low, high = (rounds.percentile(ratios, share) for share in (0.25, 0.75))
    against = rounds.median(measured, reference)
    return f"{statistics.median(ratios):.2f} times its {against:,.0f}/s ({low:.2f} to {high:.2f})"


def times_without_call(measured: Measurements, name: str, reference: str) -> float:
    """How much faster, when the time of a call that does nothing is taken off both."""
    pairs = zip(work(measured, name), work(measured, reference), strict=True)
    return statistics.median(against / max(own, 1e-12) for own, against in pairs)


def work(measured: Measurements, name: str) -> Iterator[float]:
    """The time of each round that a call took longer than one that does nothing."""
    return (1 / rate - 1 / noop for rate, noop in zip(measured[name], measured[NOOP], strict=True))
