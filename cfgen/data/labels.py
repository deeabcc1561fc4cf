"""The labels.csv beside a folder of images."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from cfgen.data.kinds import kind_of

COLUMNS = ("file", "label", "mask", "patient", "split")


def read_labels(path: Path, needed: Sequence[str]) -> dict[str, list[str]]:
    """The columns that cfgen knows, stripped, of the rows that are not blank.

    A row may end early: its other cells are blank. Further columns are left alone.

    Args:
        path: The file.
        needed: Columns that must be there.

    Returns:
        A list of cells for each column of ``COLUMNS`` that is there, all of one length.

    Raises:
        ValueError: It is no CSV file in UTF-8, a column is missing or there twice, a row has more
            cells than columns or a line break in one that is known, there are no rows, or a file is
            missing or there twice.
    """
    table = _rows(path)
    header = next(table, (0, []))[1]
    for column in needed:
        if column not in header:
            raise ValueError(
                f"expected column '{column}' in {path.name}, got columns {', '.join(header)}"
            )
    for column, count in Counter(header).items():
        if column and count > 1:
            raise ValueError(f"expected each column once in {path.name}, got '{column}' {count}x")
    known = {column: header.index(column) for column in COLUMNS if column in header}
    columns: dict[str, list[str]] = {column: [] for column in known}
    for line, row in table:
        if len(row) > len(header):
            raise ValueError(
                f"expected at most {len(header)} cells in line {line} of {path.name}, "
                f"got {len(row)}: a cell with a comma needs quotes"
            )
        for column, place in known.items():
            cell = row[place] if place < len(row) else ""
            if "\n" in cell or "\r" in cell:
                raise ValueError(
                    f"expected a {column} of one line in line {line} of {path.name}, got a line "
                    "break: a quote may be open"
                )
            # Few labels, patients and splits stand in many rows.
            columns[column].append(cell if column in ("file", "mask") else sys.intern(cell))
    if not columns["file"]:
        raise ValueError(f"expected rows in {path.name}, got none")
    for file, count in Counter(columns["file"]).items():
        if not file:
            raise ValueError(f"expected a file in every row of {path.name}, got '' ({count}x)")
        if count > 1:
            shown = f"'{file}'" if kind_of(Path(file)) == "picture" else "one"
            raise ValueError(f"expected each file once in {path.name}, got {shown} {count}x")
    return columns


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The line where each row that is not blank begins, from 1, and its cells, stripped."""
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, skipinitialspace=True, strict=True)
            for row in reader:
                cells = [cell.strip() for cell in row]
                if any(cells):
                    yield line, cells
                line = reader.line_num + 1
    except OSError as error:
        raise ValueError(f"expected a labels file at '{path}', got none") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"expected {path.name} to be a CSV file in UTF-8, got {error}") from error
    except csv.Error as error:
        found = "an open quote" if "end of data" in str(error) else str(error)
        raise ValueError(
            f"expected {path.name} to be a CSV file, got {found} in the row of line {line}"
        ) from error
