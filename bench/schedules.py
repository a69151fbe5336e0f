"""The scheduler: ten thousand schedules of which a thousand are due each second, and how long a take-over takes.

.venv/bin/python -m bench.schedules size [seconds] [rounds]     ours and django-celery-beat's, in turns
.venv/bin/python -m bench.schedules takeover [times]            SIGKILL and SIGSTOP of the beat that leads
"""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from redis import Redis

from bench.environment import APP, ask, database, stack

SCHEDULERS = {
    "django-celery-beat": "django_celery_beat.schedulers:DatabaseScheduler",
    "Celeriac": "celeriac.schedules.scheduler:DatabaseScheduler",
}
SCHEDULES, EVERY = 10_000, 10  # seconds


def size(seconds: int = 40, rounds: int = 2) -> None:
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in SCHEDULERS}
    with stack() as folder:
        for _ in range(rounds):
            for name in random.sample(list(SCHEDULERS), len(SCHEDULERS)):
                measured[name].append(run(SCHEDULERS[name], seconds, folder / "ticks"))
    print(f"{SCHEDULES} schedules, {SCHEDULES // EVERY} due each second, {seconds} s, medians of {rounds} rounds")
    columns = list(measured["Celeriac"][0])
    print(f"{'':<22}" + "".join(f"{column:>18}" for column in columns))
    for name, runs in measured.items():
        print(f"{name:<22}" + "".join(f"{statistics.median(r[column] for r in runs):>18.4g}" for column in columns))


def run(scheduler: str, seconds: int, ticks: Path) -> dict[str, float]:
    """Let one beat run; what it sent, how late, and what it took."""
    first_due = fill()
    queue = redis()
    queue.delete("default")
    beat = start(scheduler, TICKS=str(ticks))
    process, seen, lags = psutil.Process(beat.pid), Counter[str](), []
    while time.time() < first_due:  # the first look at all of them is before the first is due
        time.sleep(0.05)
    cpu = sum(process.cpu_times()[:2])
    until = first_due + seconds
    while (now := time.time()) < until:
        for message in queue.rpop("default", 1000) or []:
            name = json.loads(message)["headers"]["periodic_task_name"]
            lags.append(now - (first_due + int(name) * EVERY / SCHEDULES + EVERY * seen[name]))
            seen[name] += 1
        time.sleep(0.02)
    cpu, memory = sum(process.cpu_times()[:2]) - cpu, process.memory_full_info().pss / 1e6
    stop(beat)
    spent = sorted(json.loads(ticks.read_text()))
    return {
        "sent/s": len(lags) / seconds,
        "lag p50 s": statistics.median(lags),
        "lag max s": max(lags),
        "CPU ms/message": 1000 * cpu / len(lags),
        "tick p50 ms": 1000 * statistics.median(spent),
        "tick max ms": 1000 * spent[-1],
        "PSS MB": memory,
    }


def fill() -> float:
    """Make the schedules anew; returns when the first one is due. Each is due a moment after the one before."""
    first_due = time.time() + 15
    execute = database().execute
    execute("TRUNCATE django_celery_beat_periodictask, django_celery_beat_intervalschedule CASCADE")
    execute("INSERT INTO django_celery_beat_intervalschedule (id, every, period) VALUES (1, %s, 'seconds')", [EVERY])
    execute(
        """INSERT INTO django_celery_beat_periodictask (name, task, interval_id, args, kwargs, headers, enabled,
            one_off, total_run_count, date_changed, description, last_run_at)
        SELECT n, 'config.tasks.debug_task', 1, '[]', '{}', '{}', true, false, 0, now(), '',
            to_timestamp(%(due)s + n * %(step)s::float8 - %(every)s) FROM generate_series(0, %(count)s - 1) n""",
        {"due": first_due, "step": EVERY / SCHEDULES, "every": EVERY, "count": SCHEDULES},
    )
    execute("ANALYZE")
    return first_due


def takeover(times: int = 10) -> None:
    spent: dict[str, list[float]] = {"SIGKILL": [], "SIGSTOP": []}
    with stack():
        database().execute("TRUNCATE django_celery_beat_periodictask, django_celery_beat_intervalschedule CASCADE")
        database().execute("INSERT INTO django_celery_beat_intervalschedule VALUES (1, 1, 'seconds')")
        database().execute(
            """INSERT INTO django_celery_beat_periodictask (name, task, interval_id, args, kwargs, headers, enabled,
                one_off, total_run_count, date_changed, description)
            VALUES ('every second', 'config.tasks.debug_task', 1, '[]', '{}', '{}', true, false, 0, now(), '')"""
        )
        redis().delete("default")
        beats = [start(SCHEDULERS["Celeriac"], TICKS="/dev/null") for _ in range(2)]
        for _ in range(times):
            for number in (signal.SIGKILL, signal.SIGSTOP):
                time.sleep(8)  # both are up, one leads
                spent[number.name].append(strike(beats, number))
        for beat in beats:
            stop(beat)
        sent = [json.loads(message)["headers"]["id"] for message in redis().lrange("default", 0, -1)]
        slots = ask("SELECT count(*) FROM celeriac_schedulerun WHERE sent_at IS NOT NULL")
    for name, seconds in spent.items():
        print(f"{name}: {len(seconds)} times, median {statistics.median(seconds):.1f} s, most {max(seconds):.1f} s")
    print(f"due slots made: {slots}, messages: {len(sent)}, of them different: {len(set(sent))}")


def strike(beats: list[subprocess.Popen[bytes]], number: signal.Signals) -> float:
    """Hit the beat that leads; seconds until the other one has sent something. Then there are two again."""
    name = ask(
        """SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE locktype = 'advisory' AND granted AND application_name LIKE 'celeriac-beat-leader%%'"""
    )
    leader = next(beat for beat in beats if beat.pid == int(name.split()[-1]))
    before, began = ask("SELECT max(sent_at) FROM celeriac_schedulerun"), time.monotonic()
    leader.send_signal(number)
    time.sleep(0.2)  # what it was just sending
    before = ask("SELECT max(sent_at) FROM celeriac_schedulerun") or before
    while ask("SELECT max(sent_at) FROM celeriac_schedulerun") == before:
        time.sleep(0.02)
    spent = time.monotonic() - began
    if number == signal.SIGSTOP:
        leader.send_signal(signal.SIGCONT)  # it finds out that it leads no longer, and stands by
    else:
        leader.wait()
        beats[beats.index(leader)] = start(SCHEDULERS["Celeriac"], TICKS="/dev/null")
    return spent


def start(scheduler: str, **variables: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bench.timed_beat", "--quiet", "-A", "config", "beat", "-S", scheduler]
    environment = os.environ | {"SERVICE": "beat", **variables}
    return subprocess.Popen([*command, "-l", "ERROR"], cwd=APP, env=environment, stderr=subprocess.DEVNULL)


def stop(beat: subprocess.Popen[bytes]) -> None:
    beat.terminate()
    beat.wait(60)


def redis() -> Any:
    return Redis(port=int(os.environ["REDIS_PORT"]), password=os.environ["REDIS_PASSWORD"])


if __name__ == "__main__":
    {"size": size, "takeover": takeover}[sys.argv[1]](*map(int, sys.argv[2:]))
