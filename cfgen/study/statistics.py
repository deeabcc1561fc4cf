"""Estimates with intervals where readers and cases are both drawn from many.

An interval that takes every answer for a new one is too narrow: the answers of one reader are
alike, and so are the answers to one case. All intervals here come from the pigeonhole bootstrap,
which draws readers and cases anew, each with replacement, and gives an answer the product of how
often its reader and its case were drawn.

Reference: Owen (2007), The pigeonhole bootstrap, Annals of Applied Statistics 1(2),
arXiv:0712.1111.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import norm
from sklearn.metrics import cohen_kappa_score

DRAWS = 2000
LEVEL = 0.95


class Estimate(NamedTuple):
    """A value with its interval of 95 %, nan where there is none, and the number of answers."""

    value: float
    low: float
    high: float
    n: int


class Bootstrap:
    """Draws of readers and cases, the same for all estimates of a report.

    Args:
        readers: All readers.
        cases: All cases.
        seed: Of the draws.
    """

    def __init__(
        self, readers: Sequence[Hashable], cases: Sequence[Hashable], seed: int = 0
    ) -> None:
        rng = np.random.default_rng(seed)
        self.reader, self.case = _indices(readers), _indices(cases)
        self.readers, self.cases = (_counts(rng, len(names)) for names in (self.reader, self.case))

    def weights(self, readers: Sequence[Hashable], cases: Sequence[Hashable]) -> np.ndarray:
        """How often each answer was drawn, (draws, answers)."""
        r = self.readers[:, [self.reader[name] for name in readers]]
        return r * self.cases[:, [self.case[name] for name in cases]]


def mean(values: Sequence[float], weights: np.ndarray) -> Estimate:
    """A mean with the percentile interval.

    Args:
        values: One for each answer.
        weights: (draws, answers).
    """
    if not values:
        return Estimate(math.nan, math.nan, math.nan, 0)
    return _percentiles(float(np.mean(values)), _means(values, weights), len(values))


def share(values: Sequence[float], weights: np.ndarray, cases: Sequence[Hashable]) -> Estimate:
    """A share with Wilson's interval for the effective number of answers.

    That is the number of independent answers with the variance of the bootstrap. Where all
    answers are the same the bootstrap sees no variance, and each case counts once.

    Reference: Franco, Little, Louis, Slud (2019), Comparative study of confidence intervals for
    proportions in complex sample surveys, J. Survey Statistics and Methodology 7(3).
    """
    if not values:
        return Estimate(math.nan, math.nan, math.nan, 0)
    n, p = len(values), float(np.mean(values))
    variance = float(np.nanvar(_means(values, weights)))
    effective = p * (1 - p) / variance if variance else len(set(cases))
    return Estimate(p, *wilson(p, min(max(effective, 1.0), n)), n)


def difference(
    values: Sequence[float], weights: np.ndarray, others: Sequence[float], theirs: np.ndarray
) -> Estimate:
    """The mean of the values minus the mean of others; the draws of both belong together."""
    if not values or not others:
        return Estimate(math.nan, math.nan, math.nan, 0)
    value = float(np.mean(values) - np.mean(others))
    return _percentiles(value, _means(values, weights) - _means(others, theirs), len(values))


Scored = Sequence[tuple[Hashable, Hashable, bool, float]]


def area(scored: Scored, bootstrap: Bootstrap, base: Scored | None = None) -> Estimate:
    """The area under the ROC curve, averaged over the readers who saw both kinds of cases.

    It is the chance that a diseased case is rated above another one, ties counted half.

    Args:
        scored: Reader, case, whether it is diseased, and rating of each answer.
        bootstrap: The draws.
        base: Answers whose area is taken away, if any.
    """
    value, draws = _areas(scored, bootstrap)
    if base is not None:
        other, theirs = _areas(base, bootstrap)
        value, draws = value - other, draws - theirs
    if math.isnan(value):
        return Estimate(math.nan, math.nan, math.nan, 0)
    return _percentiles(value, draws, len(scored))


def wilson(p: float, n: float) -> tuple[float, float]:
    """Wilson's interval of a share p of n answers; n need not be whole.

    Reference: Wilson (1927), Probable inference, J. American Statistical Association 22.
    """
    z = float(norm.ppf((1 + LEVEL) / 2))
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def kappa(
    first: Sequence[Hashable], second: Sequence[Hashable], order: Sequence[Hashable], weighted: bool
) -> float:
    """Cohen's kappa, with quadratic weights where the categories have an order.

    Nan for fewer than two answers, or where all of them are the same: chance alone would agree.

    Reference: Cohen (1968), Weighted kappa, Psychological Bulletin 70(4).
    """
    if len(first) < 2 or len({*first, *second}) < 2:
        return math.nan
    place = {category: i for i, category in enumerate(order)}
    a, b = ([place[answer] for answer in answers] for answers in (first, second))
    labels = list(range(len(order)))
    return float(cohen_kappa_score(a, b, labels=labels, weights="quadratic" if weighted else None))


def _indices(names: Sequence[Hashable]) -> dict[Hashable, int]:
    return {name: i for i, name in enumerate(dict.fromkeys(names))}


def _counts(rng: np.random.Generator, n: int) -> np.ndarray:
    """How often each of n is drawn; one alone cannot vary and is always there."""
    return rng.multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(float)


def _means(values: Sequence[float], weights: np.ndarray) -> np.ndarray:
    """The mean of each draw; nan where nothing was drawn."""
    with np.errstate(invalid="ignore"):
        return weights @ np.asarray(values, dtype=float) / weights.sum(1)


def _areas(scored: Scored, bootstrap: Bootstrap) -> tuple[float, np.ndarray]:
    """The mean area of the readers, and that of each draw; nan where there is none."""
    areas, total, drawn = [], np.zeros(DRAWS), np.zeros(DRAWS)
    for reader in dict.fromkeys(name for name, *_ in scored):
        mine = [entry for entry in scored if entry[0] == reader]
        up, down = ([entry for entry in mine if entry[2] is kind] for kind in (True, False))
        if not up or not down:
            continue
        above = np.subtract.outer([entry[3] for entry in up], [entry[3] for entry in down])
        wins = (np.sign(above) + 1) / 2
        areas.append(float(wins.mean()))
        of = [bootstrap.cases[:, [bootstrap.case[c] for _, c, *_ in part]] for part in (up, down)]
        pairs = of[0].sum(1) * of[1].sum(1)
        won = ((of[0] @ wins) * of[1]).sum(1)
        often = bootstrap.readers[:, bootstrap.reader[reader]] * (pairs > 0)
        total += often * won / np.maximum(pairs, 1)
        drawn += often
    if not areas:
        return math.nan, np.full(DRAWS, math.nan)
    with np.errstate(invalid="ignore"):
        return float(np.mean(areas)), total / drawn


def _percentiles(value: float, draws: np.ndarray, n: int) -> Estimate:
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return Estimate(value, math.nan, math.nan, n)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high), n)
