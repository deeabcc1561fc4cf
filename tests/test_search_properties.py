"""Properties of searches on scalar margins that hypothesis makes as nasty as it can."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from cfgen.searches import FirstCrossing
from tests.cases import SEARCHES, each_search


@dataclass(frozen=True)
class Piece:
    """From ``start`` on, the margin is ``value`` + ``slope`` * (lam - start)."""

    start: float
    value: float
    slope: float


class Margin:
    """Pieces in a row, of one sample; negative at 0. It remembers where it was asked."""

    def __init__(self, pieces: list[Piece]) -> None:
        self.pieces = [Piece(0.0, -1.0, 0.0), *sorted(pieces, key=lambda p: p.start)]
        self.seen: dict[float, float] = {0.0: -1.0}

    def at(self, lam: float) -> float:
        piece = [p for p in self.pieces if p.start <= lam][-1]
        return piece.value + piece.slope * (lam - piece.start)

    def ask(self, lam: float) -> float:
        assert lam not in self.seen
        self.seen[lam] = self.at(lam)
        return self.seen[lam]

    def flipped(self) -> list[tuple[float, float]]:
        """Intervals [low, high), in order, on which the margin is positive throughout."""
        out: list[tuple[float, float]] = []
        ends = [p.start for p in self.pieces[1:]] + [math.inf]
        for piece, end in zip(self.pieces, ends, strict=True):
            if piece.value > 0 and piece.slope >= 0:
                low = out.pop()[0] if out and out[-1][1] == piece.start else piece.start
                out.append((low, end))
        return out


values = st.sampled_from([-1e300, -1.0, -1e-300, 0.0, 5e-324, 1e-12, 1.0, 1e300]) | st.floats(-5, 5)
odd = st.sampled_from([math.nan, math.inf, -math.inf])
slopes = st.sampled_from([0.0, 0.0, 1e-9, 1.0, 1e9, -1.0])
starts = st.floats(1e-3, 80)
pieces = st.builds(Piece, starts, values | odd, slopes)


def run(search: FirstCrossing, margins: list[Margin], guess: Tensor | None = None):
    def phi(lam: Tensor, rows: Tensor) -> Tensor:
        pairs = zip(lam.tolist(), rows.tolist(), strict=True)
        return torch.tensor([margins[i].ask(s) for s, i in pairs], dtype=torch.float64)

    result = search(phi, torch.full((len(margins),), -1.0, dtype=torch.float64), guess)
    return list(
        zip(
            *(t.tolist() for t in (result.lam, result.lower, result.found, result.evals)),
            strict=True,
        )
    )


@each_search
@settings(max_examples=60)
@given(rest=st.lists(pieces, max_size=6), guess=st.just(0.0) | st.floats(1e-3, 100))
@example(rest=[], guess=0.0)
@example(rest=[Piece(63.99, 1.0, 0.0)], guess=0.0)
@example(rest=[Piece(63.99, 1.0, 0.0)], guess=63.98)
@example(rest=[Piece(2.0, 1.0, 0.0), Piece(2.0001, -1.0, 0.0)], guess=2.0)
@example(rest=[Piece(1.0, 1.0, 0.0), Piece(9.0, -1.0, 0.0), Piece(20.0, 1.0, 0.0)], guess=0.0)
@example(rest=[Piece(0.5, math.nan, 0.0), Piece(5.0, 1.0, 1.0)], guess=0.0)
@example(rest=[Piece(0.5, 0.0, 0.0), Piece(5.0, 5e-324, 0.0)], guess=0.0)
def test_whatever_the_margin_and_the_guess(search, rest, guess):
    margin = Margin(rest)
    [(lam, lower, found, evals)] = run(search, [margin], torch.tensor([guess], dtype=torch.float64))

    def resolution(low: float) -> float:
        return max(search.first, search.ratio * low, min(guess, search.limit) / 2)

    seen = sorted(margin.seen.items())
    assert evals == len(seen) - 1
    assert all(0 <= s <= search.limit for s, _ in seen)
    flips = [s for s, m in seen if m > 0]
    assert found == bool(flips)
    if found:
        # The bracket is made of the steps seen next to each other, and is as narrow as promised.
        assert lam == flips[0]
        assert lower == max(s for s, _ in seen if s < lam)
        assert not margin.seen[lower] > 0
        assert lam - lower <= search.tol * (lam + search.first / 10) * (1 + 1e-9)
    else:
        assert math.isnan(lam)
        assert lower == search.limit
    # The walk leaves no gap wider than its resolution before the step that it hands over.
    end = lam if found else search.limit
    before = [s for s, _ in seen if s <= end]
    for low, high in zip(before, before[1:], strict=False):
        assert high - low <= resolution(low) * (1 + 1e-9)
    # So a flip that stays for one step of the walk is never overlooked.
    for low, high in margin.flipped():
        if high - low > resolution(low) and high <= search.limit:
            assert found
            assert lam <= low + search.tol * (lam + search.first / 10) * (1 + 1e-9)
            break


@settings(max_examples=25)
@given(batch=st.lists(st.lists(pieces, max_size=4), max_size=5))
def test_a_batch_is_exactly_its_rows(batch):
    search = FirstCrossing()
    together = run(search, [Margin(rest) for rest in batch])
    alone = [run(search, [Margin(rest)])[0] for rest in batch]
    assert str(together) == str(alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@settings(max_examples=40)
@given(
    root=st.floats(2**-10, 60, width=16),
    scale=st.floats(-3, 3).map(lambda e: 10**e),
    tol=st.floats(-7, -1).map(lambda e: 10**e),
)
def test_a_low_precision_ends_with_a_bracket(dtype, root, scale, tol):
    seen: dict[float, float] = {0.0: -1.0}

    def phi(lam: Tensor, rows: Tensor) -> Tensor:
        margin = ((lam.double() - root) * scale).to(dtype)
        seen[lam.item()] = margin.item()
        return margin

    result = FirstCrossing(tol=tol)(phi, torch.full((1,), -1.0, dtype=dtype))
    lam, lower = result.lam.item(), result.lower.item()
    assert lower < lam
    assert seen[lower] <= 0 < seen[lam]
    assert result.evals.item() <= 60


@settings(max_examples=30)
@given(root=st.floats(1e-3, 63.9), power=st.floats(0.3, 4), scale=st.floats(-6, 6))
def test_a_monotone_margin_gives_its_root(root, power, scale):
    for search in SEARCHES.values():

        def phi(lam: Tensor, rows: Tensor) -> Tensor:
            return ((lam / root) ** power - 1) * 10**scale

        result = search(phi, torch.tensor([-(10.0**scale)], dtype=torch.float64))
        width = search.tol * (root + search.first / 10) * 1.1
        assert result.lam.item() == pytest.approx(root, abs=width)
        assert result.lower.item() <= root * (1 + 1e-12)
