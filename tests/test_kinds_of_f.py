"""What holds for every kind of f, whatever it computes."""

import inspect

import pytest
import torch
from torch import nn

import cfgen.classifiers
from cfgen import Classifier, Flip, Gradient, Problem, Status, explain
from cfgen.classifiers.committee import decision
from cfgen.generators import Identity
from tests.cases import CLASSIFIERS, each_classifier


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def test_every_kind_has_its_row():
    kinds = {
        kind
        for _, kind in inspect.getmembers(cfgen.classifiers, inspect.isclass)
        if issubclass(kind, nn.Module) and kind is not Classifier
    }
    assert kinds <= {type(make().model) for make in CLASSIFIERS.values()}


@each_classifier
def test_a_batch_is_the_stack_of_its_images(make, x):
    f = make()
    logits = f(x)
    assert logits.shape == (3, 2)
    assert len(logits.unique(dim=0)) == 3
    torch.testing.assert_close(logits, torch.cat([f(image[None]) for image in x]))


@each_classifier
def test_the_function_stays_the_same(make, x):
    f = make()
    before = f(x)
    f.train()
    assert torch.equal(f(x), before)
    assert not any(p.requires_grad for p in f.parameters())


@each_classifier
@pytest.mark.parametrize("target", [0, 1])
def test_its_answer_can_be_turned(make, target, x):
    f = make()
    # Right between what it says of the images, so that some are to be moved each way.
    odds = f(x).diff(dim=1).median()

    def even(images: torch.Tensor) -> torch.Tensor:
        return f(images) - torch.stack([-odds, odds]) / 2

    problem = Problem(Identity(), even, Flip(torch.full((3,), target)), x, levels=None)
    cf = explain(problem, Gradient())
    assert Status.FLIPPED in cf.status
    assert set(cf.status) <= {Status.FLIPPED, Status.ALREADY}
    assert (even(cf.x_cf).argmax(1) == target).all()


@each_classifier
def test_its_decision_is_its_answer(make, x):
    """The smoother margin of a flip has the sign of f's own."""
    f = make()
    flip = Flip(torch.tensor([0, 1, 1]))
    model, criterion = decision(f, flip)
    assert torch.equal(criterion(model(x)) > 0, flip(f(x)) > 0)
