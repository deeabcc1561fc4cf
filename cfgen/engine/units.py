"""The units of a run: whole batches, each of them done as a whole or not at all."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

from cfgen.engine.run_folder import COLUMNS, log
from cfgen.engine.table import SPREADSHEET, write_parquet, write_table
from cfgen.plausibility import false_discovery_rate

MARK, CLAIM = ".jsonl", ".claim"


class Units:
    """The units of a run folder.

    A unit is one whole batch, so that rows do not depend on who does how many of them. Its cases
    are written to a folder of their own and renamed into ``OUT/cases/``; then its rows are renamed
    to ``OUT/units/<number>.jsonl``, which is the mark that they are there. What has no mark is done
    again.

    Args:
        out: The run folder.
        images: How many images the run has.
        size: How many of them are a unit.
    """

    def __init__(self, out: Path, images: int, size: int) -> None:
        self.out, self.images, self.size = out, images, size
        self.folder = out / "units"

    def __len__(self) -> int:
        """How many there are."""
        return -(-self.images // self.size)

    def span(self, number: int) -> range:
        """Which images a unit has."""
        first = number * self.size
        return range(first, min(first + self.size, self.images))

    def path(self, number: int, suffix: str = MARK) -> Path:
        """The file of a unit's rows."""
        return self.folder / f"{number:07d}{suffix}"

    def done(self) -> list[int]:
        """The units that are whole."""
        return marked(self.folder)

    def clear(self) -> None:
        """Remove what runs that were stopped left of units that are not whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with os.scandir(self.folder) as entries:
            left = [entry for entry in entries if not entry.name.endswith(MARK)]
        for entry in left:
            shutil.rmtree(entry.path) if entry.is_dir() else os.unlink(entry.path)

    def claimed(self, numbers: Sequence[int]) -> Iterator[int]:
        """Those of the numbers that no other process of this run has taken before."""
        for number in numbers:
            try:
                os.close(os.open(self.path(number, CLAIM), os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            yield number

    @contextmanager
    def begin(self, number: int) -> Iterator[Path]:
        """A folder for the cases of a unit; gone afterwards."""
        folder = tempfile.mkdtemp(prefix=f"{number:07d}-", dir=self.folder)
        os.chmod(folder, 0o755)  # its cases are as readable as any
        try:
            yield Path(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def finish(self, number: int, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """Hand over the cases in ``folder``, then the rows."""
        for case in sorted(folder.iterdir()):
            home = self.out / "cases" / case.name
            shutil.rmtree(home, ignore_errors=True)  # of a unit that was stopped
            case.rename(home)
        part = self.path(number, ".part")
        with part.open("w", encoding="utf-8") as file:
            file.writelines(_line(row) for row in rows)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path(number))


def marked(folder: Path) -> list[int]:
    """The numbers of the units in a folder that are whole, in order."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    return sorted(int(name.removesuffix(MARK)) for name in names if name.endswith(MARK))


class Rows(Sequence[dict[str, Any]]):
    """The rows of all units that are there, in the order of the images, read when they are asked.

    Args:
        out: The run folder.
    """

    def __init__(self, out: Path) -> None:
        self.folder = out / "units"
        self.numbers = marked(self.folder)

    def unit(self, number: int) -> list[dict[str, Any]]:
        """The rows of a unit, also what results.csv leaves out; nan where a number is missing."""
        lines = (self.folder / f"{number:07d}{MARK}").read_text(encoding="utf-8").splitlines()
        return [
            {k: math.nan if v is None else v for k, v in json.loads(line).items()} for line in lines
        ]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Row by row, one unit in memory."""
        rates = iter(self._rates)
        for number in self.numbers:
            for row in self.unit(number):
                told = {k: v for k, v in row.items() if not k.startswith("_")}
                if row["plausibility"] != "":
                    told["plausibility_q"] = next(rates)
                yield told

    @cached_property
    def _rates(self) -> Sequence[float]:
        """The rate of false discoveries of each row that was judged: it depends on all of them."""
        rows = (row for number in self.numbers for row in self.unit(number))
        judged = array("d", (row["plausibility"] for row in rows if row["plausibility"] != ""))
        return array("d", false_discovery_rate(judged))

    @property
    def images(self) -> int:
        """How many images they are of."""
        return sum(row["alternative"] == 1 for row in self)

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(len(self.unit(number)) for number in self.numbers))

    def __len__(self) -> int:
        """How many there are."""
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """One row, or those of a slice."""
        whole = list(self)
        return whole[index]


def write_results(out: Path) -> dict[str, int]:
    """Write results.csv from the units that are there; returns how often each status came.

    Where it has more rows than a spreadsheet opens, results.parquet has them, too.
    """
    statuses: Counter[str] = Counter()

    def counted() -> Iterator[dict[str, Any]]:
        for row in Rows(out):
            statuses[row["status"]] += 1
            yield row

    write_table(out / "results.csv", COLUMNS, counted())
    if statuses.total() > SPREADSHEET:
        try:
            write_parquet(out / "results.parquet", COLUMNS, Rows(out))
        except ModuleNotFoundError:
            log(out, "results.parquet needs pip install 'cfgen[parquet]'")
    return dict(statuses)


def _line(row: Mapping[str, Any]) -> str:
    """A row as a line of JSON, which has no word for nan or infinity."""
    told = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(told, allow_nan=False) + "\n"
