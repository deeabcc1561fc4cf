"""From answers to numbers: by arm, by reader, between readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from cfgen.study.answers import Answers, Reading
from cfgen.study.questions import Question
from cfgen.study.statistics import Bootstrap, Estimate, area, difference, kappa, mean, share

ALL = "all"
AUC = "AUC"
PAGE = "seconds a page"


def _called(diseased: bool) -> Callable[[Reading], bool | None]:
    """Rightly called positive where the disease is there, or rightly not where it is not."""

    def value(r: Reading) -> bool | None:
        called = r.question.calls(r.answer)
        if called is None or r.question.diseased(r.page.truth) is not diseased:
            return None
        return called is diseased

    return value


# What an answer counts for in a mean; None: it does not.
VALUES: dict[str, Callable[[Reading], float | None]] = {
    "accuracy": lambda r: r.correct,
    "sensitivity": _called(True),
    "specificity": _called(False),
    "confidence": lambda r: r.confidence,
    "seconds": lambda r: r.seconds,
    PAGE: lambda r: r.page_seconds,
}
SHARES = ("accuracy", "sensitivity", "specificity")


class Row(NamedTuple):
    """One number of the report.

    Attributes:
        question: Its id; "" for the time of a page.
        measure: A name of ``VALUES``, or the area under the ROC curve.
        arm: The arm; "" on pages that ask for the origin.
        against: The arm it is the difference to; "" where it is no difference.
        reader: Number of the reader, or "all".
        value: The estimate, and ``low`` and ``high`` its interval of 95 %; nan where there is none.
        n: Number of answers.
    """

    question: str
    measure: str
    arm: str
    against: str
    reader: str
    value: float
    low: float
    high: float
    n: int


class Agreement(NamedTuple):
    """How alike two series of answers are.

    Attributes:
        question: Its id.
        readers: "1 and 2"; "1, repeated"; or "all, repeated".
        n: Pairs of answers.
        same: Share of equal answers.
        kappa: Cohen's kappa of the answers.
        weighted: Cohen's kappa of the ratings with quadratic weights; nan without ratings.
    """

    question: str
    readers: str
    n: int
    same: float
    kappa: float
    weighted: float


def summary(answers: Answers) -> list[Row]:
    """Accuracy, sensitivity, specificity, AUC, confidence and time, by arm and by reader.

    And the difference of each arm to the first one. Repeats are left out: they would count a case
    twice.
    """
    first = [r for r in answers.readings if not r.page.repeat]
    bootstrap = Bootstrap([r.page.reader for r in first], [r.page.case for r in first])
    rows: list[Row] = []
    for question in answers.questions.questions:
        if question.type != "text":
            mine = [r for r in first if r.question == question]
            names = [*SHARES, AUC, "confidence", "seconds"]
            rows += _rows(question.id, mine, names, answers.questions.arms, bootstrap)
    pages = list({r.page: r for r in first}.values())
    return rows + _rows("", pages, [PAGE], answers.questions.arms, bootstrap)


def agreement(answers: Answers) -> list[Agreement]:
    """Each reader with every other one, and with himself where he read a case twice."""
    rows: list[Agreement] = []
    for question in answers.questions.questions:
        mine = [r for r in answers.readings if r.question == question]
        if question.type == "text":
            continue
        first = {_what(r): r for r in mine if not r.page.repeat}
        for a, b in combinations(sorted({r.page.reader for r in mine}), 2):
            theirs = {what[1:]: r for what, r in first.items() if what[0] == b}
            pairs = [
                (r, theirs[what[1:]])
                for what, r in first.items()
                if what[0] == a and what[1:] in theirs
            ]
            rows.append(_agreement(question, f"{a} and {b}", pairs))
        again = [(first[_what(r)], r) for r in mine if r.page.repeat and _what(r) in first]
        for reader in sorted({r.page.reader for _, r in again}):
            pairs = [pair for pair in again if pair[1].page.reader == reader]
            rows.append(_agreement(question, f"{reader}, repeated", pairs))
        rows.append(_agreement(question, f"{ALL}, repeated", again))
    return [row for row in rows if row.n]


def _what(reading: Reading) -> tuple[Any, ...]:
    """Who read what, in which arm."""
    return (reading.page.reader, *reading.image, reading.page.arm)


def _agreement(
    question: Question, readers: str, pairs: Sequence[tuple[Reading, Reading]]
) -> Agreement:
    answers = [[r.answer for r in side] for side in zip(*pairs, strict=True)] or [[], []]
    ratings = [[r.rating for r in side] for side in zip(*pairs, strict=True)] or [[], []]
    same = sum(a.answer == b.answer for a, b in pairs) / len(pairs) if pairs else float("nan")
    weighted = float("nan")
    if pairs and None not in ratings[0]:
        weighted = kappa(*ratings, order=question.ratings(), weighted=True)
    plain = kappa(*answers, order=question.options, weighted=False)
    return Agreement(question.id, readers, len(pairs), same, plain, weighted)


def _rows(
    question: str,
    readings: Sequence[Reading],
    names: Sequence[str],
    order: Sequence[str],
    bootstrap: Bootstrap,
) -> list[Row]:
    """The measures by arm and reader, and the difference of each arm to the first one."""
    rows: list[Row] = []
    arms = arms_of(readings, order)
    for name in names:
        for arm in arms:
            here = [r for r in readings if r.page.arm == arm]
            readers = sorted({r.page.reader for r in here})
            rows.append(Row(question, name, arm, "", ALL, *_estimate(name, here, bootstrap)))
            for reader in readers:
                mine = [r for r in here if r.page.reader == reader]
                estimate = _estimate(name, mine, bootstrap)
                rows.append(Row(question, name, arm, "", str(reader), *estimate))
        base, *others = [arm for arm in arms if arm] or [""]
        for arm in others:
            a, b = ([r for r in readings if r.page.arm == one] for one in (arm, base))
            estimate = _difference(name, a, b, bootstrap)
            rows.append(Row(question, name, arm, base, ALL, *estimate))
    return [row for row in rows if row.n]


def arms_of(readings: Sequence[Reading], order: Sequence[str]) -> list[str]:
    """The arms that occur, in the order of the study."""
    return [arm for arm in ("", *order) if any(r.page.arm == arm for r in readings)]


def _estimate(name: str, readings: Sequence[Reading], bootstrap: Bootstrap) -> Estimate:
    if name == AUC:
        return area(_scored(readings), bootstrap)
    counted, values = _counted(name, readings)
    weights = bootstrap.weights(*_who(counted))
    if name in SHARES:
        return share(values, weights, _who(counted)[1])
    return mean(values, weights)


def _difference(
    name: str, readings: Sequence[Reading], base: Sequence[Reading], bootstrap: Bootstrap
) -> Estimate:
    if name == AUC:
        return area(_scored(readings), bootstrap, _scored(base))
    (counted, values), (others, theirs) = _counted(name, readings), _counted(name, base)
    return difference(
        values, bootstrap.weights(*_who(counted)), theirs, bootstrap.weights(*_who(others))
    )


def _counted(name: str, readings: Sequence[Reading]) -> tuple[list[Reading], list[float]]:
    """The answers that count for a measure, and what they count."""
    counted = [r for r in readings if VALUES[name](r) is not None]
    return counted, [float(VALUES[name](r) or 0) for r in counted]


def _who(readings: Sequence[Reading]) -> tuple[list[int], list[str]]:
    return [r.page.reader for r in readings], [r.page.case for r in readings]


def _scored(readings: Sequence[Reading]) -> list[tuple[int, str, bool, float]]:
    """Reader, case, truth and rating of the answers that an ROC curve can be drawn of."""
    return [
        (r.page.reader, r.page.case, diseased, r.rating)
        for r in readings
        if r.rating is not None and (diseased := r.question.diseased(r.page.truth)) is not None
    ]
