"""The real commands, started with a right and with a wrong environment."""

import json
import os
import sys
from pathlib import Path

import pytest
from django.db import connection

from config import env
from tests.processes import APP, ROOT, evaluate, run, running
from tests.waiting import eventually

SECRET = "a-good-one-4c1d7be0"
GUNICORN = ("gunicorn", "--config", str(ROOT / "services/web/gunicorn.conf.py"), "config.wsgi:application")

COMMANDS = {
    "celery report": ("celery", "-A", "config", "report"),
    "celery worker": ("celery", "-A", "config", "worker"),
    "celery beat": ("celery", "-A", "config", "beat"),
    "services/worker/start": (sys.executable, "-m", "celeriac.start", "worker", "default"),
    "services/beat/start": (sys.executable, "-m", "celeriac.start", "beat"),
    "services/small/start": (sys.executable, "-m", "celeriac.small", GUNICORN[2]),
    "manage.py check": (sys.executable, "manage.py", "check"),
    "manage.py prepare": (sys.executable, "manage.py", "prepare"),
    "gunicorn": GUNICORN,
}


def sentence(*command: str, **variables: str | None) -> str:
    """What ``command`` says when it does not start: one sentence, and status 1."""
    done = run(*command, **variables)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def refused(**variables: str | None) -> str:
    return sentence(sys.executable, "-c", "from config import settings", **variables)


# --- A wrong variable stops the start ------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_command_stops_at_a_wrong_variable_with_one_sentence(command):
    assert sentence(*command, CELERY_SOFT_TIME_LIMIT="60") == (
        "Celeriac cannot start: CELERY_SOFT_TIME_LIMIT is no Celery setting; "
        "the nearest one is CELERY_TASK_SOFT_TIME_LIMIT."
    )


def test_every_command_runs_when_nothing_is_wrong():
    assert run("celery", "-A", "config", "report").returncode == 0
    assert run(sys.executable, "manage.py", "check").returncode == 0
    assert run(*GUNICORN, "--check-config").returncode == 0


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (
            "CELERY_BROKER_URL",
            "amqp://guest@rabbit//",
            "the only broker Celeriac runs on is Redis; write redis://",
        ),
        ("CELERY_RESULT_BACKEND", "postgres", "is no result backend; write django-db, redis, django-cache or"),
        ("CELERY_RESULT_BACKEND", "nonsense://host", "is no result backend"),
        ("CELERY_TIMEZONE", "Mars/Phobos", "is no time zone; write it like UTC"),
        ("CELERY_WORKER_CONCURRENCY", "two", "is not a number"),
        ("DATABASE_URL", "sqlite:////tmp/x", "is no address of a Postgres; write it like postgres://"),
        ("DATABASE_URL", "postgres://user:changeme@host/name", "DATABASE_URL is a placeholder"),
        ("DATABASE_URL", "postgres://user:" + SECRET + "@[host/name", "is no address of a Postgres"),
        ("DEBUG", "perhaps", "is neither on nor off; write true or false"),
        ("EMAIL_URL", "pigeon://coop", "is no address of a mail server; write it like smtp+tls://"),
        ("LOG_FORMAT", "xml", "is none of json, console"),
        ("LOG_LEVEL", "LOUD", "is none of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("POSTGRES_PORT", "http", "is not a whole number of at least 1"),
        ("TIME_ZONE", "Mars/Phobos", "is no time zone; write it like UTC"),
        ("WEB_PROCESSES", "0", "is not a whole number of at least 1"),
    ],
)
def test_a_wrong_value_stops_the_start_and_is_named(variable, value, said):
    said_instead = refused(**{variable: value})

    assert variable in said_instead
    assert said in said_instead
    assert SECRET not in said_instead


# --- Secrets -------------------------------------------------------------------------------------------

SECRETS = ("DJANGO_SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD")
NEEDED = dict.fromkeys(SECRETS, SECRET)
EVERY_SECRET = """{
    "DJANGO_SECRET_KEY": settings.SECRET_KEY,
    "POSTGRES_PASSWORD": settings.DATABASES["default"]["PASSWORD"],
    "REDIS_PASSWORD": app.conf.broker_url.split("@")[0].rpartition(":")[2],
    "EMAIL_URL": settings.EMAIL_URL,
}"""


@pytest.mark.parametrize("name", SECRETS)
def test_a_missing_secret_stops_the_start_and_is_named(name):
    assert f"{name} is not set; give {name} or {name}_FILE" in refused(**{name: None})


@pytest.mark.parametrize("name", SECRETS)
def test_a_placeholder_secret_stops_the_start_and_is_named(name):
    assert f"{name} is a placeholder; delete the line" in refused(**{name: "changeme-before-production"})


@pytest.mark.parametrize("placeholder", ["admin", "Password", "postgres", "django-insecure-x7#k2", "your-secret-here"])
def test_what_tutorials_write_is_a_placeholder(placeholder):
    with pytest.raises(env.ConfigError, match="POSTGRES_PASSWORD is a placeholder"):
        env.strong("POSTGRES_PASSWORD", placeholder)


