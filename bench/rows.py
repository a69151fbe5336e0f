"""What is measured: the rows of the report, and the functions that measure them, one column at a time.

A name ends in its unit: more is better of what is counted by the second (``/s``) and of shares (``%``), less of others.
"""

import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.columns import ABILITIES, Column
from bench.run import FailedError, Run, Setting, Workers, end, redis
from demo.servers import free_port, wait_for_port

Figures = dict[str, float]
#: Tasks that the workers do before latency and memory are measured: all children are up, and have had one.
WARM = 50
#: Seconds for which tasks are sent at a steady rate, at most.
PACED = 10
#: Of bench/web.py; and how often each is measured.
VIEWS = ("empty", "send", "bare")
TURNS = 5
#: What asks the views. Python costs the two cores more than they do.
CLIENT = ["wrk"] if shutil.which("wrk") else [sys.executable, "-m", "bench.client"]
#: How many there are in the row ``backlog``; a slow column gets its part of them.
BACKLOG = 1_000_000


# --- Sending -----------------------------------------------------------------------------------------------------


def enqueue(run: Run) -> Figures:
    return {"tasks/s": run.drive("enqueue", first=0, count=run.tasks)}


def batch(run: Run) -> Figures:
    return {"tasks/s": run.drive("batch", first=0, count=run.tasks)}


def web(run: Run) -> Figures:
    """Of a bare Django, the same for all columns."""
    return views(run, "gunicorn -w 2 --threads 4")


def site(run: Run) -> Figures:
    """Of this repository's site, as its container runs it."""
    return views(run, "gunicorn --config {root}/services/web/gunicorn.conf.py", BENCH_SITE="true", SERVICE="web")


def views(run: Run, gunicorn: str, **variables: str) -> Figures:
    """A view that does nothing, one that sends a task, and one that sends one command to Redis; by turns."""
    port = free_port()
    module = f"bench.peers.{run.column.module}"
    server = run.start(f"{gunicorn} -b 127.0.0.1:{port} bench.web:application", BENCH_PEER=module, **variables)
    try:
        wait_for_port(port, server)
        for view in VIEWS:  # both processes connect
            requests(f"http://127.0.0.1:{port}/{view}", seconds=1)
        turns = [{view: requests(f"http://127.0.0.1:{port}/{view}") for view in VIEWS} for _ in range(TURNS)]
    finally:
        end([server])
    rates = {view: statistics.median(turn[view] for turn in turns) for view in VIEWS}
    figures = {f"{view} view, requests/s": rate for view, rate in rates.items()}
    shares = {view: statistics.median(turn[view] / turn["empty"] for turn in turns) for view in ("send", "bare")}
    return figures | {f"{view} view, of the empty one, %": 100 * share for view, share in shares.items()}


def requests(url: str, seconds: int = 2) -> float:
    """Requests a second, 8 at once, each on a connection of its own, as nginx makes them.

    All that are kept may be one process's, while the other has none.
    """
    command = [*CLIENT, "-t", "1", "-c", "8", "-d", f"{seconds}s", "-H", "Connection: close", url]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    if errors := re.search(r"Non-2xx.*", said):
        raise FailedError(f"{url}: {errors[0]}")
    return float(said.partition("Requests/sec:")[2].split()[0])


# --- Working -----------------------------------------------------------------------------------------------------


