"""An images folder: a tree of image files, with an optional labels.csv beside them."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from cfgen.data import dicom, nifti

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy")


@dataclass(frozen=True)
class Item:
    """One image of a folder.

    Attributes:
        file: The path as results.csv shows it, POSIX, relative to the folder; of a medical file
            the stem again, unless names are kept.
        path: Where the file is, or should be.
        stem: Name of its case folder, unique in the folder, also where case does not count.
        label: What labels.csv says.
        mask: Where the mask is.
        patient: Whose image it is.
        split: The part of the data it belongs to.
        kind: "picture", "dicom" or "nifti".
        index: Frame or slice of a medical file, from 0.
        axis: Axis of a NIfTI slice.
        opaque: Whether the names above hide those of the file.
    """

    file: str
    path: Path
    stem: str
    label: str | None = None
    mask: Path | None = None
    patient: str | None = None
    split: str | None = None
    kind: str = "picture"
    index: int = 0
    axis: str = "axial"
    opaque: bool = False


class ImageFolder(Sequence[Item]):
    """The images to explain: the rows of labels.csv, or else every image file of the tree, sorted.

    A file of several frames or slices is as many items. A row whose file is missing stays an item:
    reading it says "no such file". Without a labels.csv hidden files and folders (a leading dot)
    are skipped, and so are run folders in it (``run.json`` beside ``cases``); DICOM files are known
    by their suffix or their signature, and those of one series in a folder follow each other by
    instance number.

    Args:
        root: The folder, or a single DICOM or NIfTI file.
        labels: The labels file; None takes ``root/labels.csv`` if there is one. Its paths are
            relative to ``root``, its columns are file and, each optional, label, mask, patient and
            split.
        split: Keep the rows of this split.
        limit: Keep the first items only.
        axis: How NIfTI volumes are cut: axial, coronal, sagittal, or axis 0, 1, 2 of the array.
        slices: Which slices of a volume and frames of a multi-frame DICOM file; None takes all
            frames, and the slices that hold more than one value.
        keep_ids: Show the names of DICOM and NIfTI files; else they are case-0001, ...

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
        axis: str = "axial",
        slices: slice | None = None,
        keep_ids: bool = False,
    ) -> None:
        root = Path(root)
        single = root.is_file() and kind_of(root) != "picture"
        if not root.is_dir() and not single:
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
            rows = [{"file": file} for file in ([root.name] if single else _tree(root))]
        root = root.parent if single else root
        if split is not None:
            names = list(dict.fromkeys(row["split"] for row in rows if row["split"]))
            rows = [row for row in rows if row["split"] == split]
            if not split or not rows:
                raise ValueError(f"expected a split of {', '.join(names)}, got '{split}'")
        planes = [
            (row, kind, index)
            for row in rows
            for kind in [kind_of(root / row["file"])]
            for index in _indices(root / row["file"], kind, axis, slices)
        ]
        if not planes:
            raise ValueError("expected slices that are in the volumes, got none")
        # Named before the limit, so that a longer run finds the case folders of a shorter one.
        names = _names([(row["file"], kind, index) for row, kind, index in planes], keep_ids)
        self.items = tuple(
            Item(
                file=file,
                path=root / row["file"],
                stem=stem,
                label=row.get("label") or None,
                mask=root / row["mask"] if row.get("mask") else None,
                patient=row.get("patient") or None,
                split=row.get("split") or None,
                kind=kind,
                index=index,
                axis=axis,
                opaque=kind != "picture" and not keep_ids,
            )
            for (row, kind, index), (file, stem) in islice(zip(planes, names, strict=True), limit)
        )

    def __len__(self) -> int:
        """Number of items."""
        return len(self.items)

    def __getitem__(self, index):
        """The item at an index, or the items of a slice."""
        return self.items[index]


def kind_of(path: Path) -> str:
    """What a file is: "nifti" and "picture" by suffix, "dicom" by suffix, signature or name.

    A name without a suffix, or with that of a UID, is that of a DICOM file, there or not: it must
    not be shown.
    """
    name, suffix = path.name.lower(), path.suffix.lower()
    if name.endswith(nifti.SUFFIXES):
        return "nifti"
    if suffix in SUFFIXES:
        return "picture"
    if suffix in (*dicom.SUFFIXES, "") or suffix[1:].isdigit() or dicom.is_dicom(path):
        return "dicom"
    return "picture"


