import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cfgen.searches import FirstCrossing, Root, Search
from tests.cases import each_search


class Recorder:
    """A margin along a line that remembers where it was asked."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        self.f = f
        self.seen: list[tuple[int, float, float]] = []

    def __call__(self, lam: Tensor, rows: Tensor) -> Tensor:
        assert lam.shape == rows.shape == (len(lam),)
        assert rows.dtype == torch.int64
        assert len(rows.unique()) == len(rows)
        margin = self.f(lam)
        self.seen += zip(rows.tolist(), lam.tolist(), margin.tolist(), strict=True)
        return margin

    def of(self, row: int) -> list[tuple[float, float]]:
        return [(lam, margin) for r, lam, margin in self.seen if r == row]


def search_one(search: Search, f: Callable[[Tensor], Tensor], dtype=torch.float64):
    phi = Recorder(f)
    return search(phi, f(torch.zeros(1, dtype=dtype))), phi


def flips_in(*intervals: tuple[float, float]) -> Callable[[Tensor], Tensor]:
    """A margin of 1 inside open intervals, and of -1 elsewhere."""

    def f(lam: Tensor) -> Tensor:
        inside = torch.zeros_like(lam, dtype=torch.bool)
        for low, high in intervals:
            inside |= (low < lam) & (lam < high)
        return torch.where(inside, 1.0, -1.0).to(lam)

    return f


@each_search
@pytest.mark.parametrize("root", [1e-3, 0.1, 0.25, 1.0, 7.3, 63.9])
@pytest.mark.parametrize(
    "shape",
    [
        lambda lam, root: lam - root,
        lambda lam, root: 1e-9 * (lam - root),
        lambda lam, root: 1e9 * (lam - root),
        lambda lam, root: lam.clamp(min=root / 2) ** 3 - root**3,
        lambda lam, root: (3 * (lam - root)).tanh(),
        lambda lam, root: (lam / root).clamp(min=1e-9).log(),
    ],
    ids=["line", "flat", "steep", "plateau and cube", "saturating", "concave"],
)
def test_a_single_crossing_is_found_to_the_tolerance(search, root, shape):
    result, phi = search_one(search, lambda lam: shape(lam, root))
    lam, lower = result.lam.item(), result.lower.item()
    assert result.found.all()
    assert lower <= root < lam
    assert lam - lower <= search.tol * (lam + search.first / 10)
    assert result.evals.item() == len(phi.seen)


@each_search
@pytest.mark.parametrize("guess", [math.nan, math.inf, -1.0, 0.0, 1e-9, 0.7, 2.9, 3.1, 9.0, 1e9])
def test_a_guess_right_or_wrong_gives_the_same_root(search, guess):
    phi = Recorder(lambda lam: (lam / 3).sqrt() - 1)
    result = search(phi, torch.tensor([-1.0]).double(), torch.tensor([guess], dtype=torch.float64))
    lam, lower = result.lam.item(), result.lower.item()
    assert lower <= 3 * (1 + 1e-12)
    assert lam > 3 * (1 - 1e-12)
    assert lam - lower <= search.tol * (lam + search.first / 10)
    assert result.evals.item() == len(phi.seen)


@pytest.mark.parametrize("root", [0.06, 3.0, 40.0])
@pytest.mark.parametrize("miss", [-0.002, -0.001, 0.001, 0.002])
@pytest.mark.parametrize("power", [0.5, 1, 3])
def test_a_guess_within_half_the_tolerance_costs_three_evaluations(root, miss, power):
    phi = Recorder(lambda lam: (lam / root) ** power - 1)
    guess = torch.tensor([root * (1 + miss)], dtype=torch.float64)
    result = FirstCrossing()(phi, torch.tensor([-1.0]).double(), guess)
    assert result.evals.item() == 3
    assert result.lower.item() <= root < result.lam.item()


def test_a_flip_that_holds_for_half_the_guess_is_seen_before_it():
    for start in (0.1, 0.9, 1.4, 1.9):
        f = flips_in((start, start + 2.0), (3.99, 60.0))
        result = FirstCrossing()(Recorder(f), f(torch.zeros(1)), torch.tensor([4.0]))
        assert start < result.lam.item() < start * 1.01 + 0.01


@pytest.mark.parametrize("root", [0.6, 3.0, 40.0])
def test_smooth_margins_are_cheap(root):
    """Chandrupatla's method beats bisection, which takes log2(1 / tol) = 8 and more."""
    result, _ = search_one(FirstCrossing(), lambda lam: (lam / root).square() - 1)
    walk = (
        sum(step < root for step in (0.5, 1, 1.5, 2.25, 3.4, 5.1, 7.6, 11.4, 17.1, 25.6, 38.4)) + 1
    )
    assert result.evals.item() <= walk + 6


