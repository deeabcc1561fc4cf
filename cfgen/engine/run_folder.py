"""What a run leaves behind: case folders, the table, and a record of what was done with what."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from cfgen.data.difference import difference_overlay
from cfgen.data.window import Window
from cfgen.data.written import marked, to_image
from cfgen.result import Counterfactual

COLUMNS = (
    "case file label source target status message lam lam_lower latent_l2 prob_before prob_after "
    "oracle_before oracle_after oracle_agrees lpips l1 ssim plausibility plausibility_q evals "
    "forward backward seconds direction seed alternative dicom_flips dicom_lam batch schema"
).split()

FOLDERS = ("cases", "units", "page")
FILES = ("index.html", "results.csv", "results.parquet", "events.jsonl", "secret", "run.json")
NOTHING = {".lock", "run.json.part"}  # left by a run that was killed as it began


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


def write_case(
    cf: Counterfactual,
    folder: Path,
    sweep: int = 0,
    mask: Tensor | None = None,
    arrays: bool = True,
) -> None:
    """Write the pictures, the arrays and the sweep of one counterfactual.

    Args:
        cf: A single counterfactual, with its models.
        folder: The case folder.
        sweep: Images along lambda, 0 for none; written where the answer flipped.
        mask: Lesion mask (H, W) of bool on the grid of the image.
        arrays: Whether case.npz is written.
    """
    folder.mkdir(parents=True, exist_ok=True)  # made already where memory ran out
    info = marked()
    to_image(cf.x[0]).save(folder / "x.png")
    to_image(cf.x_cf[0]).save(folder / "x_cf.png", pnginfo=info)
    overlay, _ = difference_overlay(cf.x[0].cpu(), cf.x_cf[0].cpu())
    Image.fromarray(overlay.permute(1, 2, 0).numpy()).save(folder / "difference.png", pnginfo=info)
    if mask is not None:
        to_image(mask[None].float()).save(folder / "mask.png")
    if arrays:
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


def write_record(out: Path, record: Mapping[str, Any]) -> None:
    """Write run.json as a whole or not at all."""
    part = out / "run.json.part"
    part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    part.replace(out / "run.json")


def read_record(out: Path) -> dict[str, Any] | None:
    """What run.json says; None where there is no run.

    Raises:
        ValueError: The folder holds something that is not a run.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"expected a folder for the output, got the file '{out}'")
    if not out.is_dir() or {path.name for path in out.iterdir()} <= NOTHING:
        return None
    try:
        return json.loads((out / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"expected an empty folder or a former run for the output, got '{out}'"
        ) from error


def clear(out: Path) -> None:
    """Remove a run, and nothing else that lies in its folder."""
    for name in FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)
    for name in FILES:
        (out / name).unlink(missing_ok=True)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep other runs out of a run folder; the lock ends with the process, however that ends.

    Raises:
        ValueError: Another run is at work there.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / ".lock"
    while True:
        file = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            raise ValueError(f"expected no other run at work in '{out}', got one") from error
        # The run before may have removed the file between the two lines above.
        if path.exists() and os.stat(path).st_ino == os.fstat(file).st_ino:
            break
        os.close(file)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def secret_of(out: Path) -> str:
    """From what new identifiers are made: kept until the run is whole, for its owner alone."""
    path, part = out / "secret", out / "secret.part"
    if not path.exists():
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_hex(16))
        part.replace(path)
    return path.read_text()


def log(out: Path, event: str, **told: Any) -> None:
    """Add an event to events.jsonl, one line of JSON, for those who watch many runs."""
    line = json.dumps({"time": round(time.time(), 3), "event": event, **told})
    with (out / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
