"""Processes of the benchmarks' own, beside this one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


def start(work: Callable[[], None]) -> int:
    """The id of a process that does this work and nothing else."""
    process = os.fork()
    if process > 0:
        return process
    # Nothing of the parent's may run at the end of this process: no handler, no clean-up.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_DFL)
    try:
        work()
    finally:
        os._exit(1)
