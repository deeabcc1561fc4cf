"""An images folder: a tree of image files, with an optional labels.csv beside them."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy")


@dataclass(frozen=True)
class Item:
    """One image of a folder.

    Attributes:
        file: The path as results.csv shows it, POSIX, relative to the folder.
        path: Where the file is, or should be.
        stem: Name of its case folder, unique in the folder, also where case does not count.
        label: What labels.csv says.
        mask: Where the mask is.
        patient: Whose image it is.
        split: The part of the data it belongs to.
    """

    file: str
    path: Path
    stem: str
    label: str | None = None
    mask: Path | None = None
    patient: str | None = None
    split: str | None = None


class ImageFolder(Sequence[Item]):
    """The images to explain: the rows of labels.csv, or else every image file of the tree, sorted.

    A row whose file is missing stays an item: reading it says "no such file". Without a labels.csv
    hidden files and folders (a leading dot) are skipped.

    Args:
        root: The folder.
        labels: The labels file; None takes ``root/labels.csv`` if there is one. Its paths are
            relative to ``root``, its columns are file and, each optional, label, mask, patient and
            split.
        split: Keep the rows of this split.
        limit: Keep the first items only.

    Raises:
        ValueError: The folder, the labels file, a column or the split is not there, there are no
            images, or limit is less than 1.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        labels: str | Path | None = None,
        split: str | None = None,
        limit: int | None = None,
    ) -> None:
        root = Path(root)
        if not root.is_dir():
            found = "a file" if root.exists() else "no such folder"
            raise ValueError(f"expected a folder of images at '{root}', got {found}")
        if limit is not None and limit < 1:
            raise ValueError(f"expected a limit of at least 1, got {limit}")
        if labels is None and (root / "labels.csv").is_file():
            labels = root / "labels.csv"
        if labels is not None:
            rows = _rows(Path(labels), ("file",) if split is None else ("file", "split"))
        elif split is not None:
            raise ValueError(f"expected a labels.csv in '{root}' for split '{split}', got none")
        else:
            rows = [{"file": file} for file in _tree(root)]
        if split is not None:
            names = list(dict.fromkeys(row["split"] for row in rows if row["split"]))
            rows = [row for row in rows if row["split"] == split]
            if not split or not rows:
                raise ValueError(f"expected a split of {', '.join(names)}, got '{split}'")
        # Named before the limit, so that a longer run finds the case folders of a shorter one.
        stems = _stems([row["file"] for row in rows])
        self.items = tuple(
            Item(
                file=row["file"],
                path=root / row["file"],
                stem=stem,
                label=row.get("label") or None,
                mask=root / row["mask"] if row.get("mask") else None,
                patient=row.get("patient") or None,
                split=row.get("split") or None,
            )
            for row, stem in islice(zip(rows, stems, strict=True), limit)
        )

    def __len__(self) -> int:
        """Number of items."""
        return len(self.items)

    def __getitem__(self, index):
        """The item at an index, or the items of a slice."""
        return self.items[index]


def _tree(root: Path) -> list[str]:
    """Every image file below ``root`` that is not hidden, as a relative POSIX path, sorted."""
    files = (p.relative_to(root) for p in root.rglob("*") if p.suffix.lower() in SUFFIXES)
    shown = (f for f in files if not any(part.startswith(".") for part in f.parts))
    found = sorted(f.as_posix() for f in shown if (root / f).is_file())
    if not found:
        raise ValueError(f"expected image files ({' '.join(SUFFIXES)}) in '{root}', got none")
    return found


def _rows(path: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a labels file that are not blank, stripped."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            table = [[cell.strip() for cell in row] for row in csv.reader(stream)]
    except OSError as error:
        raise ValueError(f"expected a labels file at '{path}', got none") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"expected {path.name} to be a CSV file in UTF-8, got {error}") from error
    table = [row for row in table if any(row)]
    header = table[0] if table else []
    for column in needed:
        if column not in header:
            raise ValueError(
                f"expected column '{column}' in {path.name}, got columns {', '.join(header)}"
            )
    width = len(header)
    rows = [dict(zip(header, row + [""] * (width - len(row)), strict=False)) for row in table[1:]]
    if not rows:
        raise ValueError(f"expected rows in {path.name}, got none")
    for file, count in Counter(row["file"] for row in rows).items():
        if not file:
            raise ValueError(f"expected a file in every row of {path.name}, got '' ({count}x)")
        if count > 1:
            raise ValueError(f"expected each file once in {path.name}, got '{file}' {count}x")
    return rows


def _stems(files: list[str]) -> Iterator[str]:
    """A name for each case folder: the stem; if that is taken, the path, then with its suffix."""
    paths = [PurePosixPath(file) for file in files]
    forms = [
        [_safe([p.stem]) for p in paths],
        [_safe([*p.parts[:-1], p.stem]) for p in paths],
        [_safe([*p.parts[:-1], p.stem, p.suffix[1:]]) for p in paths],
    ]
    counts = [Counter(name.casefold() for name in form) for form in forms]
    seen: set[str] = set()
    for names in zip(*forms, strict=True):
        unique = (n for n, c in zip(names, counts, strict=True) if c[n.casefold()] == 1)
        first = name = next(unique, names[-1])
        number = 1
        while name.casefold() in seen:  # a_b.png beside a/b.png
            number += 1
            name = f"{first}-{number}"
        seen.add(name.casefold())
        yield name


def _safe(parts: Sequence[str]) -> str:
    """Path parts as one name that is no path itself, on any system."""
    name = "_".join(parts)
    name = "".join(c if c.isalnum() or c in " .-_+()" else "_" for c in name)
    return name.strip(" .") or "_"
