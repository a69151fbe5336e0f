"""``python -m tests.chaos``: run the faults, ours beside plain Celery; print the table, write it and a picture."""

import argparse
import json
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from tests.chaos import report
from tests.chaos.faults import FAULTS
from tests.chaos.ledger import broken, summary
from tests.chaos.run import Record, draw, run, stopping
from tests.chaos.stack import ChaosStack
from tests.stack.mailserver import MailServer
from tests.stack.project import fresh_clone


def main() -> None:
    asked = arguments()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stopping.set())
    names = asked.column or ["celeriac", "plain"]
    # At the same time, so that both have the machine in the same mood.
    with ThreadPoolExecutor() as pool:
        records = list(pool.map(lambda name: column(asked, name == "plain"), names))
    columns = {name: summary(record) for name, record in zip(names, records, strict=True)}
    report.write(asked.output, asked.seed, columns)
    sys.stdout.write(f"{report.table(columns)}\n\nWritten: {asked.output}/chaos.json and chaos.svg\n")
    ours = columns.get("celeriac")
    sys.exit(bool(ours and broken(ours)))


def column(asked: argparse.Namespace, plain: bool) -> Record:
    """One run, on a stack of its own that is removed again."""
    mail = MailServer()
    mail.controller.start()
    with tempfile.TemporaryDirectory(prefix="celeriac-chaos-") as folder:
        try:
            with ChaosStack(fresh_clone(Path(folder)), mail, plain).running() as stack:
                record = run(stack, draw(asked.seed, asked.fault, plain), asked.seed, asked.minutes * 60)
                if asked.logs:
                    (asked.output / f"{stack.project}.json").write_text(json.dumps(asdict(record), default=list))
                    (asked.output / f"{stack.project}.log").write_text(stack.logs())
                return record
        finally:
            mail.controller.stop()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="for one column (%(default)g)")
    parser.add_argument("--seed", type=int, default=7, help="order, moments and victims of the faults (%(default)s)")
    parser.add_argument("--fault", action="append", choices=FAULTS, metavar="NAME", help=", ".join(FAULTS))
    parser.add_argument("--column", action="append", choices=["celeriac", "plain"], help="only this one")
    parser.add_argument("--output", type=Path, default=Path("tests/test-output"), help="folder (%(default)s)")
    parser.add_argument("--logs", action="store_true", help="keep what the containers said, and all that was recorded")
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    return asked


if __name__ == "__main__":
    main()
