"""A worker that its broker does not let in is not alive: only a new process reads a new password."""

from celeriac.conftest import Broker, Worker
from tests.waiting import eventually


def test_a_worker_that_may_not_log_in_turns_red_and_ends_itself(broker: Broker, start_worker):
    worker: Worker = start_worker("-c", "1", QUICK_HEARTBEAT="true")
    broker.command("CONFIG", "SET", "requirepass", "changed-under-it-4711")
    broker.kick_everybody("changed-under-it-4711")

    eventually(lambda: not worker.alive())
    assert eventually(worker.process.poll) == 1
