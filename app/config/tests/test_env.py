"""Every variable is typed, and a wrong one is named together with its fix."""

import json
import math

import pytest
from celery.app.defaults import NAMESPACES, flatten
from hypothesis import given
from hypothesis import strategies as st

from config import env
from config.env import ConfigError

#: A type of Celery's option table -> what one writes, and what Celery gets.
EXAMPLES = {
    "int": ("7", 7),
    "float": ("1.5", 1.5),
    "bool": ("on", True),
    "string": ("a text", "a text"),
    "str": ("gzip", "gzip"),
    "bytes": ("a text", b"a text"),
    "dict": ('{"a": 1}', {"a": 1}),
    "list": ('["a", "b"]', ["a", "b"]),
    "tuple": ('["a", "b"]', ["a", "b"]),
    "any": ('{"a": 1}', {"a": 1}),
}
ADDRESS = ("redis://other:6379/1", "redis://other:6379/1")
EXCEPTIONS = {"worker_concurrency": ("4", 4), "broker_read_url": ADDRESS, "broker_write_url": ADDRESS}
OPTIONS = dict(flatten(NAMESPACES))

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def settings_of(variable: str, value: str, **defaults):
    return env.celery_settings({variable: value}, defaults)


def sentence_of(variable: str, value: str) -> str:
    with pytest.raises(ConfigError) as error:
        settings_of(variable, value)
    sentence = str(error.value)
    assert "\n" not in sentence
    return sentence


# --- Types ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", OPTIONS)
def test_every_setting_of_celery_is_typed_by_celerys_own_table(option):
    kind = getattr(OPTIONS[option].type, "__name__", OPTIONS[option].type)
    written, expected = EXCEPTIONS.get(option) or EXAMPLES[kind]
    variable = f"CELERY_{option.upper()}"

    value = settings_of(variable, written)[variable]

    assert value == expected
    assert type(value) is type(expected)


@given(st.integers())
def test_a_whole_number_arrives_as_it_was_written(number):
    assert settings_of("CELERY_WORKER_MAX_TASKS_PER_CHILD", str(number)) == {
        "CELERY_WORKER_MAX_TASKS_PER_CHILD": number
    }


@given(st.floats(allow_nan=False))
def test_a_number_arrives_as_it_was_written(number):
    assert settings_of("CELERY_TASK_TIME_LIMIT", repr(number)) == {"CELERY_TASK_TIME_LIMIT": number}


@given(st.dictionaries(TEXT, JSON, max_size=3))
def test_a_map_arrives_as_it_was_written(value):
    assert settings_of("CELERY_BEAT_SCHEDULE", json.dumps(value)) == {"CELERY_BEAT_SCHEDULE": value}


@given(st.lists(JSON, max_size=3))
def test_a_list_arrives_as_it_was_written_even_an_empty_one(value):
    for variable in ("CELERY_IMPORTS", "CELERY_TASK_ROUTES"):
        assert settings_of(variable, json.dumps(value)) == {variable: value}


@given(
    option=st.sampled_from(sorted(OPTIONS)),
    value=TEXT | JSON.map(json.dumps) | st.sampled_from(["²", "[" * 9999]),
)
def test_whatever_is_written_gives_a_value_or_one_sentence_and_no_traceback(option, value):
    variable = f"CELERY_{option.upper()}"
    said = variable
    try:
        settings_of(variable, value)
    except ConfigError as error:
        said = str(error)
    assert variable in said


@pytest.mark.parametrize("written", ["true", "True", "1", "yes", "on"])
def test_a_switch_can_be_on(written):
    assert settings_of("CELERY_TASK_ACKS_LATE", written) == {"CELERY_TASK_ACKS_LATE": True}


@pytest.mark.parametrize("written", ["false", "FALSE", "0", "no", "off"])
def test_a_switch_can_be_off(written):
    assert settings_of("CELERY_TASK_ACKS_LATE", written) == {"CELERY_TASK_ACKS_LATE": False}


def test_the_number_of_children_may_be_left_to_celery():
    assert settings_of("CELERY_WORKER_CONCURRENCY", "auto") == {"CELERY_WORKER_CONCURRENCY": "auto"}


def test_ssl_to_the_broker_is_a_switch_or_a_map():
    assert settings_of("CELERY_BROKER_USE_SSL", "true") == {"CELERY_BROKER_USE_SSL": True}
    options = {"ssl_ca_certs": "/ca.pem"}
    assert settings_of("CELERY_BROKER_USE_SSL", json.dumps(options)) == {"CELERY_BROKER_USE_SSL": options}


# --- Blank, files, defaults ----------------------------------------------------------------------------


