"""A worker around the Python client, for tests: an object of options in, one line of JSON for each change of state out.

It runs in the main thread, or in an event loop, and does what the lines of its standard input say.
"""

import asyncio
import json
import logging
import select
import sys
import time

from rgrid_heartbeat import CallFailed, Heartbeat

POLL = 0.01


class Program:
    def __init__(self, options):
        self.given_up = 0
        self.said = None
        self.heartbeat = Heartbeat(**options, on_given_up=self.note)

    def note(self, heartbeat):
        self.given_up += 1

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
        return command[0] not in ("stop", "exit")


def say(line):
    print(json.dumps(line), flush=True)


def in_thread(program):
    program.heartbeat.start()
    while program.obey(command := program.look()):
        time.sleep(POLL)
    if command[0] == "stop":
        program.heartbeat.stop()


async def in_event_loop(program):
    await program.heartbeat.astart()
    while program.obey(command := program.look()):
        await asyncio.sleep(POLL)
    if command[0] == "stop":
        await program.heartbeat.astop()


def main():
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    program = Program(json.loads(sys.argv[2]))
    try:
        if sys.argv[1] == "asyncio":
            asyncio.run(in_event_loop(program))
        else:
            in_thread(program)
    except CallFailed as refusal:
        say({"refused": refusal.sqlstate})


main()