@pytest.mark.parametrize("weak", ["short", "elevenchars", "aaaaaaaaaaaaaaaa", "abababababab"])
def test_a_weak_secret_is_refused_and_the_sentence_does_not_show_it(weak):
    with pytest.raises(env.ConfigError, match="REDIS_PASSWORD is weak; give at least 12 characters") as error:
        env.strong("REDIS_PASSWORD", weak)
    assert weak not in str(error.value)


def test_every_secret_can_come_from_a_file(tmp_path):
    files: dict[str, str] = {}
    expected: dict[str, str] = {}
    for name in (*SECRETS, "EMAIL_URL"):
        expected[name] = "smtp://mail:25" if name == "EMAIL_URL" else f"{SECRET}-{name}"
        (tmp_path / name).write_text(f"{expected[name]}\n")
        files |= {name: "", f"{name}_FILE": str(tmp_path / name)}

    assert json.loads(evaluate(f"__import__('json').dumps({EVERY_SECRET})", **files)) == expected


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_file_that_is_not_there_is_named(name):
    said = refused(**{name: None, f"{name}_FILE": "/no/such/file"})

    assert f"the file that {name}_FILE names, /no/such/file, cannot be read: No such file" in said


def test_flower_gets_no_secret_but_the_brokers():
    given = json.loads(
        evaluate(
            f"__import__('json').dumps({EVERY_SECRET})",
            **NEEDED,
            SERVICE="flower",
            EMAIL_URL="smtp://mail:25",
        )
    )

    assert given.pop("REDIS_PASSWORD") == SECRET
    assert not any(SECRET in value or "mail:25" in value for value in given.values())


def test_the_image_is_built_without_any_secret():
    assert evaluate("settings.STATIC_URL", **dict.fromkeys(SECRETS), SERVICE="build")  # type: ignore[arg-type]


def test_a_password_may_contain_what_has_a_meaning_in_addresses():
    password = "p@ss:w/rd?#%$-50%25"

    assert evaluate("app.connection_for_write().password", REDIS_PASSWORD=password) == password


def test_an_address_is_no_weak_secret():
    assert evaluate("settings.EMAIL_HOST", EMAIL_URL="smtp://a:25") == "a"
    database = "postgres://app:a-good-one-4c1d7be0@db.example.org:5433/shop?sslmode=require"
    seen = evaluate("settings.DATABASES['default']", DATABASE_URL=database, POSTGRES_PASSWORD=None)
    assert "'HOST': 'db.example.org'" in seen
    assert "'sslmode': 'require'" in seen


# --- PUBLIC_URL alone decides --------------------------------------------------------------------------


PUBLIC = (
    "[settings.PUBLIC_URL, settings.ALLOWED_HOSTS, settings.CSRF_TRUSTED_ORIGINS,"
    " settings.SESSION_COOKIE_SECURE, settings.CSRF_COOKIE_SECURE, settings.FLOWER_URL, settings.DEFAULT_FROM_EMAIL]"
)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "https://www.my-site.org",
            [
                "https://www.my-site.org",
                ["www.my-site.org"],
                ["https://www.my-site.org"],
                True,
                True,
                "https://www.my-site.org:5555",
                "celeriac@www.my-site.org",
            ],
        ),
        (
            "HTTP://Intra.net:8000/",
            [
                "http://intra.net:8000",
                ["intra.net"],
                ["http://intra.net:8000"],
                False,
                False,
                "http://intra.net:5555",
                "celeriac@intra.net",
            ],
        ),
        (
            "https://[2001:db8::1]:443",
            [
                "https://[2001:db8::1]",
                ["[2001:db8::1]"],
                ["https://[2001:db8::1]"],
                True,
                True,
                "https://[2001:db8::1]:5555",
                "celeriac@[2001:db8::1]",
            ],
        ),
    ],
)
def test_public_url_alone_decides_hosts_origins_and_cookies(url, expected):
    assert evaluate(PUBLIC, PUBLIC_URL=url) == str(expected)


def test_without_public_url_only_this_machine_is_served():
    seen = evaluate(PUBLIC)

    assert seen.startswith("['http://localhost:8080', ['localhost', '127.0.0.1', '[::1]', 'localhost'], ")


@pytest.mark.parametrize(
    "url",
    [
        *(
            "www.my-site.org",
            "ftp://my-site.org",
            "https://",
            "https://my-site.org/shop",
            "https://my-site.org?a=b",
        ),
        *(
            "http://*",
            "http://.my-site.org",
            "http://user@my-site.org",
            "http://my site.org",
            "http://my-site.org:port",
        ),
        *("http://[", "https://my-site.org#top"),
    ],
)
def test_a_public_url_that_is_no_address_is_named(monkeypatch, url):
    monkeypatch.setenv("PUBLIC_URL", url)

    with pytest.raises(
        env.ConfigError, match=r"^Celeriac cannot start: PUBLIC_URL=.* is no address; write it like https://"
    ):
        env.public_url()


# --- Celery gets what was written ----------------------------------------------------------------------

SCHEDULE = '{"x": {"task": "config.tasks.debug_task", "schedule": 60}}'