@pytest.mark.parametrize(
    ("shape", "alone", "told"),
    [
        (lambda way: way - 1, [4, 7, 10, 15], [5, 5, 5, 5]),
        (lambda way: (3 * (way - 1)).tanh(), [5, 8, 10, 15], [6, 6, 6, 6]),
        (lambda way: (way - 1) ** 3, [17, 19, 23, 26], [14, 16, 16, 16]),
        (lambda way: torch.where(way > 1, 1.0, -1.0).to(way), [10, 11, 14, 19], [9, 9, 9, 9]),
    ],
    ids=["line", "saturating", "flat at the crossing", "step"],
)
def test_what_the_default_search_costs(shape, alone, told):
    """As measured, with and without a guess that is 5 % too far: who changes it measures again."""
    roots = torch.tensor([0.3, 1.7, 7.3, 40.0], dtype=torch.float64)
    start = shape(torch.zeros_like(roots))
    for guess, evals in ((None, alone), (1.05 * roots, told)):
        result = FirstCrossing()(lambda lam, rows: shape(lam / roots[rows]), start, guess)
        assert result.evals.tolist() == evals


@each_search
def test_the_ends_were_both_seen(search):
    f = lambda lam: (5 * lam).sin() - 0.9 + 0.01 * lam  # noqa: E731
    result, phi = search_one(search, f)
    seen = dict(phi.of(0)) | {0.0: -0.9}
    assert seen[result.lam.item()] > 0 >= seen[result.lower.item()]
    assert not [lam for lam, margin in seen.items() if margin > 0 and lam < result.lam.item()]


def test_the_first_of_two_crossings():
    result, _ = search_one(FirstCrossing(), flips_in((1.5, 3.5), (6.0, 60.0)))
    assert 1.5 < result.lam.item() < 1.51


def test_a_crossing_thinner_than_a_step_may_be_missed_and_a_finer_walk_sees_it():
    f = flips_in((2.0, 2.05), (6.0, 60.0))
    coarse, _ = search_one(FirstCrossing(), f)
    fine, _ = search_one(FirstCrossing(first=0.04, ratio=0.02), f)
    assert 6 < coarse.lam.item() < 6.04
    assert 2 < fine.lam.item() < 2.02


@each_search
def test_no_crossing(search):
    result, phi = search_one(search, lambda lam: -1 - lam)
    assert not result.found.any()
    assert result.lam.isnan().all()
    assert result.lower.tolist() == [search.limit]
    steps = [lam for lam, _ in phi.of(0)]
    assert steps == sorted(steps)
    assert steps[-1] == search.limit
    assert result.evals.item() == len(steps)


