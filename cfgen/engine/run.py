"""A whole data set, from images to a run folder; it goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from cfgen._version import __version__
from cfgen.checkpoints import Checkpoint
from cfgen.data import Item, Picture
from cfgen.engine import same
from cfgen.engine.run_folder import (
    alone,
    clear,
    log,
    read_record,
    secret_of,
    write_record,
)
from cfgen.engine.settings import Settings
from cfgen.engine.table import SCHEMA
from cfgen.engine.task import Task
from cfgen.engine.units import Rows, Units, write_results
from cfgen.engine.where import Processes, Where
from cfgen.engine.worker import Exporter, Worker
from cfgen.plausibility import LPIPS

PACKAGES: Sequence[str] = (
    "torch diffusers accelerate lpips stlpips-pytorch kornia numpy scipy".split()
)


@dataclass
class Engine:
    """Explains a data set and writes the run folder.

    Args:
        checkpoint: The models.
        settings: What the user chose.
        accelerator: Device, mixed precision and processes.
        lpips: The perceptual distance.
    """

    checkpoint: Checkpoint
    settings: Settings
    accelerator: Accelerator
    lpips: LPIPS

    def __post_init__(self) -> None:
        """Fit the settings to the models."""
        self.task = Task(self.checkpoint, self.settings)
        self.classifier = self.task.classifier

    @staticmethod
    def believable(checkpoint: Checkpoint) -> str:
        """The direction by the checkpoint's prior if it has one for its classes."""
        prior, f = checkpoint.prior, checkpoint.classifier
        fits = prior is not None and f.head != "multilabel" and prior.classes == f.classes
        return "guided" if fits else "minimal_norm"

    def run(
        self,
        items: Sequence[Item],
        load: Callable[[Item], Picture],
        out: Path,
        on_progress: Callable[[int], None] = lambda done: None,
        record: Mapping[str, Any] | None = None,
        export: Callable[[str], Exporter] | None = None,
        load_mask: Callable[[Item], Tensor | None] = lambda item: None,
        *,
        reading: Mapping[str, Any] | None = None,
        fresh: bool = False,
        where: Where | None = None,
        stop: Event | None = None,
    ) -> Rows:
        """Explain every image and write OUT as ``design.md`` describes it, without the page.

        A run that was stopped goes on: what is whole in OUT is not done again.

        Args:
            items: What to explain.
            load: Reads an item's image, (C, H, W); raises UnreadableImage.
            out: Folder to write.
            on_progress: Called in the main process with the number of images that are done.
            record: More entries for run.json.
            export: Makes of the run's secret what is called with each item, its counterfactual,
                its row and its case folder, to write more into that; returns more for the row.
            load_mask: Reads an item's lesion mask (H, W) of bool, None where it has none; raises
                UnreadableImage.
            reading: How items are read and written; a run goes on only with the same.
            fresh: Start over, whatever run is in ``out``.
            where: Where the units run; None for this process, or those of the accelerator.
            stop: Set to end the run after the units in hand.

        Returns:
            One row an image that is done, in the order of the items; with ``diverse`` one more for
            each other counterfactual of an image that flips.

        Raises:
            ValueError: ``out`` holds something else, a run that was asked something else, or one
                that is at work.
            OSError: There is no room left on the disk; a later run goes on.
        """
        units = Units(out, len(items), self.settings.batch_size)
        where = where or Processes(self.accelerator)
        asked = self.asked(items, reading or {}, where)
        start, main = time.perf_counter(), self.accelerator.is_main_process
        with ExitStack() as held:
            problem, todo, secret = "", [], ""
            if main:
                try:
                    todo = self.begin(units, items, asked, record or {}, fresh, held)
                    secret = secret_of(out) if export and todo else ""
                except ValueError as error:
                    problem = str(error)
            problem, todo, secret = broadcast_object_list([problem, todo, secret])
            if problem:
                raise ValueError(problem)
            several = self.settings.diverse > 1
            worker = Worker(
                self.checkpoint,
                self.settings,
                self.accelerator,
                self.lpips,
                load,
                load_mask,
                export(secret) if export else lambda item, cf, row, folder: {},
                frozenset(item.stem.casefold() for item in items) if several else (),
            )
            told = units.images - sum(len(units.span(number)) for number in todo)

            mine = []

            def on_unit(number: int) -> None:
                mine.append(number)
                # Units are begun in order: those before it are in other hands, if not done.
                done = max(len(mine), bisect_right(todo, number))
                on_progress(min(told + done * units.size, units.images))

            on_progress(told)
            try:
                where.run(worker, items, units, todo, stop or Event(), on_unit)
            finally:
                if main and not (read_record(out) or {}).get("finished"):
                    self.write(units, time.perf_counter() - start)
            self.accelerator.wait_for_everyone()
        return Rows(out)

    def asked(
        self, items: Sequence[Item], reading: Mapping[str, Any], where: Where
    ) -> dict[str, Any]:
        """All that must be the same for a run to go on."""
        hashes = json.dumps(self.checkpoint.hashes, sort_keys=True)
        told = {
            "images": {"number": len(items), "listing": same.listing(items)},
            "settings": asdict(self.settings),
            "reading": reading,
            "checkpoint": hashlib.sha256(hashes.encode()).hexdigest(),
            "lpips": self.lpips.hash,
            "device": where.device,
            "precision": self.accelerator.mixed_precision,
            "cfgen": __version__,
            "torch": version("torch"),
        }
        return json.loads(json.dumps(told))  # as run.json gives it back

    def place(self, out: str | None, asked: Mapping[str, Any], fresh: bool = False) -> Path:
        """The run folder that is asked for, or else "out" or the first of "out-2", ... that fits.

        Args:
            out: What the user asked for.
            asked: What :meth:`asked` says.
            fresh: Whether a run in it is to be started over.
        """
        if out is not None or fresh:
            return Path(out or "out")
        free = None
        if self.accelerator.is_main_process:
            names = (f"out-{number}" if number > 1 else "out" for number in count(1))
            free = next(name for name in names if same.fits(Path(name), asked))
        (free,) = broadcast_object_list([free])
        return Path(free or "out")

    def begin(
        self,
        units: Units,
        items: Sequence[Item],
        asked: dict[str, Any],
        record: Mapping[str, Any],
        fresh: bool,
        held: ExitStack,
    ) -> list[int]:
        """Make the run folder ready; returns the units that are to be done.

        Raises:
            ValueError: The folder holds something else, another run, or one that is at work.
        """
        out = units.out
        former = read_record(out)
        held.enter_context(alone(out))
        if fresh or former is None:
            clear(out)
        elif differs := same.difference(former.get("asked"), asked):
            raise ValueError(
                f"expected to go on with the run in '{out}', got {differs}; --fresh starts over"
            )
        done = units.done()
        for number in done:
            rows = (row for row in Rows(out).unit(number) if row["alternative"] == 1)
            for i, row in zip(units.span(number), rows, strict=True):
                known = same.stamp(items[i]) == row["_stamp"]
                if not known and same.content(items[i]) != row["_sha256"]:
                    raise ValueError(
                        f"expected to go on with the run in '{out}', got another image "
                        f"'{items[i].file}' now; --fresh starts over"
                    )
        todo = sorted(set(range(len(units))) - set(done))
        if todo:
            former = {} if fresh or former is None else former
            seconds = former.get("seconds", 0.0)
            write_record(out, self.record(asked, seconds) | dict(record) | {"images": units.images})
            (out / "cases").mkdir(exist_ok=True)
            units.clear()
            log(out, "start", images=units.images, units=len(units), todo=len(todo))
        return todo

    def record(self, asked: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """What run.json says from the beginning: settings, software, weights."""
        return {
            "schema": SCHEMA,
            "finished": False,
            "settings": asdict(self.settings),
            "checkpoint": {"name": self.checkpoint.name, "sha256": self.checkpoint.hashes},
            "lpips": {"trunk": self.lpips.trunk, "sha256": self.lpips.hash},
            "device": asked["device"],
            "precision": self.accelerator.mixed_precision,
            "processes": self.accelerator.num_processes,
            "versions": {"cfgen": __version__, "python": platform.python_version()}
            | {p: version(p) for p in PACKAGES},
            "asked": asked,
            "seconds": seconds,
        }

    def write(self, units: Units, seconds: float) -> None:
        """Write the table of the units that are there, and what became of the images."""
        out = units.out
        statuses = write_results(out)
        done = units.done()
        record = read_record(out) or {}
        record |= {
            "finished": len(done) == len(units),
            "done": sum(len(units.span(number)) for number in done),
            "statuses": statuses,
            "seconds": round(record["seconds"] + seconds, 3),
        }
        write_record(out, record)
        if record["finished"]:
            (out / "secret").unlink(missing_ok=True)
        log(out, "finished" if record["finished"] else "stopped", done=record["done"])
