"""What must be the same for a run to go on: what was asked, and the images it began with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from cfgen.data import Item
from cfgen.engine.run_folder import read_record

Stamp = list[int]


def difference(former: Mapping[str, Any] | None, asked: Mapping[str, Any]) -> str:
    """The first thing that a former run was asked otherwise, in words; "" where there is none."""
    if former is None:
        return "a run of another version of cfgen there"
    for name in (*asked, *(n for n in former if n not in asked)):
        there, now = former.get(name), asked.get(name)
        if there == now:
            continue
        if isinstance(there, Mapping) and isinstance(now, Mapping):
            return difference(there, now)
        if name in ("listing", "checkpoint", "lpips"):
            return "other images now" if name == "listing" else f"other weights of the {name} now"
        return f"{name} {there} there and {now} now"
    return ""


def fits(out: Path, asked: Mapping[str, Any]) -> bool:
    """Whether a run that is asked so can begin or go on in a folder."""
    try:
        former = read_record(out)
    except ValueError:  # something else is there
        return False
    return former is None or not difference(former.get("asked"), asked)


def listing(items: Iterable[Item]) -> str:
    """A digest of which images there are, in which order, with what labels.csv says of them."""
    digest = hashlib.sha256()
    for item in items:
        mask = item.mask.name if item.mask else None
        told = (item.path.name, item.file, item.stem, item.label, mask, item.patient, item.split)
        line = json.dumps([*told, item.kind, item.index, item.axis, item.volume])
        digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def stamp(item: Item) -> list[Stamp]:
    """Size and times of an item's files: where they are the same, so is the content."""
    return [_stamp(path) for path in _files(item)]


def content(item: Item) -> list[str]:
    """SHA-256 of an item's files, "" for one that cannot be read."""
    return [_content(path, tuple(_stamp(path))) for path in _files(item)]


def _files(item: Item) -> list[Path]:
    return [item.path] if item.mask is None else [item.path, item.mask]


def _stamp(path: Path) -> Stamp:
    try:
        told = path.stat()
    except (OSError, ValueError):
        return []
    return [told.st_size, told.st_mtime_ns, told.st_ctime_ns, told.st_ino]


@lru_cache(maxsize=256)  # the slices of a volume are in one file
def _content(path: Path, stamp: tuple[int, ...]) -> str:
    if not stamp:
        return ""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()