def test_every_celery_variable_is_a_setting_of_the_running_app():
    seen = evaluate(
        "[app.conf.task_time_limit, app.conf.task_acks_late, app.conf.imports, app.conf.worker_concurrency,"
        " app.conf.broker_transport_options['visibility_timeout'],"
        " app.conf.broker_transport_options['socket_timeout']]",
        CELERY_TASK_TIME_LIMIT="60",
        CELERY_TASK_ACKS_LATE="false",
        CELERY_IMPORTS='["config.tasks"]',
        CELERY_WORKER_CONCURRENCY="3",
        CELERY_BROKER_TRANSPORT_OPTIONS='{"visibility_timeout": 7200}',
    )

    assert seen == "[60.0, False, ['config.tasks'], 3, 7200, 5]"


@pytest.mark.parametrize(("asked_for", "taken"), [("", "celeriac.transport"), ("redis", "kombu.transport.redis")])
def test_the_way_to_redis_is_ours_unless_kombus_is_asked_for_and_tls_is_verified(asked_for, taken):
    expression = "[type(app.connection().transport).__module__, app.connection().ssl['ssl_cert_reqs'].name]"
    variables = {"CELERY_BROKER_URL": "rediss://redis", "CELERY_BROKER_TRANSPORT": asked_for}

    assert evaluate(expression, **variables) == str([taken, "CERT_REQUIRED"])


@pytest.mark.parametrize("backend", ["django-db", "redis", "django-cache"])
def test_messages_are_prepared_whatever_keeps_the_results(backend):
    sender = "__import__('celeriac.send').send.sender_of(app.tasks['celery.backend_cleanup'])"

    assert (
        evaluate(
            f"[__import__('django').setup(), {sender} is not None][1]",
            CELERY_RESULT_BACKEND=backend,
            BATCHED_RESULTS="false",
        )
        == "True"
    )


def test_what_is_said_about_tls_in_a_variable_of_its_own_counts():
    variables = {"CELERY_BROKER_URL": "rediss://redis", "CELERY_BROKER_USE_SSL": '{"ssl_ca_certs": "/ca.pem"}'}

    assert evaluate("app.connection().ssl", **variables) == "{'ssl_ca_certs': '/ca.pem'}"


def test_a_variable_is_a_setting_and_never_an_option_of_the_command_line():
    # Stock Celery takes this one for the name of beat's file.
    code = """
from celery.apps.beat import Beat
from celery.bin.celery import main
Beat.run = lambda beat: print([beat.schedule, beat.max_interval, beat.app.conf.beat_schedule['x']])
main()
"""
    done = run(
        *(sys.executable, "-c", code, "-A", "config", "beat"),
        CELERY_BEAT_SCHEDULE=SCHEDULE,
    )

    assert done.returncode == 0, done.stderr
    entry = {"task": "config.tasks.debug_task", "schedule": 60}
    assert done.stdout.strip() == str(["celerybeat-schedule", None, entry])


@pytest.mark.django_db(transaction=True)
def test_beat_starts_with_a_schedule_in_its_environment_and_makes_no_file_of_it(tmp_path):
    before, log = set(os.listdir(APP)), tmp_path / "log"
    variables = {"CELERY_BEAT_SCHEDULE": SCHEDULE, "POSTGRES_DB": connection.settings_dict["NAME"]}
    with running("celery", "-A", "config", "beat", "-l", "DEBUG", log=log, **variables) as beat:
        eventually(lambda: "Waking up" in log.read_text())
        assert beat.poll() is None
        assert set(os.listdir(APP)) == before


def test_the_short_result_backend_redis_becomes_an_address_with_the_password():
    seen = evaluate(
        "[__import__('os').environ['CELERY_RESULT_BACKEND'], app.conf.result_backend, app.backend.as_uri(True)]",
        CELERY_RESULT_BACKEND="redis",
        REDIS_HOST="redis",
        REDIS_PORT="6379",
        REDIS_PASSWORD=SECRET,
    )

    address = f"redis://:{SECRET}@redis:6379/0"
    assert seen == str([address, address, address])


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("backend", ["django-db", "redis", "django-cache"])
def test_a_result_can_be_read_from_every_backend(tmp_path, backend):
    code = """
import config.celery
import django; django.setup()
from config.tasks import debug_task
print(debug_task.apply_async(queue="results").get(timeout=90)["queue"])
"""
    variables = {
        "CELERY_RESULT_BACKEND": backend,
        "CELERY_TASK_QUEUES": '{"results": {"exchange": "results", "routing_key": "results"}}',
        "CELERY_TASK_DEFAULT_QUEUE": "results",
        "POSTGRES_DB": connection.settings_dict["NAME"],
    }
    worker = (
        "celery",
        "-A",
        "config",
        "worker",
        "-P",
        "solo",
        "-c",
        "1",
        "--without-mingle",
        "--without-gossip",
    )
    with running(*worker, log=tmp_path / "log", **variables):
        done = run(sys.executable, "-c", code, **variables)
    assert done.stdout.strip() == "results", done.stderr + Path(tmp_path / "log").read_text()
