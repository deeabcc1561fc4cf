"""Write the report of a study: a page, its numbers as JSON and CSV, and files for iMRMC."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cfgen.gallery.templates import templates
from cfgen.study import plots
from cfgen.study.analyse import ALL, AUC, PAGE, Agreement, Row, agreement, arms_of, summary
from cfgen.study.answers import Answers, Reading
from cfgen.study.imrmc import imrmc
from cfgen.study.questions import Question
from cfgen.study.write import write_table

WORDS = {
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    AUC: "Area under the ROC curve",
    "confidence": "Confidence (1 to 5)",
    "seconds": "Seconds to the answer",
    PAGE: "Seconds a page",
}


def write_report(study: str | Path, files: Sequence[str | Path], out: str | Path) -> Path:
    """Read the answers and write the report.

    ``index.html``, ``report.json``, ``summary.csv`` (every estimate), ``agreement.csv``,
    ``readings.csv`` (every answer with its arm and truth), and for each question with a positive
    class ``<question>.imrmc``.

    Args:
        study: The folder that :func:`write_study` wrote.
        files: The readers' CSV files.
        out: Folder to write to.

    Returns:
        The path of the page.

    Raises:
        ValueError: See :meth:`Answers.read`.
    """
    answers, out = Answers.read(study, files), Path(out)
    rows, alike = summary(answers), agreement(answers)
    out.mkdir(parents=True, exist_ok=True)
    write_table(out / "summary.csv", list(Row._fields), map(_plain, rows))
    write_table(out / "agreement.csv", list(Agreement._fields), map(_plain, alike))
    table = [_flat(reading) for reading in answers.readings]
    write_table(out / "readings.csv", list(table[0]), table)
    for question in answers.questions.questions:
        mine = _roc_readings(answers, question)
        if mine:
            text = imrmc(mine, f"{answers.questions.title}: {question.ask}")
            (out / f"{question.id}.imrmc").write_text(text, encoding="utf-8")
    report = {
        "study": answers.record,
        "readers": _progress(answers),
        "summary": [_plain(row) for row in rows],
        "agreement": [_plain(row) for row in alike],
    }
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    page = out / "index.html"
    page.write_text(_page(answers, rows, alike), encoding="utf-8")
    return page


def _page(answers: Answers, rows: list[Row], alike: list[Agreement]) -> str:
    environment = templates("cfgen.study")
    environment.filters |= {"number": _number, "arm": plots.arm_words}
    asked = answers.questions.questions
    sections = [
        {
            "question": question,
            "table": _table([row for row in rows if row.question == question.id]),
            "given": _given(answers, question),
            "alike": [row for row in alike if row.question == question.id],
            "pictures": _pictures(answers, question, rows),
            "texts": [
                r for r in answers.readings if (r.question, question.type) == (question, "text")
            ],
        }
        for question in asked
    ]
    pages = list({r.page: r for r in answers.readings if not r.page.repeat}.values())
    return environment.get_template("report.html.jinja").render(
        study=answers.record,
        questions=answers.questions,
        readers=_progress(answers),
        sections=sections,
        time={
            "table": _table([row for row in rows if row.measure == PAGE]),
            "picture": plots.times(pages, answers.questions.arms),
        },
        words=WORDS,
    )


def _table(rows: Sequence[Row]) -> dict[str, Any]:
    """A line for each measure and arm: all readers, minus the first arm, each reader."""
    found = {(row.measure, row.arm, row.against, row.reader): row for row in rows}
    readers = sorted({row.reader for row in rows} - {ALL}, key=int)
    against = next((row.against for row in rows if row.against), "")
    lines = [
        {
            "row": row,
            "minus": found.get((row.measure, row.arm, against, ALL)) if against else None,
            "readers": [found.get((row.measure, row.arm, "", reader)) for reader in readers],
        }
        for row in rows
        if row.reader == ALL and not row.against
    ]
    return {"lines": lines, "readers": readers, "against": against}


def _given(answers: Answers, question: Question) -> dict[str, Counter[str]]:
    """How often each option was chosen in each arm; repeats left out."""
    mine = [r for r in answers.readings if r.question == question and not r.page.repeat]
    if not question.options:
        return {}
    return {
        arm: Counter(r.answer for r in mine if r.page.arm == arm)
        for arm in arms_of(mine, answers.questions.arms)
    }


def _pictures(answers: Answers, question: Question, rows: list[Row]) -> list[tuple[str, str]]:
    """Pictures of a question, each with its caption."""
    names = {row.measure for row in rows if row.question == question.id}
    pictures = [
        (
            f"{WORDS[name]}: all with the interval, and each reader.",
            plots.by_arm(rows, question.id, name, WORDS[name]),
        )
        for name in ("accuracy", AUC, "confidence")
        if name in names
    ]
    scored = [r for r in _roc_readings(answers, question) if not r.page.repeat]
    if AUC in names:
        pictures.append(("ROC curve of each reader.", plots.roc(scored, answers.questions.arms)))
    return pictures


def _roc_readings(answers: Answers, question: Question) -> list[Reading]:
    """The answers to a question whose truth is positive or not."""
    return [
        r
        for r in answers.readings
        if r.question == question and question.diseased(r.page.truth) is not None
    ]


def _progress(answers: Answers) -> list[dict[str, int]]:
    """How many pages each reader has finished."""
    done = {r.page for r in answers.readings}
    return [
        {
            "reader": reader,
            "pages": sum(page.reader == reader for page in answers.pages),
            "finished": sum(page.reader == reader for page in done),
        }
        for reader in sorted({page.reader for page in answers.pages})
    ]


def _flat(reading: Reading) -> dict[str, Any]:
    page = reading.page
    return {
        "reader": page.reader,
        "position": page.position,
        "part": page.part,
        "kind": page.kind,
        "case": page.case,
        "arm": page.arm,
        "truth": page.truth,
        "repeat": int(page.repeat),
        "question": reading.question.id,
        "answer": reading.answer,
        "confidence": reading.confidence,
        "rating": None if reading.question.type == "text" else reading.rating,
        "correct": None if reading.correct is None else int(reading.correct),
        "seconds": reading.seconds,
        "page_seconds": reading.page_seconds,
    }


def _plain(row: Row | Agreement) -> dict[str, Any]:
    """For JSON and CSV: nan as nothing, six digits."""
    return {
        name: (None if math.isnan(value) else float(f"{value:.6g}"))
        if isinstance(value, float)
        else value
        for name, value in row._asdict().items()
    }


def _number(value: float, signed: bool = False) -> str:
    """For people: two digits behind the point, a dash for nan."""
    if math.isnan(value):
        return "–"
    text = f"{value:+.2f}" if signed else f"{value:.2f}"
    return text.replace("-", "−")
