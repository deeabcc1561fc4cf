"""The image files of a folder, in reading order, and what else is there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from cfgen.data.kinds import KNOWN, kind_of, why_not
from cfgen.data.series import Outline, in_order, outline


def image_files(root: Path) -> tuple[list[str], Counter[str]]:
    """Every image file below a folder, not hidden or of a run, as a relative POSIX path, sorted.

    Links are followed, but no folder is read twice. DICOM files of one series and folder follow
    each other by instance number, or by position where that is missing.

    Returns:
        The files, and how many others were skipped for which reason.

    Raises:
        ValueError: There are none.
    """
    found, skipped = _tree(root)
    if not found:
        listed, passed = " ".join(KNOWN), skipped_line(skipped)
        raise ValueError(
            f"expected image files ({listed}) in '{root}', got none{passed and f'; {passed}'}"
        )
    series: dict[tuple[str, str], dict[str, Outline]] = {}
    for file in found:
        if kind_of(os.path.join(root, file)) == "dicom":
            place = outline(root / file)
            key = (os.path.dirname(file) if place.series else file, place.series)
            series.setdefault(key, {})[file] = place
    # A series stands where its first file does.
    order = {
        file: (min(one), at) for one in series.values() for at, file in enumerate(in_order(one))
    }
    if order:
        found.sort(key=lambda file: order.get(file) or (file, 0))
    return found, skipped


def skipped_line(skipped: Mapping[str, int]) -> str:
    """One line that counts what was skipped; empty where nothing was."""
    told = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
    return f"skipped: {told}" if told else ""


def _tree(root: Path) -> tuple[list[str], Counter[str]]:
    found: list[str] = []
    skipped: Counter[str] = Counter()
    folders, links, seen = [""], [], set()
    while folders or links:
        links.sort(reverse=True)  # links come last, so that what is in the tree keeps its own path
        below = (folders or links).pop()
        try:
            stat = os.stat(root / below)
            if (stat.st_dev, stat.st_ino) in seen:
                skipped["link to a folder that is read"] += 1
                continue
            seen.add((stat.st_dev, stat.st_ino))
            entries = {entry.name: entry for entry in os.scandir(root / below)}
        except OSError:
            skipped["folder that cannot be opened"] += 1
            continue
        if below and "run.json" in entries and "cases" in entries and entries["cases"].is_dir():
            skipped["run folder"] += 1
            continue
        for name, entry in entries.items():
            path = f"{below}/{name}" if below else name
            try:
                folder, file = entry.is_dir(), entry.is_file()
            except OSError:  # a link to itself
                folder, file = False, False
            if name.startswith("."):
                reason = "hidden"
            elif folder:
                (links if entry.is_symlink() else folders).append(path)
                continue
            elif not file:
                reason = "broken link" if entry.is_symlink() else "not a file"
            else:
                reason = why_not(entry.path)
            if reason:
                skipped[reason] += 1
            else:
                found.append(path)
    found.sort()
    return found, skipped