def parse_slices(text: str) -> slice:
    """One index "12", or "START:STOP" and "START:STOP:STEP" as in Python.

    Raises:
        ValueError: The text is none of these.
    """
    try:
        parts = [int(part) if part.strip() else None for part in text.split(":")]
        if len(parts) == 1 and parts[0] is not None and parts[0] >= 0:
            return slice(parts[0], parts[0] + 1)
        if 2 <= len(parts) <= 3 and (len(parts) < 3 or parts[2] is None or parts[2] > 0):
            return slice(*parts)
    except ValueError:
        pass
    raise ValueError(f"expected slices such as 12 or 10:20, got '{text}'")


def _indices(path: Path, kind: str, axis: str, slices: slice | None) -> Sequence[int]:
    """The frames or slices of a file; one that is no volume or cannot be read has one."""
    if kind == "picture":
        return [0]
    if kind == "nifti" and slices is None:
        return nifti.slices(path, axis)
    number = nifti.depth(path, axis) if kind == "nifti" else dicom.outline(path)[1]
    return range(number) if slices is None or number == 1 else range(number)[slices]


def _names(planes: list[tuple[str, str, int]], keep_ids: bool) -> list[tuple[str, str]]:
    """What results.csv shows of each plane, and the name of its case folder."""
    many = {file for file, count in Counter(file for file, _, _ in planes).items() if count > 1}
    shown: list[tuple[str, str]] = []  # what is shown, and what its folder is called after
    hidden: list[str] = []
    for file, kind, index in planes:
        if kind != "picture" and not keep_ids:
            hidden.append(f"case-{len(hidden) + 1:04d}")
        elif file in many:
            path = PurePosixPath(file.removesuffix(".gz"))
            form = path.with_name(f"{path.stem}_{index:03d}{path.suffix}")
            shown.append((f"{file}#{index}", form.as_posix()))
        else:
            shown.append((file, file.removesuffix(".gz")))
    stems = _stems([form for _, form in shown], hidden)
    named = ((file, stem) for (file, _), stem in zip(shown, stems, strict=True))
    opaque = ((name, name) for name in hidden)
    return [next(opaque if kind != "picture" and not keep_ids else named) for _, kind, _ in planes]


def _tree(root: Path) -> list[str]:
    """Every image file below ``root``, not hidden or of a run, as a relative POSIX path, sorted."""
    found: list[str] = []
    for name, folders, files in os.walk(root):
        folder = Path(name)
        if folder != root and "run.json" in files and "cases" in folders:
            folders.clear()
            continue
        folders[:] = [f for f in folders if not f.startswith(".")]
        shown = (folder / file for file in files if not file.startswith("."))
        found += [path.relative_to(root).as_posix() for path in shown if _is_image(path)]
    found.sort()
    if not found:
        listed = " ".join((*SUFFIXES, *dicom.SUFFIXES, *nifti.SUFFIXES))
        raise ValueError(f"expected image files ({listed}) in '{root}', got none")
    first: dict[tuple[Path, str], str] = {}
    order: dict[str, tuple[str, int, str]] = {}
    for file in found:
        series, number = "", 0
        if kind_of(root / file) == "dicom":
            series, number = dicom.outline(root / file)[0]
        # A series stands where its first file does.
        anchor = first.setdefault((Path(file).parent, series), file) if series else file
        order[file] = (anchor, number, file)
    return sorted(found, key=order.__getitem__)


def _is_image(path: Path) -> bool:
    if not path.is_file() or path.name == "DICOMDIR":  # an index of the files beside it
        return False
    known = path.name.lower().endswith((*SUFFIXES, *dicom.SUFFIXES, *nifti.SUFFIXES))
    return known or dicom.is_dicom(path)


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
            shown = f"'{file}'" if kind_of(Path(file)) == "picture" else "one"
            raise ValueError(f"expected each file once in {path.name}, got {shown} {count}x")
    return rows


def _stems(files: list[str], taken: Sequence[str] = ()) -> Iterator[str]:
    """A name for each case folder: the stem; if that is taken, the path, then with its suffix."""
    paths = [PurePosixPath(file) for file in files]
    forms = [
        [_safe([p.stem]) for p in paths],
        [_safe([*p.parts[:-1], p.stem]) for p in paths],
        [_safe([*p.parts[:-1], p.stem, p.suffix[1:]]) for p in paths],
    ]
    counts = [Counter(name.casefold() for name in form) for form in forms]
    seen = {name.casefold() for name in taken}
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
