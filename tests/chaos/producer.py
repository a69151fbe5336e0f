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
#: Kind, seconds of work, and how many of 100 orders.
MIX = [
    ("effect", (0.05, 0.3), 48),
    ("heavy_effect", (0.05, 0.3), 20),
    ("mail", (0.0, 0.2), 20),
    ("effect", (3, 8), 4),
    ("heavy_effect", (3, 8), 3),
    ("quick", (0.0, 0.02), 5),
]
#: Quick tasks at the end of a rush, in one request; seconds of each. Two seconds of work for four children.
CROWD, INSTANT = 400, 0.02


@dataclass
class Order:
    number: int
    kind: str
    seconds: float
    placed_at: float
    #: So many of them, with following numbers.
    many: int = 1
    #: What was answered, and when; 0 is no answer. Only 201 is a promise.
    status: int = 0
    answered_at: float = 0.0

    @property
    def numbers(self) -> range:
        return range(self.number, self.number + self.many)


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
        self.place("quick", INSTANT, CROWD)

    def place(self, kind: str = "", seconds: float = 0.0, many: int = 1) -> Future[None]:
        """One order, of a kind drawn by the mix when none is given; does not wait for the answer."""
        with self.lock:
            if not kind:
                kind, span, _ = self.random.choices(MIX, [share for _, _, share in MIX])[0]
                seconds = round(self.random.uniform(*span), 2)
            number = self.orders[-1].numbers.stop if self.orders else 1
            order = Order(number, kind, seconds, time.time(), many)
            self.orders.append(order)
        return self.customers.submit(self._ask, order)

    def _produce(self) -> None:
        due = time.monotonic()
        while not self.stopping.wait(max(0.0, due - time.monotonic())):
            self.place()
            due += 1 / RATE

    def _ask(self, order: Order) -> None:
        fields = {"number": order.number, "many": order.many, "kind": order.kind, "seconds": order.seconds}
        with suppress(OSError):  # refused, reset, or too slow
            order.status = Visitor(self.site).request("/chaos/", urlencode(fields).encode(), PATIENCE).status
        order.answered_at = time.time()
