"""What is in a CSV file, column by column. The file is read once, in pieces: memory does not grow with it."""

import csv
import io
import math
from collections.abc import Callable, Iterator
from datetime import date
from itertools import chain
from pathlib import Path
from typing import IO, BinaryIO

from demos.uploads.errors import FileError

# A row is what has to fit into memory, so it is what is bounded: one endless line, or a quotation mark that
# is never closed, would be the whole file.
MAX_ROW = 2**20  # bytes
MAX_COLUMNS = 10_000
DELIMITERS = ",;\t|"
SHOWN = 100  # characters of a text
REPORT_EVERY = 2**20  # bytes
#: What a spreadsheet takes for the beginning of a formula, the full-width ones included.
#: https://owasp.org/www-community/attacks/CSV_Injection
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")

Report = Callable[[int, str], None]


def summarise(source: Path, target: IO[bytes], report: Report) -> str:
    """Write one row for each column of ``source`` to ``target``; return the whole in one sentence."""
    with source.open("rb", buffering=REPORT_EVERY) as file:
        table = Table(file)
        table.read(report)
    text = io.TextIOWrapper(target, "utf-8-sig", newline="")  # without its mark Excel takes a file for Latin-1
    csv.writer(text).writerows(table.summary())
    text.detach()
    ragged = f"; {table.ragged:,} of them had another number of cells than the first line" if table.ragged else ""
    return f"{table.rows:,} rows, {len(table.columns):,} columns{ragged}"


def harmless(text: str) -> str:
    """``text`` as a cell that no spreadsheet runs."""
    return f"'{text}" if text.startswith(FORMULA) else text


class Lines:
    """The lines of the file as text, while each row stays small; ``row`` is set to 0 by whoever has one."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.number, self.read, self.row = file, 0, 0, 0

    def __iter__(self) -> Iterator[str]:
        while line := self.file.readline(MAX_ROW + 1):
            self.number += 1
            self.read += len(line)
            self.row += len(line)
            if self.row > MAX_ROW:
                raise FileError(
                    f"The row that ends on line {self.number} or later is longer than 1 MB. Is a quotation mark not "
                    "closed, or are line breaks missing?"
                )
            if b"\0" in line:
                raise FileError(f"Line {self.number} has a NUL byte in it, which no CSV file has.")
            try:
                yield line.decode("utf-8-sig" if self.number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise FileError(
                    f"Line {self.number} is not in UTF-8. Save the file again as “CSV UTF-8”, as Excel and "
                    "LibreOffice call it."
                ) from None


class Table:
    def __init__(self, file: BinaryIO) -> None:
        self.lines = Lines(file)
        self.columns: list[Column] = []
        self.rows = self.ragged = 0

    def read(self, report: Report) -> None:
        lines = iter(self.lines)
        first = next((line for line in lines if line.strip()), None)
        if first is None:
            raise FileError("There are only blank lines in this file.")
        delimiter = max(DELIMITERS, key=first.count)
        try:
            self.count(csv.reader(chain([first], lines), delimiter=delimiter, strict=True), report)
        except csv.Error as error:
            raise FileError(f"Line {self.lines.number} is no CSV: {error}.") from None

    def count(self, rows: Iterator[list[str]], report: Report) -> None:
        self.columns = [Column(name) for name in next(rows)]
        self.lines.row = 0
        if len(self.columns) > MAX_COLUMNS:
            raise FileError(f"There are {len(self.columns):,} columns; {MAX_COLUMNS:,} are the most.")
        lines, columns, width, report_at = self.lines, self.columns, len(self.columns), 0
        for row in rows:
            lines.row = 0
            if not row:
                continue
            self.rows += 1
            if len(row) != width:
                self.ragged += 1
                row += [""] * (width - len(row))
            for column, cell in zip(columns, row, strict=False):
                column.add(cell)
            if lines.read >= report_at:
                report(lines.read, f"{self.rows:,} rows")
                report_at = lines.read + REPORT_EVERY

    def summary(self) -> Iterator[list[str]]:
        yield ["column", "type", "values", "empty", "min", "max", "mean"]
        for column in self.columns:
            yield column.summary()


class Column:
    """What is remembered of a column: a few numbers and the ends of its texts, however many rows there are."""

    __slots__ = ("empty", "first", "greatest", "last", "least", "name", "total", "type", "values")

    def __init__(self, name: str) -> None:
        self.name = name
        #: ``integer``, ``decimal``, ``date`` or ``text``: the narrowest that every value has; empty without any.
        self.type = ""
        self.values = self.empty = 0
        self.total, self.least, self.greatest = 0.0, math.inf, -math.inf
        self.first = self.last = ""

    def add(self, cell: str) -> None:
        if not cell or cell.isspace():
            self.empty += 1
            return
        self.values += 1
        if not self.first or cell < self.first:
            self.first = cell[:SHOWN]
        if cell > self.last:
            self.last = cell[:SHOWN]
        if self.type != "text":
            self.narrow(cell)

    def narrow(self, cell: str) -> None:
        if self.type != "date" and (value := number(cell)) is not None:
            self.total += value
            self.least = min(self.least, value)
            self.greatest = max(self.greatest, value)
            if self.type != "decimal":
                self.type = "integer" if cell.strip().lstrip("+-").isdecimal() else "decimal"
        elif self.type in {"", "date"} and is_date(cell):
            self.type = "date"
        else:
            self.type = "text"

    def summary(self) -> list[str]:
        least = greatest = mean = ""
        if self.type in {"integer", "decimal"}:
            # Our own numbers: a minus in front of one is no formula, and a text would be no number any more.
            least, greatest, mean = (f"{n:.15g}" for n in (self.least, self.greatest, self.total / self.values))
        elif self.values:
            least, greatest = harmless(self.first), harmless(self.last)
        return [harmless(self.name[:SHOWN]), self.type or "empty", str(self.values), str(self.empty)] + [
            least,
            greatest,
            mean,
        ]


def number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    # Python's float takes these three as well: 1_000, nan and inf.
    return value if math.isfinite(value) and "_" not in cell else None


def is_date(cell: str) -> bool:
    try:
        date.fromisoformat(cell[:10])
    except ValueError:
        return False
    return True
