"""What a job of the tests does; see yard.sql."""

import time

import psycopg


def run(job: str) -> None:
    with psycopg.connect(autocommit=True) as connection:
        (number,) = connection.execute("SELECT begin_run(%s)", [job]).fetchone()
        while not connection.execute("SELECT run_may_end(%s)", [number]).fetchone()[0]:
            time.sleep(0.05)
        connection.execute("SELECT end_run(%s)", [number])
