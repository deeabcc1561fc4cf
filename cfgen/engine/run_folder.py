"""What a run leaves behind: case folders and results.csv."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from PIL import Image
from torch import Tensor

from cfgen.data.difference import difference_overlay
from cfgen.data.window import Window
from cfgen.data.written import marked, to_image
from cfgen.result import Counterfactual

COLUMNS: Sequence[str] = (
    "case file label source target status message lam lam_lower latent_l2 prob_before prob_after "
    "oracle_before oracle_after oracle_agrees lpips l1 ssim plausibility plausibility_q evals "
    "forward backward seconds direction seed alternative dicom_flips dicom_lam schema"
).split()


def alternative_case(stem: str, number: int, taken: Collection[str]) -> str:
    """Name of the case folder of another counterfactual of an image.

    Args:
        stem: Name of the first one's.
        number: Which one it is, from 2.
        taken: Names of all images' case folders, in the form of ``casefold``.
    """
    name = f"{stem}-{number}"
    while name.casefold() in taken:  # scan-2.png beside scan.png
        name += "_"
    return name


def fresh_folder(out: Path) -> None:
    """Make an empty run folder; replaces a former run and nothing else.

    Raises:
        ValueError: The folder holds something that is not a run.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"expected a folder for the output, got the file '{out}'")
    if out.exists() and any(out.iterdir()) and not (out / "run.json").is_file():
        raise ValueError(f"expected an empty folder or a former run for the output, got '{out}'")
    shutil.rmtree(out / "cases", ignore_errors=True)
    for name in ("index.html", "results.csv"):
        (out / name).unlink(missing_ok=True)
    (out / "cases").mkdir(parents=True)
    (out / "run.json").write_text("{}\n")  # so that an interrupted run is known as one


def write_case(
    cf: Counterfactual, folder: Path, sweep: int = 0, mask: Tensor | None = None
) -> None:
    """Write the pictures, the arrays and the sweep of one counterfactual.

    Args:
        cf: A single counterfactual, with its models.
        folder: The case folder.
        sweep: Images along lambda, 0 for none; written where the answer flipped.
        mask: Lesion mask (H, W) of bool on the grid of the image.
    """
    folder.mkdir(parents=True, exist_ok=True)  # made already where memory ran out
    info = marked()
    to_image(cf.x[0]).save(folder / "x.png")
    to_image(cf.x_cf[0]).save(folder / "x_cf.png", pnginfo=info)
    overlay, _ = difference_overlay(cf.x[0].cpu(), cf.x_cf[0].cpu())
    Image.fromarray(overlay.permute(1, 2, 0).numpy()).save(folder / "difference.png", pnginfo=info)
    if mask is not None:
        to_image(mask[None].float()).save(folder / "mask.png")
    cf.save(folder / "case.npz")
    if not sweep or not bool(cf.flipped):
        return
    steps, images, probabilities, met = cf.walk(sweep)
    (folder / "sweep").mkdir(exist_ok=True)
    for i, image in enumerate(images):
        to_image(image[0]).save(folder / "sweep" / f"{i:02d}.png", pnginfo=info)
    path = {
        "lam": steps[:, 0].tolist(),
        "prob_target": probabilities[:, 0, int(cf.target)].tolist(),
        "met": met[:, 0].tolist(),
        "flip": float(cf.lam),
    }
    (folder / "sweep.json").write_text(json.dumps(path) + "\n")


def write_window(window: Window, folder: Path) -> None:
    """Write window.json: the values that 0 and 1 of a case's pictures stand for."""
    (folder / "window.json").write_text(json.dumps(asdict(window)) + "\n")
