"""How many events are sent: all at ordinary rates, and a part of very many, because one costs as much as a task."""

import time

#: Tasks a second for which a process sends events; and as many at once.
SHOWN = 100


class Sampler:
    def __init__(self) -> None:
        self.left, self.at = float(SHOWN), time.monotonic()

    def shows(self, wanted: int, now: float) -> int:
        """For how many of so many tasks events are sent; ``now`` on the monotonic clock."""
        self.left = min(SHOWN, self.left + (now - self.at) * SHOWN)
        self.at = now
        shown = min(wanted, int(self.left))
        self.left -= shown
        return shown
