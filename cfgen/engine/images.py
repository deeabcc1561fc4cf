"""The images that a user chooses for a run, and how they are read and written again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from cfgen.checkpoints import Checkpoint
from cfgen.data import ImageFolder, Item, Picture, read_item_mask, read_picture
from cfgen.data.export import Export, Identity
from cfgen.data.folder import parse_slices
from cfgen.data.raster import MAX_PIXELS
from cfgen.data.synthetic import synthetic_patients
from cfgen.data.window import parse_window
from cfgen.engine.worker import Exporter

SYNTHETIC = 8  # patients, where no other number is asked for


@dataclass(frozen=True)
class Images:
    """What a user chooses of the images.

    Attributes:
        folder: Where they are; None for synthetic patients of the checkpoint's prior.
        labels: The labels file; None for the folder's labels.csv, if there is one.
        split: Only the rows of this split.
        limit: Only the first ones.
        stretch: Resize without keeping the aspect.
        window: "CENTER,WIDTH" of medical files; None for their own.
        axis: How NIfTI volumes are cut.
        volume: Which volume of 4-D NIfTI files.
        slices: Which slices of volumes and frames of multi-frame files, as "12" or "10:20".
        dicom: Write counterfactuals in their sources' format, too.
        keep_ids: Keep the names of medical files, and what they say of the patient.
        max_pixels: An image, frame or slice that has more is refused.
    """

    folder: str | None = None
    labels: str | None = None
    split: str | None = None
    limit: int | None = None
    stretch: bool = False
    window: str | None = None
    axis: str = "axial"
    volume: int | None = None
    slices: str | None = None
    dicom: bool = False
    keep_ids: bool = False
    max_pixels: int = MAX_PIXELS

    def reading(self) -> dict[str, Any]:
        """How an image is read and written: what a run that goes on must have the same."""
        names = ("stretch", "window", "axis", "volume", "slices", "dicom", "keep_ids")
        chosen = {name: getattr(self, name) for name in (*names, "max_pixels")}
        return chosen | {"synthetic": self.folder is None}

    def open(self, checkpoint: Checkpoint, seed: int) -> Opened:
        """Find the images.

        Raises:
            ValueError: There are none, or what is asked does not fit them.
        """
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"expected a limit of at least 1, got {self.limit}")
        limits = parse_window(self.window) if self.window else None
        if self.folder is None:
            if self.labels or self.split or self.dicom:
                raise ValueError(
                    "expected --images with --labels, --split, --dicom or --region, got none"
                )
            if checkpoint.prior is None:
                raise ValueError(f"expected --images: checkpoint '{checkpoint.name}' has no prior")
            n = self.limit or SYNTHETIC
            items, drawn = synthetic_patients(checkpoint.prior, checkpoint.generator, n, seed)
            return Opened(items, partial(_drawn, drawn), lambda item: None)
        items = ImageFolder(
            self.folder,
            labels=self.labels,
            split=self.split,
            limit=self.limit,
            axis=self.axis,
            volume=self.volume,
            slices=parse_slices(self.slices) if self.slices else None,
            keep_ids=self.keep_ids,
            max_pixels=self.max_pixels,
        )
        keep_aspect, size = not self.stretch, checkpoint.size
        opened = Opened(
            items,
            partial(
                read_picture,
                channels=checkpoint.channels,
                size=size,
                keep_aspect=keep_aspect,
                limits=limits,
            ),
            partial(read_item_mask, size=size, keep_aspect=keep_aspect),
            skipped=items.skipped_line(),
        )
        if not self.dicom:
            return opened
        if all(item.kind == "picture" for item in items):
            raise ValueError("expected DICOM or NIfTI files with --dicom, got none")
        opened.export = partial(_export, checkpoint.name, self.keep_ids, keep_aspect, limits)
        return opened


@dataclass
class Opened:
    """The images of a run, as :meth:`Engine.run` takes them.

    Attributes:
        items: What to explain.
        load: Reads an item's image.
        load_mask: Reads its lesion mask, None where it has none.
        export: Makes what writes a counterfactual in its source's format, or None.
        skipped: One line that counts what of the folder is no image; empty where all is.
    """

    items: Sequence[Item]
    load: Any
    load_mask: Any
    export: Any = None
    skipped: str = ""


def _drawn(drawn: dict[str, Tensor], item: Item) -> Picture:
    return Picture(drawn[item.stem])


def _export(
    model: str,
    keep_ids: bool,
    keep_aspect: bool,
    limits: tuple[float, float] | None,
    secret: str,
) -> Exporter:
    return Export(model, Identity(secret, keep=keep_ids), keep_aspect, limits)
