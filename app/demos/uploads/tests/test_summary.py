"""What a CSV file is summed up to, and what is said of one that is none."""

import csv
import io

import pytest

from demos.uploads import summary
from demos.uploads.errors import FileError


@pytest.fixture
def summed(tmp_path):
    """The summary's rows as dictionaries, and its sentence."""

    def do(content, report=lambda done, note: None):
        source, target = tmp_path / "file.csv", io.BytesIO()
        source.write_bytes(content if isinstance(content, bytes) else content.encode())
        sentence = summary.summarise(source, target, report)
        return list(csv.DictReader(io.StringIO(target.getvalue().decode("utf-8-sig")))), sentence

    return do


@pytest.mark.parametrize(
    ("cells", "type", "least", "greatest", "mean"),
    [
        (["3", "-5", "8"], "integer", "-5", "8", "2"),
        (["1.5", "2", "-1e3"], "decimal", "-1000", "2", "-332.166666666667"),
        (["2024-03-01", "2023-12-31", "2024-02-29T12:00"], "date", "2023-12-31", "2024-03-01", ""),
        (["pear", "apple", "7"], "text", "7", "pear", ""),
        (["7", "2024-01-01", "8"], "text", "2024-01-01", "8", ""),
        (["nan", "inf", "1_000"], "text", "1_000", "nan", ""),
        (["9" * 400, "1", "2"], "text", "1", "9" * 100, ""),
        (["", "  ", ""], "empty", "", "", ""),
    ],
)
def test_a_column_has_the_narrowest_type_of_all_its_values(summed, cells, type, least, greatest, mean):
    ((column,), _) = summed("x;y\n".replace(";y", "") + "".join(f'"{cell}"\n' for cell in cells))

    assert column["type"] == type
    assert (column["min"], column["max"], column["mean"]) == (least, greatest, mean)


def test_values_and_empty_cells_are_counted(summed):
    (name, age), sentence = summed("name,age\nMina,41\n,\nNoor,\n")

    assert (name["values"], name["empty"], age["values"], age["empty"]) == ("2", "1", "1", "2")
    assert sentence == "3 rows, 2 columns"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_first_lines_most_frequent(summed, delimiter):
    columns, _ = summed(delimiter.join("abc") + "\n" + delimiter.join("123") + "\n")

    assert [column["column"] for column in columns] == ["a", "b", "c"]


def test_quoted_cells_may_have_delimiters_quotes_and_line_breaks_in_them(summed):
    (a, _), sentence = summed('a,b\n"x, ""y""\nz",1\n')

    assert a["min"] == 'x, "y"\nz'
    assert sentence == "1 rows, 2 columns"


def test_a_mark_at_the_beginning_is_no_part_of_the_first_name(summed):
    assert summed("\ufeffname\nMina\n")[0][0]["column"] == "name"


def test_short_and_long_rows_are_counted_and_said(summed):
    (a, b), sentence = summed("a,b\n1\n1,2,3\n1,2\n")

    assert sentence.startswith("3 rows, 2 columns; 2 of them")
    assert (a["values"], b["values"], b["empty"]) == ("3", "2", "1")


@pytest.mark.parametrize("beginning", summary.FORMULA)
def test_no_spreadsheet_runs_a_cell_that_came_from_the_file(summed, beginning):
    formula = f"{beginning}cmd|' /C calc'!A0"
    (column,), _ = summed(f'"{formula}"\n"{formula}"\n')

    assert [column[name] for name in ("column", "min", "max")] == [f"'{formula}"] * 3


def test_a_number_below_zero_stays_a_number(summed):
    assert summed("a\n-5\n")[0][0]["min"] == "-5"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n \n", "There are only blank lines in this file."),
        (b"a,b\n1,\0\n", "Line 2 has a NUL byte in it"),
        (b"a,b\n1,2\nJos\xe9,3\n", "Line 3 is not in UTF-8."),
        (b'a,b\n"1"2,3\n', "Line 2 is no CSV: ',' expected after '\"'."),
        (b'a,b\n"1,2\n', "Line 2 is no CSV: unexpected end of data."),
        (b"a," * 10_000 + b"a\n", "There are 10,001 columns; 10,000 are the most."),
        (b"a,b\n" + b"x" * (2**17 + 1), "Line 2 is no CSV: field larger than field limit (131072)."),
        (b"x," * 2**20, "The row that ends on line 1 or later is longer than 1 MB."),
        (b"a,b\n" + b'"x\n",' * 2**19, "or later is longer than 1 MB."),
        (b"\n" * (2**20 + 1), "is longer than 1 MB."),
    ],
    ids=[
        "blank",
        "NUL",
        "Latin-1",
        "quotes",
        "no end",
        "columns",
        "cell",
        "endless line",
        "endless row",
        "endless blank",
    ],
)
def test_a_malformed_file_is_told_where_and_why(summed, content, words):
    with pytest.raises(FileError) as error:
        summed(content)
    assert words in str(error.value)


def test_progress_is_reported_in_bytes_up_to_the_end(summed):
    reports = []
    content = "a,b\n" + "some text,1\n" * 400_000
    summed(content, lambda done, note: reports.append((done, note)))

    sizes = [done for done, _ in reports]
    assert sizes == sorted(sizes)
    assert len(content) * 0.75 < sizes[-1] <= len(content)
    assert 4 <= len(reports) <= 7  # one for each megabyte, not for each row
    assert reports[-1][1].endswith(" rows")


@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_what_is_remembered_does_not_grow_with_the_rows(summed, rows):
    (column,), _ = summed("a\n" + "".join(f"{'x' * 1000}{row}\n" for row in range(rows)))

    assert len(column["max"]) == 100
