"""A campaign with five recipients, a mail server with moods, and who may send."""

import pytest
from aiosmtpd.controller import Controller

from demos.feedback.tests.conftest import MailServer, smtp  # noqa: F401
from demos.notifications.models import Campaign, Recipient
from demos.notifications.tasks import send_campaign

FIVE = [f"{name}@example.org" for name in ("ada", "grace", "joan", "mina", "noor")]


class BatchServer(MailServer):
    """Counts connections, refuses some addresses, hangs up after some mails."""

    def __init__(self):
        super().__init__()
        self.connections = set()
        #: address -> what it is answered
        self.refuses = {}
        #: Hangs up, once, when it has taken this many mails.
        self.hangs_up_after = None

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802  aiosmtpd's name
        self.connections.add(session.peer)
        if address in self.refuses:
            return self.refuses[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        if len(self.mails) == self.hangs_up_after:
            self.hangs_up_after = None
            server.transport.close()
            return "421 Bye"
        return await super().handle_DATA(server, session, envelope)

    def reached(self):
        return [mail.rcpt_tos[0] for mail in self.mails]


@pytest.fixture
def mail_server(smtp):  # noqa: F811
    handler = BatchServer()
    controller = Controller(handler, hostname="127.0.0.1", port=smtp)
    controller.start()
    yield handler
    controller.stop()


@pytest.fixture
def campaign(db):
    """For real, so that the mail server sees the addresses."""
    campaign = Campaign.objects.create(subject="Open", text="Come and see.", for_real=True, visitor="this browser")
    Recipient.objects.bulk_create(Recipient(campaign=campaign, email=email) for email in FIVE)
    return campaign


@pytest.fixture
def visitor(client, db):
    """The browser in which the campaign was made."""
    session = client.session
    session["visitor"] = "this browser"
    session.save()
    return client


def run(campaign):
    """Run the real task here and now; its retries follow without their pauses."""
    return send_campaign.apply([str(campaign.pk)])
