"""results.csv, row by row: text that no spreadsheet runs, and the way back."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

SCHEMA = 2  # of results.csv and run.json; 1 has no column schema, and its text as it is

SPREADSHEET = 1_048_575
"""Rows that a spreadsheet opens, below the names of the columns."""

GROUP = 8192  # rows of a Parquet file that are in memory at once
TEXTS = "case file label source target status message direction".split()
COUNTS = "oracle_agrees evals forward backward seed alternative dicom_flips batch schema".split()

# What a spreadsheet takes for the start of a formula, the wide forms of East Asia too.
FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write a table of results, whole or not at all, one row at a time.

    Floats have six digits; nan, None and what a row lacks are empty cells. Text that a spreadsheet
    would run gets an apostrophe in front, and so does such text that has one already.

    Args:
        path: The file; replaced once the last row is written.
        columns: Names of the columns, ``schema`` among them: it tells that text is marked so.
        rows: Values of the columns.

    Raises:
        ValueError: There is no column ``schema``, or a row has a value of another column.
    """
    if "schema" not in columns:
        raise ValueError(f"expected a column 'schema', got {', '.join(columns)}")
    part = path.with_name(f".{path.name}.part")
    try:
        # Names that are no text, of another system's disk, are written as escapes.
        with open(part, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_table(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table of results as text, as it was before :func:`write_table` marked it.

    Args:
        path: A file of this schema or of one before; cells that a row lacks are "".

    Raises:
        FileNotFoundError: There is no such file.
    """
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, restkey="", restval="")
        marked = "schema" in (reader.fieldnames or ())
        for row in reader:
            row.pop("", None)  # cells beyond the last column
            yield {name: _text(cell) if marked else cell for name, cell in row.items()}


def table_line(row: Mapping[str, object]) -> str:
    """A row as it stands in the file, with the end of its line."""
    marked = "schema" in row
    stream = io.StringIO(newline="")
    csv.writer(stream).writerow([_cell(v) if marked else v for v in row.values()])
    return stream.getvalue()


def _cell(value: Any) -> Any:
    """A value as it stands in the file."""
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    if isinstance(value, str) and FORMULA.match(value) and not NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def _text(cell: str) -> str:
    """The text of a cell, without the mark."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def write_parquet(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the same table as Parquet, whole or not at all, some thousand rows at a time.

    Args:
        path: The file.
        columns: Names of the columns.
        rows: Values of the columns; "" and nan are null.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
    """
    import pyarrow
    import pyarrow.parquet

    kinds = {name: pyarrow.string() for name in TEXTS} | {name: pyarrow.int64() for name in COUNTS}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.float64())) for name in columns])
    part = path.with_name(f".{path.name}.part")
    left = iter(rows)
    try:
        with pyarrow.parquet.ParquetWriter(part, schema) as writer:
            while some := list(islice(left, GROUP)):
                told = [{name: _value(row[name]) for name in columns} for row in some]
                writer.write_table(pyarrow.Table.from_pylist(told, schema))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _value(value: Any) -> Any:
    """A value as Parquet has it: what there is none of is null, and text is UTF-8."""
    if value == "" or value != value:
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value
