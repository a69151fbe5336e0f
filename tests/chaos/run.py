"""One run: orders at a steady rate, one fault after the other at moments that the seed draws."""

import random
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.faults import FAULTS, Fault, Scene
from tests.chaos.producer import Order, Producer
from tests.chaos.stack import ChaosStack

#: Seconds after which what has not moved is given up, with durable jobs (a lease is 20) and without (nothing
#: comes back before the visibility timeout of an hour); and after which the next fault strikes in any case.
STILL, STILL_PLAIN, SETTLE = 60.0, 20.0, 75.0
#: Messages that wait in a stack that is well: none, mostly.
BACKLOG = 40
#: Set by a signal: what has been seen so far is reported.
stopping = threading.Event()


@dataclass
class Strike:
    """One fault: when it began, was there, was mended, and was over; what it left undone."""

    name: str
    began: float
    struck: float = 0.0
    mended: float = 0.0
    settled: float = 0.0
    left: set[int] = field(default_factory=set)
    #: Redis was without its data after it.
    empties: bool = False
    #: What was not well when the time was up, and was restarted, so that the next fault strikes a working stack.
    helped: bool = False


@dataclass
class Record:
    """All that is known when a run is over."""

    plain: bool
    seed: int
    began: float
    ended: float
    orders: list[Order]
    strikes: list[Strike]
    rows: dict[int, float]
    #: Those whose task is plain.
    quick: set[int]
    #: Order, and when it had its effect.
    effects: list[tuple[int, float]]
    mails: list[tuple[int, float]]
    #: Ids of beat's runs that had an effect, and when.
    ticks: list[tuple[str, float]]
    journal: list[tuple[float, str, int, str]]
    #: Job states, of ours.
    jobs: dict[str, int]
    #: Messages that are still in Redis: how many, and in which keys.
    in_redis: dict[str, int]


def draw(seed: int, names: Sequence[str] = (), plain: bool = False) -> list[Fault]:
    """The faults in the seed's order, or those that are named in theirs."""
    if names:
        return [FAULTS[name] for name in names]
    drawn = [fault for fault in FAULTS.values() if fault.drawn]
    random.Random(seed).shuffle(drawn)
    return [fault for fault in drawn if fault.plain or not plain]


def run(stack: ChaosStack, faults: Sequence[Fault], seed: int, seconds: float) -> Record:
    """Strike until the faults or the seconds are used up."""
    producer, began = Producer(stack.site, seed), time.time()
    producer.start()
    strikes: list[Strike] = []
    try:
        time.sleep(3)
        for fault in faults:
            if stopping.is_set() or time.time() - began > seconds:
                say(stack, f"no time left for {fault.name}")
                continue
            # Of its own, so that a fault alone does what it does among others.
            scene = Scene(stack, producer, random.Random(f"{seed} {fault.name}"))
            strikes.append(strike(scene, fault, {number for each in strikes for number in each.left}))
    except Exception:  # ours, most likely; what has been seen is reported all the same
        say(stack, traceback.format_exc())
    finally:
        producer.stop()
    final = Strike("", time.time())
    final.mended = time.time()
    settle(stack, final, {number for each in strikes for number in each.left})
    await_ends(stack)
    return record(stack, producer, strikes, seed, began)


def strike(scene: Scene, fault: Fault, given_up: set[int]) -> Strike:
    time.sleep(scene.random.uniform(0.0, 3.0))
    scene.producer.rush()
    this = Strike(fault.name, time.time(), empties=fault.empties)
    acting = fault.act(scene)
    next(acting)
    this.struck = time.time()
    say(scene.stack, f"{fault.name} ({this.struck - this.began:.1f} s to strike)")
    time.sleep(fault.hold)
    next(acting, None)
    this.mended = time.time()
    this.helped = not settle(scene.stack, this, given_up) and needs_help(scene.stack)
    if this.helped:
        say(scene.stack, f"  helped: {sorted(this.left)[:20]} {scene.stack.ill()}")
        scene.stack.compose("restart", "web", "worker", "worker-heavy", "beat")
        this.mended = time.time()  # the backlog is this fault's, and not the next one's
        settle(scene.stack, this, given_up)
    say(scene.stack, f"  over after {this.settled - this.struck:.1f} s, left undone: {len(this.left)}")
    return this


def needs_help(stack: ChaosStack) -> bool:
    """Ill, or with a backlog that does not go; what is lost only is gone, and nothing can be done."""
    waiting = stack.in_redis()
    return bool(stack.ill()) or waiting["default"] + waiting["heavy_tasks"] > BACKLOG


def settle(stack: ChaosStack, this: Strike, given_up: set[int]) -> bool:
    """Whether all that was taken before the fault was mended is done, and every service well, in time."""
    still, began = (STILL_PLAIN if stack.plain else STILL), time.time()
    moved = began
    while True:
        due = {row["number"]: row["kind"] for row in stack.unfinished() if row["at"] < this.mended}
        left = due.keys() - given_up
        moved = time.time() if left != this.left else moved
        this.left, this.settled = left, time.time()
        gone = {number for number in left if this.empties and due[number] == "quick"}
        if left == gone and not stack.ill():
            return True
        if stopping.is_set() or this.settled - moved > still or this.settled - began > SETTLE:
            return False
        time.sleep(1)


def await_ends(stack: ChaosStack) -> None:
    """A job whose effect is there may wait for its end until the lease of the worker that died has run out."""
    until = time.time() + STILL
    while stack.jobs().keys() & {"waiting", "running", "returned"} and time.time() < until and not stopping.is_set():
        time.sleep(1)


def record(stack: ChaosStack, producer: Producer, strikes: list[Strike], seed: int, began: float) -> Record:
    def pairs(table: str, key: str, at: str) -> list[tuple[Any, float]]:
        rows = stack.sql(f"SELECT {key} AS key, extract(epoch FROM {at}) AS at FROM {table} ORDER BY {at}")
        return [(row["key"], row["at"]) for row in rows]

    return Record(
        plain=stack.plain,
        seed=seed,
        began=began,
        ended=time.time(),
        orders=producer.orders,
        strikes=strikes,
        rows=dict(pairs("chaos_order", "number", "created_at")),
        quick={number for order in producer.orders if order.kind == "quick" for number in order.numbers},
        effects=pairs("chaos_effect WHERE number > 0", "number", "at"),
        mails=stack.mails(),
        ticks=pairs("chaos_effect WHERE number = 0", "task_id", "at"),
        journal=stack.journal(),
        jobs=stack.jobs(),
        in_redis=stack.in_redis(),
    )


def say(stack: ChaosStack, words: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {stack.project}: {words}\n")
    sys.stdout.flush()
