"""What the case view shows of one row: a script with the pictures, and a thumbnail."""

from __future__ import annotations

import base64
import io
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cfgen.data.difference import difference_limit
from cfgen.data.written import MARK, SYNTHETIC_PATIENT
from cfgen.gallery.words import (
    cautions,
    facts,
    number,
    percent,
    to_float,
    words_of,
)
from cfgen.result import Status

TILE = 192  # side of a picture of the thumbnail, in pixels
GREY_LEVELS = {"low": 0.0, "high": 255.0, "unit": "grey levels"}


class Asked(NamedTuple):
    """What was asked in a run.

    Attributes:
        target: The answer asked for, None where it is not the same for all images.
        confidence: The probability it had to reach, None for the change of the answer itself.
        synthetic: The original images are computer-made too.
    """

    target: str | None = None
    confidence: float | None = None
    synthetic: bool = False


class Case:
    """One row of a run, with its files.

    Args:
        run: The run folder.
        row: The row of results.csv; a missing column is "".
        asked: What was asked in the run.
        alternatives: How many rows the image has.

    Attributes:
        name: How the page calls it.
        place: Which of several counterfactuals of the image it is, "2 of 3"; "" for the only one.
        words: Its status.
        wanted: The answer asked for, in quotation marks.
        cautions: What speaks against its counterfactual.
        message: What the row says beyond its status.
        folder: The case folder; None when there are no pictures.
    """

    def __init__(
        self, run: Path, row: defaultdict[str, str], asked: Asked, alternatives: int = 1
    ) -> None:
        self.row, self.asked = row, asked
        self.place = f"{row['alternative']} of {alternatives}" if alternatives > 1 else ""
        self.name = row["file"] or row["case"] or "Image"
        self.words = words_of(row["status"], asked.confidence)
        target = row["target"] or asked.target
        self.wanted = f"“{target}”" if target else "the answer asked for"
        # The sentence of the status is for those who run the program; the page has its own.
        usual = {status.name: status.value for status in Status}.get(row["status"], "")
        self.message = row["message"].removeprefix(usual).strip()
        folder = run / "cases" / row["case"]
        self.folder = folder if row["case"] and (folder / "x.png").is_file() else None
        self.made = self.folder is not None and bool(self.words.made)
        self.made = self.made and (folder / "x_cf.png").is_file()
        self.cautions = cautions(row) if self.words.made else []

    @property
    def link(self) -> str:
        """The case folder as a relative URL."""
        return quote(f"cases/{self.row['case']}")

    @property
    def windowed(self) -> bool:
        """Whether black and white stand for values that were chosen, as by a DICOM window.

        Other images open in a window fitted to the original: many would be almost black.
        """
        return self.folder is not None and (self.folder / "window.json").is_file()

    def data(self) -> dict[str, Any]:
        """Everything of the case view, pictures as data URLs: a page on a disk may read no file."""
        goal = self.asked.confidence and f"{percent(self.asked.confidence)} reached"
        told = {
            "name": self.name,
            "place": self.place,
            "words": self.words._asdict(),
            "message": self.message,
            "cautions": self.cautions,
            "wanted": self.wanted,
            "answer": self.row["source"],
            "before": percent(self.row["prob_before"]),
            "facts": facts(self.row, self.wanted, self.asked.confidence),
            "goal": [goal or "answer changes", goal or "answer changed"],
            "marks": [SYNTHETIC_PATIENT if self.asked.synthetic else "", MARK],
            "frames": [],
        }
        if self.folder is None:
            return told
        told |= {"x": _data_url(self.folder / "x.png"), "window": GREY_LEVELS}
        told["fitted"] = not self.windowed
        if self.windowed:
            told["window"] = json.loads((self.folder / "window.json").read_text(encoding="utf-8"))
        if (self.folder / "geometry.json").is_file():
            told["geometry"] = self._geometry()
        if (self.folder / "mask.png").is_file():
            told["mask"] = _data_url(self.folder / "mask.png")
        if self.made:
            x, x_cf = (_read(self.folder / f"{name}.png") for name in ("x", "x_cf"))
            told["limit"] = difference_limit(x, x_cf) if x.shape == x_cf.shape else 0
            told["frames"] = self._frames()
        maps = sorted(self.folder.glob("attribution/*.png"))
        told["attribution"] = [[file.stem.replace("_", " "), _data_url(file)] for file in maps]
        if (self.folder / "concepts.json").is_file():
            concepts = json.loads((self.folder / "concepts.json").read_text(encoding="utf-8"))
            told["concepts"] = [[name, *values] for name, values in concepts.items()]
        return told

    def _geometry(self) -> dict[str, Any]:
        """Sides, millimetres a pixel, and the neighbours in reading order with their pictures."""
        assert self.folder is not None
        said = json.loads((self.folder / "geometry.json").read_text(encoding="utf-8"))
        near = [(one["offset"], self.folder / one["file"]) for one in said.get("neighbours", [])]
        there = [
            {"offset": offset, "src": data_url(file.read_bytes(), "webp")}
            for offset, file in sorted(near)
            if file.is_file()
        ]
        return said | {"neighbours": there}

    def _frames(self) -> list[dict[str, Any]]:
        """The counterfactual among the steps of its sweep, if it has one, in order of lambda."""
        assert self.folder is not None
        flip = to_float(self.row["lam"])
        steps = [(flip, to_float(self.row["prob_after"]), "x_cf.png", True, True)]
        if (self.folder / "sweep.json").is_file():
            sweep = json.loads((self.folder / "sweep.json").read_text(encoding="utf-8"))
            files = [f"sweep/{i:02d}.png" for i in range(len(sweep["lam"]))]
            if all((self.folder / file).is_file() for file in files):
                # Former runs do not say what is met; there the probability does, as far as it can.
                goal = self.asked.confidence or 0.5
                met = sweep.get("met") or [p > goal for p in sweep["prob_target"]]
                # results.csv keeps six digits of lambda; a step as near as that is the flip itself.
                walk = zip(sweep["lam"], sweep["prob_target"], files, met, strict=True)
                steps += [(*s, False) for s in walk if abs(s[0] - flip) > 1e-5 * flip]
        return [
            {
                "lam": lam if math.isfinite(lam) else 0,
                "step": number(lam),
                "p": p if math.isfinite(p) else None,
                "probability": percent(p),
                "flip": is_flip,
                "past": lam >= flip,
                "met": met,
                "src": _data_url(self.folder / file),
            }
            for lam, p, file, met, is_flip in sorted(steps)
        ]

    def thumbnail(self) -> bytes:
        """The original, and the counterfactual if there is one, side by side, with their marks."""
        assert self.folder is not None
        marks = [("x", SYNTHETIC_PATIENT if self.asked.synthetic else "")]
        marks += [("x_cf", MARK)] if self.made else []
        table = list(range(256)) if self.windowed else fitted(_read(self.folder / "x.png"))
        pair = Image.new("RGB", (TILE * len(marks) + 4 * (len(marks) - 1), TILE))
        for i, (name, mark) in enumerate(marks):
            with Image.open(self.folder / f"{name}.png") as image:
                tile = image.convert("RGB").point(table * 3)
            tile = tile.resize([max(1, round(s * TILE / max(tile.size))) for s in tile.size])
            left, top = ((TILE - s) // 2 for s in tile.size)
            pair.paste(tile, (i * (TILE + 4) + left, top))
            if mark:
                _burn(pair, mark, i * (TILE + 4))
        stream = io.BytesIO()
        pair.save(stream, "WEBP", quality=80)
        return stream.getvalue()


def fitted(x: Tensor) -> list[int]:
    """What each of the 256 levels becomes when 98 % of the pixels fill black to white.

    The window in which the page opens such an image; see ``middle`` in pixels.js.

    Args:
        x: Image (C, H, W) in [0, 1].
    """
    mean = 255 * x.mean(0)
    low, high = np.quantile(mean, (0.01, 0.99), method="nearest")
    if high - low <= 8:  # almost one colour: what little there is would be cut off
        low, high = float(mean.min()), max(float(mean.max()), float(mean.min()) + 1)
    return [round(255 * min(max((k - low) / (high - low), 0), 1)) for k in range(256)]


def _burn(picture: Image.Image, mark: str, left: int) -> None:
    """Write a mark in two lines over the foot of the tile that begins at ``left``."""
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=14)
    draw.rectangle((left, TILE - 36, left + TILE - 1, TILE - 1), fill=(0, 0, 0))
    draw.multiline_text(
        (left + TILE / 2, TILE - 18),
        mark.replace(", ", ",\n"),
        fill=(255, 255, 255),
        font=font,
        anchor="mm",
        align="center",
        spacing=1,
    )


def data_url(content: bytes, kind: str) -> str:
    """Bytes as a data URL."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _data_url(path: Path) -> str:
    return data_url(path.read_bytes(), "png")


def _read(path: Path) -> Tensor:
    """An 8-bit picture (C, H, W) in [0, 1]."""
    with Image.open(path) as image:
        array = np.array(image)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1) / 255
