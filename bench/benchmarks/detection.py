"""How long it takes from a worker's last heartbeat until it is declared dead.

Real processes, each with a session of its own, beat every half second until they are killed with SIGKILL at random
moments; some are never killed. Each notes in memory that it shares with this process when it began its last heartbeat
that was answered, so that what the server says of it can be checked.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import time
from dataclasses import dataclass

import psycopg

from harness import histogram, processes, rounds
from harness.report import Report
from harness.server import Connection, Server, ServerProblem, Servers, value_of, wait_until

THRESHOLD = 3.0
CHECK_INTERVAL = 1.0
# What the sweep itself may add.
ALLOWANCE = 0.1
BEAT_EVERY = 0.5

# A time in seconds since 1970, one a worker.
NOTE = struct.Struct("d")


@dataclass(frozen=True)
class Size:
    victims: int
    survivors: int
    seconds: float
    """In which all victims are killed, one after the other, at random moments."""


FULL = Size(victims=240, survivors=20, seconds=60)
QUICK = Size(victims=12, survivors=4, seconds=3)


@dataclass(frozen=True)
class Death:
    worker: str
    silence: float
    """Seconds from the last heartbeat that the server had heard to the declaration."""
    last_heartbeat: float


def measure(servers: Servers, report: Report) -> None:
    size = QUICK if report.quick else FULL
    workers = size.victims + size.survivors
    settings = {
        "rgrid_heartbeat.stale_threshold": f"{THRESHOLD:g}s",
        "rgrid_heartbeat.check_interval": f"{CHECK_INTERVAL:g}s",
        "max_connections": str(workers + 20),
    }
    with servers.running(settings) as server, mmap.mmap(-1, workers * NOTE.size) as notes:
        db = server.create_database("CREATE EXTENSION rgrid_heartbeat")
        let_die(server, db, size, notes)
        deaths = [Death(*row) for row in db.execute(
            """
            SELECT worker_id, extract(epoch FROM declared_dead_at - last_heartbeat_at)::float8,
                   extract(epoch FROM last_heartbeat_at)::float8
              FROM rgrid_worker_deaths ORDER BY declared_dead_at
            """
        )]  # fmt: skip
        last = [NOTE.unpack_from(notes, number * NOTE.size)[0] for number in range(workers)]
    tell(deaths, last, size, report)


def let_die(server: Server, db: Connection, size: Size, notes: mmap.mmap) -> None:
    """Returns when every victim is in the ledger, and all processes have ended."""
    workers = size.victims + size.survivors
    started: list[int] = []
    try:
        for number in range(workers):
            started.append(start_worker(server, number, notes))
        known = "SELECT count(*) FROM worker_heartbeats"
        wait_until("all workers beat", lambda: value_of(db, known) == workers, timeout=60)
        kill_at_random_moments(started, size)
        dead = "SELECT count(*) FROM rgrid_worker_deaths"
        wait_until("all victims are declared dead", lambda: value_of(db, dead) >= size.victims, timeout=60)
    finally:
        for process in started:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def kill_at_random_moments(workers: list[int], size: Size) -> None:
    """The first of them; a killed process is collected in the end."""
    randomly = random.Random(1)
    started = time.monotonic()
    for process, at in zip(workers, sorted(randomly.uniform(0, size.seconds) for _ in range(size.victims))):
        time.sleep(max(started + at - time.monotonic(), 0))
        os.kill(process, signal.SIGKILL)


def start_worker(server: Server, number: int, notes: mmap.mmap) -> int:
    return processes.start(lambda: beat_for_ever(server, number, notes))


def beat_for_ever(server: Server, number: int, notes: mmap.mmap) -> None:
    db = server.connect()
    # Out of step with the others.
    time.sleep(random.Random(number).uniform(0, BEAT_EVERY))
    while True:
        begun = time.time()
        db.execute("SELECT rgrid_heartbeat(%s)", (worker_id(number),))
        NOTE.pack_into(notes, number * NOTE.size, begun)
        time.sleep(BEAT_EVERY)


def worker_id(number: int) -> str:
    return f"worker-{number}"


def tell(deaths: list[Death], last: list[float], size: Size, report: Report) -> None:
    if not deaths:
        raise ServerProblem("nobody was declared dead")
    victims = {worker_id(number) for number in range(size.victims)}
    died = [death.worker for death in deaths]
    report.check("workers declared dead", f"the {size.victims} killed ones, each once",
                 f"{len(died)}", sorted(died) == sorted(victims))  # fmt: skip
    noted = {worker_id(number): begun for number, begun in enumerate(last)}
    forgotten = sum(death.last_heartbeat < noted[death.worker] for death in deaths)
    report.check("heartbeats that the ledger does not know of", "0", str(forgotten), forgotten == 0)
    silences = [death.silence for death in deaths]
    shortest = min(silences)
    report.check("the shortest silence", f"over {THRESHOLD:g} s", f"{shortest:.3f} s", shortest > THRESHOLD)
    limit = THRESHOLD + CHECK_INTERVAL + ALLOWANCE
    p99 = rounds.percentile(silences, 0.99)
    report.goal("99 % are declared dead", f"within {limit:g} s of the last heartbeat", f"{p99:.3f} s", p99 <= limit)
    report.note("half of them", f"{rounds.percentile(silences, 0.5):.3f} s")
    report.note("the last of them", f"{max(silences):.3f} s")
    report.add_picture("detection", "Time to detection", histogram.draw(
        "From the last heartbeat to the declaration of death",
        f"{len(silences)} killed workers; threshold {THRESHOLD:g} s, sweeps {CHECK_INTERVAL:g} s apart",
        silences,
        [histogram.Mark("threshold", THRESHOLD), histogram.Mark("99 %", p99), histogram.Mark("goal", limit)],
        "of silence when declared dead",
    ))  # fmt: skip
