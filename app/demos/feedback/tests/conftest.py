"""A real mail server that can be busy, one that is away, and a look into the queue."""

import pytest
from aiosmtpd.controller import Controller
from celery import current_app

from celeriac.conftest import await_answers
from demo.servers import free_port
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
def queued():
    """The arguments of the feedback tasks that are in the broker's queue: ``queued()`` takes them out."""
    with current_app.connection_for_write() as connection:
        channel = connection.default_channel

        def take():
            await_answers()
            messages = iter(lambda: channel.basic_get("default", no_ack=True), None)
            return [m.payload[0] for m in messages if m.headers["task"] == send_feedback.name]

        take()
        yield take
        take()
