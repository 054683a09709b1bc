#!/usr/bin/env python3
"""Measures rgrid_heartbeat on throw-away servers of its own.

    run.py --bindir "$(pg_config --bindir)" [--quick] [--results DIR] [--only NAME ...]

Needs psycopg, pgbench, a C compiler and PostgreSQL's server headers, and a user other than root. The exit status is 1
when something is wrong - a heartbeat lost, a living worker declared dead -, not when something is slow.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg

from benchmarks import (
    arrays,
    attached,
    daemon_race,
    detection,
    dynahash,
    fence,
    first,
    flush,
    heartbeat,
    held_snapshot,
    known,
    million,
    partitions,
    settling,
    standby,
    storm,
    sweep,
)
from harness.report import Report
from harness.server import ServerProblem, Servers

Benchmark = Callable[[Servers, Report], None]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Cheap ones first. The name, what is claimed, and the function that tries it.
BENCHMARKS: dict[str, tuple[str, Benchmark]] = {
    "heartbeat": ("What a heartbeat costs, beside a call that does nothing and beside an upsert", heartbeat.measure),
    "known": ("A heartbeat of a known worker takes little more time than a call that does nothing", known.measure),
    "first": ("A heartbeat that writes its row costs little more than an upsert", first.measure),
    "arrays": ("Many workers in one call cost little more than one upsert of their rows", arrays.measure),
    "dynahash": ("What the extension's table gains over PostgreSQL's own shared hash table", dynahash.measure),
    "standby": ("Heartbeats go on while a synchronous standby is away", standby.measure),
    "detection": ("A dead worker is found one sweep after the threshold, and never before it", detection.measure),
    "attached": ("An attached worker that is killed is dead as soon as its grace is over", attached.measure),
    "fence": ("A fence costs jobs that nobody gave up next to nothing", fence.measure),
    "flush": ("Heartbeats are written to the table as fast as PostgreSQL updates rows", flush.measure),
    "held snapshot": ("A day of flushes while a snapshot is held makes none much slower", held_snapshot.measure),
    "settling": ("Jobs are settled with their owner's rights for little more than the UPDATE", settling.measure),
    "partitions": ("Calls do not open thousands of partitions in which nothing runs", partitions.measure),
    "daemon": ("A sweep leaves a daemon that settles worker by worker far behind", daemon_race.measure),
    "sweep": ("A sweep costs what the dead and their jobs cost, and little more", sweep.measure),
    "storm": ("Nobody dies because the server was away", storm.measure),
    "million": ("A million workers can beat while the server flushes and sweeps", million.measure),
}


def main() -> int:
    options = parse_options()
    if os.geteuid() == 0:
        print("run.py: cannot be run as root, because PostgreSQL refuses that", file=sys.stderr)
        return 2
    # Nothing of the caller's environment may lead to another server.
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    for number in SIGNALS:
        signal.signal(number, end)
    report = Report(options.quick)
    with temporary_directory() as directory:
        servers = servers_in(directory, options)
        servers.prepare()
        report.say(f"PostgreSQL {servers.version}; {describe(servers)}")
        for name in options.only or BENCHMARKS:
            measure(name, servers, report)
    if options.results:
        report.write(options.results, servers.version)
        report.say(f"written to {options.results}")
    for wrong in report.wrong:
        print(f"wrong: {wrong}")
    return 1 if report.wrong else 0


def end(number: int, _frame: object) -> None:
    """Also when asked to end, servers are stopped and removed; a second signal does not hurry that."""
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    print("interrupted: stopping the server", file=sys.stderr)
    sys.exit(128 + number)


def measure(name: str, servers: Servers, report: Report) -> None:
    """One benchmark; when it fails, the others still run."""
    claim, function = BENCHMARKS[name]
    report.begin(name, claim)
    try:
        function(servers, report)
    except (ServerProblem, psycopg.Error, OSError, subprocess.SubprocessError) as error:
        report.fail(error)


def servers_in(directory: Path, options: argparse.Namespace) -> Servers:
    # No statement may hold a benchmark up for ever.
    shared_buffers, statement_timeout = ("128MB", 60) if options.quick else ("1GB", 1_800)
    return Servers(options.bindir, directory, shared_buffers, statement_timeout)


def describe(servers: Servers) -> str:
    return "heartbeats in shared memory" if servers.has_shared_memory else "heartbeats in the table only"


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="rgrid-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures rgrid_heartbeat on throw-away servers.")
    parser.add_argument("--bindir", type=Path, required=True, help="where initdb, postgres, pgbench and pg_config are")
    parser.add_argument("--quick", action="store_true", help="small sizes: right or wrong, not fast or slow")
    parser.add_argument("--results", type=Path, help="write RESULTS.md and its charts there")
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), help="these benchmarks and no others")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