@pytest.mark.parametrize("blank", ["", "  ", "\n"])
def test_a_blank_variable_counts_as_not_given(blank):
    settings = settings_of("CELERY_TASK_TIME_LIMIT", blank, CELERY_TASK_TIME_LIMIT=1800.0)

    assert settings == {"CELERY_TASK_TIME_LIMIT": 1800.0}


def test_a_setting_can_come_from_a_file(tmp_path):
    file = tmp_path / "limit"
    file.write_text("77\n")

    assert settings_of("CELERY_TASK_TIME_LIMIT_FILE", str(file)) == {"CELERY_TASK_TIME_LIMIT": 77.0}


def test_an_empty_file_counts_as_not_given(tmp_path):
    file = tmp_path / "limit"
    file.touch()

    assert settings_of("CELERY_TASK_TIME_LIMIT_FILE", str(file)) == {}


def test_a_blank_file_name_leaves_the_variable_itself(monkeypatch):
    monkeypatch.setenv("REDIS_HOST", "elsewhere")
    monkeypatch.setenv("REDIS_HOST_FILE", "")

    assert env.text("REDIS_HOST") == "elsewhere"


def test_a_file_that_cannot_be_read_is_named():
    assert "CELERY_TASK_TIME_LIMIT_FILE names, /no/such/file, cannot be read: No such file" in sentence_of(
        "CELERY_TASK_TIME_LIMIT_FILE", "/no/such/file"
    )


def test_a_file_that_is_no_text_is_named(tmp_path):
    file = tmp_path / "limit"
    file.write_bytes(b"\xff\xfe")

    assert "it is not text" in sentence_of("CELERY_TASK_TIME_LIMIT_FILE", str(file))


@pytest.mark.parametrize("option", ["CELERY_BROKER_TRANSPORT_OPTIONS", "CELERY_TASK_PUBLISH_RETRY_POLICY"])
def test_the_safety_nets_are_laid_over_and_not_replaced(option):
    settings = settings_of(option, '{"b": 3, "c": 4}', **{option: {"a": 1, "b": 2}})

    assert settings == {option: {"a": 1, "b": 3, "c": 4}}


def test_a_value_that_begins_with_a_dollar_is_taken_as_it_is(monkeypatch):
    monkeypatch.setenv("REDIS_PASSWORD", "$PATH-is-no-variable-here")

    assert env.text("REDIS_PASSWORD") == "$PATH-is-no-variable-here"


# --- Names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("CELERY_SOFT_TIME_LIMIT", "CELERY_TASK_SOFT_TIME_LIMIT"),
        ("CELERY_TIME_LIMIT", "CELERY_TASK_TIME_LIMIT"),
        ("CELERY_ACKS_LATE", "CELERY_TASK_ACKS_LATE"),
        ("CELERY_ALWAYS_EAGER", "CELERY_TASK_ALWAYS_EAGER"),
        ("CELERY_CONCURRENCY", "CELERY_WORKER_CONCURRENCY"),
        ("CELERY_PREFETCH_MULTIPLIER", "CELERY_WORKER_PREFETCH_MULTIPLIER"),
        ("CELERY_TASK_RESULT_EXPIRES", "CELERY_RESULT_EXPIRES"),
        ("CELERY_SEND_EVENTS", "CELERY_WORKER_SEND_TASK_EVENTS"),
        ("CELERYD_CONCURRENCY", "CELERY_WORKER_CONCURRENCY"),
        ("CELERYD_TASK_SOFT_TIME_LIMIT", "CELERY_TASK_SOFT_TIME_LIMIT"),
        ("CELERYBEAT_SCHEDULE", "CELERY_BEAT_SCHEDULE"),
        ("CELERY_TASK_TIME_LIMT", "CELERY_TASK_TIME_LIMIT"),
        ("CELERY_WORKER_CONCURENCY", "CELERY_WORKER_CONCURRENCY"),
    ],
)
def test_a_name_that_celery_does_not_have_is_refused_with_the_nearest_one(wrong, right):
    assert sentence_of(wrong, "1").endswith(f"{wrong} is no Celery setting; the nearest one is {right}.")


