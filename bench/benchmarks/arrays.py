"""Calls for many workers at once, of whom nothing is in memory, beside one upsert of the same rows.

Registrations of new workers, which write two rows: that of the heartbeat, and that of the id's owner. Then heartbeats of
workers whose rows are there: those that are written by hand are such workers, because memory was filled before. Each
worker is used once, and so is each row of the upserts. A role of workers does both.
"""

from __future__ import annotations

from functools import partial

from harness import rounds
from harness.report import Report
from harness.server import Connection, ServerProblem, Servers, value_of
from harness.workers import FIRST_ID, deaths

from .heartbeat import UPSERTED, silence

GOAL = 0.7
SETTINGS = {
    "rgrid_heartbeat.max_workers": "3000000",
    "rgrid_heartbeat.stale_threshold": "1h",
}
# Workers in one call, and how often it is measured.
FULL = {10_000: 9, 100_000: 5}
QUICK = {1_000: 1}

# As the table of owners is.
OWNERS = "CREATE TABLE owners (worker_id text PRIMARY KEY, owner name NOT NULL)"
ROLE = """
CREATE ROLE agent;
GRANT EXECUTE ON FUNCTION rgrid_register(text[], text), rgrid_heartbeat(text[], text) TO agent;
GRANT SELECT, INSERT, UPDATE ON upserted, owners TO agent
"""

NUMBERS = "generate_series(%s::bigint, %s) AS n"
IDS = f"ARRAY(SELECT n::text FROM {NUMBERS})"
REGISTER = f"SELECT count(*) FROM rgrid_register({IDS}, 'node-7') WHERE incarnation = 1"
BEAT = f"SELECT count(*) FROM rgrid_heartbeat({IDS}, 'node-7') AS told WHERE told = 1"
UPSERT = f"""
    INSERT INTO upserted SELECT u.id, 'node-7', clock_timestamp() FROM unnest({IDS}) AS u (id)
    ON CONFLICT (worker_id) DO UPDATE
        SET hostname = EXCLUDED.hostname, last_heartbeat_at = EXCLUDED.last_heartbeat_at
    RETURNING worker_id
"""
UPSERT_ONE = f"WITH upsert AS ({UPSERT}) SELECT count(*) FROM upsert"
UPSERT_BOTH = f"""
WITH upsert AS ({UPSERT}), owned AS (
    INSERT INTO owners SELECT worker_id, current_user FROM upsert
    ON CONFLICT (worker_id) DO UPDATE SET owner = EXCLUDED.owner
    RETURNING worker_id)
SELECT count(*) FROM owned
"""
ROW = "INSERT INTO {table} (worker_id, hostname, last_heartbeat_at) SELECT n::text, 'node-7', clock_timestamp() FROM "
OWNER = f"INSERT INTO rgrid_worker_owners SELECT n::text, 'agent' FROM {NUMBERS}"

ONE, BOTH = "one upsert of the rows of heartbeats", "one upsert of the rows of both tables"


def measure(servers: Servers, report: Report) -> None:
    with servers.running(SETTINGS) as server:
        db = server.create_database("CREATE EXTENSION rgrid_heartbeat", UPSERTED, OWNERS, ROLE)
        with silence(servers, server, db):
            for count, times in (QUICK if report.quick else FULL).items():
                registrations(db, count, times, report)
                heartbeats(db, count, times, report)
        died = deaths(db)
        report.check("deaths declared", "0", str(died), died == 0)


def registrations(db: Connection, count: int, times: int, report: Report) -> None:
    variants = {
        "ours": partial(rate, db, "worker_heartbeats", REGISTER, count),
        ONE: partial(rate, db, "upserted", UPSERT_ONE, count),
        BOTH: partial(rate, db, "upserted", UPSERT_BOTH, count),
    }
    measured = rounds.side_by_side(variants, times)
    what = f"{count:,} registrations in one call"
    report.note(what, f"{rounds.median(measured, 'ours'):,.0f}/s")
    report.note(f"{what}, against: {ONE}", found(measured, ONE))
    judge(f"{what}, against: {BOTH}", measured, BOTH, report)


def heartbeats(db: Connection, count: int, times: int, report: Report) -> None:
    variants = {
        "ours": partial(rate, db, "worker_heartbeats", BEAT, count, have_rows=True),
        ONE: partial(rate, db, "upserted", UPSERT_ONE, count, have_rows=True),
    }
    measured = rounds.side_by_side(variants, times)
    what = f"{count:,} heartbeats in one call"
    report.note(what, f"{rounds.median(measured, 'ours'):,.0f}/s")
    judge(f"{what}, against: {ONE}", measured, ONE, report)


def judge(what: str, measured: rounds.Measurements, against: str, report: Report) -> None:
    met = rounds.ratio(measured, "ours", against) >= GOAL
    report.goal(what, f"at least {GOAL:g} times", found(measured, against), met)


def found(measured: rounds.Measurements, against: str) -> str:
    return f"{rounds.ratio(measured, 'ours', against):.2f} times its {rounds.median(measured, against):,.0f}/s"


def rate(db: Connection, table: str, call: str, count: int, have_rows: bool = False) -> float:
    """Workers a second, of whom none was used before."""
    first = FIRST_ID + value_of(db, f"SELECT count(*) FROM {table}")
    ids = (first, first + count - 1)
    if have_rows:
        db.execute(ROW.format(table=table) + NUMBERS, ids)
        if table == "worker_heartbeats":
            db.execute(OWNER, ids)
    db.execute("VACUUM ANALYZE")
    db.execute("CHECKPOINT")
    db.execute("SET ROLE agent")
    answered: list[int] = []
    took = rounds.seconds(lambda: answered.append(value_of(db, call, *ids)))
    db.execute("RESET ROLE")
    if answered != [count]:
        raise ServerProblem(f"of {count} workers, {answered[0]} were answered as expected")
    return count / took
