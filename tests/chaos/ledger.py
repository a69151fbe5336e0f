"""What became of every order, and which fault is to blame."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tests.chaos.run import Record, Strike

#: Seconds between two ticks of beat (chaos/plain.py, stack.SCHEDULE), and how many too many are chance.
TICK, CHANCE = 2.0, 2
SECONDS_PER_STEP = 2  # of the curve
#: What the journal says of a task that is done, and of a quick one.
DONE = {"done", "did"}


@dataclass
class Line:
    """One fault's line of the table."""

    fault: str
    #: Seconds from the run's beginning.
    at: float
    mended_after: float
    #: When it struck: orders whose task was being run, and whose task was waiting.
    running: int
    waiting: int
    #: Orders that were answered with an error, or not at all, while it lasted: nothing was promised.
    refused: int
    #: Of orders whose task is plain: refused, and lost. (They may run twice.)
    quick_refused: int
    quick_lost: int
    #: Whether Redis was without its data, and plain tasks may be lost.
    empties: bool
    #: Of the others: rows without their effect, or promises without a row, when the run was over.
    lost: int
    #: More effects in the database than orders; and more runs of a schedule than its time allows.
    doubled: int
    #: Mails that went out a second time, under the same Message-ID.
    mailed_twice: int
    #: Deliveries that a worker dropped since the job had ended or ran elsewhere; bodies that were rolled back.
    dropped: int
    undone: int
    #: Seconds from the strike until the first task that was ordered after it was done, on the slower of the
    #: two queues; and until all was done that was in flight when it struck, but for what is lost.
    first_done: float | None
    all_done: float | None
    #: Whether it did not recover by itself: work was left, or a service was ill, until they were restarted.
    helped: bool


def lines(record: Record) -> list[Line]:
    return [line_of(record, index) for index in range(len(record.strikes))]


def line_of(record: Record, index: int) -> Line:
    this = record.strikes[index]
    done, running = done_at(record), running_at(record, this.struck)
    before = {number for each in record.strikes[:index] for number in each.left}
    flight = {n for n, at in record.rows.items() if at <= this.struck < done.get(n, record.ended)} - before
    finished = [done[number] - this.struck for number in flight if number in done]
    gone = lost(record) & blamed(record, this, before)
    return Line(
        fault=this.name,
        at=round(this.struck - record.began, 1),
        mended_after=round(this.mended - this.struck, 1),
        running=len(flight & running),
        waiting=len(flight - running),
        refused=len(refused(record, this, quick=False)),
        quick_refused=len(refused(record, this, quick=True)),
        quick_lost=len(gone & record.quick),
        empties=this.empties,
        lost=len(gone - record.quick),
        doubled=sum(blame(record, at) is this for at in doubled(record)) + surplus_ticks(record, this),
        mailed_twice=sum(blame(record, at) is this for at in second(record.mails)),
        dropped=events(record, this, "dropped"),
        undone=events(record, this, "undone"),
        first_done=first_done(record, this, done),
        all_done=round(max(finished), 1) if finished else None,
        helped=this.helped,
    )


def promised(record: Record) -> set[int]:
    return {number for order in record.orders if order.status == 201 for number in order.numbers}


def refused(record: Record, this: Strike, quick: bool) -> set[int]:
    """Orders of plain tasks, or the others, that were not promised while this lasted."""
    orders = [order for order in record.orders if this.began <= order.placed_at < this.settled and order.status != 201]
    numbers = {number for order in orders for number in order.numbers}
    return numbers & record.quick if quick else numbers - record.quick


def lost(record: Record) -> set[int]:
    """Business rows without their effect, and promises without a row."""
    had = {number for number, _ in (*record.effects, *record.mails)}
    had |= {number for _, event, number, _ in record.journal if event == "did"}
    return (set(record.rows) | promised(record)) - had


def blamed(record: Record, this: Strike, before: set[int]) -> set[int]:
    """What was left undone by this fault; and promises without a row that were given while it lasted."""
    given = [order.numbers for order in record.orders if this.began <= order.answered_at < this.settled]
    return (this.left - before) | ({number for numbers in given for number in numbers} - set(record.rows))


