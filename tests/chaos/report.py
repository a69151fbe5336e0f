"""The table, the file, and the picture: tasks done over time, with the faults marked."""

import json
from html import escape
from pathlib import Path
from typing import Any

from tests.chaos.ledger import SECONDS_PER_STEP

Columns = dict[str, dict[str, Any]]
NAMES = {"celeriac": "durable jobs", "plain": "plain Celery"}
COLOURS = {"celeriac": "#0a7d55", "plain": "#c2410c"}
WIDTH, HEIGHT, LEFT, TOP, LABELS = 1400, 240, 50, 30, 150


def table(columns: Columns) -> str:
    """As Markdown; a fault under which plain Celery lost and doubled nothing has not struck."""
    parts = []
    for name, column in columns.items():
        head = ("fault", "at", "running", "waiting", "refused", "lost", "doubled", "mailed twice", "dropped", "undone")
        rows = [[*head, "first done, s", "all done, s"]]
        for line in column["faults"]:
            keys = (
                "fault",
                "at",
                "running",
                "waiting",
                "refused",
                "lost",
                "doubled",
                "mailed_twice",
                "dropped",
                "undone",
            )
            rows.append([shown(line[key]) for key in (*keys, "first_done", "all_done")])
        parts.append(f"\n{NAMES[name]}: {totals(column)}\n\n{markdown(rows)}")
    return "\n".join(parts)


def shown(value: Any) -> str:
    return "-" if value is None else str(value)


def markdown(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = ["| " + " | ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([texts[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *texts[1:]])


def totals(column: dict[str, Any]) -> str:
    keys = ("seconds", "ordered", "promised", "rows", "lost", "doubled", "mailed_twice", "dropped", "undone")
    words = [f"{column[key]} {key.replace('_', ' ')}" for key in keys]
    return ", ".join([*words, f"answer p50 {column['answer_p50']} s, p99 {column['answer_p99']} s"])


def write(folder: Path, seed: int, columns: Columns) -> None:
    (folder / "chaos.json").write_text(json.dumps({"seed": seed, "columns": columns}, indent=1) + "\n")
    (folder / "chaos.svg").write_text(picture(columns))


def picture(columns: Columns) -> str:
    """One chart for each column, on the same scale."""
    seconds = max(column["seconds"] for column in columns.values()) or 1
    most = max(max(column["done"]) for column in columns.values()) or 1
    charts = [chart(name, column, seconds, most, place) for place, (name, column) in enumerate(columns.items())]
    height = len(charts) * (HEIGHT + TOP + LABELS)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{height}" fill="white"/>', *charts, "</svg>\n"])


def chart(name: str, column: dict[str, Any], seconds: float, most: int, place: int) -> str:
    top = place * (HEIGHT + TOP + LABELS) + TOP
    across, up = (WIDTH - 2 * LEFT) / seconds, HEIGHT / most
    points = [
        f"{LEFT + i * SECONDS_PER_STEP * across:.1f},{top + HEIGHT - n * up:.1f}" for i, n in enumerate(column["done"])
    ]
    title = f"{NAMES[name]}: {column['lost']} lost, {column['doubled']} doubled"
    rate = f"{most / SECONDS_PER_STEP:g} tasks done a second"
    parts = [
        f'<text x="{LEFT}" y="{top - 10}" font-size="15" font-weight="bold">{title}</text>',
        f'<text x="{WIDTH - LEFT}" y="{top - 10}" font-size="11" text-anchor="end">top: {rate}</text>',
        f'<path d="M{LEFT},{top + HEIGHT}h{WIDTH - 2 * LEFT}" stroke="#888"/>',
        *(mark(line, LEFT + line["at"] * across, top) for line in column["faults"]),
        f'<polyline points="{" ".join(points)}" fill="none" stroke="{COLOURS[name]}" stroke-width="1.5"/>',
    ]
    return "\n".join(parts)


def mark(line: dict[str, Any], x: float, top: float) -> str:
    """A line where the fault struck, red where something was lost or doubled, and its name below."""
    colour = "#dc2626" if line["lost"] or line["doubled"] else "#999"
    y = top + HEIGHT + 8
    words = escape(
        f"{line['fault']}: {line['lost']} lost, {line['doubled']} doubled" if colour != "#999" else line["fault"]
    )
    return (
        f'<path d="M{x:.1f},{top}v{HEIGHT}" stroke="{colour}" stroke-dasharray="3 3"/>'
        f'<text transform="translate({x:.1f} {y}) rotate(50)" font-size="10" fill="{colour}">{words}</text>'
    )
