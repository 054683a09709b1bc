"""Runs pgbench and reads what it reports."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .server import DATABASE, PORT, SUPERUSER, Server, ServerProblem

# pgbench ends by itself; this is for a server that does not answer.
PATIENCE = 60.0


@dataclass(frozen=True)
class Script:
    """What every client does again and again, and the settings of its sessions."""

    sql: str
    variables: Mapping[str, int] = field(default_factory=dict)
    session: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Latency:
    """One transaction of the log, in seconds."""

    total: float
    """From the moment at which it was due, as whoever waits for it would count."""
    lag: float
    """Of which it waited for a free client."""


@dataclass(frozen=True)
class Run:
    """What pgbench reported."""

    transactions: int
    failed: int
    tps: float
    longest_lag: float
    latencies: list[Latency]


def run(
    server: Server,
    script: Script,
    clients: int,
    seconds: int,
    *,
    rate: float | None = None,
    sampling: float | None = None,
    patience: float = PATIENCE,
) -> Run:
    """One run to its end. With a rate, transactions are due at that many a second; with sampling, some are logged."""
    return ended(server, start(server, script, clients, seconds, rate=rate, sampling=sampling), seconds + patience)


def run_each(server: Server, script: Script, clients: int, transactions: int) -> Run:
    """One run in which every client does that many transactions."""
    return ended(server, launch(server, script, clients, [f"--transactions={transactions}"]), transactions / 100 + PATIENCE)


def ended(server: Server, process: subprocess.Popen[str], timeout: float) -> Run:
    """As [`finish`], with a process that does not outlive an error."""
    try:
        return finish(server, process, timeout)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def start(
    server: Server,
    script: Script,
    clients: int,
    seconds: int,
    *,
    rate: float | None = None,
    sampling: float | None = None,
) -> subprocess.Popen[str]:
    options = [f"--time={seconds}"]
    if rate is not None:
        options.append(f"--rate={rate:g}")
    if sampling is not None:
        options += ["--log", f"--log-prefix={log_prefix(server)}", f"--sampling-rate={sampling:g}"]
    return launch(server, script, clients, options)


def launch(server: Server, script: Script, clients: int, options: list[str]) -> subprocess.Popen[str]:
    # One file a run: another pgbench may be about to read its own.
    descriptor, file = tempfile.mkstemp(dir=server.directory, suffix=".sql", text=True)
    with open(descriptor, "w") as opened:
        opened.write(script.sql)
    options = ["--no-vacuum", "--protocol=prepared", f"--file={file}", *options]
    options += [f"--client={clients}", f"--jobs={min(clients, os.cpu_count() or 1)}"]
    options += [f"--define={name}={value}" for name, value in script.variables.items()]
    where = [f"--host={server.directory}", f"--port={PORT}", f"--username={SUPERUSER}", DATABASE]
    return subprocess.Popen(
        [str(server.bindir / "pgbench"), *options, *where],
        env={**os.environ, "PGOPTIONS": " ".join(f"-c {name}={value}" for name, value in script.session.items())},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(server: Server, process: subprocess.Popen[str], timeout: float) -> Run:
    """Waits for the end, which has to come in time, and reads the report."""
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise ServerProblem(f"pgbench did not end within {timeout:g} s") from None
    if process.returncode != 0:
        raise ServerProblem(f"pgbench failed: {errors.strip()}")
    return Run(
        transactions=int(number(r"number of transactions actually processed: (\d+)", output)),
        failed=int(number(r"number of failed transactions: (\d+)", output)),
        tps=number(r"tps = ([\d.]+)", output),
        longest_lag=number(r"rate limit schedule lag: .*\(max ([\d.]+)\)", output) / 1_000,
        latencies=[latency for log in logs(server) for latency in read_log(log)],
    )


def number(pattern: str, output: str) -> float:
    found = re.search(pattern, output)
    return float(found.group(1)) if found else 0.0


def log_prefix(server: Server) -> Path:
    return server.directory / "pgbench-log"


def logs(server: Server) -> list[Path]:
    return sorted(server.directory.glob(f"{log_prefix(server).name}.*"))


def read_log(log: Path) -> list[Latency]:
    """Reads and removes a log: client, transaction, microseconds, script, time in two parts, lag."""
    lines = [line.split() for line in log.read_text().splitlines()]
    log.unlink()
    return [Latency(int(line[2]) / 1e6, int(line[6]) / 1e6 if len(line) > 6 else 0.0) for line in lines]
