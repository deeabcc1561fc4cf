import math
import re

import pytest
import torch

from cfgen.criterion import Flip, Hold
from tests.worlds import random


def target(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def test_the_margin_is_the_lead_over_the_best_rival():
    logits = torch.tensor([[1.0, 3.0, -2.0], [1.0, 3.0, -2.0], [5.0, 3.0, 4.5]])
    assert Flip(target(0, 1, 2))(logits).tolist() == [-2.0, 2.0, -0.5]
    assert Flip(target(0, 1, 2), kappa=1.5)(logits).tolist() == [-3.5, 0.5, -2.0]


@pytest.mark.parametrize("confidence", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_a_confidence_is_met_exactly_when_the_probability_is(classes, confidence):
    logits = 3 * random(0)(1000, classes)
    t = torch.arange(1000) % classes
    p = logits.softmax(1)[torch.arange(1000), t]
    met = Flip(t, confidence=confidence)(logits) > 0
    assert torch.equal(met, p > confidence)
    assert 0 < met.sum() < 1000
    odds = torch.logit(p) - math.log(confidence / (1 - confidence))
    torch.testing.assert_close(Flip(t, confidence=confidence)(logits), odds)


def test_two_classes_at_one_half_are_the_flip():
    logits, t = random(1)(50, 2), torch.arange(50) % 2
    torch.testing.assert_close(Flip(t, confidence=0.5)(logits), Flip(t)(logits))


def test_with_three_classes_one_half_is_more_than_the_flip():
    logits = torch.tensor([[1.0, 1.1, 1.0]])
    assert Flip(target(1))(logits) > 0 > Flip(target(1), confidence=0.5)(logits)


def test_a_tie_is_no_flip():
    assert not (Flip(target(0, 1))(torch.ones(2, 2)) > 0).any()


def test_both_is_the_minimum_and_asks_for_the_class_of_the_first():
    logits, t = random(2)(20, 3), torch.arange(20) % 3
    first, second = Flip(t, kappa=0.5), Flip(t, confidence=0.6)
    both = first & second
    assert torch.equal(both(logits), torch.minimum(first(logits), second(logits)))
    assert 0 < (first(logits) < second(logits)).sum() < 20
    assert torch.equal(both.target, t)


@pytest.mark.parametrize("index", [target(3, 0, 3), target()], ids=["some", "none"])
def test_rows_of_a_criterion(index):
    logits, t = random(3)(5, 3), target(0, 1, 2, 0, 1)
    for criterion in (Flip(t, kappa=0.3), Flip(t, confidence=0.7), Flip(t) & Flip(t, 1.0)):
        assert torch.equal(criterion.rows(index)(logits[index]), criterion(logits)[index])
        assert torch.equal(criterion.rows(index).target, t[index])


@pytest.mark.parametrize("confidence", [None, 0.8])
def test_the_gradient_climbs_towards_the_target(confidence):
    logits, t = random(4)(6, 4).requires_grad_(), target(0, 1, 2, 3, 0, 1)
    (gradient,) = torch.autograd.grad(Flip(t, confidence=confidence)(logits).sum(), logits)
    own = torch.zeros_like(gradient).scatter(1, t[:, None], 1.0).bool()
    torch.testing.assert_close(gradient[own], torch.ones(6, dtype=torch.float64))
    assert (gradient[~own] <= 0).all()
    torch.testing.assert_close(gradient.sum(1), torch.zeros(6, dtype=torch.float64))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            torch.zeros(8, 1, dtype=torch.int64),
            "expected target of shape (B,) int64, got (8, 1) int64",
        ),
        (torch.zeros(8), "expected target of shape (B,) int64, got (8,) float32"),
        (torch.tensor(1), "expected target of shape (B,) int64, got () int64"),
    ],
)
def test_a_target_that_is_none(values, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Flip(values)


@pytest.mark.parametrize("p", [0.0, 1.0, -0.5, math.nan])
def test_a_confidence_that_is_none(p):
    with pytest.raises(ValueError, match=f"^expected a confidence between 0 and 1, got {p}$"):
        Flip(target(0), confidence=p)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 2), "expected logits of shape (2, K) with K >= 2, got (3, 2)"),
        ((2,), "expected logits of shape (2, K) with K >= 2, got (2,)"),
        ((2, 1), "expected logits of shape (2, K) with K >= 2, got (2, 1)"),
        ((2, 2, 2), "expected logits of shape (2, K) with K >= 2, got (2, 2, 2)"),
    ],
)
def test_logits_that_do_not_fit(shape, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Flip(target(0, 1))(torch.zeros(shape))


@pytest.mark.parametrize("values", [(0, 2), (-1, 1)])
def test_a_target_that_is_no_class(values):
    message = f"expected targets from 0 to 1, got {list(values)}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Flip(target(*values))(torch.zeros(2, 2))


@pytest.mark.parametrize("values", [[0, 1], 1])
def test_a_target_that_is_no_tensor(values):
    message = f"expected target of shape (B,) int64, got {type(values).__name__}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Flip(values)


@pytest.mark.parametrize("kappa", [math.nan, math.inf])
def test_a_lead_that_is_none(kappa):
    with pytest.raises(ValueError, match=f"^expected a finite kappa, got {kappa}$"):
        Flip(target(0), kappa)


def test_what_is_held_is_of_the_same_batch():
    with pytest.raises(ValueError, match=r"^expected logits of shape \(B, K\) before, got \(2,\)$"):
        Hold(torch.zeros(2), (0,))
    with pytest.raises(ValueError, match="^expected criteria of one batch, got 2 and 3 rows$"):
        _ = Flip(target(0, 1)) & Hold(torch.zeros(3, 2), (0,))
