"""What the rows of a run come to, counted one by one: a run may have more than memory holds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from cfgen.gallery.words import UNUSUAL, agreed_before, agrees, to_float


@dataclass
class Survey:
    """What the rows of a run come to.

    Attributes:
        rows: How many there are.
        images: How many images; one can have several rows.
        statuses: How many rows have which status.
        predictions: Answers on originals, each with the answer asked for.
        targets: Answers asked for.
        agreed: Counterfactuals that the second model agrees with, of ``counted``.
        counted: Counterfactuals that the second model judged.
        left_out: Those not counted: it gave their originals the answer asked for already, so that
            it agrees without them.
        unlike: Counterfactuals unlike real images at a false discovery rate of 5 %, of ``rated``.
        rated: Counterfactuals with such a rate.
    """

    rows: int = 0
    images: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    predictions: set[tuple[str, str]] = field(default_factory=set)
    targets: set[str] = field(default_factory=set)
    agreed: int = 0
    counted: int = 0
    left_out: int = 0
    unlike: int = 0
    rated: int = 0

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, str]]) -> Survey:
        """Count rows; a missing column is ""."""
        survey = cls()
        for row in rows:
            survey.add(defaultdict(str, row))
        return survey

    def add(self, row: defaultdict[str, str]) -> None:
        """Count one more row."""
        self.rows += 1
        self.images += first(row)
        self.statuses[row["status"]] += 1
        if row["source"]:
            self.predictions.add((row["source"], row["target"]))
        if row["target"]:
            self.targets.add(row["target"])
        if row["status"] != "FLIPPED":
            return
        opinion = agrees(row["oracle_agrees"])
        if opinion is not None and agreed_before(row):
            self.left_out += 1
        elif opinion is not None:
            self.counted += 1
            self.agreed += opinion
        rate = to_float(row["plausibility_q"])
        if rate == rate:
            self.rated += 1
            self.unlike += rate < UNUSUAL


def first(row: Mapping[str, str]) -> bool:
    """Whether a row is the first one of its image."""
    return row.get("alternative", "") in ("", "1")


def numbered(rows: Iterable[dict[str, str]]) -> Iterator[tuple[dict[str, str], int]]:
    """Rows, each with how many its image has; those of an image follow each other."""
    image: list[dict[str, str]] = []
    for row in rows:
        if first(row):
            yield from ((one, len(image)) for one in image)
            image = []
        image.append(row)
    yield from ((one, len(image)) for one in image)