def drain(run: Run) -> Figures:
    """A backlog, from its first twentieth to its end; and the CPU of that."""
    run.drive("enqueue", first=0, count=run.tasks)
    run.effects.expected = run.tasks
    with run.workers() as workers:
        run.effects.wait(run.tasks // 20, workers.check)
        cpu, done = workers.cpu(), run.effects.read()
        run.effects.wait(run.tasks, workers.check)
        spent = {kind: seconds - cpu[kind] for kind, seconds in workers.cpu().items()}
    figures = {"tasks/s": run.effects.rate(0.05, 1)}
    if done < run.tasks / 2:  # else it was over before we looked
        figures |= {f"CPU of {kind}, us/task": 1e6 * s / (run.tasks - done) for kind, s in spent.items()}
    return figures


def latency(rate: float) -> Callable[[Run], Figures]:
    """From before a task is sent until it ran, at a steady rate."""
    return lambda run: waits(run, min(run.tasks, int(rate * PACED)), rate=rate)


def mixed(run: Run) -> Figures:
    """Of a hundred tasks one takes a second; how long the others wait."""
    return waits(run, min(run.tasks, 50 * 2 * PACED), rate=50, long_every=100, seconds=1.0)


def waits(run: Run, count: int, **pace: float) -> Figures:
    with run.workers() as workers:
        warm(run, workers)
        sent = run.drive("pace", far=True, first=WARM, count=count, **pace)
        run.effects.wait(WARM + count, workers.check)
    long = pace.get("long_every")
    waited = [run.effects.times[WARM + i] - at for i, at in enumerate(sent) if not long or i % long]
    percentiles = statistics.quantiles(waited, n=100, method="inclusive")
    reached = (count - 1) / (sent[-1] - sent[0])
    return {"p50, ms": 1000 * percentiles[49], "p99, ms": 1000 * percentiles[98], "sent tasks/s": reached}


def memory(run: Run) -> Figures:
    """Of all processes of the workers, idle."""
    with run.workers() as workers:
        warm(run, workers)
        time.sleep(2)
        return {"PSS, MB": workers.memory()}


def warm(run: Run, workers: Workers) -> None:
    run.drive("enqueue", first=0, count=WARM)
    run.effects.wait(WARM, workers.check)


def backlog(run: Run) -> Figures:
    """A million: how cost grows. In batches where the column has them, or this would take an hour by itself."""
    count = int(BACKLOG * min(1.0, run.column.share))
    redis().config_set("maxmemory", 0)  # the stack's own Redis would refuse so many
    run.drive("batch" if "batch" in run.column.can else "enqueue", first=0, count=count)
    run.effects.expected = count
    held = redis().info("memory")["used_memory"] / 1e6
    with run.workers() as workers:
        run.effects.wait(count // 20, workers.check)
        early = workers.memory()
        run.effects.wait(count, workers.check)
        late = workers.memory()
    return {
        "at the start, tasks/s": run.effects.rate(0.01, 0.1),
        "at the end, tasks/s": run.effects.rate(0.9, 1),
        "workers at the start, MB": early,
        "workers at the end, MB": late,
        "Redis at the start, MB": held,
        "Redis at the end, MB": redis().info("memory")["used_memory"] / 1e6,
    }


# --- The rows ----------------------------------------------------------------------------------------------------


USUAL = Setting()
POSTGRES = Setting(results="django-db")
DURABLE = Setting(results="django-db", durable=True)
ATOMIC = Setting(results="django-db", durable=True, atomic=True)
FAR = Setting(far=True)
WATCHED = Setting(events=True, flower=True)


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    measure: Callable[[Run], Figures]
    setting: Setting = USUAL
    #: What a column has to be able to do, of bench/columns.py's ABILITIES: words.
    needs: str = ""
    #: The part of the tasks it gets: what slows every column down would take minutes.
    share: float = 1.0
    #: Not among the rows that run when none is named.
    only_by_name: bool = False

    def lacks(self, column: Column) -> str:
        """Why it cannot be measured there, or nothing."""
        return next((ABILITIES[need] for need in self.needs.split() if need not in column.can), "")


ROWS = (
    Row("enqueue", "Enqueue, one by one", enqueue),
    Row("batch", "Enqueue, in batches of 1,000", batch, needs="batch"),
    Row("web", "Enqueue from a web view, gunicorn with 2 processes", web, needs="web"),
    Row("web-site", "Enqueue from a view of this repository's site", site, needs="site"),
    Row("drain", "Drain of a backlog, 2 workers", drain),
    Row("drain-1", "Drain, 1 worker", drain, Setting(workers=1)),
    Row("drain-4", "Drain, 4 workers", drain, Setting(workers=4)),
    Row("drain-postgres", "Drain, results in Postgres", drain, POSTGRES, "postgres"),
    Row("drain-2ms", "Drain, 2 ms to Redis", drain, FAR, "redis", share=0.5),
    Row("drain-flower", "Drain, events on, Flower watching, its metrics scraped", drain, WATCHED, "flower"),
    Row("drain-silent", "Drain, events off where they are on by default", drain, Setting(events=False), "silent"),
    Row("latency-50", "Latency at 50/s", latency(50)),
    Row("latency-1000", "Latency at 1,000/s", latency(1000)),
    Row("latency-2ms", "Latency at 50/s, 2 ms to Redis", latency(50), FAR, "redis"),
    Row("latency-1000-2ms", "Latency at 1,000/s, 2 ms to Redis", latency(1000), FAR, "redis"),
    Row("mixed", "Short tasks at 50/s beside 1 % that take 1 s", mixed),
    Row("memory", "Idle workers", memory),
    Row("durable-enqueue", "Durable jobs: enqueue", enqueue, DURABLE, "durable", share=0.2),
    Row("durable-batch", "Durable jobs: enqueue in batches of 1,000", batch, DURABLE, "durable batch"),
    Row("durable-drain", "Durable jobs: drain", drain, DURABLE, "durable"),
    Row("durable-atomic", "Durable jobs, atomic: drain", drain, ATOMIC, "atomic", share=0.2),
    Row("backlog", f"Drain of {BACKLOG:,}, or of a slow column's part of them", backlog, only_by_name=True),
)
