"""Heartbeats of psycopg's through a pooler in transaction mode: does each client run its own statements?

Arguments: a connection string, "two clients" or "many clients", and prepare_threshold, a number or "none". Prints "own",
or "another's" when a heartbeat has run the statement of another client.
"""

import sys
import threading

import psycopg

HEARTBEAT = "SELECT rgrid_heartbeat(%s)"
OTHER = "SELECT 1000 + length(%s)"

dsn, what, threshold = sys.argv[1:]


def connect():
    prepare_threshold = None if threshold == "none" else int(threshold)
    return psycopg.connect(dsn, autocommit=True, prepare_threshold=prepare_threshold)


def ask(connection, statement, argument):
    return connection.execute(statement, [argument]).fetchone()[0]


def two_clients():
    """Each runs one statement often enough for a name, on a server connection of its own. Then one is given the
    other's connection."""
    holder, worker, other, second_holder = [connect() for _ in range(4)]
    holder.execute("BEGIN")  # has one of the two connections
    assert [ask(worker, HEARTBEAT, "worker") for _ in range(10)] == [1] * 10
    second_holder.execute("BEGIN")  # has the one that the worker had
    holder.execute("COMMIT")
    assert [ask(other, OTHER, "worker") for _ in range(10)] == [1006] * 10
    answer = ask(worker, HEARTBEAT, "worker")
    second_holder.execute("COMMIT")
    return {1: "own", 1006: "another's"}[answer]


def many_clients():
    """Forty connections in eight threads, half of which run another statement than the other half."""
    wrong = []

    def work(number):
        connections = [connect() for _ in range(5)]
        for _ in range(20):
            for index, connection in enumerate(connections):
                worker = f"worker-{number}-{index}"
                statement, right = ((HEARTBEAT, 1), (OTHER, 1010))[(number + index) % 2]
                if ask(connection, statement, worker) != right:
                    wrong.append(worker)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return "another's" if wrong else "own"


print(two_clients() if what == "two clients" else many_clients())
