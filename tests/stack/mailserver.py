"""A real SMTP server on this machine, which the workers reach as host.docker.internal."""

import asyncio
import email
import email.policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from demo.servers import free_port


class MailServer:
    """Keeps what it is sent; can be told to refuse mails or to hang."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        #: How many of the next mails are answered with 451, "try again later".
        self.refuse = 0
        self.refused = 0
        #: While true a mail is neither taken nor refused.
        self.hang = False
        self.controller = Controller(self, hostname="0.0.0.0", port=free_port())

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        hung = self.hang
        while self.hang:
            await asyncio.sleep(0.1)
        if hung or self.refuse:
            self.refuse -= not hung
            self.refused += 1
            return "451 4.3.0 Try again later"
        content: Any = envelope.content
        self.mails.append(email.message_from_bytes(content, policy=email.policy.default))  # type: ignore[arg-type]
        return "250 OK"

    @property
    def url(self) -> str:
        return f"smtp://host.docker.internal:{self.controller.port}"

    def reset(self) -> None:
        self.refuse = self.refused = 0
        self.hang = False

    def about(self, text: str) -> list[EmailMessage]:
        """The mails with ``text`` in their body."""
        return [mail for mail in self.mails if text in mail.get_content()]
