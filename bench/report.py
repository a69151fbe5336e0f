"""The report of bench/compare.py: a table in Markdown, a JSON file and a picture."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path

from bench.columns import ONCE_OR_LESS, ONCE_OR_MORE, Column
from bench.rows import Row

#: What all ratios are to, in this order.
REFERENCES = ("celery (tuned)", "celery (tutorial)")


@dataclass
class Measured:
    """One row of one column in one round."""

    row: str
    column: str
    round: int
    figures: dict[str, float] = field(default_factory=dict)
    #: Different tasks that were executed; those that were not; executions of one that had been executed.
    executed: int = 0
    missing: int = 0
    doubled: int = 0
    failed: str = ""

    def in_words(self) -> str:
        figures = ", ".join(f"{name} {number(value)}" for name, value in self.figures.items())
        counts = [f"{count} {word}" for word, count in (("missing", self.missing), ("doubled", self.doubled)) if count]
        return ", ".join([f"failed: {self.failed}" if self.failed else figures, *counts])


@dataclass
class Line:
    """One figure of one column, over all rounds."""

    row: str
    figure: str
    column: str
    median: float
    least: float
    most: float
    #: Reference -> how many times its median this one is; and from the least to the most of a round.
    ratios: dict[str, tuple[float, float, float]]


#: Row, figure, column -> what was measured in each round.
Values = dict[tuple[str, str, str], dict[int, float]]


def lines(results: Sequence[Measured]) -> list[Line]:
    values: Values = {}
    for result in results:
        for figure, value in result.figures.items():
            values.setdefault((result.row, figure, result.column), {})[result.round] = value
    return [
        Line(*key, statistics.median(found.values()), min(found.values()), max(found.values()), ratios(values, *key))
        for key, found in values.items()
    ]


def ratios(values: Values, row: str, figure: str, column: str) -> dict[str, tuple[float, float, float]]:
    mine, found = values[row, figure, column], {}
    for reference in REFERENCES:
        theirs = values.get((row, figure, reference), {})
        by_round = [mine[number] / theirs[number] for number in mine.keys() & theirs if theirs[number]]
        if by_round and (middle := statistics.median(theirs.values())):
            found[reference] = (statistics.median(mine.values()) / middle, min(by_round), max(by_round))
    return found


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


# --- The table ---------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """All that was measured until now, and where."""

    machine: dict[str, str | int]
    rows: Sequence[Row]
    columns: Sequence[Column]
    results: list[Measured] = field(default_factory=list)


def table(report: Report) -> str:
    """A section for each row that was measured."""
    settings = [[column.name, column.guarantee, column.settings] for column in grouped(report.columns)]
    parts = [
        "# Celeriac beside its peers",
        ", ".join(f"{name} {value}" for name, value in report.machine.items())
        + ". Medians (least-most) of all rounds, then how many times the median of "
        + " and of ".join(REFERENCES)
        + " that is (least-most of one round's).",
        markdown([["column", "a task runs", "settings"], *settings]),
    ]
    for row in report.rows:
        if results := [result for result in report.results if result.row == row.name]:
            parts += [f"## {row.title}", section(report.columns, results)]
            for reason in dict.fromkeys(filter(None, map(row.lacks, report.columns))):
                left_out = [column.name for column in report.columns if row.lacks(column) == reason]
                parts.append(f"Not measured: {', '.join(left_out)} ({reason}).")
    return "\n\n".join(parts)


def grouped(columns: Sequence[Column]) -> list[Column]:
    """Those that promise the same next to each other."""
    return sorted(columns, key=lambda column: [ONCE_OR_MORE, ONCE_OR_LESS].index(column.guarantee))


def section(columns: Sequence[Column], results: Sequence[Measured]) -> str:
    """One row of the benchmark, as a table: a line for each column, a cell for each figure."""
    found = {(line.figure, line.column): line for line in lines(results)}
    figures = list(dict.fromkeys(figure for result in results for figure in result.figures))
    measured = {result.column for result in results}
    texts = [["column", "a task runs", *figures, "counted"]]
    for column in grouped(columns):
        if column.name in measured:
            cells = [cell(found.get((figure, column.name))) for figure in figures]
            texts.append([column.name, column.guarantee, *cells, counted(column, results)])
    return markdown(texts)


def cell(line: Line | None) -> str:
    if line is None:
        return "-"
    # Of CPU the sum counts, and a queue that needs no main process is not better for it.
    shown = {} if line.figure.startswith("CPU") else line.ratios
    return with_spread(line.median, line.least, line.most) + "".join(
        f", {with_spread(*ratio, unit='x')}" for ratio in shown.values()
    )


def with_spread(middle: float, least: float, most: float, unit: str = "") -> str:
    spread = f" ({number(least)}-{number(most)})" if number(least) != number(most) else ""
    return f"{number(middle)}{unit}{spread}"


def counted(column: Column, results: Sequence[Measured]) -> str:
    """How often it failed and why, and the tasks that were lost and doubled."""
    ours = [result for result in results if result.column == column.name]
    failures = [result.failed for result in ours if result.failed]
    words = [f"failed {len(failures)} of {len(ours)}: {failures[-1]}"] if failures else []
    for word in ("missing", "doubled"):
        if count := sum(getattr(result, word) for result in ours):
            words.append(f"{count} {word}")
    executed = sum(result.executed for result in ours)
    return ", ".join(words).replace("|", "/") or (f"{executed} once" if executed else "")


def markdown(texts: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    drawn = ["| " + " | ".join(f"{text:<{w}}" for text, w in zip(line, widths, strict=True)) + " |" for line in texts]
    return "\n".join([drawn[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *drawn[1:]])


# --- The files ---------------------------------------------------------------------------------------------------


def write(folder: Path, report: Report) -> None:
    (folder / "bench.md").write_text(table(report) + "\n")
    (folder / "bench.svg").write_text(picture(report))
    found = {
        "machine": report.machine,
        "columns": [{"name": c.name, "guarantee": c.guarantee, "settings": c.settings} for c in report.columns],
        "figures": [asdict(line) for line in lines(report.results)],
        "measured": [asdict(result) for result in report.results],
    }
    (folder / "bench.json").write_text(json.dumps(found, indent=1) + "\n")


# --- The picture -------------------------------------------------------------------------------------------------

COLOURS = {ONCE_OR_MORE: "#0a7d55", ONCE_OR_LESS: "#94a3b8"}
WIDTH, NAMES, NUMBERS, LINE, HEAD = 900, 150, 150, 20, 40


def picture(report: Report) -> str:
    """A chart for each figure: a bar for each column, a line over it from the least to the most."""
    charts, top = [], 40
    for row in report.rows:
        found = [line for line in lines(report.results) if line.row == row.name and not line.figure.startswith("CPU")]
        for figure in dict.fromkeys(line.figure for line in found):
            by_column = {line.column: line for line in found if line.figure == figure}
            bars = [(column, by_column[column.name]) for column in grouped(report.columns) if column.name in by_column]
            charts.append(chart(f"{row.title}: {figure}", bars, top))
            top += HEAD + LINE * len(bars)
    legend = " ".join(f'<tspan fill="{colour}">■</tspan> {escape(guarantee)}' for guarantee, colour in COLOURS.items())
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" font-family="sans-serif">'
    background = f'<rect width="{WIDTH}" height="{top}" fill="white"/>'
    return "\n".join([head, background, f'<text x="10" y="20" font-size="12">{legend}</text>', *charts, "</svg>\n"])


def chart(title: str, bars: list[tuple[Column, Line]], top: int) -> str:
    across = (WIDTH - NAMES - NUMBERS) / (max(line.most for _, line in bars) or 1)
    better = "more" if title.endswith(("/s", "%")) else "less"
    parts = [
        f'<text x="10" y="{top + 12}" font-size="14" font-weight="bold">{escape(title)}'
        f'<tspan font-size="11" font-weight="normal"> ({better} is better)</tspan></text>'
    ]
    for place, (column, line) in enumerate(bars):
        parts.append(bar(column, line, top + 20 + place * LINE, across))
    return "\n".join(parts)


def bar(column: Column, line: Line, y: int, across: float) -> str:
    weight = ' font-weight="bold"' if column.name == "celeriac" else ""
    ratio = line.ratios.get(REFERENCES[0])
    words = number(line.median) + (f", {number(ratio[0])}x" if ratio else "")
    least, most = (NAMES + value * across for value in (line.least, line.most))
    return (
        f'<text x="{NAMES - 6}" y="{y + 12}" font-size="12" text-anchor="end"{weight}>{escape(column.name)}</text>'
        f'<rect x="{NAMES}" y="{y + 2}" width="{line.median * across:.1f}" height="{LINE - 6}" '
        f'fill="{COLOURS[column.guarantee]}"/>'
        f'<path d="M{least:.1f},{y + LINE / 2 - 1}H{most:.1f}" stroke="black"/>'
        f'<text x="{most + 6:.1f}" y="{y + 13}" font-size="11">{words}</text>'
    )
