"""Run folders for the tests of the page, made without any model."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cfgen.result import Status

SETTINGS = {"checkpoint": "brain", "direction": "minimal_norm", "confidence": None, "seed": 0}
SIZE = (6, 4)  # width and height


def row(i: int, status: Status, **more: Any) -> dict[str, Any]:
    """A row of results.csv."""
    base = {
        "case": f"case {i} é#%",
        "file": f"a/b{i}.png",
        "label": "tumour",
        "source": "tumour",
        "target": "healthy",
        "status": status.name,
        "message": "" if status is Status.FLIPPED else status.value,
        "prob_before": 0.0123,
    }
    if status in (Status.FLIPPED, Status.RECONSTRUCTION_FLIPS):
        base |= {"lam": 1.5, "lam_lower": 1.25, "prob_after": 0.9996, "lpips": 0.0456}
        base |= {"plausibility": 0.0321, "oracle_before": 0.111, "oracle_after": 0.222}
        base |= {"oracle_agrees": i % 2}
    return base | more


def picture(path: Path, level: int) -> None:
    """A grey picture, a bit brighter from left to right."""
    array = np.full(SIZE[::-1], level, np.uint8) + np.arange(SIZE[0], dtype=np.uint8)
    Image.fromarray(array).save(path)


def write_run(out: Path, rows: list[dict[str, Any]], sweep: bool = False, **settings: Any) -> Path:
    """A run folder with these rows, without its page."""
    out.mkdir()
    columns = dict.fromkeys(name for r in rows for name in r)
    with open(out / "results.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
    (out / "run.json").write_text(json.dumps({"settings": SETTINGS | settings}))
    for r in rows:
        if r["status"] in ("UNREADABLE", "FAILED"):
            continue
        folder = out / "cases" / r["case"]
        (folder / "sweep").mkdir(parents=True)
        for name, level in (("x", 100), ("x_cf", 130), ("difference", 120)):
            picture(folder / f"{name}.png", level)
        if sweep and r["status"] == "FLIPPED":
            for k in range(3):
                picture(folder / "sweep" / f"{k:02d}.png", 100 + 20 * k)
            data = {"lam": [0, 1, 2], "prob_target": [0.0123, 0.3, 0.8], "flip": 1.5}
            (folder / "sweep.json").write_text(json.dumps(data))
    return out