def blame(record: Record, at: float) -> Strike | None:
    """The fault that struck last before this moment."""
    index = bisect_right([each.began for each in record.strikes], at)
    return record.strikes[index - 1] if index else None


def doubled(record: Record) -> list[float]:
    """When an order, or a run of the schedule, had its effect in the database once more."""
    return [*second(record.effects), *second(record.ticks)]


def second(happened: Iterable[tuple[Hashable, float]]) -> list[float]:
    """When something happened to what it had happened to before."""
    seen: set[Hashable] = set()
    again = []
    for key, at in sorted(happened, key=lambda each: each[1]):
        if key in seen:
            again.append(at)
        seen.add(key)
    return again


def surplus_ticks(record: Record, this: Strike) -> int:
    """Runs of the schedule that beat sent beyond what its time allows."""
    sent: dict[str, float] = {}
    for at, event, _, task_id in record.journal:
        if event == "sent":
            sent.setdefault(task_id, at)
    runs = sum(this.began <= at < this.settled for at in sent.values())
    return max(0, runs - int((this.settled - this.began) / TICK) - CHANCE)


def events(record: Record, this: Strike, kind: str) -> int:
    return sum(event == kind and blame(record, at) is this for at, event, *_ in record.journal)


def running_at(record: Record, moment: float) -> set[int]:
    last = {number: event for at, event, number, _ in record.journal if at <= moment}
    return {number for number, event in last.items() if event == "began"}


def done_at(record: Record) -> dict[int, float]:
    """Order -> when it was done first: by the journal, or by its effect when its worker died after that."""
    done: dict[int, float] = {}
    for number, at in (
        *((n, at) for at, event, n, _ in record.journal if event in DONE),
        *record.effects,
        *record.mails,
    ):
        done.setdefault(number, at)
    return done


def first_done(record: Record, this: Strike, done: dict[int, float]) -> float | None:
    queues: dict[bool, list[float]] = {False: [], True: []}
    for order in record.orders:
        if record.rows.get(order.number, 0) > this.struck and order.number in done:
            queues[order.kind.startswith("heavy")].append(done[order.number] - this.struck)
    return round(max(map(min, queues.values())), 1) if all(queues.values()) else None


def summary(record: Record) -> dict[str, Any]:
    """All of a column, as it is written to the file."""
    table = lines(record)
    answered = sorted(o.answered_at - o.placed_at for o in record.orders if o.status == 201)
    return {
        "seconds": round(record.ended - record.began),
        "ordered": sum(order.many for order in record.orders if order.kind != "quick"),
        "promised": len(promised(record) - record.quick),
        "rows": len(record.rows.keys() - record.quick),
        "lost": len(lost(record) - record.quick),
        "doubled": len(doubled(record)) + sum(surplus_ticks(record, each) for each in record.strikes),
        "mailed_twice": len(second(record.mails)),
        "dropped": sum(event == "dropped" for _, event, *_ in record.journal),
        "undone": sum(event == "undone" for _, event, *_ in record.journal),
        "quick_promised": len(promised(record) & record.quick),
        "quick_lost": len(lost(record) & record.quick),
        "quick_lost_unemptied": sum(line.quick_lost for line in table if not line.empties),
        "quick_again": len(second((n, at) for at, event, n, _ in record.journal if event == "did")),
        "answer_p50": round(answered[len(answered) // 2], 3),
        "answer_p99": round(answered[len(answered) * 99 // 100], 3),
        "jobs": record.jobs,
        "in_redis": record.in_redis,
        "faults": [asdict(line) for line in table],
        "done": curve(record),
    }


def broken(column: dict[str, Any]) -> int:
    """Promises that were not kept: a plain task is lost only with what Redis had, and may run twice."""
    return column["lost"] + column["doubled"] + column["quick_lost_unemptied"]


def curve(record: Record) -> list[int]:
    """Tasks done in each step of time."""
    steps = Counter(int((at - record.began) / SECONDS_PER_STEP) for at, event, *_ in record.journal if event in DONE)
    return [steps[step] for step in range(int((record.ended - record.began) / SECONDS_PER_STEP) + 1)]
