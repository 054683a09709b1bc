"""A connection to one server, on which every wait has an end, but for that of the resolver of names.

psycopg's own calls wait for as long as the server takes, and a server that is frozen takes for ever: its kernel still
acknowledges what is sent, so no timeout of TCP fires. Here libpq is used through psycopg.pq, without ever blocking.
Statements are not named, so a pooler in transaction mode may stand between.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import time
import weakref
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

# What the connection string says goes before these. TCP notices between heartbeats that a network is cut.
DEFAULTS = {
    "fallback_application_name": "rgrid heartbeat",
    "target_session_attrs": "read-write",
    "tcp_user_timeout": "5000",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
}


class CallFailed(Exception):
    """A call got no good answer. `sqlstate` is None when no server has said anything; `late` says that one was
    reached, or seemed to be, and did not answer in time."""

    def __init__(self, message: str, sqlstate: str | None = None, late: bool = False) -> None:
        super().__init__(message.strip().partition("\n")[0])
        self.sqlstate = sqlstate
        self.late = late

    @property
    def final(self) -> bool:
        """Whether another attempt cannot succeed before somebody mends the call, the grants or the database."""
        return self.sqlstate is not None and self.sqlstate[:2] in ("22", "42")


def clock() -> float:
    """Seconds that pass also while the machine is suspended, where the system knows them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def split_hosts(conninfo: str) -> list[str]:
    """A connection string for each server of one: libpq itself would wait at the first one that is frozen."""
    parameters: dict[str, Any] = {**DEFAULTS, **conninfo_to_dict(conninfo), "client_encoding": "UTF8"}
    for option in pq.Conninfo.get_defaults():
        # From PGHOST and the like, which libpq would read as a list, too.
        if option.keyword in (b"host", b"hostaddr", b"port") and b"," in (option.val or b""):
            parameters.setdefault(option.keyword.decode(), (option.val or b"").decode())
    lists = {name: str(parameters[name]).split(",") for name in ("host", "hostaddr", "port") if name in parameters}
    count = max(len(values) for values in lists.values()) if lists else 1
    if any(len(values) not in (1, count) for values in lists.values()):
        raise ValueError("as many ports as hosts are needed, or one")
    each = [{name: values[i % len(values)] for name, values in lists.items()} for i in range(count)]
    return [make_conninfo("", **(parameters | one)) for one in each]


class Session:
    """Raises CallFailed whenever the server cannot be reached, is late, or refuses."""

    def __init__(self, conninfo: str, seconds: float) -> None:
        """Connects within so many seconds."""
        self.began = clock()
        self._pgconn = pq.PGconn.connect_start(conninfo.encode())
        _open.add(self)
        try:
            self._connect(self.began + seconds)
        except BaseException:
            self.close()
            raise

    def _connect(self, end: float) -> None:
        # After the start libpq wants to write, whatever it may say.
        polled = pq.PollingStatus.WRITING
        while polled != pq.PollingStatus.OK:
            if self._pgconn.status == pq.ConnStatus.BAD or polled == pq.PollingStatus.FAILED:
                raise CallFailed(self._pgconn.error_message.decode(errors="replace"))
            reading = polled == pq.PollingStatus.READING
            self._wait(selectors.EVENT_READ if reading else selectors.EVENT_WRITE, end)
            polled = pq.PollingStatus(self._pgconn.connect_poll())
        self._pgconn.nonblocking = 1

    def call(self, statement: str, values: Sequence[str | None], seconds: float) -> list[str]:
        """The first row of what a statement answers within so many seconds."""
        try:
            result = self._result(statement, values, clock() + seconds)
        except psycopg.OperationalError as error:
            raise CallFailed(str(error)) from None
        if result.status != pq.ExecStatus.TUPLES_OK:
            field = result.error_field(pq.DiagnosticField.SQLSTATE)
            raise CallFailed(result.error_message.decode(errors="replace"), field.decode() if field else None)
        return [(result.get_value(0, column) or b"").decode() for column in range(result.nfields)]

    def _result(self, statement: str, values: Sequence[str | None], end: float) -> pq.abc.PGresult:
        encoded = [None if value is None else value.encode() for value in values]
        self._pgconn.send_query_params(statement.encode(), encoded)
        while self._pgconn.flush():
            self._wait(selectors.EVENT_WRITE, end)
        last = None
        while True:
            while self._pgconn.is_busy():
                self._wait(selectors.EVENT_READ, end)
                self._pgconn.consume_input()
            result = self._pgconn.get_result()
            if result is None:
                break
            last = result
        if last is None:
            raise CallFailed("the server has answered nothing")
        return last

    def _wait(self, event: int, end: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self.fileno(), event)
            if not selector.select(max(0.0, end - clock())):
                raise CallFailed("the server has not answered in time", late=True)

    def look(self) -> None:
        """Takes what the server has sent without being asked, and raises CallFailed if that was its end."""
        try:
            self._pgconn.consume_input()
        except psycopg.OperationalError as error:
            raise CallFailed(str(error)) from None

    def fileno(self) -> int:
        try:
            return self._pgconn.socket
        except psycopg.OperationalError as error:
            raise CallFailed(str(error)) from None

    def close(self) -> None:
        """Says goodbye, if the server is there to hear it."""
        _open.discard(self)
        self._pgconn.finish()


# A child process of this one has the same sockets. Were they left open there, this process could not vanish.
_open: weakref.WeakSet[Session] = weakref.WeakSet()


def _close_in_child() -> None:
    for session in list(_open):
        with contextlib.suppress(CallFailed, OSError):
            os.close(session.fileno())
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
