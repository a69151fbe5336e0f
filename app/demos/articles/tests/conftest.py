"""An article with its twin, and a visitor who owns them."""

import pytest
from celery import current_app

from celeriac.conftest import await_answers
from demos.articles.models import Article

BEFORE = "FYI: MyCorp needs this."
EDITED = "FYI: MyCorp needs this, and cake."


@pytest.fixture
def article(client, db):
    session = client.session
    session["visitor"] = "this browser"
    session.save()
    article = Article.objects.create(title="Our meeting", body=BEFORE, visitor="this browser")
    Article.objects.create(title=article.title, body=article.body, twin_of=article)
    return article


@pytest.fixture
def queued():
    """Take out of the broker's queue what is in it: the task's name, its id and its arguments, for each message."""
    with current_app.connection_for_write() as connection:
        channel = connection.default_channel

        def take():
            await_answers()
            messages = iter(lambda: channel.basic_get("default", no_ack=True), None)
            return {m.headers["task"].rpartition(".")[2]: (m.headers["id"], m.payload[0]) for m in messages}

        take()
        yield take
        take()
