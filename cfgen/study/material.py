"""What a study takes from a run: cases, labels, and the pictures of each arm."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import laplace
from sklearn.metrics import roc_auc_score

from cfgen.data.written import MARK, SYNTHETIC_PATIENT
from cfgen.engine.table import read_table
from cfgen.study.questions import Questionnaire

NOTICE = "some images are synthetic; not for diagnosis"


@dataclass(frozen=True)
class Figure:
    """One picture of a page: the file, its caption, its alternative text, the mark burned in."""

    path: Path
    caption: str
    alt: str
    mark: str


@dataclass(frozen=True)
class Material:
    """The cases of a run that a study can show.

    Attributes:
        run: The run folder.
        labels: Label of each case, "" where unknown.
        rows: The row of results.csv of each case.
        left_out: How many cases have which other status.
        synthetic: The originals are synthetic patients.
        attribution: Name of the attribution map, if an arm needs one.
    """

    run: Path
    labels: dict[str, str]
    rows: dict[str, dict[str, str]]
    left_out: dict[str, int]
    synthetic: bool
    attribution: str | None

    @classmethod
    def read(cls, run: str | Path, questions: Questionnaire) -> Material:
        """Find the cases and check that the study can be made of them.

        Only cases whose answer was changed are shown, in every arm, so that the arms compare the
        same images.

        Raises:
            ValueError: The folder is no run, or lacks what a question or an arm needs.
        """
        run = Path(run)
        try:
            # A reader sees each image once, not again with another of its counterfactuals.
            table = [
                row
                for row in read_table(run / "results.csv")
                if row.get("alternative") in (None, "", "1")
            ]
            record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            name = Path(error.filename).name
            raise ValueError(f"expected a run folder with {name}, got '{run}'") from None
        rows = {row["case"]: row for row in table if row["status"] == "FLIPPED"}
        left_out = Counter(row["status"] for row in table if row["status"] != "FLIPPED")
        if len(rows) < 2:
            raise ValueError(f"expected two cases with status FLIPPED or more, got {len(rows)}")
        synthetic = bool(record.get("synthetic"))
        if questions.asks_origin and synthetic:
            raise ValueError(
                "expected a run on real images for a question of type real-or-synthetic, "
                "got synthetic patients"
            )
        labels = {case: row.get("label") or "" for case, row in rows.items()}
        unknown = sorted(set(labels.values()) - {"", *questions.classes})
        if questions.classes and unknown:
            raise ValueError(
                f"expected labels of 'classes' {', '.join(questions.classes)}, got '{unknown[0]}'"
            )
        attribution = None
        if "attribution" in questions.arms:
            attribution = _attribution(run, list(rows), questions.attribution)
        return cls(run, labels, rows, dict(left_out), synthetic, attribution)

    def reading(self, case: str, arm: str) -> list[Figure]:
        """The pictures of a case in an arm. With aid, the model's answer is part of the caption."""
        folder, row = self.run / "cases" / case, self.rows[case]
        says = f"The model’s answer to this image: “{row['source']}”."
        image = Figure(
            folder / "x.png",
            "Image" if arm == "unaided" else f"Image. {says}",
            "The image to be read",
            SYNTHETIC_PATIENT if self.synthetic else "",
        )
        if arm == "counterfactual":
            changed = (
                f"Counterfactual: the smallest change found after which the model answers "
                f"“{row['target']}”."
            )
            where = "What was changed: grey where nothing was, coloured where something was."
            return [
                image,
                Figure(folder / "x_cf.png", changed, "The counterfactual", MARK),
                Figure(folder / "difference.png", where, "The change in colour", MARK),
            ]
        if arm == "attribution":
            path = folder / "attribution" / f"{self.attribution}.png"
            caption = "Attribution map: where the model’s answer comes from."
            return [image, Figure(path, caption, "The attribution map", "not for diagnosis")]
        return [image]

    def origin(self, case: str, truth: str) -> list[Figure]:
        """One image, real or synthetic, with the same words and the same mark for both."""
        name = "x.png" if truth == "real" else "x_cf.png"
        return [Figure(self.run / "cases" / case / name, "Image", "The image to be judged", NOTICE)]

    def cues(self, cases: list[str]) -> dict[str, float]:
        """How well numbers that need no reader tell the real images from the synthetic ones.

        Returns:
            The area under the ROC curve of each, folded to 0.5 (tells nothing) ... 1 (tells all).
        """
        measures = {"sharpness": _sharpness, "grey levels": _levels, "compressed size": _size}
        paths = [self.run / "cases" / case / n for n in ("x.png", "x_cf.png") for case in cases]
        truth = [0] * len(cases) + [1] * len(cases)
        areas = {
            name: float(roc_auc_score(truth, [measure(path) for path in paths]))
            for name, measure in measures.items()
        }
        return {name: max(area, 1 - area) for name, area in areas.items()}


def png(path: Path) -> bytes:
    """A picture as PNG without any metadata, always of three channels.

    Raises:
        ValueError: The picture is not there or cannot be read.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except OSError:
        raise ValueError(f"expected a picture at '{path}', got none that can be read") from None
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _attribution(run: Path, cases: list[str], name: str | None) -> str:
    """The name of the map that every case has."""
    folders = {case: run / "cases" / case / "attribution" for case in cases}
    maps = {case: {p.stem for p in folder.glob("*.png")} for case, folder in folders.items()}
    names = sorted(set().union(*maps.values())) if name is None else [name]
    if len(names) > 1:
        raise ValueError(f"expected 'attribution' to name one of {', '.join(names)}, got none")
    wanted = names[0] if names else "<name>"
    missing = [case for case in cases if wanted not in maps[case]]
    if missing:
        raise ValueError(
            f"expected cases/<case>/attribution/{wanted}.png for the arm attribution, "
            f"got none in {len(missing)} of {len(cases)} cases (first: {missing[0]})"
        )
    return wanted


def _grey(path: Path) -> np.ndarray:
    with Image.open(io.BytesIO(png(path))) as image:
        return np.asarray(image.convert("L"), dtype=np.float64)


def _sharpness(path: Path) -> float:
    return float(laplace(_grey(path)).var())


def _levels(path: Path) -> float:
    return float(len(np.unique(_grey(path))))


def _size(path: Path) -> float:
    return float(len(png(path)))
