"""The table, the file, and the picture: tasks done over time, with the faults marked."""

import json
from html import escape
from pathlib import Path
from typing import Any

from tests.chaos.ledger import SECONDS_PER_STEP

Columns = dict[str, dict[str, Any]]
NAMES = {"celeriac": "durable jobs", "plain": "plain Celery"}
#: What the table shows of each; in flight are tasks that ran and tasks that waited. All of it is in the file.
SHOWN = {
    "celeriac": (
        *("in flight", "refused", "lost", "doubled", "mailed twice", "dropped", "undone"),
        *("first done, s", "all done, s", "quick refused", "quick lost"),
    ),
    # A fault under which plain Celery loses and doubles nothing has not struck.
    "plain": ("in flight", "lost", "doubled", "mailed twice", "first done, s", "struck", "quick lost"),
}
COLOURS = {"celeriac": "#0a7d55", "plain": "#c2410c"}
WIDTH, HEIGHT, LEFT, TOP, LABELS = 1400, 240, 50, 30, 150


def table(columns: Columns) -> str:
    """As Markdown, what is shown of each column side by side."""
    by_fault = {name: {line["fault"]: line for line in column["faults"]} for name, column in columns.items()}
    heads = [f"{NAMES[name]}: {word}" for name in columns for word in SHOWN[name]]
    rows = [["fault", *heads]]
    for fault in dict.fromkeys(fault for lines in by_fault.values() for fault in lines):
        cells = [cell(by_fault[name].get(fault), word) for name in columns for word in SHOWN[name]]
        rows.append([fault, *cells])
    return "\n".join([*(f"{NAMES[name]}: {totals(column)}" for name, column in columns.items()), "", markdown(rows)])


def cell(line: dict[str, Any] | None, word: str) -> str:
    if line is None:
        return ""
    if word == "in flight":
        return f"{line['running']}+{line['waiting']}"
    if word == "struck":
        return "yes" if line["lost"] or line["doubled"] or line["mailed_twice"] or line["quick_lost"] else "no"
    value = line[word.removesuffix(", s").replace(" ", "_")]
    return "-" if value is None else f"{value}{' helped' if word == 'all done, s' and line['helped'] else ''}"


def markdown(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = ["| " + " | ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([texts[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *texts[1:]])


def totals(column: dict[str, Any]) -> str:
    keys = ("seconds", "ordered", "promised", "rows", "lost", "doubled", "mailed_twice", "dropped", "undone")
    keys += ("quick_promised", "quick_lost", "quick_again")
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
