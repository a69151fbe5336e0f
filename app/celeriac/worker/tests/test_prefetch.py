"""A worker has as much in hand as its children do in a moment: many quick tasks, and nothing behind a slow one."""

import time

from tests.tasks import work
from tests.waiting import eventually


def in_hand(broker):
    return broker.command("HLEN", "unacked.default")


def test_a_backlog_of_quick_tasks_is_fetched_ahead(broker, start_worker, notes):
    broker.send_all([(work, notes.path, str(number)) for number in range(1500)])
    start_worker("-c", "2", LOG_LEVEL="ERROR")
    most = 0
    while len(notes()) < 2600:
        most = max(most, in_hand(broker))
        time.sleep(0.01)

    assert most > 8


def test_what_waits_behind_a_slow_task_goes_back_and_runs_elsewhere_in_its_order(broker, start_worker, notes, tmp_path):
    over = tmp_path / "over"
    broker.send_all([(work, notes.path, f"quick {number}") for number in range(300)])
    broker.send(work, notes.path, "slow", 0, str(over))
    broker.send_all([(work, notes.path, f"then {number}") for number in range(40)])
    start_worker("-c", "1", LOG_LEVEL="ERROR")  # with two children, the other one may have the last of them by then
    eventually(lambda: "slow began" in notes())

    eventually(lambda: in_hand(broker) == 1)
    assert broker.command("LLEN", "default") == 40
    start_worker("-c", "1", LOG_LEVEL="ERROR")
    eventually(lambda: "then 39 ended" in notes())

    assert "slow ended" not in notes()
    assert [line for line in notes() if "then" in line and "began" in line] == [f"then {n} began" for n in range(40)]
    over.touch()
    eventually(lambda: "slow ended" in notes())
    assert len(notes()) == len(set(notes())) == 2 * 341, "each ran once"
