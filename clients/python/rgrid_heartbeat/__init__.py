"""The heartbeat of a worker, for the PostgreSQL extension rgrid_heartbeat.

    with Heartbeat("host=db1,db2 dbname=rgrid") as heartbeat:
        while True:
            if heartbeat.may_claim:
                claim_and_work(heartbeat.worker_id)

It registers the worker, beats from a thread and a connection of its own, and deregisters it. With `async with` the same
object serves asyncio; it still beats from a thread, so a job that blocks the event loop does not stop it. A job in an
extension module that keeps the GIL for minutes does: such work belongs into another process.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import logging
import os
import random
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

from .session import CallFailed, Session, clock, split_hosts

__all__ = ["CallFailed", "Heartbeat", "split_hosts"]

REGISTER = "SELECT id, incarnation FROM rgrid_register($1::text, $2::text)"
ATTACH = "SELECT rgrid_attach($1::text, $2::text)"
BEAT = "SELECT rgrid_heartbeat($1::text, $2::text)"
DEREGISTER = "SELECT rgrid_deregister($1::text)"

# No such function, no right to call it, not preloaded: then heartbeats alone have to do on this connection.
CANNOT_ATTACH = ("42883", "42501", "55000")
READ_ONLY = "25006"
# A connection that did not last so many seconds is not replaced at once.
SHORT_LIFE = 1.0

log = logging.getLogger("rgrid_heartbeat")

# Those that the end of the interpreter stops. While there are any, SIGTERM is such an end.
_stopped_at_exit: set[Heartbeat] = set()


class Heartbeat:
    """Of one worker, from start() to stop(). All times are in seconds.

    conninfo: as libpq has it. With several hosts the one that can be written to is used.
    worker_id, hostname: of the worker; without an id the database makes one up.
    register: False, if the id is that of a queue's library, which may have claimed jobs under it already. To register
        would give these jobs back.
    deregister: whether stop() deregisters the worker. By default who has registered it does. Who has not may be told
        to, if the library has stopped by then: what still runs under the id is settled.
    attach: whether to tie the worker to the connection, so that its death is seen at once. Where the server cannot do
        that, and behind a pooler, silence is what counts.
    at_exit: whether the end of the interpreter stops the heartbeat, too. SIGTERM then raises SystemExit in the main
        thread, unless the program handles it itself.
    interval: between heartbeats; a third of rgrid_heartbeat.stale_threshold at most.
    deadline: for a call and for connecting; longer than rgrid_heartbeat.call_timeout.
    on_given_up: called with this object when the worker had been declared dead, and so its jobs were settled. It is
        called in the thread of the heartbeat, and must be short; or in the event loop that called astart().
    """

    worker_id: str | None
    """Known when start() has returned."""
    incarnation: int | None = None
    """Another number than before means that the worker had been declared dead: jobs that were claimed until then are
    not its own any more."""
    trouble: str | None = "not started"
    """Why the last call failed; None if it was answered."""

    def __init__(
        self,
        conninfo: str = "",
        *,
        worker_id: str | None = None,
        hostname: str | None = None,
        register: bool = True,
        deregister: bool | None = None,
        attach: bool = True,
        at_exit: bool = False,
        interval: float = 30.0,
        deadline: float = 10.0,
        on_given_up: Callable[[Heartbeat], object] | None = None,
    ) -> None:
        if worker_id is None and not register:
            raise ValueError("a heartbeat that does not register needs a worker_id")
        self.worker_id = worker_id
        self.hostname = hostname or socket.gethostname()
        self.interval = interval
        self.deadline = deadline
        self._hosts = split_hosts(conninfo)
        self._host = 0
        self._session: Session | None = None
        self._must_register = register
        self._deregister = register if deregister is None else deregister
        self._attach = attach
        self._statement = BEAT
        self._at_exit = at_exit
        self._on_given_up = on_given_up
        self._told = True  # whether the present incarnation is known to who has to know
        self._heard_at = -float("inf")  # when the last call that was answered began
        self._process: int | None = None  # where it was started; a child of that one has no part in it
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._finishing = False
        self._limit = 2 * deadline * len(self._hosts)
        self._thread = threading.Thread(target=self._run, name="rgrid heartbeat", daemon=True)

    # What others call.

    @property
    def may_claim(self) -> bool:
        """Whether a job may be claimed now: the database has answered since the last trouble, and not long ago. A job
        that is claimed by a worker that was declared dead, and does not know, is lost with its next heartbeat."""
        fresh = clock() - self._heard_at <= self.interval + self.deadline
        return fresh and self.trouble is None and self._told and not self._finishing and os.getpid() == self._process

    def start(self, timeout: float | None = None) -> Heartbeat:
        """Returns when the database has heard of the worker. Raises CallFailed if it refuses, and TimeoutError."""
        self._launch()
        try:
            self._started.result(timeout)
        except concurrent.futures.TimeoutError:
            self._finish()
            raise TimeoutError(f"the worker cannot be started: {self.trouble}") from None
        except CallFailed:
            self.stop()
            raise
        except BaseException:
            self._finish()
            raise
        return self

    def stop(self) -> None:
        """Stops beating, and deregisters if that is to be done. Comes after the last job. Waits for two deadlines
        for each server at most."""
        if os.getpid() == self._process:
            self._finish()
            with contextlib.suppress(concurrent.futures.TimeoutError):
                self._ended.result(self._limit)
        self._leave_exit()

    async def astart(self) -> Heartbeat:
        """start() for asyncio."""
        self._loop = asyncio.get_running_loop()
        self._launch()
        try:
            await asyncio.shield(asyncio.wrap_future(self._started))
        except CallFailed:
            await self.astop()
            raise
        except BaseException:
            self._finish()
            raise
        return self

    async def astop(self) -> None:
        """stop() for asyncio."""
        if os.getpid() == self._process:
            self._finish()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._ended)), self._limit)
        self._leave_exit()

    def __enter__(self) -> Heartbeat:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Heartbeat:
        return await self.astart()

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.astop()

    def _launch(self) -> None:
        if self._process is not None:
            raise RuntimeError("a heartbeat starts once")
        self._wake, self._woken = socket.socketpair()
        self._thread.start()
        self._process = os.getpid()
        if self._at_exit:
            atexit.register(self.stop)
            _stopped_at_exit.add(self)
            _replace_handler(signal.SIG_DFL, _exit_on_signal)

    def _leave_exit(self) -> None:
        atexit.unregister(self.stop)
        _stopped_at_exit.discard(self)
        if not _stopped_at_exit:
            _replace_handler(_exit_on_signal, signal.SIG_DFL)

    def _finish(self) -> None:
        self._finishing = True
        with contextlib.suppress(OSError):
            self._wake.send(b"x")

    # What the thread does.

    def _run(self) -> None:
        try:
            pause = 0.0
            while not self._finishing:
                pause = self._round(pause)
            self._leave()
        except Exception as error:
            self.trouble = f"the heartbeat has ended: {error}"
            log.critical(self.trouble, exc_info=True)
            self._answer_start(error)
        finally:
            self._close()
            self._wake.close()
            self._woken.close()
            self._answer_start(CallFailed("the heartbeat was stopped before it began"))
            self._ended.set_result(None)

    def _round(self, pause: float) -> float:
        """Waits, then beats. Answers how long to wait then."""
        try:
            if self._was_woken(pause):
                return 0.0
            began = clock()
            number = self._beat()
        except CallFailed as error:
            return self._note_trouble(error)
        self._note_answer(began, number)
        return self.interval

    def _was_woken(self, pause: float) -> bool:
        """Waits so long, or until the socket tells of the connection's end. What else the server sends unasked only
        makes the next heartbeat come early."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            if self._session is not None:
                selector.register(self._session.fileno(), selectors.EVENT_READ)
            ready = [key.fileobj for key, _ in selector.select(pause)]
        if self._session is not None and ready and self._woken not in ready:
            self._session.look()
        return self._finishing

    def _beat(self) -> int:
        """The incarnation that the database answers."""
        if self._session is None:
            self._session = self._connect()
            self._statement = ATTACH if self._attach else BEAT
        session = self._session
        if self._must_register:
            self.worker_id, number = session.call(REGISTER, [self.worker_id, self.hostname], self.deadline)
            self.incarnation = int(number)
            self._must_register = False
            log.info("registered as %s, incarnation %d", self.worker_id, self.incarnation)
        worker = [self.worker_id, self.hostname]
        try:
            return int(session.call(self._statement, worker, self.deadline)[0])
        except CallFailed as error:
            if self._statement == BEAT or error.sqlstate not in CANNOT_ATTACH:
                raise
        self._statement = BEAT
        return int(session.call(BEAT, worker, self.deadline)[0])

    def _connect(self) -> Session:
        """To the first server that can be written to, from the last one that could on."""
        for attempt in range(1, len(self._hosts) + 1):
            try:
                return Session(self._hosts[self._host], self.deadline)
            except CallFailed:
                self._host = (self._host + 1) % len(self._hosts)
                if attempt == len(self._hosts):
                    raise
        raise AssertionError("there is at least one server")

    def _note_answer(self, began: float, number: int) -> None:
        if self.incarnation is not None and number != self.incarnation:
            log.warning("was taken for dead, goes on as incarnation %d", number)
            self._told = False
            self.incarnation = number
            self._tell_soon()
        self.incarnation = number
        self._heard_at = began
        if self.trouble is not None:
            log.info("the database answers")
        self.trouble = None
        self._answer_start(None)

    def _answer_start(self, error: Exception | None) -> None:
        if self._started.done():
            return
        if error is None:
            self._started.set_result(None)
        else:
            self._started.set_exception(error)

    def _tell_soon(self) -> None:
        if self._loop is None:
            self._tell()
        else:
            # A loop that is closed has nobody left to tell.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        try:
            if self._on_given_up is not None:
                self._on_given_up(self)
        except Exception:
            log.exception("on_given_up has failed")
        self._told = True

    def _note_trouble(self, error: CallFailed) -> float:
        """Whatever it is, the next attempt is one on a new connection: at once, if this one has served for a while,
        and otherwise after a random pause, lest all workers come back at the same moment. At the start some are
        final."""
        if str(error) != self.trouble:
            log.warning("%s", error)
        self.trouble = str(error)
        if error.final and not self._started.done():
            self._finishing = True
            self._answer_start(error)
        if error.late or error.sqlstate == READ_ONLY:
            self._host = (self._host + 1) % len(self._hosts)
        at_once = self._session is not None and clock() - self._session.began > SHORT_LIFE
        self._close()
        return 0.0 if at_once else min(self.interval, random.uniform(0.5, 1.5))

    def _leave(self) -> None:
        if not self._deregister or self.incarnation is None:
            return
        # The first attempt may only find out that the connection has been broken for a while.
        for _ in range(2):
            try:
                self._session = self._session or self._connect()
                self._session.call(DEREGISTER, [self.worker_id], self.deadline)
            except CallFailed as error:
                self.trouble = str(error)
                self._close()
            else:
                log.info("deregistered")
                return
        log.warning("could not deregister, the silence will be taken for a death: %s", self.trouble)

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _replace_handler(old: object, new: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    """For SIGTERM, in the main thread, which alone can. A handler of the program's own stays."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == old:
        signal.signal(signal.SIGTERM, new)
