"""The stack makes its own secrets, once, and never changes one by itself."""

import os
import stat
import sys

import pytest

from celeriac import secrets
from celeriac.secrets import GROUPS, OPTIONAL, make, rotate
from config.env import ConfigError, strong
from tests.processes import run

MADE = sorted(set(GROUPS) - OPTIONAL)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A volume with nothing on it yet, a folder of given files, and an environment that gives nothing."""
    for name in GROUPS:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "given").mkdir()
    monkeypatch.setattr(secrets, "GIVEN", tmp_path / "given")
    monkeypatch.setattr(secrets, "FOLDER", tmp_path / "made")
    if os.geteuid() != 0:  # only root, and the container's user by its groups, may give a file to these groups
        monkeypatch.setattr(secrets, "GROUPS", dict.fromkeys(GROUPS, os.getegid()))
    secrets.FOLDER.mkdir()
    return secrets.FOLDER


def kept() -> dict[str, str]:
    return {name: secrets.path(name).read_text() for name in GROUPS}


def test_every_secret_is_made_strong_and_different():
    make()

    made = [kept()[name] for name in MADE]
    assert [strong(name, kept()[name]) for name in MADE] == made
    assert len(set(made)) == len(MADE)


def test_a_second_start_changes_none():
    make()
    before = kept()

    make()

    assert kept() == before


@pytest.mark.parametrize("name", MADE)
def test_a_secret_that_the_environment_gives_is_taken(monkeypatch, name):
    monkeypatch.setenv(name, " given-4c1d7be0-by-me ")

    make()

    assert kept()[name] == "given-4c1d7be0-by-me"
    make()  # and is no change the next time


@pytest.mark.parametrize("name", GROUPS)
def test_a_secret_that_a_file_gives_is_taken(name):
    (secrets.GIVEN / name.lower()).write_text("given-4c1d7be0-by-file\n")

    make()

    assert kept()[name] == "given-4c1d7be0-by-file"


@pytest.mark.parametrize("name", MADE)
def test_a_changed_secret_is_refused_and_the_way_to_change_it_is_named(monkeypatch, name):
    make()
    before = kept()
    monkeypatch.setenv(name, "another-4c1d7be0-than-before")

    with pytest.raises(ConfigError, match=f"{name} is not the one .* `make rotate SECRET={name}`"):
        make()
    assert kept() == before


def test_the_mail_server_may_change_and_go_at_any_time(monkeypatch):
    for url in ("smtp://a:25", "smtp://b:25", ""):
        monkeypatch.setenv("EMAIL_URL", url)
        make()
        assert kept()["EMAIL_URL"] == url


@pytest.mark.parametrize("weak", ["changeme", "short", "aaaaaaaaaaaaaaaa"])
def test_a_weak_secret_is_refused_and_nothing_is_written_for_it(monkeypatch, weak):
    monkeypatch.setenv("POSTGRES_PASSWORD", weak)

    with pytest.raises(ConfigError, match="POSTGRES_PASSWORD is"):
        make()
    assert not secrets.path("POSTGRES_PASSWORD").exists()


def test_rotating_makes_a_new_one_and_leaves_the_others():
    make()
    before = kept()

    rotate("REDIS_PASSWORD")

    after = kept()
    assert strong("REDIS_PASSWORD", after["REDIS_PASSWORD"]) != before["REDIS_PASSWORD"]
    assert {name for name in GROUPS if after[name] != before[name]} == {"REDIS_PASSWORD"}


def test_rotating_takes_the_new_one_that_the_environment_gives(monkeypatch):
    make()
    monkeypatch.setenv("REDIS_PASSWORD", "another-4c1d7be0-than-before")

    rotate("REDIS_PASSWORD")

    assert kept()["REDIS_PASSWORD"] == "another-4c1d7be0-than-before"
    make()  # the next start agrees


def test_rotating_says_when_the_environment_still_gives_the_old_one(monkeypatch, capsys):
    monkeypatch.setenv("REDIS_PASSWORD", "given-4c1d7be0-by-me")
    make()

    rotate("REDIS_PASSWORD")

    assert kept()["REDIS_PASSWORD"] == "given-4c1d7be0-by-me"  # so that it can be run again after a failure
    assert "delete that line" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["", "EMAIL_URL", "../x"])
def test_only_a_secret_can_be_rotated(name):
    with pytest.raises(ConfigError, match=f"cannot be rotated; it is one of {', '.join(MADE)}"):
        rotate(name)


@pytest.mark.parametrize("name", GROUPS)
def test_a_secret_is_readable_by_its_group_and_nobody_else(name):
    make()

    status = secrets.path(name).stat()
    assert stat.S_IMODE(status.st_mode) == 0o440
    assert status.st_gid == secrets.GROUPS[name]
    assert len(set(GROUPS.values())) == len(GROUPS)


def test_a_crash_in_the_middle_costs_nothing():
    make()
    before = kept()
    secrets.path("REDIS_PASSWORD").with_suffix(".new").touch()  # written, not yet in its place
    del before["POSTGRES_PASSWORD"]
    secrets.path("POSTGRES_PASSWORD").chmod(0o600)
    secrets.path("POSTGRES_PASSWORD").write_text("")  # in its place, and its text lost with the power

    make()

    after = kept()
    assert strong("POSTGRES_PASSWORD", after.pop("POSTGRES_PASSWORD"))
    assert after == before
    rotate("REDIS_PASSWORD")
    assert not secrets.path("REDIS_PASSWORD").with_suffix(".new").exists()


def test_a_given_file_that_does_not_exist_is_named():
    (secrets.GIVEN / "redis_password").mkdir()  # what Docker makes of a path that is not there

    with pytest.raises(ConfigError, match="the file that REDIS_PASSWORD_FILE names does not exist"):
        make()


def test_a_given_file_that_is_empty_is_named():
    (secrets.GIVEN / "redis_password").touch()

    with pytest.raises(ConfigError, match="the file that REDIS_PASSWORD_FILE names is empty"):
        make()


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("REDIS_PASSWORD", "with a space inside 1"),
        ("REDIS_PASSWORD", 'with-a-quote"-inside'),
        ("REDIS_PASSWORD", "with-a-quote'-inside"),
        ("FLOWER_PASSWORD", "with-a-comma,-inside"),
    ],
)
def test_a_password_that_its_server_would_cut_off_is_refused(monkeypatch, name, password):
    monkeypatch.setenv(name, password)

    with pytest.raises(ConfigError, match=f"{name} has a space, a quote or a comma in it"):
        make()


def test_the_addresses_are_printed_without_a_password(monkeypatch, capsys):
    make()
    where = {"PUBLIC_URL": "http://localhost:8080", "FLOWER_URL": "http://localhost:5555"}
    for name, value in {**where, "ADMIN_USERNAME": "admin", "FLOWER_USERNAME": "flower"}.items():
        monkeypatch.setenv(name, value)

    secrets.show(passwords=False)
    out = capsys.readouterr().out
    assert "http://localhost:8080/admin/" in out
    assert not any(password and password in out for password in kept().values())

    secrets.show(passwords=True)
    out = capsys.readouterr().out
    assert kept()["ADMIN_PASSWORD"] in out
    assert kept()["FLOWER_PASSWORD"] in out
    assert kept()["POSTGRES_PASSWORD"] not in out


def test_the_service_keeps_what_is_given_and_nothing_that_is_composed_of_it(tmp_path):
    """As its container runs it: reading the settings writes the composed broker address to the environment."""
    done = run(
        *(sys.executable, "-m", "celeriac.secrets"),
        SERVICE="secrets",
        SECRETS_DIR=str(secrets.FOLDER),
        GIVEN_DIR=str(tmp_path / "given"),
        **dict.fromkeys(GROUPS),
    )

    assert done.returncode == 0, done.stderr
    assert {name for name, value in kept().items() if not value} == OPTIONAL
