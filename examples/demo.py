#!/usr/bin/env python3
"""The story that "make demo" tells: a worker dies, PostgreSQL notices and fails its jobs.

Starts a throw-away server, gives it the tables of an RGrid installation and the extension, starts three workers, kills
one, stops another politely, and shows what the database makes of it. Every claim is checked against the database:
the exit status is 0 only if all of them hold. The server, the workers and their files are gone afterwards.

    demo.py --bindir "$(pg_config --bindir)"
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.types.string import TextLoader

T = TypeVar("T")
Row = tuple[Any, ...]

EXAMPLES = Path(__file__).resolve().parent
SUPERUSER = "postgres"
DATABASE = "rgrid"
# It only makes up the name of the socket: the server has a directory of its own and listens on no network.
PORT = 5432
# The longest path that a Unix socket can have on Linux.
LONGEST_SOCKET_PATH = 107

# As in production, but with seconds where the defaults have minutes.
STALE_THRESHOLD = 3
SETTINGS = {
    "shared_preload_libraries": "rgrid_heartbeat",
    "rgrid_heartbeat.check_interval": "1s",
    "rgrid_heartbeat.stale_threshold": f"{STALE_THRESHOLD}s",
}
HEARTBEAT_INTERVAL = 0.5

# The dead worker must still be busy when it is killed. The polite one drains for longer than the threshold: it lives
# through that only because it goes on beating.
JOB_SECONDS = {"alpha": 1.0, "beta": 60.0, "gamma": 5.0}
JOBS = 8

INSTALL = "CREATE EXTENSION rgrid_heartbeat"
WORKER_ROLE = (
    "CREATE ROLE rgrid_worker LOGIN",
    """
GRANT EXECUTE ON FUNCTION rgrid_register(text, text), rgrid_heartbeat(text, text), rgrid_attach(text, text),
                          rgrid_deregister(text) TO rgrid_worker
""",
    "GRANT SELECT, UPDATE ON executions TO rgrid_worker",
)
QUEUE_JOBS = """
INSERT INTO executions (execution_id, user_id, project_id, script_content, runtime, args, env_vars, input_files,
                        status, retry_count, max_retries, created_at, output_truncated, cost_micros)
SELECT 'job-' || n, 'ada', 'demo', 'print(42)', 'python3.11', '[]', '{}', '[]',
       'queued', 0, 3, now() AT TIME ZONE 'utc', false, 0
  FROM generate_series(1, %s) AS n
"""

RECENT_HEARTBEATS = "SELECT worker_id, last_heartbeat_at FROM worker_heartbeats ORDER BY last_heartbeat_at DESC"
SILENT_WORKERS = f"""
SELECT worker_id, round(extract(epoch FROM now() AT TIME ZONE 'utc' - last_heartbeat_at), 1) AS seconds_since_heartbeat
  FROM worker_heartbeats
 WHERE extract(epoch FROM now() AT TIME ZONE 'utc' - last_heartbeat_at) > {STALE_THRESHOLD}
"""
JOBS_OF_THE_DEAD = """
SELECT execution_id, worker_id, execution_error, completed_at
  FROM executions
 WHERE execution_error LIKE 'Worker died%'
"""
JOBS_BY_STATUS = "SELECT status, count(*) FROM executions GROUP BY status ORDER BY status"
LEDGER = """
SELECT worker_id, reason, jobs_failed, last_heartbeat_at, declared_dead_at, returned_at
  FROM rgrid_worker_deaths
"""


class StoryBroken(Exception):
    """What the story needs to go on did not happen."""


class Interrupted(Exception):
    """The user, or the system, wants the demo to end; carries the signal."""


# ---- waiting ----

# Signals only leave a note, which every wait reads: an exception out of nowhere could hit between the start of a
# process and the note of its id, and nobody would stop that process.
noted_signals: list[int] = []


def note_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: noted_signals.append(number))


def wait_until(what: str, condition: Callable[[], T | None], timeout: float = 15) -> T:
    """The first true value of the condition."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if noted_signals:
            raise Interrupted(signal.Signals(noted_signals[0]))
        if time.monotonic() > deadline:
            raise StoryBroken(f"waited {timeout:g} s in vain until {what}")
        time.sleep(0.05)
    return value


