"""Counterfactuals of medical files, written in the format of their source and classified again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from cfgen._version import __version__
from cfgen.data import derived, dicom, nifti, volume
from cfgen.data.decode import UnreadableImage
from cfgen.data.folder import Item
from cfgen.data.grid import squared
from cfgen.data.identity import Identity
from cfgen.data.picture import read_picture, read_plane, resize, to_channels
from cfgen.data.put_back import put_back
from cfgen.data.storage import storage
from cfgen.result import Counterfactual

FURTHER = (1.0, 1.02, 1.05, 1.1, 1.2, 1.5)
"""Multiples of lambda that are written, until one is seen to flip when it is read again."""


@dataclass(frozen=True)
class Export:
    """Writes x_cf.dcm or x_cf.nii.gz beside the pictures of a case.

    A source of another size than the model's cannot always hold X': a saturated edge, or detail
    that a smaller grid has no pixels for. So the file is read and classified again, and where it
    does not flip, a file further along alpha is written instead: its lambda is the smallest of
    ``FURTHER`` that flips. The pictures of the case stay what they are.

    Colour is written as RGB of 8 bit. Where a pair of one channel reads its luma, red, green and
    blue change by the same step.

    Attributes:
        model: Name of the checkpoint, for the description.
        identity: New UIDs, and whether the patient's data is kept.
        keep_aspect: How the images were read.
        limits: Ends of the window that they were read with, if it was not the files' own.
    """

    model: str
    identity: Identity
    keep_aspect: bool = True
    limits: tuple[float, float] | None = None

    def __call__(
        self, item: Item, cf: Counterfactual, row: Mapping[str, Any], folder: Path
    ) -> dict[str, Any]:
        """Write the counterfactual of an item, read the file again and classify that.

        Args:
            item: A slice of a DICOM or NIfTI file; nothing is written for others.
            cf: Its counterfactual, a batch of one with its models.
            row: Its row of results.csv, for the description.
            folder: The case folder.

        Returns:
            ``dicom_flips``, 1 or 0: whether the image that was read again meets the criterion;
            ``dicom_lam``, the step that was written; and a message where it does not flip or could
            not be written. Empty where there is no counterfactual.
        """
        if item.kind == "picture" or not bool(cf.moved):
            return {}
        out = folder / ("x_cf.dcm" if item.kind == "dicom" else "x_cf.nii.gz")
        try:
            for times in FURTHER if float(cf.lam) > 0 else FURTHER[:1]:
                if self._flips(item, cf, times, row, out):
                    return {"dicom_flips": 1, "dicom_lam": times * float(cf.lam)}
            self._flips(item, cf, 1, row, out)
        except UnreadableImage as error:
            return {"dicom_flips": 0, "message": f"{error}."}
        message = f"{out.name} does not flip when it is read again."
        return {"dicom_flips": 0, "dicom_lam": float(cf.lam), "message": message}

    def _flips(
        self, item: Item, cf: Counterfactual, times: float, row: Mapping[str, Any], out: Path
    ) -> bool:
        """Write the image at ``times`` lambda, and say whether it flips when it is read again."""
        problem = cf.problem
        if problem is None:
            raise ValueError("expected a counterfactual with its models, got none")
        lam = times * cf.lam
        x_cf = cf.x_cf if times == 1 else problem.image(cf.alpha, lam)
        with dicom.refusing(f"{out.name} cannot be written"):
            note = (
                f"Counterfactual by cfgen {__version__}, model {self.model}: {row['source']} "
                f"to {row['target']}, direction {row['direction']}, lambda {float(lam):.6g}. "
                "Synthetic, not for diagnosis."
            )
            self._write(item, cf.x[0], x_cf[0], note, out)
        again = read_picture(
            replace(item, path=out, index=0),
            channels=cf.x.shape[1],
            size=(cf.x.shape[-2], cf.x.shape[-1]),
            keep_aspect=self.keep_aspect,
        )
        logits = problem.logits(problem.to_grid(again.x[None].to(cf.x.device)))
        return bool(problem.criterion(logits) > 0)

    def _write(self, item: Item, x: Tensor, x_cf: Tensor, note: str, out: Path) -> None:
        plane = read_plane(item, limits=self.limits)
        size = (x.shape[-2], x.shape[-1])

        def fit(image: Tensor) -> Tensor:
            """How reading comes from the window to the image: linear."""
            grey = to_channels(image, len(x))
            return resize(grey, size, keep_aspect=self.keep_aspect, aspect=plane.grid.aspect)

        if item.kind == "nifti":
            kind = volume.load(item.path, item.volume).values.dtype
            values = put_back(plane, x, x_cf, fit, lambda v: v.astype(kind), 0)
            changed = replace(plane, values=values)
            how = {"part": item.volume, "keep_ids": self.identity.keep}
            nifti.write(out, item.path, item.index, item.axis, changed, **how)
            return
        source = dicom.load(item.path)
        h, w = plane.values.shape[-2:]
        resized = {(h, w), squared((h, w), plane.grid.aspect)} != {size}
        stored = storage(source, item.index, plane, resized=resized)
        plane = replace(plane, values=stored.round(plane.values))
        step = abs(stored.slope / (plane.window.high - plane.window.low))
        changed = replace(plane, values=put_back(plane, x, x_cf, fit, stored.round, step))
        derived.write(out, source, item.index, changed, stored, note, self.identity)
