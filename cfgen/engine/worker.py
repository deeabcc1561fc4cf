"""What a unit of work is: some images read, explained, measured and written, each for itself."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from cfgen import metrics
from cfgen.checkpoints import Checkpoint
from cfgen.data import Item, Picture, UnreadableImage
from cfgen.data.geometry import write_geometry
from cfgen.data.written import FULL
from cfgen.diverse import diverse
from cfgen.engine import same
from cfgen.engine.run_folder import COLUMNS, alternative_case, write_case, write_window
from cfgen.engine.settings import Settings
from cfgen.engine.table import SCHEMA
from cfgen.engine.task import Task
from cfgen.plausibility import LPIPS, Plausibility
from cfgen.result import Counterfactual, Status

LPIPS_SIDE = 28

Exporter = Callable[[Item, Counterfactual, dict[str, Any], Path], dict[str, Any]]


@dataclass
class Loaded:
    """An item as it was read.

    Attributes:
        item: What was read.
        row: Its row so far; the status is there where it could not be read.
        picture: Its image, None where it could not be read.
        mask: Its lesion mask (H, W) of bool, None where there is none.
        trouble: What its row is to say of the mask.
        rows: One row for each of its counterfactuals, from ``row`` on.
        seconds: Time that reading took.
    """

    item: Item
    row: dict[str, Any]
    picture: Picture | None = None
    mask: Tensor | None = None
    trouble: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Worker:
    """Does units of work. It can be sent to another process, all but its accelerator.

    Args:
        checkpoint: The models.
        settings: What the user chose.
        accelerator: Device and mixed precision.
        lpips: The perceptual distance.
        load: Reads an item's image.
        load_mask: Reads an item's lesion mask, None where it has none.
        export: Called with each item, its counterfactual, its row and its case folder, to write
            more into that; returns more for the row.
        taken: Names of all case folders, in the form of ``casefold``, for ``diverse``.
    """

    checkpoint: Checkpoint
    settings: Settings
    accelerator: Accelerator
    lpips: LPIPS
    load: Callable[[Item], Picture]
    load_mask: Callable[[Item], Tensor | None] = lambda item: None
    export: Exporter = lambda item, cf, row, folder: {}
    taken: Collection[str] = ()

    def __post_init__(self) -> None:
        """Fit the settings to the models."""
        self.task = Task(self.checkpoint, self.settings)
        models = self.checkpoint
        self.plausibility = Plausibility(
            self.lpips, models.generator, models.calibration, models.reference
        )
        self.size = self.settings.batch_size

    def read(self, item: Item) -> Loaded:
        """Read an item. Whatever is wrong with its files is in its row."""
        start = time.perf_counter()
        loaded = self._read(item)
        loaded.seconds = time.perf_counter() - start
        return loaded

    def _read(self, item: Item) -> Loaded:
        row = self.row(item) | {"_stamp": same.stamp(item), "_sha256": same.content(item)}
        loaded = Loaded(item, row)
        try:
            loaded.picture = self.load(item)
        except UnreadableImage as error:
            return _unreadable(loaded, str(error))
        except Exception as error:  # its text may quote the file
            return _unreadable(loaded, f"the reader stopped with {type(error).__name__}")
        try:
            loaded.mask = self.load_mask(item)
        except UnreadableImage as error:
            loaded.trouble = f"The mask could not be read: {error}."
        except Exception as error:
            name = type(error).__name__
            loaded.trouble = f"The mask could not be read: the reader stopped with {name}."
        mask = loaded.mask
        if self.settings.region is not None and (mask is None or not bool(mask.any())):
            state = "empty" if mask is not None else "unreadable" if loaded.trouble else "missing"
            loaded.trouble += f" With --region nothing may change: the mask is {state}."
        loaded.trouble = loaded.trouble.strip()
        return loaded

    def unit(self, loaded: Sequence[Loaded], folder: Path) -> list[dict[str, Any]]:
        """Explain items that were read, and write their cases.

        Args:
            loaded: The items of the unit.
            folder: Where the case folders go.

        Returns:
            Their rows, in order.

        Raises:
            OSError: There is no room for the cases; that is no fault of an image.
        """
        start = time.perf_counter()
        readable = [one for one in loaded if one.picture is not None]
        while readable:
            some, readable = readable[: self.size], readable[self.size :]
            self.batch(some, folder)
        rows = [row for one in loaded for row in one.rows or [one.row]]
        for row in rows:
            row["seconds"] = (time.perf_counter() - start) / len(rows)
        return rows

    def batch(self, some: Sequence[Loaded], folder: Path) -> None:
        """Explain items at once: in halves where memory runs out, alone where one of them fails."""
        try:
            self.together(some, folder)
            return
        except Exception as error:
            if no_room(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            full = isinstance(error, MemoryError) or should_reduce_batch_size(error)
            why = "memory ran out" if full else _line(error)
        if len(some) == 1:
            _failed(some[0], f"while it was explained: {why}")
            return
        if full:
            self.size = max(len(some) // 2, 1)
            torch.cuda.empty_cache()
        size = self.size if full else 1
        for first in range(0, len(some), size):
            self.batch(some[first : first + size], folder)

    def together(self, some: Sequence[Loaded], folder: Path) -> None:
        """Explain items in one batch and write their cases."""
        x = torch.stack([one.picture.x for one in some if one.picture is not None])
        found = self.explain(x.to(self.accelerator.device), [one.mask for one in some])
        told = [self.measure(cf) for cf in found]
        for i, one in enumerate(some):
            one.rows = []
            for number, (cf, values) in enumerate(zip(found, told, strict=True), 1):
                if number > 1 and not bool(found[0].flipped[i]):
                    break
                row = self.row(one.item, number) if number > 1 else dict(one.row)
                one.rows.append(row | values[i] | {"batch": len(some)})
                try:
                    self.write(one, cf[i], one.rows[-1], folder)
                except Exception as error:
                    if no_room(error) or should_reduce_batch_size(error):
                        raise
                    # The text of an error of a medical file may quote its header.
                    _failed(one, f"while it was written: {type(error).__name__}")
                    for row in one.rows:
                        shutil.rmtree(folder / row["case"], ignore_errors=True)
                    break

    def write(self, one: Loaded, cf: Counterfactual, row: dict[str, Any], folder: Path) -> None:
        """Write what is kept of a case, and what its row says of that."""
        case, more = folder / row["case"], {}
        if self.settings.keep != "rows":
            whole = self.settings.keep == "all"
            write_case(cf, case, self.settings.sweep * whole, one.mask, arrays=whole)
            if one.picture is not None and one.picture.window is not None:
                write_window(one.picture.window, case)
            if one.picture is not None:
                write_geometry(one.item, one.picture, case, self.load if whole else None)
            more = self.export(one.item, cf, row, case)
        said = (row["message"], one.trouble, more.get("message", ""))
        row |= more | {"message": " ".join(filter(None, said))}

    def row(self, item: Item, number: int = 1) -> dict[str, Any]:
        """The row of an item's ``number``-th counterfactual, before anything is known."""
        case = item.stem if number == 1 else alternative_case(item.stem, number, self.taken)
        return dict.fromkeys(COLUMNS, "") | {
            "case": case,
            "file": item.file,
            "label": item.label or "",
            "direction": self.settings.direction,
            "seed": self.settings.seed,
            "alternative": number,
            "schema": SCHEMA,
        }

    def explain(self, x: Tensor, masks: Sequence[Tensor | None]) -> list[Counterfactual]:
        """Counterfactuals of images (B, C, H, W) with the chosen settings, ``diverse`` of each."""
        problem = self.task.problem(x, masks, lambda: self.accelerator.autocast())
        return diverse(problem, self.task.directions, self.settings.diverse)

    @torch.no_grad()
    def measure(self, cf: Counterfactual) -> list[dict[str, Any]]:
        """The columns of results.csv that describe each counterfactual."""
        names = self.task.classifier.classes
        source = cf.logits_before.argmax(1)
        columns: dict[str, list[Any]] = {
            "source": [names[i] for i in source.tolist()],
            "target": [names[i] for i in cf.target.tolist()],
            "status": [s.name for s in cf.status],
            "message": ["" if s is Status.FLIPPED else s.value for s in cf.status],
            "lam": cf.lam.tolist(),
            "lam_lower": cf.lam_lower.tolist(),
            "latent_l2": (cf.lam * cf.alpha.flatten(1).norm(dim=1)).tolist(),
            "prob_before": cf.prob_before.tolist(),
            "prob_after": cf.prob_after.tolist(),
            "l1": metrics.l1(cf.x, cf.x_cf).tolist(),
            "ssim": metrics.ssim(cf.x, cf.x_cf).tolist(),
            "forward": cf.passes.forward.tolist(),
            "backward": cf.passes.backward.tolist(),
            "evals": (cf.passes.forward + cf.passes.backward).tolist(),
        }
        if min(cf.x.shape[-2:]) >= LPIPS_SIDE and cf.x.shape[1] in (1, 3):
            columns["lpips"] = self.lpips(cf.x, cf.x_cf).tolist()
            columns["plausibility"] = self.plausibility(cf.x_cf, columns["target"]).tolist()
        oracle = self.checkpoint.oracle
        if oracle is not None and oracle.classes == names:
            column = cf.target[:, None]
            for when, x in (("before", cf.x), ("after", cf.x_cf)):
                p = oracle(x).softmax(1)
                columns[f"oracle_{when}"] = p.gather(1, column)[:, 0].tolist()
            columns["oracle_agrees"] = [int(a) for a in (p.argmax(1) == cf.target).tolist()]
        rows = [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]
        for row, moved in zip(rows, cf.moved.tolist(), strict=True):
            if row["status"] == Status.NOT_FINITE.name and not row["prob_before"] >= 0:
                row |= {"source": "", "prob_before": float("nan")}  # f says nothing of the image
            if not moved:  # distances and judgements of an image that was not made say nothing
                row |= dict.fromkeys(
                    ("latent_l2", "prob_after", "lpips", "l1", "ssim", "plausibility")
                    + ("oracle_after", "oracle_agrees"),
                    float("nan"),
                )
        return rows


def no_room(error: BaseException | None) -> bool:
    """Whether an error comes from a disk that is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def _unreadable(loaded: Loaded, reason: str) -> Loaded:
    loaded.row |= {"status": Status.UNREADABLE.name, "message": reason}
    return loaded


def _failed(loaded: Loaded, reason: str) -> None:
    """Leave one row that says why there is no counterfactual."""
    message = f"{Status.FAILED.value} It stopped {reason}."
    loaded.rows = [loaded.row | {"status": Status.FAILED.name, "message": message}]


def _line(error: Exception) -> str:
    """An error of the models in one line: they see pixels only, and no text of a file."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' if text else ''}{text[:200]}"
