"""A large CSV file through the running stack: how soon the page answers, and the memory of web and worker.

    make up && .venv/bin/python -m bench.upload [megabytes]

The file is made while it is sent, through nginx, with a session and its CSRF token. Memory is PSS as in
bench.stack, read five times a second for all processes of a service, so it needs root; files in the page cache
are not in it.
"""

import json
import re
import sys
import threading
import time
from collections.abc import Iterator

from bench.stack import pss_of, run
from tests.stack.visitor import Visitor, forms

SERVICES = ("web", "worker-heavy", "nginx")
HEADER = b"number,customer,day,amount,city,note\n"
ROW = "{number},Customer number {number},2024-{month:02}-{day:02},{amount:.2f},Reykjavik,what was said about it\n"
MB = 10**6


class Memory(threading.Thread):
    """The most each service had since ``peaks`` was emptied last."""

    def __init__(self, pids: dict[str, list[str]]) -> None:
        super().__init__(daemon=True)
        self.pids = pids
        self.peaks: dict[str, float] = {}

    def run(self) -> None:
        while True:
            self.sample()
            time.sleep(0.2)

    def sample(self) -> None:
        for service, pids in self.pids.items():
            self.peaks[service] = max(self.peaks.get(service, 0.0), sum(map(pss_or_nothing, pids)))

    def take(self) -> dict[str, float]:
        self.sample()
        peaks, self.peaks = self.peaks, {}
        return peaks


def pss_or_nothing(pid: str) -> float:
    try:
        return pss_of(pid)
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return 0.0


def main(megabytes: int = 1000) -> None:
    containers = [json.loads(line) for line in run("docker", "compose", "ps", "--format", "json").splitlines()]
    if not containers:
        sys.exit("The stack is not running: make up")
    pids: dict[str, list[str]] = {service: [] for service in SERVICES}
    for container in containers:
        if container["Service"] in pids:
            pids[container["Service"]] += run("docker", "top", container["Name"], "-o", "pid").split()[1:]
    port = run("docker", "compose", "port", "nginx", "8080").rpartition(":")[2].strip()
    measure(f"http://localhost:{port}", pids, megabytes)


def measure(site: str, pids: dict[str, list[str]], megabytes: int) -> None:
    visitor, memory = Visitor(site), Memory(pids)
    send(visitor, 1)  # what the first file makes a process load is not what a large one costs
    idle = memory.take()
    memory.start()
    size, sending, answer = send(visitor, megabytes)
    while_sent = memory.take()
    processing, result = follow(visitor)
    while_processed = memory.take()

    print(f"{size / MB:.0f} MB: {result}")
    print(f"sent in            {sending:8.1f} s")
    print(f"answered after     {answer:8.3f} s  (from the last byte sent to the first of the answer)")
    print(f"processed in       {processing:8.1f} s  (from the answer)")
    print(f"\n{'PSS, MB':<16}{'before':>9}{'sending':>9}{'working':>9}")
    for service in pids:
        print(f"{service:<16}{idle[service]:>9.0f}{while_sent[service]:>9.0f}{while_processed[service]:>9.0f}")
    clean_up(visitor)


def send(visitor: Visitor, megabytes: int) -> tuple[int, float, float]:
    """Post a file; returns its size, and the seconds for sending it and from its last byte to the answer."""
    token = forms(visitor.get("/uploads/").text)["upload-form"]["csrfmiddlewaretoken"]
    head = (
        f'--x\r\nContent-Disposition: form-data; name="csrfmiddlewaretoken"\r\n\r\n{token}\r\n'
        '--x\r\nContent-Disposition: form-data; name="file"; filename="bench.csv"\r\n\r\n'
    ).encode()
    block, end = rows(), b"\r\n--x--\r\n"
    times = megabytes * MB // len(block)
    size = len(HEADER) + times * len(block)
    last_byte = 0.0

    def body() -> Iterator[bytes]:
        nonlocal last_byte
        yield head + HEADER
        for _ in range(times):
            yield block
        yield end
        last_byte = time.monotonic()

    headers = {
        "Content-Type": "multipart/form-data; boundary=x",
        "Content-Length": str(len(head) + size + len(end)),
        "Origin": visitor.base,
    }
    started = time.monotonic()
    answer = visitor.request("/uploads/", body(), timeout=600, **headers)  # type: ignore[arg-type]  urllib takes it
    if answer.status != 302:
        sys.exit(f"The site answered {answer.status}:\n{answer.text}")
    return size, last_byte - started, time.monotonic() - last_byte


def rows() -> bytes:
    """About a megabyte."""
    numbers = range(11_000)
    made = (ROW.format(number=n, month=n % 12 + 1, day=n % 28 + 1, amount=n * 1.37) for n in numbers)
    return "".join(made).encode()


def follow(visitor: Visitor) -> tuple[float, str]:
    """Ask until the newest upload's task has ended; returns the seconds it took, and its result."""
    started = time.monotonic()
    found = re.search(r"/tasks/([\w-]+)/status/", visitor.get("/uploads/").text)
    if not found:
        sys.exit("The page shows no task that is under way; a larger file would.")
    while True:
        task = json.loads(visitor.get(f"/api/tasks/{found[1]}/").text)
        if task.get("ready"):
            print("\r    \r", end="")
            return time.monotonic() - started, task["result"] or task["error"]
        print(f"\r{(task.get('progress') or {}).get('percent', 0)} %", end="", flush=True)
        time.sleep(0.5)


def clean_up(visitor: Visitor) -> None:
    page = visitor.get("/uploads/").text
    token = forms(page)["upload-form"]["csrfmiddlewaretoken"]
    for path in re.findall(r'action="(/uploads/[\w-]+/delete/)"', page):
        visitor.post(path, {"csrfmiddlewaretoken": token})


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
