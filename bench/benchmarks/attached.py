"""How long it takes from the kill of an attached worker until it is declared dead.

Real processes attach themselves to a session each and beat; at random moments they are killed with SIGKILL, and each is
followed by another one, so that most sessions are there all the time. Others are never killed, but lose their connections
again and again, notice it as a client does that watches its socket, and attach themselves anew.
"""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import time
from dataclasses import dataclass

import psycopg

from harness import histogram, processes, rounds
from harness.report import Report
from harness.server import Connection, Server, ServerProblem, Servers, value_of, wait_until

BEAT_EVERY = 0.5
# All processes are on one host, as far as the server is told.
HOST = "one.example"
# What a death may take beside the grace.
ALLOWANCE = 0.2


@dataclass(frozen=True)
class Size:
    victims: int
    at_once: int
    """How many of them are there at a time."""
    survivors: int
    cuts: int
    """How often the connections of survivors are cut, in all."""
    seconds: float
    """In which all victims are killed, one after the other, at random moments."""


FULL = Size(victims=240, at_once=40, survivors=40, cuts=100, seconds=120)
# So few that they are never taken for a network that fails.
QUICK = Size(victims=6, at_once=4, survivors=4, cuts=4, seconds=5)


@dataclass(frozen=True)
class Worker:
    name: str
    process: int


def measure(servers: Servers, report: Report) -> None:
    size = QUICK if report.quick else FULL
    for grace in (0.0, 1.0):
        settings = {
            "rgrid_heartbeat.stale_threshold": "1h",
            "rgrid_heartbeat.disconnect_grace": f"{grace * 1000:g}",
            "max_connections": str(size.victims + size.survivors + 20),
        }
        with servers.running(settings) as server:
            db = server.create_database("CREATE EXTENSION rgrid_heartbeat")
            # Without a grace, whose connection is cut is dead.
            cuts = 0 if grace == 0 else size.cuts
            killed, ledger = let_die(server, db, size, cuts)
            tell(killed, ledger, grace, size, report)


Ledger = list[tuple[str, float]]
"""Who died, and when, in seconds since 1970."""


def let_die(server: Server, db: Connection, size: Size, cuts: int) -> tuple[dict[str, float], Ledger]:
    """When each victim was killed, and the ledger when all of them are in it."""
    survivors = [start_worker(server, f"survivor-{number}") for number in range(size.survivors)]
    victims = [start_worker(server, f"victim-{number}") for number in range(size.at_once)]
    killed: dict[str, float] = {}
    started = list(survivors + victims)
    try:
        attached = "SELECT attached_workers FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()"
        wait_until("all workers are attached", lambda: value_of(db, attached) == len(started), timeout=60)
        randomly = random.Random(1)
        events = [(randomly.uniform(0, size.seconds), True) for _ in range(size.victims)]
        events += [(randomly.uniform(0, size.seconds), False) for _ in range(cuts)]
        begin = time.monotonic()
        for at, is_kill in sorted(events):
            time.sleep(max(begin + at - time.monotonic(), 0))
            if is_kill:
                victim = victims.pop(0)
                killed[victim.name] = time.time()
                os.kill(victim.process, signal.SIGKILL)
                victims.append(start_worker(server, f"victim-{len(killed) + size.at_once - 1}"))
                started.append(victims[-1])
            else:
                os.kill(randomly.choice(survivors).process, signal.SIGUSR1)
        names = list(killed)
        dead = "SELECT count(*) FROM rgrid_worker_deaths WHERE worker_id = ANY (%s)"
        wait_until("all victims are declared dead", lambda: value_of(db, dead, names) == len(names), timeout=60)
        # Whoever lost its connection last has had its time by then.
        wait_until("all survivors are attached", lambda: value_of(db, attached) == len(survivors + victims), timeout=60)
        ledger = deaths(db)
    finally:
        for worker in started:
            os.kill(worker.process, signal.SIGKILL)
            os.waitpid(worker.process, 0)
    return killed, ledger


def deaths(db: Connection) -> Ledger:
    query = "SELECT worker_id, extract(epoch FROM declared_dead_at)::float8 FROM rgrid_worker_deaths"
    return [(worker, declared) for worker, declared in db.execute(query)]


def start_worker(server: Server, name: str) -> Worker:
    return Worker(name, processes.start(lambda: attach_for_ever(server, name)))


def attach_for_ever(server: Server, name: str) -> None:
    """Beats, and watches its socket meanwhile. SIGUSR1 cuts the connection."""
    db = server.connect()

    def cut(_number: int, _frame: object) -> None:
        with socket.socket(fileno=os.dup(db.fileno())) as connection:
            connection.shutdown(socket.SHUT_RDWR)

    signal.signal(signal.SIGUSR1, cut)
    while True:
        try:
            db.execute("SELECT rgrid_attach(%s, %s)", (name, HOST))
            readable, _, _ = select.select([db.fileno()], [], [], BEAT_EVERY)
            if not readable:
                continue
        except (psycopg.OperationalError, OSError, ValueError):
            pass
        # The server says nothing unasked, so this is the end of the connection. Closing it would say goodbye, if anything
        # could still be said.
        db = server.connect()


def tell(killed: dict[str, float], ledger: Ledger, grace: float, size: Size, report: Report) -> None:
    if not ledger:
        raise ServerProblem("nobody was declared dead")
    title = f"with a grace of {grace:g} s"
    died = [worker for worker, _ in ledger if worker in killed]
    report.check(f"workers declared dead {title}", f"the {size.victims} killed ones, each once", f"{len(died)}",
                 sorted(died) == sorted(killed))  # fmt: skip
    false_deaths = sum(worker not in killed for worker, _ in ledger)
    cuts = "" if grace == 0 else f", whose connections were cut {size.cuts} times"
    report.check(f"deaths of those that were not killed{cuts}", "0", str(false_deaths), false_deaths == 0)
    delays = [declared - killed[worker] for worker, declared in ledger if worker in killed]
    earliest, p99 = min(delays), rounds.percentile(delays, 0.99)
    report.check(f"the earliest death {title}", f"not before {grace:g} s", f"{earliest:.3f} s", earliest >= grace)
    limit = grace + ALLOWANCE
    report.goal(f"99 % are declared dead {title}", f"within {limit:g} s of the kill", f"{p99:.3f} s", p99 <= limit)
    report.note("half of them", f"{rounds.percentile(delays, 0.5):.3f} s")
    report.note("the last of them", f"{max(delays):.3f} s")
    report.add_picture(f"attached-{grace:g}s", f"Time to detection of attached workers {title}", histogram.draw(
        "From the kill of an attached worker to the declaration of death",
        f"{len(delays)} killed workers; grace {grace:g} s",
        delays,
        [histogram.Mark("grace", grace), histogram.Mark("99 %", p99), histogram.Mark("goal", limit)],
        "from the kill to the declaration",
    ))  # fmt: skip
