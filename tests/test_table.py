"""results.csv: numbers and text there and back, and nothing that a spreadsheet runs."""

import csv
import re

import pytest

from cfgen.engine.table import SCHEMA, read_table, table_line, write_table

COLUMNS = ["file", "lam", "seed", "ok", "schema"]


def written(path):
    """The cells as they stand in the file."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def row(file, **more):
    return {"file": file, "lam": 1.5, "seed": 0, "ok": True, "schema": SCHEMA} | more


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (1 / 3, "0.333333"),
        (1234567.0, "1.23457e+06"),
        (-0.25, "-0.25"),
        (float("nan"), ""),
        (None, ""),
        (-7, "-7"),
        (12345678, "12345678"),
        (True, "True"),
        ("", ""),
    ],
)
def test_values(tmp_path, value, cell):
    write_table(tmp_path / "t.csv", COLUMNS, [row("a", lam=value)])
    assert written(tmp_path / "t.csv") == [COLUMNS, ["a", cell, "0", "True", "2"]]
    assert [r["lam"] for r in read_table(tmp_path / "t.csv")] == [cell]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1 img", "'+1 img"),
        ("-cmd", "'-cmd"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("-1.5e-3", "-1.5e-3"),  # a number runs nothing
        ("+4", "+4"),
        ("-1+1", "'-1+1"),
        ("'=1", "''=1"),  # else it came back without its own
        ("''-4", "'''-4"),
        ("'a'", "'a'"),
        ("a=1", "a=1"),
        ('a, "b"\nc', 'a, "b"\nc'),
        ("Ångström 脳", "Ångström 脳"),
    ],
)
def test_text_comes_back_and_no_spreadsheet_runs_it(tmp_path, text, cell):
    write_table(tmp_path / "t.csv", COLUMNS, [row(text)])
    assert written(tmp_path / "t.csv")[1][0] == cell
    assert [r["file"] for r in read_table(tmp_path / "t.csv")] == [text]


def test_a_table_of_the_schema_before_is_read_as_it_is(tmp_path):
    (tmp_path / "t.csv").write_text("file,lam\r\n'=1,2\r\n=1\r\na,1,more,cells\r\n")
    assert list(read_table(tmp_path / "t.csv")) == [
        {"file": "'=1", "lam": "2"},
        {"file": "=1", "lam": ""},
        {"file": "a", "lam": "1"},
    ]


@pytest.mark.parametrize("text", ["=1", "'=1", 'a, "b"\nc', "-1.5", "é"])
def test_a_line_of_a_row_that_was_read_is_the_line_of_the_file(tmp_path, text):
    write_table(tmp_path / "t.csv", COLUMNS, [row(text)])
    (read,) = read_table(tmp_path / "t.csv")
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        assert file.read().endswith(f"schema\r\n{table_line(read)}")
    assert table_line({"file": "=1", "lam": "2"}) == "=1,2\r\n"  # the schema before


def test_an_empty_table(tmp_path):
    write_table(tmp_path / "t.csv", COLUMNS, [])
    assert list(read_table(tmp_path / "t.csv")) == []
    (tmp_path / "t.csv").write_text("")
    assert list(read_table(tmp_path / "t.csv")) == []


def test_a_name_that_is_no_text_is_written(tmp_path):
    write_table(tmp_path / "t.csv", COLUMNS, [row("a\udcff.png")])
    assert [r["file"] for r in read_table(tmp_path / "t.csv")] == ["a\\udcff.png"]


def test_rows_are_taken_one_at_a_time_and_the_file_is_whole_or_the_former_one(tmp_path):
    path = tmp_path / "t.csv"
    write_table(path, COLUMNS, [row("former")])

    def rows():
        yield row("new")
        assert [r["file"] for r in read_table(path)] == ["former"]
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="^No space left on device$"):
        write_table(path, COLUMNS, rows())
    assert [r["file"] for r in read_table(path)] == ["former"]
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_a_table_says_its_schema(tmp_path):
    with pytest.raises(ValueError, match=f"^{re.escape('expected a column')} 'schema', got a, b$"):
        write_table(tmp_path / "t.csv", ["a", "b"], [])
    assert not [*tmp_path.iterdir()]


def test_a_value_without_a_column_is_refused(tmp_path):
    with pytest.raises(ValueError, match="dict contains fields not in fieldnames: 'more'"):
        write_table(tmp_path / "t.csv", COLUMNS, [row("a", more=1)])
