"""One row for each direction, search and kind of f; the contract suites run over all of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from cfgen.classifiers import Classifier, Committee, EvidenceNet
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

CLASSES = ("healthy", "tumour")


def linear(seed: int) -> Classifier:
    """One layer, for grey images of 32 x 32."""
    torch.manual_seed(seed)
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(1024, 2)), CLASSES)


def evidence() -> Classifier:
    """Evidence for each place, with random weights."""
    torch.manual_seed(0)
    net = EvidenceNet("resnet10t", in_chans=1, channels=[8, 8, 8, 8], stem_width=8, width=8)
    return Classifier(net, CLASSES, head="sigmoid")


CLASSIFIERS: dict[str, Callable[[], Classifier]] = {
    "module": lambda: linear(0),
    "evidence": evidence,
    "committee": lambda: Classifier(Committee([linear(0), linear(1)]), CLASSES, head="sigmoid"),
}

each_classifier = pytest.mark.parametrize("make", CLASSIFIERS.values(), ids=CLASSIFIERS)
each_direction = pytest.mark.parametrize("direction", DIRECTIONS, ids=lambda d: type(d).__name__)
each_search = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
each_target = pytest.mark.parametrize("target", [0, 1])
each_batch = pytest.mark.parametrize("batch", [1, 3, 8])
