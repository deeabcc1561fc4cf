"""A whole dataset: batches, processes, files. The way of the data from images to a run folder."""

from __future__ import annotations

import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import find_executable_batch_size, gather_object
from torch import Tensor

from cfgen import metrics
from cfgen._version import __version__
from cfgen.checkpoints import Checkpoint
from cfgen.data import Item, Picture, UnreadableImage
from cfgen.diverse import diverse
from cfgen.engine.run_folder import (
    COLUMNS,
    alternative_case,
    fresh_folder,
    write_case,
    write_window,
)
from cfgen.engine.settings import Settings
from cfgen.engine.table import SCHEMA, write_table
from cfgen.engine.task import Task
from cfgen.plausibility import LPIPS, Plausibility, false_discovery_rate
from cfgen.result import Counterfactual, Status

PACKAGES: Sequence[str] = (
    "torch diffusers accelerate lpips stlpips-pytorch kornia numpy scipy".split()
)
LPIPS_SIDE = 28


Exporter = Callable[[Item, Counterfactual, dict[str, Any], Path], dict[str, Any]]


class Loaded(NamedTuple):
    """An image that could be read, and its rows: one for each of its counterfactuals."""

    item: Item
    rows: list[dict[str, Any]]
    picture: Picture
    mask: Tensor | None
    trouble: str


@dataclass
class Engine:
    """Explains a dataset and writes the run folder.

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
        models = self.checkpoint
        self.plausibility = Plausibility(
            self.lpips, models.generator, models.calibration, models.reference
        )

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
        record: dict[str, Any] | None = None,
        export: Exporter = lambda item, cf, row, folder: {},
        load_mask: Callable[[Item], Tensor | None] = lambda item: None,
    ) -> list[dict[str, Any]]:
        """Explain every image and write OUT as ``design.md`` describes it, without the page.

        Args:
            items: What to explain.
            load: Reads an item's image, (C, H, W); raises UnreadableImage.
            out: Folder to write; a former run in it is replaced.
            on_progress: Called with the number of images that this process has finished.
            record: More entries for run.json.
            export: Called with each item, its counterfactual, its row and its case folder, to
                write more into that; returns more for the row.
            load_mask: Reads an item's lesion mask (H, W) of bool, None where it has none; raises
                UnreadableImage.

        Returns:
            One row an image, in the order of the items; with ``diverse`` one more for each other
            counterfactual of an image that flips. The same list in every process.
        """
        accelerator = self.accelerator
        if accelerator.is_main_process:
            fresh_folder(out)
        accelerator.wait_for_everyone()
        start = time.perf_counter()

        mine = self.share(items)
        done: list[list[dict[str, Any]]] = []
        taken = {item.stem.casefold() for item in items}

        def work(batch_size: int) -> None:
            while len(done) < len(mine):  # goes on where memory ran out
                items = mine[len(done) :][:batch_size]
                done.extend(self.batch(items, load, load_mask, out, export, taken))
                on_progress(len(done))

        retry: Any = find_executable_batch_size(work, starting_batch_size=self.settings.batch_size)
        retry()
        rows = [row for told in gather_object(done) for row in told]
        judged = [row for row in rows if row["plausibility"] != ""]
        rates = false_discovery_rate([row["plausibility"] for row in judged])
        for row, q in zip(judged, rates, strict=True):
            row["plausibility_q"] = q
        if accelerator.is_main_process:
            write_table(out / "results.csv", COLUMNS, rows)
            seconds = time.perf_counter() - start
            summary = self.record(rows, seconds) | (record or {})
            (out / "run.json").write_text(json.dumps(summary, indent=2) + "\n")
        accelerator.wait_for_everyone()
        return rows

    def share(self, items: Sequence[Item]) -> list[Item]:
        """The items of this process, the most in the first.

        These are whole batches: the last bits of a model depend on the batch, and so rows must not
        depend on the number of processes.
        """
        size, processes = self.settings.batch_size, self.accelerator.num_processes
        batches, rank = -(-len(items) // size), self.accelerator.process_index
        first, last = (-(-batches * k // processes) * size for k in (rank, rank + 1))
        return list(items)[first:last]

    def batch(
        self,
        items: Sequence[Item],
        load: Callable[[Item], Picture],
        load_mask: Callable[[Item], Tensor | None],
        out: Path,
        export: Exporter,
        taken: Collection[str] = (),
    ) -> list[list[dict[str, Any]]]:
        """Explain some images and write their case folders; returns the rows of each."""
        start = time.perf_counter()
        told: list[list[dict[str, Any]]] = []
        readable: list[Loaded] = []
        for item in items:
            row = self.row(item)
            told.append([row])
            try:
                picture = load(item)
            except UnreadableImage as error:
                row |= {"status": Status.UNREADABLE.name, "message": str(error)}
                continue
            mask, trouble = None, ""
            try:
                mask = load_mask(item)
            except UnreadableImage as error:
                trouble = f"The mask could not be read: {error}."
            if self.settings.region is not None and (mask is None or not bool(mask.any())):
                state = "empty" if mask is not None else "unreadable" if trouble else "missing"
                trouble = f"{trouble} With --region nothing may change: the mask is {state}."
            readable.append(Loaded(item, told[-1], picture, mask, trouble.strip()))
        if not readable:
            return told
        x = torch.stack([one.picture.x for one in readable]).to(self.accelerator.device)
        found = self.explain(x, [one.mask for one in readable])
        for number, cf in enumerate(found, 1):
            for i, values in enumerate(self.measure(cf)):
                item, rows, picture, mask, trouble = readable[i]
                if number > 1:
                    if not bool(found[0].flipped[i]):
                        continue
                    rows.append(self.row(item, number, taken))
                row, single = rows[-1], cf[i]
                row |= values
                folder = out / "cases" / row["case"]
                write_case(single, folder, self.settings.sweep, mask)
                if picture.window is not None:
                    write_window(picture.window, folder)
                more = export(item, single, row, folder)
                said = (row["message"], trouble, more.get("message", ""))
                row |= more | {"message": " ".join(filter(None, said))}
        written = [row for one in readable for row in one.rows]
        for row in written:
            row["seconds"] = (time.perf_counter() - start) / len(written)
        return told

    def row(self, item: Item, number: int = 1, taken: Collection[str] = ()) -> dict[str, Any]:
        """The row of an item's ``number``-th counterfactual, before anything is known."""
        case = item.stem if number == 1 else alternative_case(item.stem, number, taken)
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
        names = self.classifier.classes
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
            if not moved:  # distances and judgements of an image that was not made say nothing
                row |= dict.fromkeys(
                    ("latent_l2", "prob_after", "lpips", "l1", "ssim", "plausibility")
                    + ("oracle_after", "oracle_agrees"),
                    float("nan"),
                )
        return rows

    def record(self, rows: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
        """What run.json says: settings, software, weights, outcome."""
        return {
            "settings": asdict(self.settings),
            "checkpoint": {"name": self.checkpoint.name, "sha256": self.checkpoint.hashes},
            "lpips": {"trunk": self.lpips.trunk, "sha256": self.lpips.hash},
            "device": self.accelerator.device.type,
            "precision": self.accelerator.mixed_precision,
            "processes": self.accelerator.num_processes,
            "versions": {"cfgen": __version__, "python": platform.python_version()}
            | {p: version(p) for p in PACKAGES},
            "statuses": dict(Counter(row["status"] for row in rows)),
            "seconds": round(seconds, 3),
        }
