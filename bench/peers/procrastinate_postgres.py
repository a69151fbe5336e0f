"""procrastinate, all in Postgres: the job's row is kept, with its state, and holds no result."""

from collections.abc import Iterable

from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

from bench.effects import work_async
from bench.peers.addresses import POSTGRES

#: The worker's, and the one that sends.
app = App(connector=PsycopgConnector(conninfo=POSTGRES))
sender = App(connector=SyncPsycopgConnector(conninfo=POSTGRES))


@app.task(name="noop")
async def noop(number: int, seconds: float) -> int:
    return await work_async(number, seconds)


job = sender.configure_task("noop")


def connect() -> None:
    sender.open()


def prepare() -> None:
    sender.schema_manager.apply_schema()


def send(number: int, seconds: float) -> None:
    job.defer(number=number, seconds=seconds)


def send_many(numbers: Iterable[int]) -> None:
    job.batch_defer(*[{"number": number, "seconds": 0.0} for number in numbers])
