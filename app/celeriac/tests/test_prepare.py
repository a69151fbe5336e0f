"""``manage.py prepare``: run it twice, run two at once; what people changed in the meantime stays."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
import pytest
from celery import current_app
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.core.management import call_command
from django.db import connection
from django_celery_beat.models import PeriodicTask

from celeriac.management.commands.prepare import LOCK, explain
from config.env import ConfigError
from tests.processes import APP, environment, run
from tests.waiting import eventually

PASSWORD = "given-4c1d7be0-by-me"
PREPARE = (sys.executable, "manage.py", "prepare")


@contextmanager
def fresh_database() -> Iterator[str]:
    """An empty database; yields its name."""
    name = f"fresh_{uuid4().hex}"
    server = {
        key: value for key, value in connection.get_connection_params().items() if key in {"host", "port", "user"}
    }
    with psycopg.connect(dbname="postgres", autocommit=True, **server) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        try:
            yield name
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def rows(database: str, query: str) -> list[tuple]:
    with psycopg.connect(**connection.get_connection_params() | {"dbname": database}) as connected:
        return connected.execute(query).fetchall()


@pytest.fixture
def admin_password(monkeypatch):
    monkeypatch.setenv("ADMIN_PASSWORD", PASSWORD)


def test_two_at_once_on_a_fresh_database_both_succeed_and_the_second_finds_nothing_to_do(django_db_setup):
    with fresh_database() as database:
        variables = environment(POSTGRES_DB=database, ADMIN_PASSWORD=PASSWORD, SERVICE="migrate")
        both = [
            subprocess.Popen(PREPARE, cwd=APP, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        outputs = [process.communicate(timeout=240) for process in both]

        assert [process.returncode for process in both] == [0, 0], outputs
        assert sorted(out.count("admin created: admin") for out, _ in outputs) == [0, 1]
        nothing, all_of_them = sorted(out.count("schedule created") for out, _ in outputs)
        assert nothing == 0
        assert rows(database, "SELECT count(*) FROM django_celery_beat_periodictask") == [(all_of_them,)]
        assert all_of_them >= 3
        assert rows(database, "SELECT username, is_superuser FROM accounts_user") == [("admin", True)]
        assert rows(database, "SELECT count(*) FROM django_cache") == [(0,)]
        before = (
            rows(database, "SELECT * FROM django_migrations"),
            rows(database, "SELECT * FROM accounts_user"),
        )

        assert run(*PREPARE, POSTGRES_DB=database, ADMIN_PASSWORD="another-4c1d7be0-password").returncode == 0

        assert before == (
            rows(database, "SELECT * FROM django_migrations"),
            rows(database, "SELECT * FROM accounts_user"),
        )


@pytest.mark.django_db(transaction=True)
def test_one_waits_while_another_is_at_work(tmp_path):
    name = connection.settings_dict["NAME"]
    waiting = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_try_%' AND pid <> pg_backend_pid()"
    with psycopg.connect(**connection.get_connection_params() | {"dbname": name}) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        process = subprocess.Popen(PREPARE, cwd=APP, env=environment(POSTGRES_DB=name), stdout=subprocess.DEVNULL)
        eventually(lambda: rows(name, waiting))
        assert process.poll() is None
    assert process.wait(90) == 0


@pytest.mark.django_db
def test_the_cache_works(admin_password):
    call_command("prepare", verbosity=0)

    cache.set("a", 1)
    assert cache.get("a") == 1


@pytest.mark.django_db
def test_the_admin_gets_the_given_password_and_keeps_the_one_that_people_choose(admin_password, monkeypatch):
    call_command("prepare")
    admin = get_user_model().objects.get(username="admin")
    assert admin.check_password(PASSWORD)
    assert admin.is_superuser

    admin.set_password("chosen-in-the-admin")
    admin.save()
    monkeypatch.setenv("ADMIN_PASSWORD", "another-4c1d7be0-password")
    call_command("prepare")

    admin.refresh_from_db()
    assert admin.check_password("chosen-in-the-admin")


@pytest.mark.django_db
def test_the_admin_may_have_another_name(admin_password, monkeypatch):
    monkeypatch.setenv("ADMIN_USERNAME", "mina")

    call_command("prepare")

    assert get_user_model().objects.get(is_superuser=True).username == "mina"


@pytest.mark.django_db
def test_an_admin_who_is_no_longer_one_does_not_stop_the_next_start(admin_password):
    call_command("prepare")
    get_user_model().objects.update(is_superuser=False)

    call_command("prepare")

    assert not get_user_model().objects.filter(is_superuser=True).exists()


@pytest.mark.django_db
def test_without_a_password_no_admin_is_made_and_it_says_so(monkeypatch, capsys):
    monkeypatch.delenv("ADMIN_PASSWORD", raising=False)

    call_command("prepare")

    assert not get_user_model().objects.exists()
    assert "no admin created: ADMIN_PASSWORD is not set" in capsys.readouterr().out


@pytest.mark.django_db
def test_the_first_admin_can_be_let_in_again(admin_password, monkeypatch):
    call_command("prepare")
    monkeypatch.setenv("ADMIN_PASSWORD", "another-4c1d7be0-password")

    call_command("prepare", "--reset-admin")

    assert get_user_model().objects.get().check_password("another-4c1d7be0-password")


@pytest.mark.django_db
def test_letting_in_nobody_is_said(admin_password, monkeypatch):
    monkeypatch.setenv("ADMIN_USERNAME", "nobody")

    with pytest.raises(ConfigError, match="there is no user nobody; ADMIN_USERNAME says who the first admin is"):
        call_command("prepare", "--reset-admin")


@pytest.mark.django_db
def test_the_seeded_tasks_exist_in_the_worker(admin_password):
    call_command("prepare")

    current_app.loader.import_default_modules()
    seeded = set(PeriodicTask.objects.values_list("task", flat=True))
    assert seeded >= {"celeriac.clear_sessions", "celeriac.clear_history", "celery.backend_cleanup"}
    assert seeded <= set(current_app.tasks)


def test_a_wrong_password_for_postgres_is_one_sentence_with_both_ways_out():
    # As psycopg 3.3 says it; the tests' own Postgres asks for no password.
    error = (
        'connection failed: connection to server at "172.18.0.2", port 5432 failed: FATAL:  password '
        'authentication failed for user "celeriac"'
    )

    assert explain(error) == (
        "Postgres refuses POSTGRES_PASSWORD: its data were made with another one; put the old one back, or "
        "run `make rotate SECRET=POSTGRES_PASSWORD` to give the database the new one."
    )


def test_a_postgres_that_is_not_there_is_one_sentence():
    done = run(*PREPARE, POSTGRES_HOST="127.0.0.1", POSTGRES_PORT="1")

    assert done.returncode == 1
    assert done.stderr.startswith("Celeriac cannot start: Postgres does not let us in: ")
    assert "Connection refused" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_database_that_does_not_exist_is_one_sentence():
    done = run(*PREPARE, POSTGRES_DB="nowhere")

    assert done.returncode == 1
    assert done.stderr.startswith("Celeriac cannot start: Postgres does not let us in: ")
    assert 'database "nowhere" does not exist' in done.stderr
    assert len(done.stderr.splitlines()) == 1
