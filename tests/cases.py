"""One row for each direction and search; the contract suites run over all of them."""

from __future__ import annotations

import pytest

from cfgen.directions import Direction, Gradient, MinimalNorm, NaturalGradient
from cfgen.searches import FirstCrossing

# Those that a prior guides are in test_prior_directions.py: what is best for them the prior says.
DIRECTIONS: list[Direction] = [
    Gradient(),
    NaturalGradient(),
    MinimalNorm(),
]

SEARCHES: dict[str, FirstCrossing] = {
    "first_crossing": FirstCrossing(),
    "first_crossing-fine": FirstCrossing(first=0.05, ratio=0.2, tol=1e-5),
    "first_crossing-coarse": FirstCrossing(first=1.0, ratio=2.0, tol=1e-2),
}

each_direction = pytest.mark.parametrize("direction", DIRECTIONS, ids=lambda d: type(d).__name__)
each_search = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
each_target = pytest.mark.parametrize("target", [0, 1])
each_batch = pytest.mark.parametrize("batch", [1, 3, 8])
