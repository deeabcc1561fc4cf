"""Write index.html: every case of a run on one page that needs no network."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jinja2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cfgen.gallery.difference import BRIGHTER, DARKER, difference_limit

DASH = "–"


class Words(NamedTuple):
    """A status as a clinician reads it.

    Attributes:
        title: Two or three words.
        text: What happened, and what follows from it.
        tone: "good", "note" or "bad".
        made: What the second picture of the case is; empty when none was made.
    """

    title: str
    text: str
    tone: str
    made: str = ""


STATUS_WORDS = {
    "FLIPPED": Words(
        "Answer changed",
        "With this change the model gives the answer that was asked for.",
        "good",
        "Counterfactual",
    ),
    "ALREADY": Words(
        "No change needed",
        "The model gives the answer that was asked for on the original image already.",
        "note",
    ),
    "RECONSTRUCTION_FLIPS": Words(
        "Changed by redrawing alone",
        "Redrawing the image without any deliberate change is enough to change the model's answer. "
        "What you see is an error of the redrawing, not an explanation of the model.",
        "bad",
        "Redrawn image",
    ),
    "NO_DIRECTION": Words(
        "No way to go",
        "The model's answer does not depend on anything this method can change in the image.",
        "bad",
    ),
    "NOT_FOUND": Words(
        "Not found",
        "The search ended at its limit and no change along this path gave the answer that was "
        "asked for. A larger change, or another path, might.",
        "bad",
    ),
    "UNREADABLE": Words("Not readable", "The file could not be read.", "bad"),
}


@dataclass(frozen=True)
class Sweep:
    """Pictures along lambda: paths and captions for the slider, and where its mark stands.

    Attributes:
        frames: {"src", "lam", "prob", "past"}, each a list with one entry a picture.
        mark: Place of the flip on the slider in [0, 1]; None when it is not on it.
    """

    frames: dict[str, list[Any]]
    mark: float | None


@dataclass(frozen=True)
class Case:
    """What the page shows of one row.

    Attributes:
        row: The row of results.csv; a missing column is "".
        words: Its status.
        pictures: Relative links of x, x_cf and difference; "" for one that is not there.
        size: Width and height of the pictures in pixels.
        limit: Difference in full colour in grey levels (of 255); 0 without a difference picture.
        sweep: The pictures of the slider, if any.
    """

    row: defaultdict[str, str]
    words: Words
    pictures: dict[str, str]
    size: tuple[int, int]
    limit: int
    sweep: Sweep | None


def write_gallery(run: Path) -> Path:
    """Render the page of a run.

    Args:
        run: A run folder with results.csv, run.json and the case folders.

    Returns:
        The path of the page, ``run/index.html``.

    Raises:
        FileNotFoundError: results.csv or run.json is not there.
    """
    run = Path(run)
    with (run / "results.csv").open(encoding="utf-8", newline="") as stream:
        rows = [defaultdict(str, row) for row in csv.DictReader(stream, restval="")]
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    facts = record | record.get("settings", {})
    checkpoint = facts.get("checkpoint")
    flipped = [row for row in rows if row["status"] == "FLIPPED"]
    opinions = [o for row in flipped if (o := agrees(row["oracle_agrees"])) is not None]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cfgen.gallery", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "percent": percent,
        "agrees": agrees,
        "unusual": lambda text: _float(text) < 0.05,
    }
    page = environment.get_template("page.html.jinja").render(
        cases=[_case(run, row) for row in rows],
        counts=[
            (status, _words(status), count)
            for status, count in Counter(row["status"] for row in rows).most_common()
        ],
        first={row["status"]: i for i, row in reversed(list(enumerate(rows, 1)))},
        target=_one_target(rows, facts),
        confidence=facts.get("confidence"),
        synthetic=bool(facts.get("synthetic")),
        settings={
            "Model": checkpoint.get("name") if isinstance(checkpoint, dict) else checkpoint,
            "Direction": facts.get("direction"),
            "Seed": facts.get("seed"),
        },
        opinions=(sum(opinions), len(opinions)),
        darker=DARKER,
        brighter=BRIGHTER,
        dash=DASH,
    )
    out = run / "index.html"
    out.write_text(page, encoding="utf-8")
    return out


def number(value: object) -> str:
    """Three significant digits without an exponent, or a dash."""
    v = _float(value)
    if not math.isfinite(v):
        return DASH
    if 0 < v < 0.001:
        return "< 0.001"
    text = f"{v:.3g}"
    return f"{float(text):,.0f}" if "e" in text else text


def percent(value: object) -> str:
    """A probability in percent that never claims certainty, or a dash."""
    p = _float(value)
    if not 0 <= p <= 1:
        return DASH
    if p > 0.999:
        return "> 99.9 %"
    return "< 0.1 %" if p < 0.001 else f"{p * 100:.3g} %"


def agrees(text: str) -> bool | None:
    """A yes or no of results.csv, None where there is neither."""
    return {"1": True, "true": True, "0": False, "false": False}.get(text.strip().lower())


def _float(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return math.nan


def _words(status: str) -> Words:
    """The words of a status; one that this page does not know is shown as it is."""
    return STATUS_WORDS.get(status) or Words(status or "No status", "", "bad")


def _one_target(rows: list[defaultdict[str, str]], facts: dict[str, Any]) -> str | None:
    """The answer asked for, if it is the same for all images."""
    targets = {row["target"] for row in rows} - {""}
    return targets.pop() if len(targets) == 1 else facts.get("target")


def _case(run: Path, row: defaultdict[str, str]) -> Case:
    words = _words(row["status"])
    folder = run / "cases" / row["case"]
    names = ["x"] + (["x_cf", "difference"] if words.made else [])
    files = {n: folder / f"{n}.png" for n in names if row["case"]}
    files = {n: file for n, file in files.items() if file.is_file()}
    size, limit = (0, 0), 0
    if "x" in files:
        x = _read(files["x"])
        size = (x.shape[2], x.shape[1])
        if "x_cf" in files:
            limit = round(255 * difference_limit(x, _read(files["x_cf"])))
    links = {n: _link(run, files[n]) if n in files else "" for n in ("x", "x_cf", "difference")}
    return Case(row, words, links, size, limit, _sweep(run, folder, row) if row["case"] else None)


def _sweep(run: Path, folder: Path, row: defaultdict[str, str]) -> Sweep | None:
    """The slider of a case folder with sweep.json and the pictures it speaks of."""
    if not (folder / "sweep.json").is_file():
        return None
    data = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    lams = data["lam"]
    files = [folder / "sweep" / f"{i:02d}.png" for i in range(len(lams))]
    if len(lams) < 2 or not all(file.is_file() for file in files):
        return None
    flip = _float(row["lam"])
    places = np.arange(len(lams)) / (len(lams) - 1)
    frames = {
        "src": [_link(run, file) for file in files],
        "lam": [number(lam) for lam in lams],
        "prob": [percent(p) for p in data["prob_target"]],
        # results.csv keeps six digits of lambda
        "past": [bool(lam >= flip * (1 - 1e-5)) for lam in lams],
    }
    on_it = lams[0] <= flip <= lams[-1]
    return Sweep(frames, float(np.interp(flip, lams, places)) if on_it else None)


def _read(path: Path) -> Tensor:
    """An 8-bit picture (C, H, W) in [0, 1]."""
    with Image.open(path) as image:
        array = np.array(image)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1) / 255


def _link(run: Path, path: Path) -> str:
    """A relative URL."""
    return quote(path.relative_to(run).as_posix())
