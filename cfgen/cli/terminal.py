"""What the terminal shows of a run, and how Ctrl-C ends it."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

from tqdm import tqdm

from cfgen.gallery.words import agreed_before


def table(rows: Iterable[dict[str, Any]], most: int = 20) -> str:
    """The first rows of the results as text.

    An oracle that gave the original the answer asked for, too, "did before".
    """
    head = f"{'image':<32} {'source':>10} -> {'target':<10} {'status':<14} {'lambda':>7}"
    head += f" {'p before':>9} {'p after':>8} {'LPIPS':>7} {'oracle':>10}"
    lines, statuses, written = [head], Counter(), Counter()
    for place, row in enumerate(rows):
        statuses[row["status"]] += 1
        if row["dicom_flips"] != "":
            written[row["dicom_flips"]] += 1
        if place >= most:
            continue

        def number(name: str, row: dict[str, Any] = row) -> str:
            value = row[name]
            return f"{value:.3f}" if isinstance(value, float) and value == value else "-"

        agrees = {1: "agrees", 0: "differs"}.get(row["oracle_agrees"], "-")
        if agrees == "agrees" and agreed_before(row):
            agrees = "did before"
        lines.append(
            f"{row['case'][-32:]:<32} {row['source']:>10} -> {row['target']:<10} "
            f"{row['status'][:14]:<14} {number('lam'):>7} {number('prob_before'):>9} "
            f"{number('prob_after'):>8} {number('lpips'):>7} {agrees:>10}"
        )
    if statuses.total() > most:
        lines.append(f"... {statuses.total() - most} more in results.csv")
    if written:
        lines.append(f"{written[1]} of {written.total()} DICOM or NIfTI files flip when read again")
    lines.append(", ".join(f"{count} {name}" for name, count in statuses.most_common()))
    return "\n".join(lines)


@contextmanager
def interruptible() -> Iterator[Event]:
    """An event that Ctrl-C and SIGTERM set; Ctrl-C again, a second later, ends at once."""
    stop, first = Event(), [0.0]

    def handle(number: int, frame: object) -> None:
        # A launcher may hand on to its processes what the terminal has sent them already.
        if number == signal.SIGINT and stop.is_set() and time.monotonic() - first[0] > 1:
            raise KeyboardInterrupt
        first[0] = first[0] or time.monotonic()
        stop.set()

    former = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def progress(total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar that is moved to the number of images that are done; it begins with the first."""
    bars: list[tqdm] = []

    def told(done: int) -> None:
        if not bars:
            if shown and done:
                print(f"Going on: {done} of {total} images are done.", flush=True)
            bars.append(tqdm(total=total, initial=done, unit="image", disable=not shown))
        bars[0].update(done - bars[0].n)

    try:
        yield told
    finally:
        for bar in bars:
            bar.close()
