"""Throw-away servers, each in a directory of its own: made from one template, stopped and removed at the end.

They listen on a Unix socket only. fsync is on: an upsert is compared, and it has to reach the disk to count.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

Connection = psycopg.Connection[Any]

SUPERUSER = "postgres"
DATABASE = "bench"
# It only makes up the name of the socket.
PORT = 5432

SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "shared_preload_libraries": "rgrid_heartbeat",
    "fsync": "on",
    "max_connections": "50",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%t [%b] ",
    # Checkpoints are taken by hand between measurements, not by surprise in one of two that are compared.
    "checkpoint_timeout": "1h",
    "max_wal_size": "8GB",
}


class ServerProblem(Exception):
    """A server did not do what a benchmark needs."""


def wait_until(what: str, condition: Callable[[], object], timeout: float) -> None:
    """Polls until the condition is true."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise ServerProblem(f"waited {timeout:g} s in vain until {what}")
        time.sleep(0.05)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Signals come after this, not between the start of a server and the note of its process."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


class Server:
    """A PostgreSQL server of our own: data, socket and log in one directory."""

    def __init__(self, bindir: Path, directory: Path, statement_timeout: float) -> None:
        self.bindir = bindir
        self.directory = directory
        self.data = directory / "data"
        self.log = directory / "server.log"
        self.statement_timeout = statement_timeout
        self.process: subprocess.Popen[bytes] | None = None
        self.connections: list[Connection] = []

    def initialize(self) -> None:
        options = ["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", f"--username={SUPERUSER}"]
        self.program("initdb", "--pgdata", str(self.data), *options)

    def program(self, name: str, *arguments: str) -> str:
        """Runs one of PostgreSQL's programs to its end; its output."""
        command = [str(self.bindir / name), *arguments]
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
        )
        if done.returncode != 0:
            raise ServerProblem(f"{name} failed: {done.stderr.strip()}")
        return done.stdout

    def configure(self, settings: Mapping[str, str]) -> None:
        with (self.data / "postgresql.conf").open("a") as file:
            for name, value in {"unix_socket_directories": str(self.directory), **SETTINGS, **settings}.items():
                quoted = value.replace("\\", "\\\\").replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")

    def start(self) -> None:
        # In a session of its own, so that Ctrl-C reaches the benchmark first, which then stops the server.
        with self.log.open("ab") as log, signals_held():
            self.process = subprocess.Popen(
                [str(self.bindir / "postgres"), "-D", str(self.data)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        wait_until("the server accepts connections", self.accepts_connections, timeout=60)

    def accepts_connections(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise ServerProblem(f"the server did not start:\n{self.end_of_log()}")
        try:
            self.connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def promote(self) -> None:
        """Ends the recovery of a standby: returns when it is a primary."""
        with self.connect("postgres") as db:
            if not value_of(db, "SELECT pg_promote()"):
                raise ServerProblem("the standby was not promoted in time")

    def stop(self) -> None:
        """Fast first; then by force, because nothing may stay behind."""
        for db in self.connections:
            db.close()
        if self.process is None:
            return
        for number, patience in ((signal.SIGINT, 60), (signal.SIGQUIT, 20), (signal.SIGKILL, None)):
            if self.process.poll() is None:
                self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
                return

    def connect(self, database: str = DATABASE) -> Connection:
        options = f"-c statement_timeout={self.statement_timeout:g}s"
        conninfo = make_conninfo(host=str(self.directory), port=PORT, user=SUPERUSER, dbname=database)
        return psycopg.connect(conninfo, options=options, autocommit=True)

    def create_database(self, *statements: str) -> Connection:
        """Makes the database, runs the statements in it, and answers a connection to it."""
        with self.connect("postgres") as db:
            db.execute(f"CREATE DATABASE {DATABASE}")
        db = self.connect()
        self.connections.append(db)
        for statement in statements:
            db.execute(statement)
        return db

    def change_settings(self, db: Connection, settings: Mapping[str, str | None]) -> None:
        """Sets or, with None, resets settings for the whole server, and waits until new sessions see them."""
        for name, value in settings.items():
            db.execute(f"ALTER SYSTEM RESET {name}" if value is None else f"ALTER SYSTEM SET {name} = '{value}'")
        before = value_of(db, "SELECT pg_conf_load_time()")
        db.execute("SELECT pg_reload_conf()")

        def is_loaded() -> bool:
            with self.connect() as fresh:
                return bool(value_of(fresh, "SELECT pg_conf_load_time()") > before)

        wait_until("the settings are loaded", is_loaded, timeout=10)

    def end_of_log(self, lines: int = 30) -> str:
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def value_of(db: Connection, query: str, *parameters: object) -> Any:
    """The first column of the first row."""
    row = db.execute(query, parameters or None).fetchone()
    assert row is not None
    return row[0]


class Servers:
    """Makes servers from a template, so that initdb runs once, and knows which settings this build has."""

    def __init__(self, bindir: Path, directory: Path, shared_buffers: str, statement_timeout: float) -> None:
        self.bindir = bindir
        self.directory = directory
        self.shared_buffers = shared_buffers
        self.statement_timeout = statement_timeout
        self.made = 0
        self.template = Server(bindir, directory / "template", statement_timeout)
        self.known_settings: frozenset[str] = frozenset()
        self.version = ""

    def prepare(self) -> None:
        """Makes the template and asks it what there is to measure."""
        self.template.directory.mkdir()
        self.template.initialize()
        with self.running({}) as server, server.connect("postgres") as db:
            rows = db.execute("SELECT name FROM pg_settings WHERE name LIKE 'rgrid_heartbeat.%'").fetchall()
            self.known_settings = frozenset(row[0] for row in rows)
            self.version = str(value_of(db, "SHOW server_version"))

    @property
    def has_shared_memory(self) -> bool:
        """Whether heartbeats are kept in shared memory. Without, each is an upsert of the worker's row."""
        return "rgrid_heartbeat.max_workers" in self.known_settings

    @contextlib.contextmanager
    def made_ready(self, settings: Mapping[str, str]) -> Iterator[Server]:
        """A server that is configured and not running; settings that this build does not have are left out."""
        self.made += 1
        server = Server(self.bindir, self.directory / f"server-{self.made}", self.statement_timeout)
        server.directory.mkdir()
        try:
            shutil.copytree(self.template.data, server.data)
            os.chmod(server.data, 0o700)
            # Whole fleets fall silent, to be settled at once.
            fleet = {"rgrid_heartbeat.max_dead_fraction": "1"}
            server.configure({"shared_buffers": self.shared_buffers, **self.known({**fleet, **settings})})
            yield server
        finally:
            server.stop()
            shutil.rmtree(server.directory, ignore_errors=True)

    @contextlib.contextmanager
    def running(self, settings: Mapping[str, str]) -> Iterator[Server]:
        """A server that accepts connections."""
        with self.made_ready(settings) as server:
            server.start()
            try:
                yield server
            except (psycopg.Error, ServerProblem) as error:
                raise ServerProblem(f"{error}\nThe end of the server's log:\n{server.end_of_log()}") from error

    @contextlib.contextmanager
    def standby_of(self, primary: Server) -> Iterator[Server]:
        """A hot standby that streams from a running server, with the same settings."""
        self.made += 1
        standby = Server(self.bindir, self.directory / f"server-{self.made}", self.statement_timeout)
        standby.directory.mkdir()
        try:
            where = [f"--host={primary.directory}", f"--port={PORT}", f"--username={SUPERUSER}"]
            options = [f"--pgdata={standby.data}", "--checkpoint=fast", "--no-sync", "--write-recovery-conf"]
            standby.program("pg_basebackup", *where, *options)
            with (standby.data / "postgresql.conf").open("a") as file:
                file.write(f"unix_socket_directories = '{standby.directory}'\n")
            standby.start()
            yield standby
        finally:
            standby.stop()
            shutil.rmtree(standby.directory, ignore_errors=True)

    def known(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Without those settings of the extension that this build does not have."""
        return {
            name: value
            for name, value in settings.items()
            if not name.startswith("rgrid_heartbeat.") or name in self.known_settings
        }