# ---- what the reader sees ----


class Console:
    """Headings, lines with the time of the story, tables, and the checks with their outcome."""

    def __init__(self) -> None:
        self.colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.started = time.monotonic()
        self.failed_checks: list[str] = []

    def paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.colours else text

    def say(self, text: str = "") -> None:
        print(text, flush=True)

    def heading(self, text: str) -> None:
        self.say(f"\n{self.paint('1;36', text)}\n{self.paint('36', '-' * len(text))}")

    def event(self, text: str) -> None:
        self.say(f"{self.paint('2', f'[{time.monotonic() - self.started:5.1f} s]')} {text}")

    def check(self, claim: str, holds: bool, found: object = "") -> None:
        if holds:
            self.say(f"{self.paint('32', 'ok')}      {claim}")
        else:
            failure = f"{claim}; found: {found}"
            self.failed_checks.append(failure)
            self.say(f"{self.paint('1;31', 'not ok')}  {failure}")

    def statement(self, text: str) -> None:
        first, *others = text.strip().splitlines()
        lines = [f"{DATABASE}=# {first}", *(f"{DATABASE}-# {line}" for line in others)]
        self.say(self.paint("1", "\n".join(lines) + ";"))

    def table(self, columns: list[str], rows: list[Row]) -> None:
        cells = [["" if value is None else str(value) for value in row] for row in rows]
        widths = [max(len(line[i]) for line in [columns, *cells]) for i in range(len(columns))]
        # As psql does, numbers stand at the right.
        at_right = [any(isinstance(row[i], (int, float, Decimal)) for row in rows) for i in range(len(columns))]
        self.say((" " + " | ".join(name.center(width) for name, width in zip(columns, widths, strict=True))).rstrip())
        self.say("-" + "-+-".join("-" * width for width in widths) + "-")
        for line in cells:
            aligned = [c.rjust(w) if right else c.ljust(w) for c, w, right in zip(line, widths, at_right, strict=True)]
            self.say((" " + " | ".join(aligned)).rstrip())
        self.say(f"({len(rows)} row{'' if len(rows) == 1 else 's'})\n")


# ---- the server ----


