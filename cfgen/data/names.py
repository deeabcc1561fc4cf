"""What files are called in results.csv, and the names of their case folders."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

FORMS = 3
LONGEST = 200  # bytes of a case's name: file systems take 255, and others add to it


def printable(file: str) -> str:
    r"""A file's name as text that UTF-8 can hold: a byte that is no UTF-8 becomes ``\xfc``."""
    try:
        file.encode()
    except UnicodeEncodeError:
        return os.fsencode(file).decode(errors="backslashreplace")
    return file


def page_name(file: str, index: int) -> str:
    """What the case folder of a frame, slice or page is called after."""
    path = PurePosixPath(file.removesuffix(".gz"))
    return path.with_name(f"{path.stem}_{index:03d}{path.suffix}").as_posix()


def case_names(files: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """A name for each case folder: the stem; if others have it, the path, then with its suffix.

    They are unique, also where case does not count, and depend on the list of files alone.

    Args:
        files: Relative POSIX paths.
        taken: Names that are given already.
    """
    names, alone = [], bytearray(len(files))  # alone: no other file has this form of the name
    for form in range(FORMS):
        others = [_form(file, form) for file in files]
        counts = Counter(name.casefold() for name in others)
        names = [
            a if done else b for a, b, done in zip(names or others, others, alone, strict=True)
        ]
        alone = bytearray(
            done or counts[name.casefold()] == 1 for name, done in zip(others, alone, strict=True)
        )
        if all(alone):
            break
    del others, counts
    seen = {name.casefold() for name in taken}
    numbers: defaultdict[str, int] = defaultdict(lambda: 1)
    for i, first in enumerate(names):
        name = first
        while name.casefold() in seen:  # a_b.png beside a/b.png
            numbers[first] += 1
            name = f"{first}-{numbers[first]}"
        seen.add(name.casefold())
        names[i] = name
    return names


def _form(file: str, form: int) -> str:
    """The stem of a file as a name; after its folders; and before its suffix."""
    folders, _, name = file.rpartition("/")
    stem, suffix = os.path.splitext(name)
    parts = [part for part in folders.split("/") if part not in ("", ".")]
    return safe([*parts[: len(parts) if form else 0], stem, *([suffix[1:]] if form == 2 else [])])


def safe(parts: Sequence[str]) -> str:
    """Path parts as one name that is no path itself, on any system, and no formula in a cell."""
    name = re.sub(r"[^\w .+()-]", "_", "_".join(parts)).strip(" .") or "_"
    name = re.sub(r"^[+-]", "_", name)
    if len(name.encode()) > LONGEST:
        digest = "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
        name = name.encode()[: LONGEST - len(digest)].decode(errors="ignore") + digest
    return name
