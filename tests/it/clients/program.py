"""A worker around the Python client, for tests: an object of options in, one line of JSON for each change of state out.

It runs in the main thread, or in an event loop, and does what the lines of its standard input say.
"""

import asyncio
import json
import logging
import os
import select
import signal
import sys
import time

from rgrid_heartbeat import CallFailed, Heartbeat

POLL = 0.01


class Program:
    def __init__(self, options):
        self.given_up = 0
        self.said = None
        self.handled = 0
        self.heartbeat = Heartbeat(**options, on_given_up=self.note)

    def note(self, heartbeat):
        self.given_up += 1

    def handle(self, number, frame):
        self.handled += 1
        say({"handled": self.handled})

    def state(self):
        heartbeat = self.heartbeat
        return {
            "worker": heartbeat.worker_id,
            "incarnation": heartbeat.incarnation,
            "may_claim": heartbeat.may_claim,
            "given_up": self.given_up,
        }

    def look(self):
        """Tells of changes, and answers the command that has come, if one has."""
        state = self.state()
        if state != self.said:
            say(state)
            self.said = state
        if select.select([sys.stdin], [], [], 0)[0]:
            return (sys.stdin.readline() or "exit").split()
        return ["nothing"]

    def obey(self, command):
        """Whether to go on."""
        if command[0] == "block":
            time.sleep(float(command[1]))
            say({"blocked": True, "may_claim": self.heartbeat.may_claim})
        elif command[0] == "probe":
            say({"probe": True, **self.state()})
        elif command[0] == "handle":
            signal.signal(signal.SIGTERM, self.handle)
            say({"handled": self.handled})
        elif command[0] == "fork" and os.fork() == 0:
            in_child(self.heartbeat)
        return command[0] not in ("rest", "stop", "exit")


def say(line):
    print(json.dumps(line), flush=True)


def in_thread(program, stop_before):
    if stop_before:
        program.heartbeat.stop()
    program.heartbeat.start()
    while program.obey(command := program.look()):
        time.sleep(POLL)
    if command[0] != "exit":
        program.heartbeat.stop()
    if command[0] == "rest":
        rest()


async def in_event_loop(program, stop_before):
    if stop_before:
        await program.heartbeat.astop()
    await program.heartbeat.astart()
    while program.obey(command := program.look()):
        await asyncio.sleep(POLL)
    if command[0] != "exit":
        await program.heartbeat.astop()
    if command[0] == "rest":
        rest()


def rest():
    """Until the end of the input."""
    say({"rests": True})
    sys.stdin.read()


def in_child(heartbeat):
    """It takes itself for the worker, and outlives it: until nobody writes to the input that both have."""
    may_claim = heartbeat.may_claim
    heartbeat.stop()
    asyncio.run(heartbeat.astop())
    say({"child": os.getpid(), "may_claim_in_child": may_claim})
    end = select.poll()
    end.register(sys.stdin, 0)
    end.poll()
    os._exit(0)


def main():
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options = json.loads(sys.argv[2])
    stop_before, work_in_child = options.pop("stop_before", False), options.pop("work_in_child", False)
    program = Program(options)
    if work_in_child and (child := os.fork()):
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    try:
        if sys.argv[1] == "asyncio":
            asyncio.run(in_event_loop(program, stop_before))
        else:
            in_thread(program, stop_before)
    except CallFailed as refusal:
        say({"refused": refusal.sqlstate})


main()
