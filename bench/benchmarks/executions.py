"""RGrid's table of jobs, filled: finished executions, and the running ones that the benchmarks deal with."""

from __future__ import annotations

from pathlib import Path

from harness.server import Connection
from harness.workers import FIRST_ID

SCHEMA = Path(__file__).resolve().parent.parent / "rgrid_schema.sql"
MESSAGE = "Worker died unexpectedly"

# RGrid's own indexes.
INDEXES = (
    "ALTER TABLE executions ADD PRIMARY KEY (id)",
    "ALTER TABLE executions ADD UNIQUE (execution_id)",
    "CREATE INDEX ix_executions_status ON executions (status)",
)
# The one that the extension recommends for large tables.
RECOMMENDED_INDEX = "CREATE INDEX ix_executions_running ON executions (worker_id) WHERE status = 'running'"

FINISHED = """
INSERT INTO executions
SELECT n, 'exec-' || md5(n::text), 'user-' || n %% 1000, 'project-' || n %% 100,
       'import time' || chr(10) || 'time.sleep(1)' || chr(10) || 'print(' || n || ')', 'python3.11', '[]', '{}',
       'completed', (%(first_id)s + n %% 100000)::text, 0, 3,
       timestamp '2025-01-01' + n * interval '1 second', timestamp '2025-01-01' + n * interval '1 second',
       timestamp '2025-01-01' + n * interval '1 second', NULL, 0
  FROM generate_series(%(begin)s::bigint, %(end)s) AS n
"""
# The first rows run, a fixed number on each worker: `jobs / each` workers from the first one on.
RUNNING = """
UPDATE executions SET status = 'running', worker_id = (%(first_id)s + (id - 1) / %(each)s)::text,
       execution_error = NULL, completed_at = NULL
 WHERE id <= %(jobs)s AND (status <> 'running' OR worker_id IS DISTINCT FROM (%(first_id)s + (id - 1) / %(each)s)::text)
"""
BATCH = 1_000_000


def create(db: Connection) -> None:
    db.execute(SCHEMA.read_text())


def fill(db: Connection, rows: int) -> None:
    """Finished executions, with RGrid's indexes."""
    for begin in range(1, rows + 1, BATCH):
        end = min(begin + BATCH - 1, rows)
        db.execute(FINISHED, {"first_id": FIRST_ID, "begin": begin, "end": end})
    for index in INDEXES:
        db.execute(index)


def run_jobs(db: Connection, jobs: int, each: int) -> None:
    """Makes the first `jobs` executions run, `each` of them on one worker, whatever became of them before."""
    db.execute(RUNNING, {"first_id": FIRST_ID, "jobs": jobs, "each": each})


def count(db: Connection, status: str) -> int:
    row = db.execute("SELECT count(*) FROM executions WHERE status = %s", (status,)).fetchone()
    assert row is not None
    return int(row[0])
