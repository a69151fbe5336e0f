"""Who places orders: at a steady rate, whatever becomes of the answers, and in a rush before each fault."""

import random
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlencode

from tests.stack.visitor import Visitor

#: Orders a second, and in a rush, which is there so that no fault strikes empty queues.
RATE, RUSH = 6, 24
PATIENCE = 15.0  # seconds for which a customer waits for the answer
#: Kind, and how many of 100; seconds of work.
MIX = {
    ("effect", False): (53, (0.05, 0.3)),
    ("heavy_effect", False): (20, (0.05, 0.3)),
    ("mail", False): (20, (0.0, 0.2)),
    ("effect", True): (4, (3, 8)),
    ("heavy_effect", True): (3, (3, 8)),
}


@dataclass
class Order:
    number: int
    kind: str
    seconds: float
    placed_at: float
    #: What was answered, and when; 0 is no answer. Only 201 is a promise.
    status: int = 0
    answered_at: float = 0.0


class Producer:
    def __init__(self, site: str, seed: int) -> None:
        self.site, self.random = site, random.Random(seed)
        self.orders: list[Order] = []
        self.lock, self.stopping = threading.Lock(), threading.Event()
        self.customers = ThreadPoolExecutor(64)
        self.steady = threading.Thread(target=self._produce, daemon=True)

    def start(self) -> None:
        self.steady.start()

    def stop(self) -> None:
        self.stopping.set()
        self.steady.join()
        self.customers.shutdown()

    def rush(self) -> None:
        for _ in range(RUSH):
            self.place()
            time.sleep(1 / RUSH)

    def place(self, kind: str = "", seconds: float = 0.0) -> Future[None]:
        """One order, of a kind drawn by the mix when none is given; does not wait for the answer."""
        with self.lock:
            if not kind:
                (kind, _), (_, span) = self.random.choices(list(MIX.items()), [share for share, _ in MIX.values()])[0]
                seconds = round(self.random.uniform(*span), 2)
            order = Order(len(self.orders) + 1, kind, seconds, time.time())
            self.orders.append(order)
        return self.customers.submit(self._ask, order)

    def _produce(self) -> None:
        due = time.monotonic()
        while not self.stopping.wait(max(0.0, due - time.monotonic())):
            self.place()
            due += 1 / RATE

    def _ask(self, order: Order) -> None:
        fields = {"number": order.number, "kind": order.kind, "seconds": order.seconds}
        with suppress(OSError):  # refused, reset, or too slow
            order.status = Visitor(self.site).request("/chaos/", urlencode(fields).encode(), PATIENCE).status
        order.answered_at = time.time()
