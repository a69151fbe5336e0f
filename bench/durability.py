"""What durability costs: enqueue and drain of durable tasks, plain ones with results in Postgres, and procrastinate.

    .venv/bin/python -m bench.durability [tasks] [rounds]     all of them, in turns
    .venv/bin/python -m bench.durability backlog [jobs]       the reconciler with a million jobs in the queue

Each runs on the same embedded Postgres (fsync on) and Redis, with one worker of two processes (procrastinate: one
worker of two concurrent tasks); results are in Postgres everywhere. procrastinate comes from PyPI into an
environment of its own, below bench/.
"""

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.environment import APP, ROOT, ask, database, stack

PEER = ROOT / "bench" / ".procrastinate"
TASKS = {"plain, results in Postgres": "noop", "durable": "durable_noop", "durable, atomic": "atomic_noop"}

ENQUEUE = """
import json, time
from django.db import transaction
from django.contrib.sessions.models import Session
from bench import tasks
task, count = tasks.{task}, {count}
task.delay()  # connects
def timed(run):
    began = time.perf_counter(); run(); return count / (time.perf_counter() - began)
def single():
    for _ in range(count): task.delay()
spent = []
def request(number):
    began = time.perf_counter()
    with transaction.atomic():
        Session.objects.filter(pk="0").exists()
        task.delay_on_commit()
    spent.append(time.perf_counter() - began)
rates = dict(single=timed(single), many=timed(lambda: task.delay_many([[]] * count)))
for number in range(min(count, 500)): request(number)
spent.sort()
print(json.dumps(dict(rates, p50=spent[len(spent) // 2] * 1000, p99=spent[int(len(spent) * 0.99)] * 1000)))
"""


def main(tasks: int = 2000, rounds: int = 2) -> None:
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in [*TASKS, "procrastinate"]}
    install_peer()
    with stack() as folder:
        for _ in range(rounds):
            for name in random.sample(list(measured), len(measured)):
                measured[name].append(
                    procrastinate(tasks) if name == "procrastinate" else ours(TASKS[name], tasks, folder)
                )
    print(f"{tasks} no-op tasks, {rounds} rounds, medians; delay_on_commit: ms in a transaction with one query")
    columns = {"single": "enqueue/s", "many": "batch/s", "drain": "drain/s", "p50": "p50 ms", "p99": "p99 ms"}
    print(f"{'':<30}" + "".join(f"{title:>12}" for title in columns.values()))
    for name, runs in measured.items():
        values = [statistics.median([run[column] for run in runs if column in run] or [0]) for column in columns]
        print(f"{name:<30}" + "".join(f"{value:>12.4g}" for value in values))


def ours(task: str, count: int, folder: Path) -> dict[str, float]:
    database().execute("TRUNCATE celeriac_job, celeriac_batch, django_celery_results_taskresult")
    done = shell(ENQUEUE.format(task=task, count=count))
    measured: dict[str, float] = json.loads(done.strip().splitlines()[-1])
    finished = "SELECT count(*) FROM django_celery_results_taskresult WHERE status = 'SUCCESS'"
    total = 2 * count + min(count, 500) + 1
    command = [sys.executable, "-m", "celery", "--quiet", "-A", "config", "worker", "-c", "2", "-l", "ERROR"]
    options = ["--without-mingle", "--without-gossip"]
    worker = subprocess.Popen(
        [*command, *options], cwd=APP, env=os.environ | {"SERVICE": "worker"}, stderr=subprocess.DEVNULL
    )
    try:
        measured["drain"] = drained(finished, total)
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
    return measured


def drained(finished: Any, total: int) -> float:
    """Tasks per second between the first 5 % and the last one; a worker's start is not what we measure."""
    first = None
    while (done := ask(finished)) < total:
        if done > total / 20 and first is None:
            first = (time.monotonic(), done)
        time.sleep(0.02)
    assert first
    return (total - first[1]) / (time.monotonic() - first[0])


def shell(code: str) -> str:
    command = [sys.executable, "manage.py", "shell", "--no-imports", "-c", code]
    return subprocess.run(
        command, cwd=APP, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ).stdout


# --- procrastinate ---------------------------------------------------------------------------------------------

PEER_TASKS = """
import sys, time, json, procrastinate
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=sys.argv[1]))
sync = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=sys.argv[1]))
@app.task(name="noop")
async def noop(): pass
@sync.task(name="noop")
def sync_noop(): pass
if sys.argv[2] == "schema":
    with sync.open(): sync.schema_manager.apply_schema()
elif sys.argv[2] == "work":
    import asyncio
    async def work():
        async with app.open_async():
            await app.run_worker_async(concurrency=2, install_signal_handlers=False)
    asyncio.run(work())
else:
    count = int(sys.argv[2])
    with sync.open():
        sync_noop.defer()
        began = time.perf_counter()
        for _ in range(count): sync_noop.defer()
        single = count / (time.perf_counter() - began)
        began = time.perf_counter()
        sync_noop.batch_defer(*[{} for _ in range(count)])
        many = count / (time.perf_counter() - began)
        spent = []
        for _ in range(min(count, 500)):
            began = time.perf_counter(); sync_noop.defer(); spent.append(time.perf_counter() - began)
    spent.sort()
    p50, p99 = spent[len(spent) // 2] * 1000, spent[int(len(spent) * 0.99)] * 1000
    print(json.dumps(dict(single=single, many=many, p50=p50, p99=p99)))
"""


def install_peer() -> None:
    if not (PEER / "ready").exists():
        shutil.rmtree(PEER, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", PEER], check=True)
        subprocess.run(
            [
                PEER / "bin/pip",
                "install",
                "--quiet",
                "--no-warn-script-location",
                "procrastinate",
                "psycopg[binary,pool]",
            ],
            check=True,
        )
        (PEER / "ready").touch()


def procrastinate(count: int) -> dict[str, float]:
    names = {"host": "POSTGRES_HOST", "user": "POSTGRES_USER", "dbname": "POSTGRES_DB"}
    address = " ".join(f"{name}={os.environ[variable]}" for name, variable in names.items())
    script = PEER / "tasks.py"
    script.write_text(PEER_TASKS)

    def peer(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen([PEER / "bin/python", script, address, *arguments], text=True, **options)

    if not ask("SELECT to_regclass('procrastinate_jobs')"):
        peer("schema").wait()
    database().execute("TRUNCATE procrastinate_jobs CASCADE")
    measured: dict[str, float] = json.loads(peer(str(count), stdout=subprocess.PIPE).communicate()[0])
    worker = peer("work", stderr=subprocess.DEVNULL)
    try:
        total = 2 * count + min(count, 500) + 1
        measured["drain"] = drained("SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'", total)
    finally:
        worker.kill()
        worker.wait()
    return measured


# --- A million jobs ----------------------------------------------------------------------------------------------

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


if __name__ == "__main__":
    if sys.argv[1:2] == ["backlog"]:
        backlog(*map(int, sys.argv[2:]))
    else:
        main(*map(int, sys.argv[1:]))
