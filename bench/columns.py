"""What is compared: every task queue with its worker, and what it promises.

A command and the variables may name ``{workers}``, ``{results}`` (redis or django-db), ``{events}`` (true or false),
``{durable}`` (the names of durable tasks), ``{atomic}`` (true or false), ``{root}`` (the repository), ``{folder}``
(which the run may write to) and ``{port}`` (Flower's).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

ONCE_OR_MORE, ONCE_OR_LESS = "at least once", "at most once"
SERVICES = "{root}/services"
#: What a row may ask of a column -> why a column that cannot do it is not measured there.
ABILITIES = {
    "redis": "no queue in Redis",
    "postgres": "no results in Postgres",
    "batch": "nothing that sends many at once",
    "web": "an asynchronous client",
    "site": "another site",
    "durable": "no jobs that outlive the loss of Redis",
    "atomic": "no transaction around a task and its end",
    "flower": "no Flower",
    "silent": "no events by default",
}


@dataclass(frozen=True)
class Column:
    name: str
    #: What happens to a task whose worker dies.
    guarantee: str
    #: In words, what differs from the defaults.
    settings: str
    #: Its file in bench/peers.
    module: str
    worker: str
    #: Of ABILITIES.
    can: frozenset[str]
    #: The command is one worker, and started once for each.
    single: bool = False
    #: In bench/.peers, not in this repository's environment.
    peer: bool = True
    #: The part of the tasks it gets: a slow one would take minutes, and a quick one be over before it is under way.
    share: float = 1.0
    events: bool = False
    #: Not among the columns that run when none is named.
    only_by_name: bool = False
    flower: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)


STOCK = "celery --app bench.peers.celery_stock"
STOCK_VARIABLES = {"RESULTS": "{results}", "EVENTS": "{events}"}
TASKIQ = "taskiq worker --workers {workers} --max-prefetch 100 --no-parse --log-level WARNING"

QUEUES = (
    Column(
        "celery (tutorial)",
        ONCE_OR_LESS,
        "First steps with Django: default settings, prefork, INFO log to a file",
        "celery_stock",
        f"{STOCK} worker -c {{workers}} -l INFO",
        frozenset({"redis", "postgres", "batch", "web", "flower"}),
        peer=False,
        share=0.2,
        flower=f"{STOCK} flower --port={{port}}",
        variables=STOCK_VARIABLES | {"DJANGO_SETTINGS_MODULE": "bench.peers.celery_tutorial"},
    ),
    Column(
        "celery (tuned)",
        ONCE_OR_MORE,
        "late acks, prefetch multiplier 64, no gossip, mingle, heartbeat, remote control or rate limits, WARNING log",
        "celery_stock",
        f"{STOCK} worker -c {{workers}} -l WARNING --without-gossip --without-mingle --without-heartbeat",
        frozenset({"redis", "postgres", "batch", "web", "flower"}),
        peer=False,
        share=0.2,
        flower=f"{STOCK} flower --port={{port}}",
        variables=STOCK_VARIABLES | {"DJANGO_SETTINGS_MODULE": "bench.peers.celery_tuned"},
    ),
    Column(
        "celeriac",
        ONCE_OR_MORE,
        "this repository's defaults, as services/worker/start starts it: batches, sampled events, INFO log as JSON",
        "celeriac",
        f"{SERVICES}/worker/start default",
        frozenset({"redis", "postgres", "batch", "web", "site", "durable", "atomic", "flower", "silent"}),
        peer=False,
        share=2.0,
        events=True,
        flower=f"{SERVICES}/flower/start",
        variables={
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "CELERY_IMPORTS": '["bench.peers.celeriac"]',
            "CELERY_RESULT_BACKEND": "{results}",
            "CELERY_WORKER_CONCURRENCY": "{workers}",
            "CELERY_WORKER_SEND_TASK_EVENTS": "{events}",
            "CELERY_TASK_SEND_SENT_EVENT": "{events}",
            "DURABLE_TASKS": "{durable}",
            "ATOMIC": "{atomic}",
            "LOG_LEVEL": "INFO",
            "LOG_FORMAT": "json",
            "RUN_DIR": "{folder}",
            "FLOWER_ADDRESS": "127.0.0.1",
            "FLOWER_PORT": "{port}",
            "FLOWER_PASSWORD": "only-for-benchmarks",
            "FLOWER_DB": "{folder}/flower",
        },
    ),
    Column(
        "taskiq (stream)",
        ONCE_OR_MORE,
        "Redis stream, acknowledged after the result; 100 tasks at a time in each process and 100 ahead, uvloop",
        "taskiq_stream",
        f"{TASKIQ} bench.peers.taskiq_stream:broker",
        frozenset({"redis"}),
    ),
    Column(
        "dramatiq",
        ONCE_OR_MORE,
        "8 threads in each process, 100 tasks ahead",
        "dramatiq_redis",
        "dramatiq bench.peers.dramatiq_redis --processes {workers} --threads 8",
        frozenset({"redis", "web"}),
        variables={"dramatiq_queue_prefetch": "100"},
    ),
    Column(
        "arq",
        ONCE_OR_MORE,
        "100 tasks at a time in each process, polls every 10 ms",
        "arq_redis",
        "arq bench.peers.arq_redis.WorkerSettings",
        frozenset({"redis"}),
        single=True,
    ),
    Column(
        "procrastinate",
        ONCE_OR_MORE,
        "broker and states in Postgres, no results; 10 tasks at a time in each process",
        "procrastinate_postgres",
        "procrastinate --app bench.peers.procrastinate_postgres.app worker --concurrency 10",
        frozenset({"postgres", "batch", "web", "durable"}),
        single=True,
        share=0.2,
    ),
    Column(
        "django-q2",
        ONCE_OR_MORE,
        "broker and results in Postgres, polls every 10 ms, 50 tasks in one fetch",
        "django_q2",
        "django-admin qcluster",
        frozenset({"postgres", "web", "durable"}),
        share=0.05,
        variables={"DJANGO_SETTINGS_MODULE": "bench.peers.django_q2_settings", "WORKERS": "{workers}"},
    ),
    Column(
        "taskiq (list)",
        ONCE_OR_LESS,
        "Redis list; 100 tasks at a time in each process and 100 ahead, uvloop",
        "taskiq_list",
        f"{TASKIQ} bench.peers.taskiq_list:broker",
        frozenset({"redis"}),
    ),
    Column(
        "huey",
        ONCE_OR_LESS,
        "worker processes, minimal logging, no periodic tasks",
        "huey_redis",
        "huey_consumer bench.peers.huey_redis.huey -w {workers} -k process -n -q",
        frozenset({"redis", "web"}),
    ),
    Column(
        "rq",
        ONCE_OR_LESS,
        "worker pool of SimpleWorker: no fork for each job",
        "rq_redis",
        "rq worker-pool --config bench.peers.rq_redis --num-workers {workers} --worker-class rq.worker.SimpleWorker -q",
        frozenset({"redis", "batch", "web"}),
        share=0.2,
    ),
)

#: One of our pieces at a time as Celery, kombu or django-celery-results have it, and all of them.
PIECES = {
    "kombu's transport": {"CELERY_BROKER_TRANSPORT": "redis"},
    "Celery's pool": {"CELERY_WORKER_POOL": "prefork"},
    "rows one by one": {"BATCHED_RESULTS": "false"},
    "Celery's messages": {"PREPARED_MESSAGES": "false"},
}
WITHOUT = {f"with {name}": stock for name, stock in PIECES.items()}
WITHOUT["with all of these"] = {name: value for stock in PIECES.values() for name, value in stock.items()}
OURS = next(column for column in QUEUES if column.name == "celeriac")
COLUMNS = QUEUES + tuple(
    replace(OURS, name=name, settings="", share=0.5, only_by_name=True, variables={**OURS.variables, **variables})
    for name, variables in WITHOUT.items()
)
