"""Answers that came back, joined with the key of their study."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfgen.study.design import Page
from cfgen.study.questions import Question, Questionnaire

COLUMNS: Sequence[str] = (
    "study reader page position question answer confidence seconds page_seconds"
).split()


@dataclass(frozen=True)
class Reading:
    """One answer of one reader.

    Attributes:
        page: What was shown; from the key.
        question: What was asked.
        answer: An option, or the text.
        confidence: From 1 to 5; None where it was not asked for.
        seconds: From the start of the page to the last change of the answer, while it was seen.
        page_seconds: The time the page was seen.
    """

    page: Page
    question: Question
    answer: str
    confidence: int | None
    seconds: float
    page_seconds: float

    @property
    def correct(self) -> bool | None:
        """Right or wrong; None where nobody knows."""
        right = self.question.right(self.page.truth)
        return None if right is None else self.answer == right

    @property
    def rating(self) -> float | None:
        """See :meth:`Question.rating`."""
        return self.question.rating(self.answer, self.confidence)

    @property
    def image(self) -> tuple[str, str]:
        """What was read: the case, and which of its images where that is the question."""
        return self.page.case, self.page.truth if self.page.kind == "origin" else ""


@dataclass(frozen=True)
class Answers:
    """A study and what its readers answered.

    Attributes:
        record: key/study.json.
        questions: What was asked.
        pages: The key, all pages of all readers.
        readings: The answers, in the order of the key.
    """

    record: dict[str, Any]
    questions: Questionnaire
    pages: list[Page]
    readings: list[Reading]

    @classmethod
    def read(cls, study: str | Path, files: Sequence[str | Path]) -> Answers:
        """Read the answers of a study.

        Args:
            study: The folder that :func:`cfgen.study.write.write_study` wrote.
            files: The CSV files of the readers. Of a reader who saved more than once the last one
                is enough; answers that come twice and are the same count once.

        Raises:
            ValueError: A file is none of this study's, or two files contradict each other.
        """
        key = Path(study) / "key"
        try:
            record = json.loads((key / "study.json").read_text(encoding="utf-8"))
            with (key / "key.csv").open(encoding="utf-8", newline="") as stream:
                pages = [_page(row) for row in csv.DictReader(stream)]
        except FileNotFoundError as error:
            raise ValueError(f"expected a study with '{error.filename}', got none") from None
        questions = Questionnaire.from_dict(record["questions"])
        asked = {
            (page.reader, page.page, question.id): (page, question)
            for page in pages
            for question in questions.on(page.kind)
        }
        found: dict[tuple[int, str, str], Reading] = {}
        for file in files:
            for place, row in _rows(Path(file)):
                if row["study"] != record["study"]:
                    raise ValueError(
                        f"{place}: expected answers of study {record['study']}, "
                        f"got '{row['study']}'"
                    )
                where = (_number(row["reader"]), row["page"], row["question"])
                if where not in asked:
                    raise ValueError(
                        f"{place}: expected a page and a question of reader {row['reader']}, "
                        f"got '{row['page']}' and '{row['question']}'"
                    )
                reading = _reading(place, row, *asked[where])
                if found.setdefault(where, reading) != reading:
                    raise ValueError(
                        f"{place}: expected the answer that another file gives, "
                        f"'{found[where].answer}', got '{reading.answer}' "
                        f"(give only the last file of reader {where[0]})"
                    )
        if not found:
            raise ValueError("expected answers, got none")
        return cls(record, questions, pages, [found[where] for where in asked if where in found])


def _page(row: dict[str, str]) -> Page:
    fields: dict[str, Any] = dict(row)
    for name in ("reader", "position", "part"):
        fields[name] = int(row[name])
    fields["repeat"] = row["repeat"] == "1"
    return Page(**fields)


def _rows(file: Path) -> list[tuple[str, dict[str, str]]]:
    """The rows of a file, each with its place for a message."""
    try:
        # utf-8-sig: a spreadsheet program may have saved it again
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            rows = list(reader)
    except UnicodeDecodeError:
        raise ValueError(f"expected text in UTF-8 in '{file.name}', got other bytes") from None
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
    if missing:
        raise ValueError(f"{file.name}: expected the column {missing[0]}, got none")
    return [(f"{file.name}, answer {i}", row) for i, row in enumerate(rows, 1)]


def _reading(place: str, row: dict[str, str], page: Page, question: Question) -> Reading:
    answer = row["answer"]
    if question.options and answer not in question.options:
        options = ", ".join(question.options)
        raise ValueError(f"{place}: expected an answer of {options}, got '{answer}'")
    confidence = None
    if question.confidence:
        confidence = _number(row["confidence"])
        if not 1 <= confidence <= 5:
            raise ValueError(f"{place}: expected a confidence of 1 to 5, got '{row['confidence']}'")
    try:
        seconds, page_seconds = float(row["seconds"]), float(row["page_seconds"])
    except ValueError:
        got = f"'{row['seconds']}' and '{row['page_seconds']}'"
        raise ValueError(f"{place}: expected seconds, got {got}") from None
    return Reading(page, question, answer, confidence, seconds, page_seconds)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else -1
