"""A real mail server that can be busy, one that is away, and a broker that is away."""

import socket
from contextlib import closing

import pytest
from aiosmtpd.controller import Controller
from celery import current_app
from celery.backends.redis import RedisBackend

from demos.feedback.models import Feedback
from demos.feedback.tasks import send_feedback


class MailServer:
    """Answers 451 to the first ``busy_for`` mails, then takes every one."""

    def __init__(self):
        self.busy_for = 0
        self.refused = 0
        self.mails = []

    async def handle_DATA(self, server, session, envelope):  # noqa: N802  aiosmtpd's name
        if self.refused < self.busy_for:
            self.refused += 1
            return "451 Busy, come again"
        self.mails.append(envelope)
        return "250 OK"


def free_port():
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def smtp(settings):
    """Django sends to a port of this machine; nobody listens there yet."""
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", free_port()
    settings.EMAIL_HOST_USER = settings.EMAIL_HOST_PASSWORD = ""
    settings.EMAIL_USE_TLS = settings.EMAIL_USE_SSL = False
    return settings.EMAIL_PORT


@pytest.fixture
def mail_server(smtp):
    handler = MailServer()
    controller = Controller(handler, hostname="127.0.0.1", port=smtp)
    controller.start()
    yield handler
    controller.stop()


@pytest.fixture
def feedback(db):
    return Feedback.objects.create(email="mina@example.org", message="The new search is quick.")


@pytest.fixture
def broker_away(monkeypatch):
    """Tasks are sent to a port where nobody listens, as while Redis restarts."""
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", f"redis://127.0.0.1:{free_port()}/0")
    monkeypatch.setattr(current_app, "_pool", None)
    monkeypatch.setattr(current_app.amqp, "_producer_pool", None)


@pytest.fixture
def results_away(monkeypatch):
    """Results are in a Redis that does not answer."""
    policy = {"retry_policy": {"max_retries": 1, "interval_start": 0}}
    monkeypatch.setitem(current_app.conf.changes, "result_backend_transport_options", policy)
    backend = RedisBackend(app=current_app, url=f"redis://127.0.0.1:{free_port()}/0")
    backend.always_retry = False
    monkeypatch.setattr(current_app, "_backend_cache", backend)


@pytest.fixture
def queued():
    """The arguments of the feedback tasks that are in the broker's queue: ``queued()`` takes them out."""
    with current_app.connection_for_write() as connection:
        channel = connection.default_channel

        def take():
            messages = iter(lambda: channel.basic_get("default", no_ack=True), None)
            return [m.payload[0] for m in messages if m.headers["task"] == send_feedback.name]

        take()
        yield take
        take()
