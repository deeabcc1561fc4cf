"""The questions file: YAML, read key by key, each mistake named in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cfgen.study.questions import ARMS, ORIGIN, Question, Questionnaire

DESIGNS = ("crossed", "split")
TYPES = ("choice", "yes-no", "scale", "real-or-synthetic", "text")


def read_questions(path: str | Path) -> Questionnaire:
    """Read and check a questions file.

    Args:
        path: A YAML file; see ``example.yaml`` beside this module.

    Raises:
        ValueError: One line that names the file, the place and what was expected there.
        OSError: The file cannot be read.
    """
    path = Path(path)
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"expected text in UTF-8 in '{path.name}', got other bytes") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "something else"
        raise ValueError(f"expected YAML in '{path.name}', got: {what}{where}") from None
    try:
        return _questionnaire(record)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


class _Keys:
    """A mapping of the file, read key by key; :meth:`done` refuses what nobody asked for."""

    def __init__(self, record: Any, where: str) -> None:
        if not isinstance(record, dict):
            raise ValueError(f"expected keys and values {where}, got {_shown(record)}")
        self.left, self.known, self.where = dict(record), [], where

    def take(self, key: str, kind: type, what: str, default: Any) -> Any:
        self.known.append(key)
        value = self.left.pop(key, default)
        wrong = isinstance(value, bool) and kind is not bool
        if value is not default and (wrong or not isinstance(value, kind)):
            plain = kind is str and isinstance(value, (bool, int, float))
            hint = " (put it in quotes)" if plain else ""
            raise ValueError(f"expected {what} for '{key}' {self.where}, got {_shown(value)}{hint}")
        if value is None and default is None:
            return None
        return value.strip() if isinstance(value, str) else value

    def text(self, key: str, default: str | None = "") -> Any:
        return self.take(key, str, "text", default)

    def must(self, key: str) -> str:
        text = self.text(key)
        if not text:
            raise ValueError(f"expected '{key}' {self.where}, got none")
        return text

    def flag(self, key: str, default: bool = False) -> bool:
        return self.take(key, bool, "true or false", default)

    def number(self, key: str, least: int, default: int | None, most: int = 10**6) -> Any:
        value = self.take(key, int, "a whole number", default)
        if value is not None and not least <= value <= most:
            bounds = f"from {least} to {most}" if most < 10**6 else f"of at least {least}"
            raise ValueError(f"expected '{key}' {bounds} {self.where}, got {value}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.take(key, list, "a list", [])
        for value in values:
            if not isinstance(value, str):
                got = f"{_shown(value)} (put it in quotes)"
                raise ValueError(f"expected texts in '{key}' {self.where}, got {got}")
        if len(set(values)) < len(values):
            raise ValueError(f"expected '{key}' without repetition {self.where}, got {values}")
        return tuple(value.strip() for value in values)

    def one_of(self, key: str, names: Sequence[str], default: str) -> str:
        value = self.text(key, default)
        if value not in names:
            raise ValueError(
                f"expected '{key}' {self.where} to be one of {', '.join(names)}, got '{value}'"
            )
        return value

    def done(self) -> None:
        if self.left:
            raise ValueError(
                f"expected the keys {', '.join(self.known)} {self.where}, "
                f"got '{next(iter(self.left))}'"
            )


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"'{value}'" if isinstance(value, str) else str(value)


def _questionnaire(record: Any) -> Questionnaire:
    keys = _Keys(record, "at the top")
    title = keys.must("title")
    introduction = keys.text("introduction")
    classes = keys.texts("classes")
    arms = keys.texts("arms")
    for arm in arms:
        if arm not in ARMS:
            raise ValueError(f"expected arms of {', '.join(ARMS)}, got '{arm}'")
    rest = {
        "attribution": keys.text("attribution", None),
        "design": keys.one_of("design", DESIGNS, "crossed"),
        "cases": keys.number("cases", 2, None),
        "repeats": keys.number("repeats", 0, 0),
        "gap": keys.number("gap", 0, None),
        "allow_back": keys.flag("allow_back"),
    }
    asked = keys.take("questions", list, "a list", [])
    keys.done()
    if not asked:
        raise ValueError("expected 'questions' at the top, got none")
    questions = tuple(_question(q, i, classes) for i, q in enumerate(asked, 1))
    # The report names files after them, and some disks do not tell cases apart.
    ids = [q.id.casefold() for q in questions]
    if len(set(ids)) < len(ids):
        twice = next(q.id for q in questions if ids.count(q.id.casefold()) > 1)
        raise ValueError(f"expected different ids of the questions, got '{twice}' twice")
    asks_reading = any(q.type != "text" and not q.about_origin for q in questions)
    if all(q.type == "text" for q in questions) and not arms:
        raise ValueError("expected 'arms' or a question of type real-or-synthetic, got neither")
    if asks_reading and not arms:
        raise ValueError("expected 'arms' with a question about the image, got none")
    if arms and not asks_reading and any(q.about_origin for q in questions):
        raise ValueError("expected a question about the image with 'arms', got none")
    if rest["attribution"] and "attribution" not in arms:
        raise ValueError("expected the arm attribution with 'attribution', got no such arm")
    return Questionnaire(title, questions, introduction, classes, arms, **rest)


def _question(record: Any, number: int, classes: tuple[str, ...]) -> Question:
    keys = _Keys(record, f"in question {number}")
    name = keys.must("id")
    keys.where = f"in question '{name}'"
    kind = keys.one_of("type", TYPES, "")
    ask = keys.must("ask")
    optional = keys.flag("optional", kind == "text")
    options: tuple[str, ...] = ()
    ends, positive, confidence = ("", ""), None, False
    own = ()
    if kind == "choice":
        own = keys.texts("options")
        options = own or classes
        if len(options) < 2:
            raise ValueError(f"expected two 'options' or more {keys.where}, got {len(options)}")
    elif kind == "yes-no":
        options = ("yes", "no")
    elif kind == "scale":
        options = tuple(str(i + 1) for i in range(keys.number("points", 2, 5, most=11)))
        ends = keys.texts("ends") or ("", "")
        if len(ends) != 2:
            raise ValueError(f"expected two 'ends' {keys.where}, got {len(ends)}")
    elif kind == "real-or-synthetic":
        options, positive = ORIGIN, "synthetic"
    if kind in ("choice", "yes-no", "scale"):
        positive = keys.text("positive", None)
        if positive is not None and (own or positive not in classes):
            known = "no own options" if own else f"a class of {', '.join(classes) or '(none)'}"
            raise ValueError(f"expected {known} with 'positive' {keys.where}, got '{positive}'")
    if kind in ("choice", "yes-no", "real-or-synthetic"):
        confidence = keys.flag("confidence", True)
    keys.done()
    labelled = kind == "choice" and not own
    return Question(name, kind, ask, options, ends, positive, labelled, confidence, optional)
