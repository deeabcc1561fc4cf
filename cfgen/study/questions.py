"""What readers are asked, in which arms, how often."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

ARMS = {
    "unaided": "without aid",
    "counterfactual": "with counterfactual",
    "attribution": "with attribution map",
}
ORIGIN = ("real", "synthetic")


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        id: Short name, the column ``question`` of the answers.
        type: "choice", "yes-no", "scale", "real-or-synthetic" or "text".
        ask: What the reader reads.
        options: The possible answers; none for a text. Those of a scale are "1", "2", ...
        ends: What the first and the last point of a scale mean.
        positive: The class that counts as disease; with it the answers give an ROC curve.
        labelled: The options are the classes, and the label of an image is the right answer.
        confidence: Ask for the confidence too, from 1 to 5.
        optional: May be left empty.
    """

    id: str
    type: str
    ask: str
    options: tuple[str, ...] = ()
    ends: tuple[str, str] = ("", "")
    positive: str | None = None
    labelled: bool = False
    confidence: bool = False
    optional: bool = False

    @property
    def about_origin(self) -> bool:
        """It is asked of a single image that may be real or synthetic."""
        return self.type == "real-or-synthetic"

    def right(self, truth: str) -> str | None:
        """The right option where the truth is a label, or "real" or "synthetic"; None: no such."""
        if not truth:
            return None
        if self.labelled or self.about_origin:
            return truth
        if self.type == "yes-no" and self.positive:
            return "yes" if truth == self.positive else "no"
        return None

    def diseased(self, truth: str) -> bool | None:
        """Whether the truth is the positive class; None without a truth or a positive class."""
        return None if not truth or self.positive is None else truth == self.positive

    def calls(self, answer: str) -> bool | None:
        """Whether an answer is the positive class; None on a scale or without a positive class."""
        if self.type == "scale" or self.positive is None:
            return None
        return answer == ("yes" if self.type == "yes-no" else self.positive)

    def rating(self, answer: str, confidence: int | None) -> float | None:
        """An answer as a number: for the ROC curve and the weighted kappa.

        A point of a scale is its number. A choice is the confidence, or 1 where none was asked,
        with a minus sign when it is not the positive one. None where the options have no order.
        """
        if self.type == "scale":
            return float(answer)
        yes = {"yes-no": "yes"}.get(self.type, self.positive)
        if yes is None:
            return None
        return float((confidence or 1) * (1 if answer == yes else -1))

    def ratings(self) -> list[float]:
        """All ratings in order: the categories of the weighted kappa."""
        if self.type == "scale":
            return [float(option) for option in self.options]
        most = 5 if self.confidence else 1
        return [float(s) for s in range(-most, most + 1) if s]


@dataclass(frozen=True)
class Questionnaire:
    """A study as its questions file describes it; ``example.yaml`` explains each key."""

    title: str
    questions: tuple[Question, ...]
    introduction: str = ""
    classes: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    attribution: str | None = None
    design: str = "crossed"
    cases: int | None = None
    repeats: int = 0
    gap: int | None = None
    allow_back: bool = False

    @property
    def asks_origin(self) -> bool:
        """Some question is real-or-synthetic."""
        return any(q.about_origin for q in self.questions)

    @property
    def asks_reading(self) -> bool:
        """Some question is asked of the images in the arms."""
        return bool(self.arms)

    def on(self, kind: str) -> list[Question]:
        """The questions of a page of kind "reading" or "origin"; a text is asked on both."""
        origin = kind == "origin"
        return [q for q in self.questions if q.type == "text" or q.about_origin == origin]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; :meth:`from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Questionnaire:
        """From what :meth:`as_dict` gave, through JSON or not."""
        fields: dict[str, Any] = dict(record)
        fields["questions"] = tuple(
            Question(**q | {"options": tuple(q["options"]), "ends": tuple(q["ends"])})
            for q in record["questions"]
        )
        for name in ("classes", "arms"):
            fields[name] = tuple(record[name])
        return cls(**fields)
