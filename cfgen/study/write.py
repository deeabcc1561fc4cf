"""Write a study: one page a reader, and the key that stays with the organiser."""

from __future__ import annotations

import csv
import json
import secrets
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cfgen._version import __version__
from cfgen.gallery.templates import templates
from cfgen.study.design import Page, chosen, plan
from cfgen.study.material import Figure, Material, png
from cfgen.study.questions import Question, Questionnaire
from cfgen.study.veil import pack, veil


@dataclass(frozen=True)
class Study:
    """A study that was written.

    Attributes:
        pages: The files to hand out, one a reader.
        record: What key/study.json says.
    """

    pages: list[Path]
    record: dict[str, Any]


def write_study(
    run: str | Path,
    questions: Questionnaire,
    readers: int,
    out: str | Path,
    seed: int | None = None,
) -> Study:
    """Write ``out/reader-1.html`` ... to hand out, and ``out/key/`` to keep.

    Args:
        run: A run folder.
        questions: What is asked.
        readers: Number of readers.
        out: A folder that is new or empty.
        seed: Of everything random; None draws one, which the key records.

    Raises:
        ValueError: The run lacks something, the plan is impossible, or ``out`` is not empty.
    """
    out = Path(out)
    if readers < 1:
        raise ValueError(f"expected one reader or more, got {readers}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"expected a new or empty folder for the study, got '{out}'")
    seed = secrets.randbits(32) if seed is None else seed
    if seed < 0:
        raise ValueError(f"expected a seed of 0 or more, got {seed}")
    material = Material.read(run, questions)
    labels = chosen(material.labels, questions.cases, seed)
    plans = plan(labels, readers, questions, seed)
    read = cache(png)  # a picture is on many pages
    packed = [[_packed(page, material, read) for page in pages] for pages in plans]
    length = max(len(contents) for pages in packed for contents in pages)
    name = f"{np.random.default_rng([seed, 2]).integers(2**32):08x}"
    record = {
        "study": name,
        "cfgen": __version__,
        "readers": readers,
        "seed": seed,
        "cases": len(labels),
        "pages": len(plans[0]),
        "labelled": sum(bool(label) for label in labels.values()),
        "left_out": material.left_out,
        "synthetic": material.synthetic,
        "cues": material.cues(sorted(labels)) if questions.asks_origin else {},
        "questions": questions.as_dict(),
    }

    environment = templates("cfgen.study")
    template = environment.get_template("page.html.jinja")
    (out / "key").mkdir(parents=True)
    files = []
    for reader, (pages, contents) in enumerate(zip(plans, packed, strict=True), 1):
        data = {
            "study": name,
            "reader": reader,
            "title": questions.title,
            "introduction": questions.introduction,
            "allow_back": questions.allow_back,
            "columns": 1 if set(questions.arms) <= {"unaided"} else 3,
            "questions": {
                kind: [_asked(question) for question in questions.on(kind)]
                for kind in ("reading", "origin")
            },
            "pages": [
                {
                    "page": page.page,
                    "part": page.part,
                    "kind": page.kind,
                    "data": veil(content, page.page, length),
                }
                for page, content in zip(pages, contents, strict=True)
            ],
        }
        files.append(out / f"reader-{reader}.html")
        files[-1].write_text(template.render(study=data), encoding="utf-8")
    write_table(
        out / "key" / "key.csv",
        [field.name for field in fields(Page)],
        (asdict(page) | {"repeat": int(page.repeat)} for pages in plans for page in pages),
    )
    (out / "key" / "study.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return Study(files, record)


def write_table(path: Path, columns: list[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write a CSV file."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def _packed(page: Page, material: Material, read: Callable[[Path], bytes]) -> bytes:
    """The contents of a page."""
    figures: list[Figure] = (
        material.origin(page.case, page.truth)
        if page.kind == "origin"
        else material.reading(page.case, page.arm)
    )
    words = [{"caption": f.caption, "alt": f.alt, "mark": f.mark} for f in figures]
    return pack({"figures": words}, [read(figure.path) for figure in figures])


def _asked(question: Question) -> dict[str, Any]:
    """What the reader's file says of a question: nothing that helps to answer it."""
    shown = ("id", "type", "ask", "options", "ends", "confidence", "optional")
    return {name: getattr(question, name) for name in shown}
