"""A million durable jobs: what the reconciler's look, its scan and a Redis that was emptied take.

    .venv/bin/python -m bench.durability backlog [jobs]

What durability costs a single job is in ``make bench``: the rows ``durable-...``.
"""

import json
import subprocess
import sys

from bench.environment import APP, stack

BACKLOG = """
import json, resource, time
from celery import current_app
from django.db import connection
from celeriac.jobs.enqueue import publisher
from celeriac.jobs.reconcile import Reconciler
from bench import tasks
app, count = current_app._get_current_object(), {count}
with publisher().batch(): client = publisher().channel.client
client.config_set("maxmemory", 0)  # the default, 400 MB, refuses to hold so many
tasks.durable_noop.delay()
client.flushall()
with connection.cursor() as cursor:  # a million of this one
    cursor.execute('''
        INSERT INTO celeriac_job (id, task, queue, args, message, body, state, retries, attempts, crashes, token,
            created_at, due_at, worker, result, error, traceback)
        SELECT new, task, queue, args, replace(message::text, id, new)::jsonb, body, state, retries, attempts, crashes,
            token, created_at - interval '1 minute', due_at, worker, result, error, traceback
        FROM (SELECT *, gen_random_uuid()::text AS new FROM celeriac_job, generate_series(1, %s)) AS one
    ''', [count - 1])
    cursor.execute("UPDATE celeriac_job SET published_at = NULL")
    cursor.execute("ANALYZE celeriac_job")
reconciler = Reconciler(app)
reconciler.suspicious = False
def timed(run):
    began = time.perf_counter(); run(); return time.perf_counter() - began
def look():
    reconciler.looked_at = 0.0
    reconciler.look()
def publish():
    while client.llen("default") < count: look()
publish()
quiet = timed(look)
reconciler.suspicious = True
scan = timed(look)
client.flushall()
noticed = timed(look)
rest = timed(publish)
print(json.dumps(dict(quiet=quiet, scan=scan, noticed=noticed, rest=rest, queued=client.llen("default"),
    memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)))
"""


def backlog(count: int = 1_000_000) -> None:
    with stack():
        found = json.loads(shell(BACKLOG.format(count=count)).strip().splitlines()[-1])
    print(f"{count} durable jobs in the queue, embedded servers")
    print(f"a look without a suspicion         {found['quiet']:.3f} s")
    print(f"a scan of the whole queue          {found['scan']:.1f} s (at each change of the leader)")
    print(f"after FLUSHALL, to find all gone   {found['noticed']:.1f} s, with the first 20,000 published")
    print(f"until all are back in Redis        {found['rest']:.1f} s; queued then: {found['queued']}")
    print(f"peak memory of the process         {found['memory']:.0f} MB")


def shell(code: str) -> str:
    command = [sys.executable, "manage.py", "shell", "--no-imports", "-c", code]
    return subprocess.run(
        command, cwd=APP, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ).stdout


if __name__ == "__main__":
    {"backlog": backlog}[sys.argv[1]](*map(int, sys.argv[2:]))
