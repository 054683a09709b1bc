"""Workers that beat at a fixed rate while the server is stopped and started, fast, and immediate, as after a crash; and
while its promoted standby takes its place.

Each worker beats at its own turn. When the connections are lost, they come back after a random pause, and the turns go on
where they stopped. So the server gets the whole load at once, with empty memory. Nobody who beats may be declared dead,
and those who were killed meanwhile must be, one threshold after memory was filled.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness import rounds
from harness.pgbench import number
from harness.report import Report
from harness.server import DATABASE, PORT, SUPERUSER, Connection, Server, ServerProblem, Servers, value_of, wait_until
from harness.workers import FIRST_ID

STOPPED, CRASHED = "stopped and started", "stopped immediate and started"
REPLACED = "stopped immediate and replaced by its promoted standby"

TURNS = f"""
\\set turn :turn + 1
\\set id {FIRST_ID} + (:turn * :all + :offset + :client_id) % :workers
SELECT rgrid_heartbeat(:id::text);
"""


@dataclass(frozen=True)
class Size:
    workers: int
    turn: int
    """Seconds between two heartbeats of a worker."""
    processes: int
    clients: int
    """Connections of each process."""
    threshold: int
    check_interval: int
    killed: int
    sampling: float

    @property
    def rate(self) -> float:
        return self.workers / self.turn


MILLION = Size(1_000_000, turn=30, processes=8, clients=25, threshold=120, check_interval=10, killed=100, sampling=0.05)
# How the figures grow is told by the hardest of the three for one server.
FULL = {
    replace(MILLION, workers=10_000, sampling=1.0): (CRASHED,),
    replace(MILLION, workers=100_000, sampling=0.5): (CRASHED,),
    MILLION: (CRASHED, STOPPED, REPLACED),
}
QUICK = {
    Size(20_000, turn=3, processes=2, clients=4, threshold=8, check_interval=1, killed=20, sampling=1.0): (
        STOPPED,
        CRASHED,
        REPLACED,
    )
}


@dataclass
class Herd:
    """Programs that beat for all workers, each for a share of them, and come back when their connections are lost."""

    servers: list[Server]
    """They connect to the one of these that takes writes."""
    size: Size
    script: Path
    is_over: bool = False
    running: list[subprocess.Popen[str]] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)
    refused: int = 0

    def start(self) -> None:
        self.script.write_text(TURNS)
        for place in range(self.size.processes):
            self.threads.append(threading.Thread(target=self.beat, args=(place,)))
        for thread in self.threads:
            thread.start()

    def end(self) -> None:
        self.is_over = True
        for process in list(self.running):
            process.kill()
        for thread in self.threads:
            thread.join()

    def beat(self, place: int) -> None:
        """One program after the other; the turns that passed while none was connected are not made up for."""
        randomly = random.Random(place)
        beaten = 0.0
        while not self.is_over:
            began = time.monotonic()
            process = self.program(place, int(beaten * self.size.rate / self.all_clients))
            self.running.append(process)
            if self.is_over:
                process.kill()
            output, _ = process.communicate()
            self.running.remove(process)
            self.refused += int(number(r"number of failed transactions: (\d+)", output))
            lasted = time.monotonic() - began
            beaten += lasted if lasted > 0.5 else 0
            time.sleep(randomly.uniform(0.05, 0.5))

    @property
    def all_clients(self) -> int:
        return self.size.processes * self.size.clients

    def program(self, place: int, turn: int) -> subprocess.Popen[str]:
        size = self.size
        variables = {"turn": turn, "workers": size.workers, "all": self.all_clients, "offset": place * size.clients}
        options = ["--no-vacuum", "--protocol=prepared", f"--file={self.script}", "--time=3600", "--jobs=1"]
        options += [f"--client={size.clients}", f"--rate={size.rate / size.processes:g}"]
        options += ["--log", f"--log-prefix={self.script.parent / f'storm-{place}'}", f"--sampling-rate={size.sampling:g}"]
        options += [f"--define={name}={value}" for name, value in variables.items()]
        hosts = ",".join(str(server.directory) for server in self.servers)
        where = f"host={hosts} port={PORT} user={SUPERUSER} dbname={DATABASE} target_session_attrs=read-write"
        return subprocess.Popen(
            [str(self.servers[0].bindir / "pgbench"), *options, where], env=dict(os.environ), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip


@dataclass(frozen=True)
class Beat:
    """A heartbeat that was logged: when it was answered, in seconds since 1970, and how long after it was due."""

    at: float
    latency: float


@dataclass(frozen=True)
class Figures:
    """What is told of one outage, in seconds."""

    away: float
    warm: float
    p50: float
    p99: float
    slow: int

    def line(self) -> str:
        return (
            f"away for {self.away:.1f} s, warm after {self.warm:.1f} s, 99 % within {self.p99 * 1_000:.1f} ms, "
            f"{self.slow:,} rows written"
        )


def measure(servers: Servers, report: Report) -> None:
    crashes: dict[Size, Figures] = {}
    for size, outages in (QUICK if report.quick else FULL).items():
        for how in outages:
            with servers.running(settings_for(size)) as server:
                db = server.create_database("CREATE EXTENSION rgrid_heartbeat")
                took = rounds.seconds(lambda db=db, size=size: beat_first(db, 0, size.workers))
                report.note(f"{size.workers:,} first heartbeats by arrays of 10,000", f"{took:.1f} s")
                figures = weather(servers, server, db, size, how, report)
                if how == CRASHED:
                    crashes[size] = figures
    for size, figures in crashes.items():
        report.note(f"{size.workers:,} workers, {size.rate:,.0f} heartbeats/s, {CRASHED}", figures.line())


def settings_for(size: Size) -> dict[str, str]:
    return {
        "max_connections": str(size.processes * size.clients + 20),
        "checkpoint_timeout": "5min",
        "rgrid_heartbeat.max_workers": str((size.workers + size.killed) * 11 // 10),
        "rgrid_heartbeat.flush_interval": f"{max(size.turn, 2)}s",
        "rgrid_heartbeat.check_interval": f"{size.check_interval}s",
        # Until all workers are known.
        "rgrid_heartbeat.stale_threshold": "1h",
    }


def beat_first(db: Connection, begin: int, count: int) -> None:
    query = "SELECT count(*) FROM rgrid_heartbeat(ARRAY(SELECT n::text FROM generate_series(%s::bigint, %s) AS n))"
    for first in range(begin, begin + count, 10_000):
        last = min(first + 10_000, begin + count) - 1
        db.execute(query, (FIRST_ID + first, FIRST_ID + last))


def weather(servers: Servers, server: Server, db: Connection, size: Size, how: str, report: Report) -> Figures:
    """One outage under load."""
    name = f"{size.workers:,} workers, {how}"
    with contextlib.ExitStack() as stack:
        standby = stack.enter_context(servers.standby_of(server)) if how == REPLACED else None
        both = [server] if standby is None else [server, standby]
        herd = Herd(both, size, server.directory / "storm.sql")
        stack.callback(herd.end)
        herd.start()
        time.sleep(size.turn)
        beat_first(db, size.workers, size.killed)
        for one in both:
            with one.connect() as session:
                one.change_settings(session, {"rgrid_heartbeat.stale_threshold": f"{size.threshold}s"})
        time.sleep(size.turn)
        report.say(f"the server is {how}, under {size.rate:,.0f} heartbeats/s")
        server.connections.clear()
        db.close()
        serving = standby or server
        logged = len(serving.log.read_text(errors="replace"))
        down = time.time()
        end_and_go_on(server, standby, how)
        up = time.time()
        db = serving.connect()
        serving.connections.append(db)
        warm, took, filled = await_warm(serving, size, logged)
        report.note(f"{name}, until it took writes", f"{up - down:.1f} s")
        report.note(f"{name}, seconds until warm", f"{warm - up:.1f} s")
        report.goal(f"{name}, memory of {filled:,} workers filled", "within 5 s", f"{took:.1f} s", took <= 5)
        dead = "SELECT count(*) FROM rgrid_worker_deaths WHERE worker_id >= %s"
        border = str(FIRST_ID + size.workers)
        with contextlib.suppress(ServerProblem):
            limit = 2 * size.threshold + 3 * size.check_interval + 30
            wait_until("the dead are found", lambda: value_of(db, dead, border) == size.killed, timeout=limit)
        tell_deaths(db, size, name, border, warm, report)
        slow = value_of(db, "SELECT heartbeats_in_row FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()")
        report.note(f"{name}, heartbeats that had to write their row", f"{slow:,}")
    p50, p99 = tell_beats(beats_since(server.directory, up), size, name, up, herd, report)
    return Figures(up - down, warm - up, p50, p99, slow)


def end_and_go_on(server: Server, standby: Server | None, how: str) -> None:
    """The end of a server, and its start or the promotion of its standby."""
    assert server.process is not None
    server.process.send_signal(signal.SIGINT if how == STOPPED else signal.SIGQUIT)
    server.process.wait(120)
    if standby is None:
        server.start()
    else:
        standby.promote()


def await_warm(server: Server, size: Size, logged: int) -> tuple[float, float, int]:
    """When memory was filled, how long the server says that it took, in seconds, and for how many workers."""

    def line() -> re.Match[str] | None:
        text = server.log.read_text(errors="replace")[logged:]
        return re.search(r"filled memory with (\d+) workers in (\d+) ms", text)

    wait_until("memory is filled", lambda: line() is not None, timeout=size.threshold + 60)
    found = line()
    assert found is not None
    return time.time(), int(found.group(2)) / 1_000, int(found.group(1))


def tell_deaths(db: Connection, size: Size, name: str, border: str, warm: float, report: Report) -> None:
    died = int(value_of(db, "SELECT count(*) FROM rgrid_worker_deaths WHERE worker_id < %s", border))
    report.check(f"{name}, workers declared dead that beat all the time", "0", f"{died:,}", died == 0)
    query = "SELECT count(*), coalesce(extract(epoch FROM max(declared_dead_at)), 0)::float8 FROM rgrid_worker_deaths"
    row = db.execute(f"{query} WHERE worker_id >= %s", (border,)).fetchone()
    assert row is not None
    found, last = row
    what = f"{name}, dead ones found one threshold later ({size.killed} killed meanwhile)"
    report.check(what, str(size.killed), str(found), found == size.killed)
    if found:
        limit = size.threshold + 2 * size.check_interval
        after = last - warm
        report.goal(f"{name}, the last of them after memory was filled", f"within {limit} s", f"{after:.1f} s", after <= limit)


def beats_since(directory: Path, begin: float) -> list[Beat]:
    beats = []
    for log in directory.glob("storm-*"):
        for line in log.read_text().splitlines():
            parts = line.split()
            if len(parts) < 6 or not parts[2].isdigit():
                continue
            at = int(parts[4]) + int(parts[5]) / 1e6
            if at >= begin:
                beats.append(Beat(at, int(parts[2]) / 1e6))
    return beats


def tell_beats(beats: list[Beat], size: Size, name: str, up: float, herd: Herd, report: Report) -> tuple[float, float]:
    by_second = Counter(int(beat.at - up) for beat in beats)
    rates = [f"{by_second[second] / size.sampling:,.0f}" for second in range(10)]
    report.note(f"{name}, heartbeats/s in the first ten seconds", ", ".join(rates))
    later = [beat.latency for beat in beats if up + 5 <= beat.at]
    p50, p99 = rounds.percentile(later, 0.5), rounds.percentile(later, 0.99)
    report.goal(f"{name}, 99 % answered from the fifth second on", "within 50 ms of when they were due",
                f"{p99 * 1_000:.1f} ms (50 % within {p50 * 1_000:.1f} ms)", p99 <= 0.05)  # fmt: skip
    report.check(f"{name}, heartbeats refused", "0", str(herd.refused), herd.refused == 0)
    return p50, p99
