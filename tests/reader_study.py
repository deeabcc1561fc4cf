"""A run folder made by hand, and readers who answer as told."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cfgen.study.answers import COLUMNS

QUESTIONS = """\
title: Reading slices
classes: [healthy, tumour]
arms: [unaided, counterfactual]
repeats: 3
questions:
  - {id: finding, type: choice, ask: "What is it?", positive: tumour}
  - {id: likelihood, type: scale, ask: "How likely is it?", positive: tumour}
  - {id: remarks, type: text, ask: "What did you see?"}
"""
ORIGIN = """\
title: Origin
questions:
  - {id: origin, type: real-or-synthetic, ask: "What is it?"}
"""


def make_run(folder: Path, cases: int = 8, synthetic: bool = False, maps: str = "") -> Path:
    """A run of small pictures; the first half is healthy, and one more case has no flip.

    The pictures say in their metadata what they are, and the counterfactuals are far smoother, so
    that a leak of a comment or of a file size would show.
    """
    rng = np.random.default_rng(0)
    rows = []
    for i in range(cases):
        label = "healthy" if i < cases // 2 else "tumour"
        case = f"patient-{i:02d}-{label}"
        x = rng.integers(0, 256, (20, 24), dtype=np.uint8)
        pictures = {"x": x, "x_cf": np.full_like(x, 99), "difference": np.stack([x] * 3, -1)}
        if maps:
            pictures[f"attribution/{maps}"] = x[::-1].copy()
        for name, pixels in pictures.items():
            path = folder / "cases" / case / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            info = PngInfo()
            info.add_text("Comment", f"{name} of {case}")
            Image.fromarray(pixels).save(path, pnginfo=info)
        target = "tumour" if label == "healthy" else "healthy"
        rows.append([case, f"{case}.png", label, label, target, "FLIPPED"])
    rows.append(["lost", "lost.png", "tumour", "tumour", "healthy", "NOT_FOUND"])
    with (folder / "results.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [["case", "file", "label", "source", "target", "status"], *rows]
        )
    (folder / "run.json").write_text(json.dumps({"synthetic": synthetic}))
    return folder


def write_questions(folder: Path, text: str = QUESTIONS) -> Path:
    path = folder / "q.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def read_key(study: Path) -> list[dict[str, str]]:
    with (study / "key" / "key.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def answer(
    study: Path, folder: Path, think: Callable[[dict[str, str]], dict[str, tuple[str, str]]]
) -> list[Path]:
    """Write the files that readers would download.

    Args:
        study: The study.
        folder: Where to write.
        think: From a row of the key to {question: (answer, confidence)}.
    """
    name = json.loads((study / "key" / "study.json").read_text())["study"]
    key, files = read_key(study), []
    for reader in sorted({row["reader"] for row in key}):
        files.append(folder / f"answers-reader-{reader}.csv")
        with files[-1].open("w", newline="", encoding="utf-8") as stream:
            out = csv.writer(stream)
            out.writerow(COLUMNS)
            for row in key:
                if row["reader"] == reader:
                    head = [name, reader, row["page"], row["position"]]
                    for question, (text, confidence) in think(row).items():
                        out.writerow([*head, question, text, confidence, 1.5, 2.0])
    return files
