"""``manage.py jobs``: list, show, retry, cancel and stats of durable jobs; for people, or with ``--json``."""

import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder
from django.db import OperationalError
from django.db.models import QuerySet
from django.template.defaultfilters import pluralize
from django.utils import timezone
from django.utils.text import Truncator

from celeriac.jobs import batches, operate
from celeriac.jobs.operate import CANCELLED, RETRIED, STOPPED, State
from celeriac.models import Job

FILTERS = ("state", "task", "queue", "since")
#: What ``list`` tells of each; ``show`` tells everything.
BRIEF = (
    *("id", "task", "queue", "args", "state", "attempts", "retries", "crashes", "worker", "error"),
    *("created_at", "due_at", "published_at", "started_at", "lease_until", "finished_at"),
)
AGE = re.compile(r"(\d+)([smhd])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Command(BaseCommand):
    help = "Look at durable jobs, run them again, cancel them."
    requires_system_checks = []  # whatever else is wrong

    def add_arguments(self, parser: CommandParser) -> None:
        does = parser.add_subparsers(dest="does", required=True)
        commands = {
            "list": "the newest jobs, or the newest of those that are asked for",
            "show": "all that is known of a job",
            "retry": "run jobs again that failed, or were cancelled; without ids those that failed",
            "cancel": "cancel jobs that wait, or give up those that failed; without ids those that wait",
            "stats": "how many there are, and how long they wait",
        }
        for name, text in commands.items():
            command = does.add_parser(name, help=text, description=text.capitalize() + ".")
            command.add_argument("--json", action="store_true", help="one JSON document")
            if name in ("show", "retry", "cancel"):
                command.add_argument("ids", nargs="+" if name == "show" else "*", metavar="id")
            if name in ("list", "retry", "cancel"):
                command.add_argument("--state", help=", ".join(State.values))
                command.add_argument("--task", help="its name; * and ? stand for any letters and any letter")
                command.add_argument("--queue")
                command.add_argument("--since", help="created since then: 30m, 2h, 7d, or 2026-11-20T14:00")
                command.add_argument("--limit", help="no more than so many" + " (50)" * (name == "list"))
            if name in ("retry", "cancel"):
                command.add_argument("--all", action="store_true", help="all, without a filter")
            if name == "cancel":
                command.add_argument("--terminate", action="store_true", help="running ones, too: kill their process")

    def handle(self, *args: Any, does: str, **options: Any) -> None:
        try:
            getattr(self, f"do_{does}")(options | {"does": does})
        except OperationalError as error:
            raise CommandError(f"Postgres does not answer: {' '.join(str(error).split())}") from None

    def say(self, options: dict[str, Any], document: Any, text: Callable[[], str]) -> None:
        if options["json"]:
            self.stdout.write(json.dumps(document, cls=DjangoJSONEncoder, ensure_ascii=False, indent=2))
        else:
            self.stdout.write(text())

    # --- looking --------------------------------------------------------------------------------------------

    def do_list(self, options: dict[str, Any]) -> None:
        batches.unfold_all()
        jobs = list(filtered(options).only(*BRIEF)[: limit(options) or 50])
        self.say(options, [brief(job) for job in jobs], lambda: listed(jobs) if jobs else "No jobs.")

    def do_show(self, options: dict[str, Any]) -> None:
        jobs = named(options["ids"])
        self.say(options, [everything(job) for job in jobs], lambda: "\n\n".join(map(shown, jobs)))

    def do_stats(self, options: dict[str, Any]) -> None:
        stats = operate.stats()
        self.say(options, stats, lambda: summary(stats))

    # --- acting ---------------------------------------------------------------------------------------------

    def do_retry(self, options: dict[str, Any]) -> None:
        self.act(options, operate.retry, RETRIED, State.FAILED, "queued again")

    def do_cancel(self, options: dict[str, Any]) -> None:
        among = CANCELLED + STOPPED * options["terminate"]
        cancel = partial(operate.cancel, reason="Cancelled by manage.py jobs.", among=among)
        self.act(options, cancel, among, State.WAITING, "cancelled")

    def act(
        self,
        options: dict[str, Any],
        act: Callable[[Sequence[str]], list[Job]],
        among: Sequence[str],
        usual: str,
        became: str,
    ) -> None:
        """Act on the jobs that are named, or on those in the ``usual`` state that the filters let through."""
        ids = list(dict.fromkeys(options["ids"]))
        if bool(ids) == any(options[name] for name in (*FILTERS, "limit", "all")):
            raise CommandError("Say which jobs: either by their ids, or by filters, or --all.")
        named(ids)
        options["state"] = options["state"] or usual
        if not ids and options["state"] not in among:
            raise CommandError(f"--state is {either(among)} here, not “{options['state']}”.")
        chosen = [ids] if ids else operate.in_batches(filtered(options).order_by("created_at"), limit(options))
        count, left = 0, set(ids)
        silent: list[str] = []
        for some in chosen:
            jobs = act(some)
            count += len(jobs)
            left -= {job.id for job in jobs}
            silent += [job.id for job in operate.stop(jobs)]
        refused = {job.id: refusal(job, options) for job in named(sorted(left))}
        document = {became.replace(" ", "_"): count, "refused": refused, "may_still_run": silent}
        self.say(options, document, lambda: f"{count:,} job{pluralize(count)} {became}.")
        if silent:
            self.stderr.write(f"No worker said that it stopped {', '.join(silent)}: how that ends is not kept.")
        if refused:
            raise CommandError("\n".join(f"{pk} {why}." for pk, why in refused.items()))


# --- Which ones ----------------------------------------------------------------------------------------------------


def named(ids: Sequence[str]) -> list[Job]:
    batches.unfold_of(ids)
    jobs = Job.objects.in_bulk(ids)
    if unknown := [pk for pk in ids if pk not in jobs]:
        raise CommandError(f"There is no job {either(unknown)}.")
    return [jobs[pk] for pk in ids]


def filtered(options: dict[str, Any]) -> QuerySet[Job]:
    jobs = Job.objects.order_by("-created_at")
    if state := options["state"]:
        if state not in State.values:
            raise CommandError(f"“{state}” is no state: write {either(State.values)}.")
        jobs = jobs.filter(state=state)
    if task := options["task"]:
        jobs = jobs.filter(task__regex=pattern(task)) if set(task) & {"*", "?"} else jobs.filter(task=task)
    if options["queue"]:
        jobs = jobs.filter(queue=options["queue"])
    return jobs.filter(created_at__gte=moment(options["since"])) if options["since"] else jobs


def limit(options: dict[str, Any]) -> int | None:
    text = options["limit"]
    if text is None:
        return None
    if not text.isdecimal() or not int(text):
        raise CommandError(f"--limit is a number from 1 on, not “{text}”.")
    return int(text)


def moment(text: str) -> datetime:
    """Of an age or a date."""
    try:
        if age := AGE.fullmatch(text):
            return timezone.now() - timedelta(**{UNITS[age[2]]: int(age[1])})
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        says = f"--since is an age like 30m, 2h or 7d, or a time like 2026-11-20T14:00, not “{text}”."
        raise CommandError(says) from None
    return timezone.make_aware(found) if timezone.is_naive(found) else found


def pattern(task: str) -> str:
    """A regular expression for Postgres."""
    letters = {"*": ".*", "?": "."}
    return f"^{''.join(letters.get(letter) or re.escape(letter) for letter in task)}$"


def either(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def refusal(job: Job, options: dict[str, Any]) -> str:
    stoppable = options["does"] == "cancel" and job.state == State.RUNNING
    return operate.refusal(job) + ("; --terminate stops it" if stoppable else "")


# --- In words and columns --------------------------------------------------------------------------------------


def brief(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in BRIEF}


def everything(job: Job) -> dict[str, Any]:
    result = json.loads(job.result) if job.result else None
    return {
        **brief(job),
        "result": result,
        "traceback": job.traceback,
        "message": job.message,
        "body": json.loads(job.body),
    }


def table(rows: Sequence[Sequence[Any]]) -> str:
    """Columns; whatever a row holds, it stays on its line."""
    lines = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def printable(value: Any) -> str:
    """Without what a terminal obeys: arguments and errors are written by strangers."""
    return "".join(letter if letter.isprintable() else " " for letter in str(value))


def listed(jobs: Sequence[Job]) -> str:
    now = timezone.now()
    rows: list[tuple[Any, ...]] = [("ID", "TASK", "STATE", "QUEUE", "TRIED", "CRASHED", "AGE", "ARGUMENTS", "ERROR")]
    for job in jobs:
        age = operate.duration((now - job.created_at).total_seconds())
        texts = (shorten(job.args, 40), shorten(job.error, 60))
        rows.append((job.id, job.task, job.state, job.queue, job.attempts, job.crashes, age, *texts))
    return table(rows)


def shorten(text: str, width: int) -> str:
    return Truncator(text).chars(width)


def shown(job: Job) -> str:
    """Each thing on its line, then what is long."""
    told = everything(job)
    short = {name: value for name, value in told.items() if name not in ("message", "body", "traceback")}
    lines = [table([(f"{name}:", "-" if value in (None, "") else value) for name, value in short.items()])]
    for name in ("message", "body"):
        lines.append(f"{name}:\n{json.dumps(told[name], indent=2)}")
    if job.traceback:
        lines.append("traceback:\n" + "\n".join(map(printable, job.traceback.splitlines())))
    return "\n".join(lines)


def summary(stats: dict[str, Any]) -> str:
    counts = [("TASK", *map(str.upper, State.values))]
    counts += [(task, *by_state.values()) for task, by_state in stats["tasks"].items()]
    counts += [("all", *stats["states"].values())]
    rest = [
        (name.removesuffix("_seconds").replace("_", " "), words_for(name, value))
        for name, value in stats.items()
        if name not in ("tasks", "states")
    ]
    return f"{table(counts)}\n\n{table(rest)}"


def words_for(name: str, value: float | None) -> str:
    if value is None:
        return "none"
    return operate.duration(value) if name.endswith("_seconds") else f"{value:,}"