class Server:
    """A PostgreSQL of our own in one directory: data, socket and log."""

    def __init__(self, bindir: Path, directory: Path) -> None:
        self.bindir = bindir
        self.directory = directory
        self.data = directory / "data"
        self.log = directory / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.stopped_by: signal.Signals | None = None

    def create(self) -> None:
        if len(os.fsencode(self.directory / f".s.PGSQL.{PORT}")) > LONGEST_SOCKET_PATH:
            raise StoryBroken(f'the path "{self.directory}" is too long for a socket: set TMPDIR to a shorter one')
        options = ["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", f"--username={SUPERUSER}"]
        command = [str(self.bindir / "initdb"), "--pgdata", str(self.data), *options]
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise StoryBroken(f"initdb failed: {done.stderr.strip()}")
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "port": str(PORT),
            "fsync": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
            # The type of the process says who has noticed a death.
            "log_line_prefix": "%t [%b] ",
            **SETTINGS,
        }
        with (self.data / "postgresql.conf").open("a") as file:
            for name, value in settings.items():
                quoted = value.replace("\\", "\\\\").replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")

    def start(self) -> None:
        # In a session of its own, so that Ctrl-C reaches this script and not the server.
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(self.bindir / "postgres"), "-D", str(self.data)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        wait_until("the server accepts connections", self.accepts_connections, timeout=30)

    def accepts_connections(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise StoryBroken("the server did not start")
        try:
            self.connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def connect(self, database: str) -> psycopg.Connection[Any]:
        # A demo that hangs at a lock explains nothing.
        db = psycopg.connect(self.dsn(SUPERUSER, database), options="-c statement_timeout=10s", autocommit=True)
        # Times are for reading here: as the server writes them.
        for kind in ("timestamp", "timestamptz"):
            db.adapters.register_loader(kind, TextLoader)
        return db

    def dsn(self, role: str, database: str) -> str:
        return make_conninfo(host=str(self.directory), port=PORT, user=role, dbname=database)

    def lines_about(self, worker_id: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if worker_id in line and " LOG: " in line]

    def stop(self) -> None:
        """Fast first, because an extension must not hold that up; then by force, because nothing may stay behind."""
        if self.process is None or self.process.poll() is not None:
            return
        for number, patience in ((signal.SIGINT, 10), (signal.SIGQUIT, 10), (signal.SIGKILL, None)):
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
                self.stopped_by = number
                return


@contextlib.contextmanager
def throw_away_server(bindir: Path) -> Iterator[Server]:
    directory = Path(tempfile.mkdtemp(prefix="rgrid-"))
    server = Server(bindir, directory)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


# ---- the workers ----


@dataclass
class WorkerProcess:
    """One worker.py; `id` is what the database calls it, `hostname` what the reader does."""

    hostname: str
    process: subprocess.Popen[bytes]
    log: Path
    id: str = ""

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def has_ended(self) -> bool:
        return self.process.poll() is not None


def start_worker(server: Server, hostname: str) -> WorkerProcess:
    log = server.directory / f"{hostname}.log"
    command = [
        sys.executable, str(EXAMPLES / "worker.py"),
        "--dsn", server.dsn("rgrid_worker", DATABASE),
        "--hostname", hostname,
        "--heartbeat-interval", str(HEARTBEAT_INTERVAL),
        "--job-seconds", str(JOB_SECONDS[hostname]),
        "--poll", "0.1",
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    return WorkerProcess(hostname, process, log)


# ---- the story ----


class Story:
    """The chapters, in the order in which tell() calls them. Each shows something and checks it."""

    db: psycopg.Connection[Any]
    lost_job: str | None
    drained_job: str | None
    killed_at: float

    def __init__(self, console: Console, server: Server) -> None:
        self.console = console
        self.server = server
        self.workers: dict[str, WorkerProcess] = {}
        self.reported: dict[str, Row] = {}

    def tell(self) -> None:
        self.set_up_server()
        self.set_up_database()
        self.start_workers()
        self.queue_jobs()
        self.lose_one_and_stop_one()
        self.watch_it_going_stale()
        self.watch_it_being_declared_dead()
        self.watch_the_polite_one_leave()
        self.finish_the_queue()
        self.ask_as_an_operator()
        self.stop_the_rest()

    def end(self) -> None:
        for worker in self.workers.values():
            with contextlib.suppress(ProcessLookupError):
                worker.process.kill()
            worker.process.wait()

    # What the chapters have in common.

    def rows(self, query: str, *parameters: object) -> list[Row]:
        return self.db.execute(query, parameters or None).fetchall()

    def run(self, statement: str) -> None:
        self.console.statement(statement)
        self.db.execute(statement)

    def show(self, query: str) -> list[Row]:
        """Prints the query and its result as psql does."""
        self.console.statement(query)
        cursor = self.db.execute(query)
        rows = cursor.fetchall()
        self.console.table([column.name for column in cursor.description or []], rows)
        return rows

    def wait_for(self, what: str, condition: Callable[[], T | None], timeout: float = 15) -> T:
        """Waits and reports meanwhile what becomes of the jobs."""

        def look() -> T | None:
            self.report_changed_jobs()
            return condition()

        return wait_until(what, look, timeout)

    def report_changed_jobs(self) -> None:
        for job in self.rows("SELECT execution_id, status, worker_id, execution_error FROM executions ORDER BY id"):
            execution_id, status, worker_id, error = job
            if self.reported.get(execution_id) != job and status != "queued":
                colour = {"completed": "32", "failed": "1;31"}.get(status, "0")
                shown = self.console.paint(colour, f"{status:<9}")
                self.console.event(f"{execution_id}  {shown}  {self.name_of(worker_id):<5}  {error or ''}".rstrip())
            self.reported[execution_id] = job

    def name_of(self, worker_id: str) -> str:
        return next((worker.hostname for worker in self.workers.values() if worker.id == worker_id), worker_id)

    def job_of(self, hostname: str) -> str | None:
        """The job that the worker is running."""
        rows = self.rows(
            "SELECT execution_id FROM executions WHERE worker_id = %s AND status = 'running'", self.workers[hostname].id
        )
        return rows[0][0] if rows else None

    def show_workers(self) -> None:
        jobs = "SELECT string_agg(execution_id || ' ' || status, ', ' ORDER BY id) FROM executions WHERE worker_id = %s"
        rows = [(w.hostname, w.id, w.process.pid, self.rows(jobs, w.id)[0][0] or "-") for w in self.workers.values()]
        self.console.table(["who", "worker_id", "pid", "jobs"], rows)

    def show_log_of(self, worker: WorkerProcess) -> None:
        for line in worker.log.read_text().splitlines():
            self.console.say(f"    {line}")

    # The chapters.

    def set_up_server(self) -> None:
        self.console.heading("A throw-away PostgreSQL server that loads rgrid_heartbeat")
        self.server.create()
        self.server.start()
        with self.server.connect("postgres") as db:
            db.execute(f"CREATE DATABASE {DATABASE}")
        self.db = self.server.connect(DATABASE)
        self.console.event(f"PostgreSQL {self.rows('SHOW server_version')[0][0]} is up")
        for name, value in SETTINGS.items():
            shown = self.rows("SELECT current_setting(%s)", name)[0][0]
            self.console.check(f"{name} = {shown}", shown == value, shown)

    def set_up_database(self) -> None:
        self.console.heading("A database that RGrid has used for a while gets the extension")
        self.db.execute((EXAMPLES / "rgrid_schema.sql").read_text())
        before = self.description_of_heartbeat_table()
        self.run(INSTALL)
        after = self.description_of_heartbeat_table()
        self.console.check("RGrid's own table worker_heartbeats is adopted as it is", after == before, after)
        for statement in WORKER_ROLE:
            self.run(statement)
        may_read = self.rows("SELECT has_table_privilege('rgrid_worker', 'worker_heartbeats', 'SELECT')")[0][0]
        self.console.check("a worker needs no right on the table of heartbeats", not may_read, "it has one")

    def description_of_heartbeat_table(self) -> list[Row]:
        """Its identity, owner, columns, and the extension it belongs to, if any."""
        return self.rows(
            """
            SELECT c.oid, c.relowner, a.attname, format_type(a.atttypid, a.atttypmod),
                   (SELECT count(*) FROM pg_depend
                     WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e')
              FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
             WHERE c.oid = 'worker_heartbeats'::regclass
             ORDER BY a.attnum
            """
        )

    def start_workers(self) -> None:
        self.console.heading("Three workers register")
        for hostname in JOB_SECONDS:
            # One after the other: RGrid's table has no hostname, so the row that is new tells who it is.
            self.workers[hostname] = worker = start_worker(self.server, hostname)
            worker.id = wait_until(f"{hostname} has registered", self.unknown_worker)
            self.console.event(f"{hostname} is {worker.id}")
        ids = [worker.id for worker in self.workers.values()]
        well_formed = all(re.fullmatch("worker-[0-9a-f]{8}", worker_id) for worker_id in ids)
        self.console.check("their ids look like RGrid's own", well_formed, ids)

    def unknown_worker(self) -> str | None:
        known = [worker.id for worker in self.workers.values()]
        rows = self.rows("SELECT worker_id FROM worker_heartbeats WHERE worker_id <> ALL (%s)", known)
        return rows[0][0] if rows else None

    def queue_jobs(self) -> None:
        self.console.heading(f"{JOBS} jobs are queued, and each worker takes one")
        self.db.execute(QUEUE_JOBS, (JOBS,))
        self.wait_for("all workers are busy", lambda: all(self.job_of(hostname) for hostname in self.workers))
        self.show_workers()

    def lose_one_and_stop_one(self) -> None:
        self.console.heading("One is killed, another is asked to stop")
        beta, gamma = self.workers["beta"], self.workers["gamma"]
        self.lost_job, self.drained_job = self.job_of("beta"), self.job_of("gamma")
        beta.send(signal.SIGKILL)
        beta.process.wait()
        self.killed_at = time.monotonic()
        self.console.event(f"kill -9 beta: it was running {self.lost_job} and cannot say a word any more")
        gamma.send(signal.SIGTERM)
        self.console.event(f"kill -TERM gamma: it finishes {self.drained_job} first, and beats meanwhile")

    def watch_it_going_stale(self) -> None:
        self.console.heading("The silent one goes stale")
        query = f"SELECT * FROM rgrid_stale_workers('{STALE_THRESHOLD / 2} seconds')"
        self.wait_for("a worker is stale", lambda: self.rows(query))
        beta = self.workers["beta"].id
        self.console.event(f"beta, which is {beta}, has been silent for half the threshold:")
        rows = self.show(query)
        self.console.check("it is beta, and only beta", [row[0] for row in rows] == [beta], rows)
        self.console.check("it is stale, not yet dead", [row[4] for row in rows] == ["stale"], rows)
        job = self.job_of("beta")
        self.console.check(f"{self.lost_job} is still its own", job == self.lost_job, job)

    def watch_it_being_declared_dead(self) -> None:
        self.console.heading("It is declared dead, and its job fails")
        beta = self.workers["beta"]
        self.wait_for("beta's job is settled", lambda: self.job_of("beta") is None)
        seconds = time.monotonic() - self.killed_at
        # Silence counts from the last heartbeat, which was a little before the kill.
        in_time = STALE_THRESHOLD - HEARTBEAT_INTERVAL - 0.2 <= seconds <= STALE_THRESHOLD + 4
        self.console.check(f"not before the threshold of {STALE_THRESHOLD} s, and soon after it", in_time, seconds)
        job = self.rows(
            """
            SELECT status, execution_error, worker_id,
                   abs(extract(epoch FROM now() AT TIME ZONE 'utc' - completed_at)) < 10
              FROM executions WHERE execution_id = %s
            """,
            self.lost_job,
        )
        self.console.check(
            f"{self.lost_job} has failed with 'Worker died unexpectedly', finished now in UTC",
            job == [("failed", "Worker died unexpectedly", beta.id, True)],
            job,
        )
        others = self.rows(
            """
            SELECT execution_id, status, execution_error FROM executions
             WHERE execution_id <> %s AND (status = 'failed' OR execution_error IS NOT NULL)
            """,
            self.lost_job,
        )
        self.console.check("no other job was touched", not others, others)
        self.show_workers()

        lines = self.server.lines_about(beta.id)
        self.console.say("The server's log:")
        for line in lines:
            self.console.say(f"    {line}")
        self.console.say()
        self.console.check("one line says it", len(lines) == 1, lines)

        rows = self.show("SELECT * FROM rgrid_stale_workers()")
        self.console.check("beta is listed as dead", [(row[0], row[4]) for row in rows] == [(beta.id, "dead")], rows)

    def watch_the_polite_one_leave(self) -> None:
        self.console.heading("The polite one finishes its job and leaves")
        gamma = self.workers["gamma"]
        self.wait_for("gamma has ended", gamma.has_ended, timeout=JOB_SECONDS["gamma"] + 10)
        self.show_log_of(gamma)
        job = self.rows("SELECT status, worker_id FROM executions WHERE execution_id = %s", self.drained_job)
        self.console.check("it ended of its own accord", gamma.process.returncode == 0, gamma.process.returncode)
        self.console.check(f"{self.drained_job} is completed", job == [("completed", gamma.id)], job)
        left = self.rows("SELECT * FROM worker_heartbeats WHERE worker_id = %s", gamma.id)
        self.console.check("its row of worker_heartbeats is gone", not left, left)

    def finish_the_queue(self) -> None:
        self.console.heading("The one that is left does the rest")
        unfinished = "SELECT 1 FROM executions WHERE status IN ('queued', 'running')"
        self.wait_for("all jobs are done", lambda: not self.rows(unfinished), timeout=JOBS * JOB_SECONDS["alpha"] + 15)
        rows = self.show(JOBS_BY_STATUS)
        expected = [("completed", JOBS - 1), ("failed", 1)]
        self.console.check("all jobs are completed but the one", rows == expected, rows)

    def ask_as_an_operator(self) -> None:
        self.console.heading("The queries of an operator")
        alpha, beta = self.workers["alpha"].id, self.workers["beta"].id
        self.console.say(f"alpha is {alpha}, beta was {beta}\n")

        rows = self.show(RECENT_HEARTBEATS)
        ids = [row[0] for row in rows]
        self.console.check("the living worker comes first, the dead one last", ids == [alpha, beta], rows)

        self.console.say()
        rows = self.show(SILENT_WORKERS)
        ids = [row[0] for row in rows]
        self.console.check("only the dead one has been silent for too long", ids == [beta], rows)

        self.console.say()
        rows = self.show(JOBS_OF_THE_DEAD)
        jobs = [row[:2] for row in rows]
        self.console.check("its job, and no other, has died with it", jobs == [(self.lost_job, beta)], rows)

        self.console.say()
        rows = self.show(LEDGER)
        deaths = [row[:3] for row in rows]
        self.console.check("the ledger has this death, once, and no other", deaths == [(beta, "stale", 1)], rows)

    def stop_the_rest(self) -> None:
        self.console.heading("The last one is asked to stop, too")
        alpha = self.workers["alpha"]
        alpha.send(signal.SIGTERM)
        wait_until("alpha has ended", alpha.has_ended)
        self.show_log_of(alpha)
        left = [row[0] for row in self.rows("SELECT worker_id FROM worker_heartbeats")]
        self.console.check("only the dead worker's row is left", left == [self.workers["beta"].id], left)


# ---- from start to end ----


def show_logs(console: Console, server: Server) -> None:
    for log in sorted(server.directory.glob("*.log")):
        console.say(f"\nThe end of {log.name}:")
        for line in log.read_text(errors="replace").splitlines()[-30:]:
            console.say(f"    {line}")


def tell(console: Console, server: Server) -> None:
    """Tells the story; what keeps it from its end is one more failed check."""
    story = Story(console, server)
    try:
        story.tell()
    except (StoryBroken, psycopg.Error, OSError) as error:
        console.check("the story is told to its end", False, f"{type(error).__name__}: {error}")
    finally:
        story.end()
    if console.failed_checks:
        show_logs(console, server)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Shows how rgrid_heartbeat notices a dead worker and fails its jobs.")
    parser.add_argument("--bindir", type=Path, required=True, help="where initdb and postgres are")
    return parser.parse_args()


def main() -> int:
    options = parse_options()
    if os.geteuid() == 0:
        print("demo.py: cannot be run as root, because PostgreSQL refuses that", file=sys.stderr)
        return 2
    # Nothing of the caller's environment may lead to another server.
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    note_signals()
    console = Console()
    try:
        with throw_away_server(options.bindir) as server:
            tell(console, server)
    except Interrupted as interruption:
        number: signal.Signals = interruption.args[0]
        console.say(f"\nended by {number.name}; the server and its files are gone")
        return 128 + number
    console.heading("The end")
    if server.stopped_by is not None:
        console.check("a fast shutdown was enough", server.stopped_by == signal.SIGINT, server.stopped_by.name)
    console.check("the server's files are gone", not server.directory.exists(), server.directory)
    for failure in console.failed_checks:
        console.say(f"failed: {failure}")
    return 1 if console.failed_checks else 0


if __name__ == "__main__":
    sys.exit(main())
