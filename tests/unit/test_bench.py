"""The benchmark: a small real one, whose tasks are all counted; its report's numbers; its proxy's delay."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar
from xml.etree import ElementTree

import pytest

from bench import memory, report
from bench.columns import COLUMNS, ONCE_OR_MORE
from bench.effects import Effects, StalledError, note
from bench.proxy import DELAY, delayed
from bench.report import Measured, Report
from bench.rows import ROWS, requests
from bench.run import FailedError

ROOT = Path(__file__).parents[2]
DRAIN = next(row for row in ROWS if row.name == "drain")


def measured(column: str, *rates: float, **counts: int) -> list[Measured]:
    return [
        Measured("drain", column, number, {"tasks/s": rate, "CPU of main, us/task": 1.0}, **counts)
        for number, rate in enumerate(rates, 1)
    ]


RESULTS = [
    *measured("celery (tutorial)", 100.0),
    *measured("celery (tuned)", 300.0, 100.0, 200.0, executed=20),
    *measured("celeriac", 3000.0, 1000.0, doubled=1),
    Measured("drain", "rq", 1, failed="it | fell over", missing=3),
]


def test_a_small_benchmark_counts_every_task_once(tmp_path):
    tmp_path.chmod(0o755)
    command = [sys.executable, "-m", "bench.compare", "--tasks", "200", "--rounds", "1", "--rows", "drain"]
    names = ["celery (tuned)", "celeriac"]
    done = subprocess.run(
        [*command, "--output", tmp_path, "--columns", *names], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "bench.json").read_text())
    counts = {run["column"]: [run[word] for word in ("executed", "missing", "doubled")] for run in found["measured"]}
    assert counts == {"celery (tuned)": [100, 0, 0], "celeriac": [400, 0, 0]}, done.stdout  # slow ones have a part
    assert {line["column"] for line in found["figures"] if line["figure"] == "tasks/s" and line["median"] > 0} == {
        *names
    }
    assert (tmp_path / "bench.md").read_text().strip() in done.stdout
    ElementTree.parse(tmp_path / "bench.svg")


def test_a_figure_has_its_median_its_spread_and_its_ratios():
    tuned, ours = (next(x for x in report.lines(RESULTS) if x.column == c) for c in ("celery (tuned)", "celeriac"))
    assert (tuned.median, tuned.least, tuned.most) == (200, 100, 300)
    assert ours.median == 2000
    assert ours.ratios == {"celery (tuned)": (10, 10, 10), "celery (tutorial)": (20, 30, 30)}


def test_a_ratio_has_its_spread_over_the_rounds_that_measured_both():
    results = [*measured("celery (tuned)", 100.0, 200.0), *measured("celeriac", 400.0, 1000.0, 70.0)]
    (ours,) = (line for line in report.lines(results) if line.column == "celeriac" and line.figure == "tasks/s")
    assert ours.ratios == {"celery (tuned)": (400 / 150, 4, 5)}
    assert report.cell(ours) == "400 (70-1,000), 2.67x (4-5)"


def test_a_reference_of_nothing_gives_no_ratio():
    results = [*measured("celery (tuned)", 0.0, 0.0, 5.0), *measured("celeriac", 4.0, 4.0, 4.0)]
    (ours,) = (line for line in report.lines(results) if line.column == "celeriac" and line.figure == "tasks/s")
    assert ours.ratios == {}


def test_a_reference_that_was_not_measured_gives_no_ratio():
    (line,) = report.lines([Measured("drain", "celeriac", 1, {"tasks/s": 5.0})])
    assert line.ratios == {}


def test_the_table_groups_by_guarantee_and_drops_nobody():
    lines = report.section(COLUMNS, RESULTS).splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [line[0] for line in cells] == ["celery (tuned)", "celeriac", "celery (tutorial)", "rq"]
    assert [line[1] == ONCE_OR_MORE for line in cells] == [True, True, False, False]
    assert cells[0][2:] == ["200 (100-300), 1x, 2x", "1", "60 once"]
    assert cells[1][-1] == "2 doubled"
    assert cells[3][2:] == ["-", "-", "failed 1 of 1: it / fell over, 3 missing"]


def test_the_table_says_who_was_not_measured_and_why():
    batch = next(row for row in ROWS if row.name == "batch")
    table = report.table(Report({"cores": 2}, [DRAIN, batch], COLUMNS, [*RESULTS, Measured("batch", "celeriac", 1)]))
    assert re.search(r"Not measured: .*huey.* \(nothing that sends many at once\)\.", table)
    assert table.count("Not measured") == 1


def test_the_picture_is_an_svg_with_a_bar_for_each_column_and_without_cpu():
    picture = report.picture(Report({}, [DRAIN], COLUMNS, RESULTS))
    ElementTree.fromstring(picture)
    assert picture.count("<rect") == 1 + 3  # the background
    assert "CPU" not in picture


def test_effects_are_counted_once_and_ones_that_stay_away_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFECTS", str(tmp_path / "effects"))
    effects = Effects(tmp_path / "effects")
    for number in (0, 1, 1, 2):
        note(number)
    effects.wait(3, check=lambda: None)
    assert (sorted(effects.times), effects.doubled) == ([0, 1, 2], 1)
    with pytest.raises(StalledError, match="3 of 4 tasks executed"):
        effects.wait(4, check=lambda: None, patience=0.05)


def test_a_rate_leaves_out_the_start():
    effects = Effects(Path(os.devnull))
    effects.times = {0: 0.0} | {number: 100 + number / 10 for number in range(1, 101)}
    assert effects.rate(0.05, 1) == pytest.approx(10)


def test_the_memory_of_each_setup_is_summed_and_compared_with_stock():
    found = {"stock": {"web": 100.0, "beat": 60.0}, "small": {"web": 30.0, "parent": 10.0}}
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in memory.table(found).splitlines()]
    assert ["web", "100", "30"] in lines
    assert ["parent", "", "10"] in lines
    assert lines[-2:] == [["**all**", "**160**", "**40**"], ["of stock", "1.00", "0.25"]]


class Page(BaseHTTPRequestHandler):
    """/ is there, nothing else is."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200 if self.path == "/" else 404)
        self.send_header("Content-Length", "4")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"done")

    def log_message(self, *args: object) -> None:
        """Nothing."""


def test_the_client_that_stands_in_for_wrk_counts_requests_and_errors(monkeypatch):
    monkeypatch.setattr("bench.rows.CLIENT", [sys.executable, "-m", "bench.client"])
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        site = f"http://127.0.0.1:{server.server_port}"
        assert requests(f"{site}/", seconds=1) == len(Page.asked) > 0
        with pytest.raises(FailedError, match="Non-2xx"):
            requests(f"{site}/missing", seconds=1)
        server.shutdown()


def test_the_proxy_delays_each_direction_and_keeps_the_order():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        delayed(server.getsockname()[1]) as port,
        socket.create_connection(("127.0.0.1", port)) as client,
        server.accept()[0] as other,
    ):
        assert took(client, other) >= DELAY
        assert took(other, client) >= DELAY
        sent = b"".join(number.to_bytes(4, "big") for number in range(100_000))
        client.sendall(sent)
        assert b"".join(received(other, len(sent))) == sent
        client.close()
        assert other.recv(1) == b""  # the end comes, too


def took(sender: socket.socket, receiver: socket.socket) -> float:
    began = time.perf_counter()
    sender.sendall(b"x")
    assert receiver.recv(1) == b"x"
    return time.perf_counter() - began


def received(connection: socket.socket, size: int) -> Iterator[bytes]:
    while size > 0:
        block = connection.recv(65536)
        size -= len(block)
        yield block
