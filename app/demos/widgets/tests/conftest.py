"""A visitor of the page."""

import pytest
from celery import current_app

from tests.waiting import eventually


class Visitor:
    """Fills in the form, and asks for what came of it as its owner."""

    FORM = {"task": "add", "way": "delay", "numbers": "2 3"}

    def __init__(self, client):
        self.client = client

    def post(self, **fields):
        return self.client.post("/widgets/call/", {**self.FORM, **fields})

    def start(self, **fields):
        """The ids of the tasks that the form has started."""
        return self.started_by(self.post(**fields))

    def press(self, button):
        return self.started_by(self.client.post(f"/widgets/{button}/"))

    def started_by(self, response):
        assert response.status_code == 302, response.content.decode()
        assert response["Location"] == "/widgets/#started"
        return self.client.session["widgets"][0]["task_ids"]

    def told(self, task_id):
        return self.client.get(f"/api/tasks/{task_id}/").json()

    def end(self, task_id):
        """What is told about a task once it has ended."""
        return eventually(lambda: (told := self.told(task_id))["ready"] and told, what=f"{task_id} has ended")

    def page(self, **query):
        return self.client.get("/widgets/", query).content.decode()


@pytest.fixture
def visitor(client, _no_posts_yet, settings):
    settings.DEMO_POSTS_PER_MINUTE = 100
    return Visitor(client)


@pytest.fixture(autouse=True)
def _nothing_left_in_the_queues():
    """Tests of other demos look into the same ones."""
    yield
    with current_app.connection_for_read() as connection:  # never where `send_to` points
        for queue in current_app.amqp.queues:
            connection.default_channel.queue_purge(queue)
