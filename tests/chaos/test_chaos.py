"""Ninety seconds under fire, with a fixed seed: part of ``make test`` where Docker is."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.ledger import broken, summary
from tests.chaos.run import draw, run
from tests.chaos.stack import IMAGE, ChaosStack
from tests.stack.mailserver import MailServer
from tests.stack.project import docker, fresh_clone

pytestmark = pytest.mark.stack

FAULTS = ("kill worker", "flushall", "kill redis", "kill postgres")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[ChaosStack]:
    """One of its own, with a mail server of its own, besides those that the other tests share."""
    mail = MailServer()
    mail.controller.start()
    try:
        with ChaosStack(fresh_clone(tmp_path), mail).running() as stack:
            yield stack
    finally:
        mail.controller.stop()
        docker("image", "rm", IMAGE, check=False)


def test_under_fire_no_order_is_lost_and_none_has_its_effect_twice(stack: ChaosStack) -> None:
    found = summary(run(stack, draw(7, FAULTS), seed=7, seconds=90))

    assert len(found["faults"]) >= 2, "there was time for some"
    assert found["promised"] > 200, "orders were taken meanwhile"
    assert any(line["running"] + line["waiting"] for line in found["faults"]), "something was in flight"
    assert found["quick_promised"] > 500, "and plain tasks, in batches"
    assert broken(found) == 0, found
    assert set(found["jobs"]) == {"succeeded"}, found