@given(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", min_size=1, max_size=30).map(lambda name: f"CELERY_{name}"))
def test_no_misspelt_setting_is_ignored_in_silence(variable):
    key = variable.removeprefix("CELERY_")
    if key.lower() not in env.OPTIONS and key not in env.READ_BY_CELERY:
        assert f"{variable} is no Celery setting" in sentence_of(variable, "1")


@pytest.mark.parametrize(
    "variable",
    [
        "CELERY_SKIP_CHECKS",
        "CELERY_CUSTOM_WORKER_POOL",
        "CELERY_LOG_LEVEL",
        "CELERY_LOG_FILE",
        "CELERY_RDB_PORT",
        "CELERY_WORKER_REVOKES_MAX",
        "CELERYD_NODES",  # of Celery's init scripts
    ],
)
def test_what_celery_reads_from_the_environment_itself_passes(variable):
    assert settings_of(variable, "1") == {}


def test_settings_that_celerys_table_forgot_are_settings():
    assert settings_of("CELERY_DB_REUSE_MAX", "5") == {"CELERY_DB_REUSE_MAX": 5}
    assert settings_of("CELERY_REDIS_BACKEND_HEALTH_CHECK_INTERVAL", "5") == {
        "CELERY_REDIS_BACKEND_HEALTH_CHECK_INTERVAL": 5
    }


# --- Values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "fix"),
    [
        ("CELERY_TASK_TIME_LIMIT", "ten", "is not a number"),
        ("CELERY_WORKER_PREFETCH_MULTIPLIER", "1.5", "is not a number without a fraction"),
        ("CELERY_WORKER_CONCURRENCY", "two", "is not a number without a fraction"),
        ("CELERY_TASK_ACKS_LATE", "maybe", "write true or false"),
        ("CELERY_BEAT_SCHEDULE", "every hour", 'write a map, like {"a": 1}'),
        ("CELERY_BEAT_SCHEDULE", '["a"]', 'has to be JSON for a map, like {"a": 1}'),
        ("CELERY_IMPORTS", "a.tasks,b.tasks", 'write a list, like ["a", "b"]'),
        ("CELERY_ACCEPT_CONTENT", '{"a": 1}', 'has to be JSON for a list, like ["a", "b"]'),
        ("CELERY_TASK_ROUTES", '{"a": 1', 'write a map, like {"a": 1}'),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_the_fix(variable, value, fix):
    sentence = sentence_of(variable, value)

    assert sentence.startswith(f"Celeriac cannot start: {variable}")
    assert fix in sentence


@pytest.mark.parametrize("value", ["--5", "²", "1.5", "many", "-1", "0"])
def test_a_count_that_is_none_is_named(monkeypatch, value):
    monkeypatch.setenv("WEB_THREADS", value)

    with pytest.raises(ConfigError, match=f"WEB_THREADS={value} is not a whole number of at least 1"):
        env.number("WEB_THREADS", 4, minimum=1)


@pytest.mark.parametrize("value", ["Mars/Phobos", "Europe", "/etc/passwd", "../x"])
def test_a_time_zone_that_does_not_exist_is_named(value):
    with pytest.raises(ConfigError, match="is no time zone; write it like UTC or Europe/Berlin"):
        env.time_zone("TIME_ZONE", value)


# --- The broker ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["redis://:pw@redis:6379/0", "rediss://redis", "redis+socket:///tmp/redis.sock", "redis://a;redis://b"],
)
def test_a_redis_broker_is_taken(url):
    assert env.checked_broker(url) == url


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("redis://a", "redis://a"),
        ("rediss://a", "rediss://a?ssl_cert_reqs=required"),
        ("rediss://a/0?x=y;redis://b", "rediss://a/0?x=y&ssl_cert_reqs=required;redis://b"),
        ("rediss://a?ssl_cert_reqs=none", "rediss://a?ssl_cert_reqs=none"),
    ],
)
def test_with_tls_the_certificate_is_verified_unless_the_address_says_otherwise(given, used):
    assert env.verified(given) == used


@pytest.mark.parametrize(
    "url",
    [
        "amqp://guest@rabbit",
        "sqs://",
        "memory://",
        "filesystem://",
        "redis://a;amqp://b",
        "redis:6379",
        "pyamqp://",
    ],
)
def test_a_broker_that_is_not_redis_is_refused(url):
    with pytest.raises(
        ConfigError, match=r"CELERY_BROKER_URL .* the only broker Celeriac runs on is Redis; write redis://"
    ):
        env.checked_broker(url)


@pytest.mark.parametrize("variable", ["CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"])
def test_no_side_door_leads_to_another_broker(variable):
    assert f"{variable} begins with amqp://" in sentence_of(variable, "amqp://guest@rabbit")


def test_the_sentence_about_a_broker_shows_no_password():
    with pytest.raises(ConfigError) as error:
        env.checked_broker("user:hunter2-hunter2@rabbit")
    assert "hunter2" not in str(error.value)


def test_infinity_is_celerys_own_default_and_can_be_written():
    name = "CELERY_RESULT_BACKEND_MAX_RETRIES"
    assert settings_of(name, "inf") == {name: math.inf}