@pytest.mark.parametrize("limit", [0.1, 0.7, 3.3, 64.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_walk_ends_at_its_limit_in_every_precision(limit, dtype):
    result, phi = search_one(FirstCrossing(limit=limit), lambda lam: -1 - lam, dtype)
    assert result.lower == torch.tensor([limit], dtype=dtype)
    assert result.lower.dtype == dtype
    assert len(phi.seen) < 30


def test_a_crossing_at_the_limit_is_found_and_one_beyond_is_not():
    search = FirstCrossing(limit=5.0)
    assert search_one(search, lambda lam: lam - 4.999)[0].found.all()
    assert not search_one(search, lambda lam: lam - 5.001)[0].found.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_steps_handed_back_are_the_steps_seen(dtype):
    roots = torch.tensor([0.1, 1 / 3, 2.7, 11.1], dtype=dtype)
    seen: list[Tensor] = []

    def phi(lam: Tensor, rows: Tensor) -> Tensor:
        assert lam.dtype == dtype
        seen.append(torch.stack([rows.to(dtype), lam], 1))
        return lam - roots[rows]

    result = FirstCrossing()(phi, -roots)
    assert result.lam.dtype == result.lower.dtype == dtype
    assert (result.lam > roots).all()
    assert (result.lower <= roots).all()
    pairs = {tuple(p) for p in torch.cat(seen).tolist()} | {(float(i), 0.0) for i in range(4)}
    for end in (result.lam, result.lower):
        assert {(float(i), s) for i, s in enumerate(end.tolist())} <= pairs


@pytest.mark.parametrize("value", [math.nan, -math.inf, 0.0])
def test_what_is_not_positive_is_not_flipped(value):
    result, _ = search_one(FirstCrossing(), lambda lam: torch.full_like(lam, value))
    assert not result.found.any()


def test_nan_before_the_crossing_is_passed():
    result, _ = search_one(
        FirstCrossing(), lambda lam: torch.where(lam < 3, torch.nan, torch.inf).to(lam)
    )
    assert 3 <= result.lam.item() < 3.02


def test_a_margin_of_zero_is_the_last_that_is_not_flipped():
    result, _ = search_one(FirstCrossing(tol=1e-6), lambda lam: (lam - 1).clamp(min=0))
    assert result.lower.item() <= 1 < result.lam.item()
    assert result.lam.item() == pytest.approx(1, abs=1e-5)


@each_search
def test_a_batch_is_its_rows_and_each_pays_for_itself(search):
    roots = torch.tensor([0.3, 1.0, 500.0, 2.0, 50.0, 0.01], dtype=torch.float64)
    guess = torch.tensor([0.3, math.nan, 600.0, 1.0, 49.0, 5.0], dtype=torch.float64)
    phi = Recorder(lambda lam: lam)
    result = search(lambda lam, rows: phi(lam, rows) - roots[rows], -roots, guess)
    for i, root in enumerate(roots):
        one = Recorder(lambda lam, root=root: lam - root)
        alone = search(one, -roots[i : i + 1], guess[i : i + 1])
        for name in ("lam", "lower", "found", "evals"):
            expected = getattr(alone, name)
            torch.testing.assert_close(
                getattr(result, name)[i : i + 1], expected, rtol=0, atol=0, equal_nan=True
            )
        assert result.evals[i] == len(phi.of(i))


@each_search
def test_an_empty_batch(search):
    def phi(lam: Tensor, rows: Tensor) -> Tensor:
        raise AssertionError("nothing to ask")

    result = search(phi, torch.zeros(0))
    assert isinstance(result, Root)
    assert [len(t) for t in (result.lam, result.lower, result.found, result.evals)] == [0] * 4


def test_the_arguments_stay_as_they_are():
    start = torch.tensor([-1.0, -2.0])
    FirstCrossing()(lambda lam, rows: lam - 1, start)
    assert start.tolist() == [-1.0, -2.0]


@pytest.mark.parametrize("name", ["first", "ratio", "limit", "tol"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_parameters_are_positive(name, value):
    with pytest.raises(ValueError, match=f"^{re.escape(f'expected {name} > 0, got {value}')}$"):
        FirstCrossing(**{name: value})
    with pytest.raises(ValueError, match=f"^expected a finite {name}, got inf$"):
        FirstCrossing(**{name: math.inf})
