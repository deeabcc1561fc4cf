"""Who sees what when: the randomised plan of a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cfgen.study.questions import ORIGIN, Questionnaire


@dataclass(frozen=True)
class Page:
    """One page of one reader. The key of the study is the list of them.

    Attributes:
        reader: From 1.
        page: Opaque name, eight hexadecimal digits, different for all pages of a study.
        position: Place in the reader's file, from 1.
        part: Between two parts the reader may rest, from 1.
        kind: "reading" (an image in an arm) or "origin" (one image, real or synthetic).
        case: Name of the case in the run.
        arm: Arm of a reading; "" for an origin page.
        truth: Label of the image, "" where unknown; "real" or "synthetic" on an origin page.
        repeat: Shown before to this reader, for the agreement of a reader with himself.
    """

    reader: int
    page: str
    position: int
    part: int
    kind: str
    case: str
    arm: str
    truth: str
    repeat: bool = False


def plan(
    labels: dict[str, str], readers: int, questions: Questionnaire, seed: int
) -> list[list[Page]]:
    """Draw a plan.

    Questions of origin come first, before any counterfactual is seen beside its original: each
    reader sees one image of a case, the real or the synthetic one in turns. Then come the readings.
    ``crossed``: as many parts as arms; each part shows every case once, a third of them in each
    of three arms, so that every reader reads every case in every arm. ``split``: one part; a
    reader reads a case in one arm only. Arms are dealt in turns over the cases of a class and over
    the readers (a Latin square), so classes, readers and parts are balanced up to one case.

    Args:
        labels: Label of each case, "" where unknown.
        readers: Number of readers.
        questions: The study.
        seed: Of the order, the arms, the repeats and the names of the pages.

    Returns:
        For each reader the pages in their order.

    Raises:
        ValueError: More repeats are asked for, or a wider gap, than the cases allow.
    """
    rng = np.random.default_rng(seed)
    turn = _turns(labels, rng)
    gap = len(turn) // 2 if questions.gap is None else questions.gap
    if gap >= len(turn):
        raise ValueError(f"expected 'gap' below the number of cases, {len(turn)}, got {gap}")
    plans: list[list[Page]] = []
    for reader in range(1, readers + 1):
        blocks: list[list[list[Page]]] = []  # origin, readings; each a list of parts
        if questions.asks_origin:
            part = [
                Page(reader, "", 0, 0, "origin", case, "", ORIGIN[(i + reader) % 2])
                for case, i in turn.items()
            ]
            blocks.append([_shuffled(part, [], gap, rng)])
        if arms := questions.arms:
            parts: list[list[Page]] = []
            for session in range(len(arms) if questions.design == "crossed" else 1):
                part = [
                    Page(reader, "", 0, 0, "reading", case, arm, labels[case])
                    for case, i in turn.items()
                    for arm in [arms[(i + reader + session) % len(arms)]]
                ]
                parts.append(_shuffled(part, parts[-1] if parts else [], gap, rng))
            blocks.append(parts)
        for parts in blocks:
            parts[-1] = _repeated(parts, questions.repeats, gap, rng)
        parts = [part for block in blocks for part in block]
        pages = [replace(page, part=i) for i, part in enumerate(parts, 1) for page in part]
        plans.append([replace(page, position=i) for i, page in enumerate(pages, 1)])
    names = iter(rng.choice(2**32, sum(map(len, plans)), replace=False).tolist())
    return [[replace(page, page=f"{next(names):08x}") for page in pages] for pages in plans]


def chosen(labels: dict[str, str], most: int | None, seed: int) -> dict[str, str]:
    """At most so many cases, drawn with the labels in turns; all of them with None."""
    if most is None or most >= len(labels):
        return labels
    turn = _turns(labels, np.random.default_rng([seed, 1]))
    rank: dict[str, int] = {}
    seen: dict[str, int] = {}
    for case in turn:
        rank[case] = seen[labels[case]] = seen.get(labels[case], -1) + 1
    kept = set(sorted(rank, key=lambda case: rank[case])[:most])
    return {case: label for case, label in labels.items() if case in kept}


def _turns(labels: dict[str, str], rng: np.random.Generator) -> dict[str, int]:
    """A random number for each case, without gaps within a label."""
    order = rng.permutation(sorted(labels)).tolist()
    order.sort(key=lambda case: labels[case])  # stable: random within a label
    return {case: i for i, case in enumerate(order)}


def _shuffled(
    part: Sequence[Page], before: Sequence[Page], gap: int, rng: np.random.Generator
) -> list[Page]:
    """A random order in which no case comes back within ``gap`` pages of the part before."""
    left, out = list(part), []
    while left:
        tail = {page.case for page in [*before, *out][-gap:]} if gap else set()
        free = [i for i, page in enumerate(left) if page.case not in tail]
        out.append(left.pop(free[rng.integers(len(free))]))
    return out


def _repeated(
    parts: Sequence[Sequence[Page]], repeats: int, gap: int, rng: np.random.Generator
) -> list[Page]:
    """The last part with repeats among its pages.

    A repeat shows a page of any part again, after more than ``gap`` others since its case was last
    seen. They take arms and truths in turns, so that they show what the study shows.
    """
    last = list(parts[-1])
    early = {page.case for page in last[: len(last) - gap]}
    if repeats > len(early):
        raise ValueError(
            f"expected at most {len(early)} 'repeats' with {len(last)} cases and a gap of {gap}, "
            f"got {repeats}"
        )
    shown = [page for part in parts for page in part if page.case in early]
    drawn = [shown[i] for i in rng.permutation(len(shown))]
    picked: list[Page] = []
    while len(picked) < repeats:
        done = [(page.arm, page.truth) for page in picked]
        used = {page.case for page in picked}
        rest = [page for page in drawn if page.case not in used]
        picked.append(min(rest, key=lambda page: done.count((page.arm, page.truth))))
    for page in picked:
        place = 1 + next(i for i, other in enumerate(last) if other.case == page.case)
        place = int(rng.integers(place + gap, len(last) + 1))
        last.insert(place, replace(page, repeat=True))
    return last
