"""Django's tasks in its database, for the tests; see tests/it/queues/mod.rs."""

import os
import sys

import django
from django.conf import settings
from django.core.management import call_command

settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ["PGDATABASE"],
            "USER": os.environ["PGUSER"],
            "HOST": os.environ["PGHOST"],
        }
    },
    INSTALLED_APPS=["django_tasks", "django_tasks_db"],
    TASKS={"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}},
    USE_TZ=True,
)
django.setup()

from django_tasks import task  # noqa: E402
from django_tasks_db.management.commands import db_worker  # noqa: E402
from rgrid_heartbeat import Heartbeat  # noqa: E402

import runs  # noqa: E402

INTERVAL = 0.5


@task()
def work(job):
    runs.run(job)


# In an application: management/commands/db_worker.py of one that INSTALLED_APPS has before django_tasks_db.
class Command(db_worker.Command):
    def handle(self, *, worker_id, **options):
        with Heartbeat(worker_id=f"django_tasks:{worker_id}", register=False, interval=INTERVAL):
            super().handle(worker_id=worker_id, **options)


def main(command, job=None, options="{}"):
    if command == "install":
        call_command("migrate", verbosity=0)
    elif command == "enqueue":
        work.enqueue(job)
    else:
        call_command(Command(), startup_delay=False)


main(*sys.argv[1:])
