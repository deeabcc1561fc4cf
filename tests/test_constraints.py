"""Constraints on a counterfactual: where it may change, and what must not move."""

import pytest
import torch
from torch import nn

from cfgen import Flip, Gradient, Hold, MinimalNorm, Problem, Status, explain
from cfgen.criterion import Among
from cfgen.generators import Identity
from tests.cases import each_direction
from tests.worlds import TwoLogits, linear_world, random


def region_world(detail=True):
    """A linear world that may change in its left half only."""
    world = linear_world(3, 1, detail=detail).problem
    region = torch.zeros(3, 1, 10, 10, dtype=torch.float64)
    region[..., :5] = 1
    problem = Problem(
        world.generator,
        world.classifier,
        world.criterion,
        world.x,
        detail=detail,
        region=region,
        levels=None,
    )
    return problem, region


@each_direction
@pytest.mark.parametrize("detail", [True, False], ids=["detail", "no detail"])
def test_the_image_changes_in_the_region_only(direction, detail):
    problem, region = region_world(detail)
    cf = explain(problem, direction)
    assert set(cf.status) == {Status.FLIPPED}
    outside = region.expand_as(cf.x) == 0
    assert torch.equal(cf.x_cf[outside], cf.x[outside])
    assert (cf.x_cf != cf.x)[~outside].any()
    assert torch.equal(cf.redecode(), cf.x_cf)
    assert torch.equal(cf[1].redecode(), cf.x_cf[1:2])
    # Half the image has less to offer, so the step is longer.
    assert (cf.lam > explain(linear_world(3, 1, detail=detail).problem, direction).lam).all()


def test_everywhere_is_no_region_and_nowhere_is_no_direction():
    world = linear_world(3, 1).problem
    models = world.generator, world.classifier, world.criterion, world.x
    free = explain(Problem(*models, levels=None), MinimalNorm())
    everywhere = torch.ones(3, 1, 10, 10, dtype=torch.float64)
    whole = explain(Problem(*models, levels=None, region=everywhere), MinimalNorm())
    torch.testing.assert_close(whole.lam, free.lam)
    torch.testing.assert_close(whole.x_cf, free.x_cf)
    nowhere = explain(Problem(*models, levels=None, region=0 * everywhere), MinimalNorm())
    assert set(nowhere.status) == {Status.NO_DIRECTION}


@pytest.mark.parametrize(
    "region, got",
    [
        (torch.ones(3, 10, 10), "(3, 10, 10) in [1, 1]"),
        (torch.full((3, 1, 10, 10), 2.0), "(3, 1, 10, 10) in [2, 2]"),
    ],
)
def test_a_region_is_a_mask_of_each_image(region, got):
    world = linear_world(3, 1).problem
    with pytest.raises(ValueError) as error:
        Problem(world.generator, world.classifier, world.criterion, world.x, region=region)
    assert str(error.value) == f"expected a region of shape (3, 1, 10, 10) in [0, 1], got {got}"


class Three(nn.Module):
    """Three findings: two read the same pixels with different weights, the third others."""

    def __init__(self):
        super().__init__()
        randn = random(7)
        self.w = torch.stack([randn(100), randn(100), randn(100)])
        self.w[1] = 0.5 * self.w[0] + self.w[1]

    def forward(self, x):
        return (x.flatten(1) - 0.5) @ self.w.T - torch.tensor([1.0, 0.5, 0.5]).double()


def test_what_must_not_move_stays():
    model, x = Three(), 0.5 + 0.01 * random(1)(2, 1, 10, 10)
    before = model(x)
    hold = Hold(before, (1, 2), tolerance=0.02)
    view = TwoLogits(lambda x: model(x)[:, 0])
    free = explain(
        Problem(Identity(), view, Flip(torch.ones(2, dtype=torch.int64)), x, levels=None)
    )
    assert set(free.status) == {Status.FLIPPED}
    assert (hold(model(free.x_cf)) < 0).all()  # without the constraint another finding moves

    class Finding0(Flip):
        """The first finding against 'no such finding'."""

        def __call__(self, logits):
            return logits[:, 0]

        def rows(self, index):
            return Finding0(self.target[index])

    criterion = Finding0(torch.zeros(2, dtype=torch.int64)) & hold
    assert torch.equal(criterion.target, torch.zeros(2, dtype=torch.int64))
    allowed = model.w[0] - torch.linalg.lstsq(model.w[1:].T, model.w[0]).solution @ model.w[1:]
    x_cf = x + 0.2 * (allowed / allowed.norm()).view(1, 1, 10, 10)
    assert (criterion(model(x_cf)) > 0).all()  # such an image exists
    assert (criterion(model(free.x_cf)) <= 0).all()
    assert torch.equal(
        criterion.rows(torch.tensor([1]))(model(x_cf)[1:]), criterion(model(x_cf))[1:]
    )


def test_what_is_held_is_compared_in_the_same_view():
    """A view moves every finding; what counts is how far X' moves from x under it."""
    model, x = Three(), 0.5 + 0.01 * random(1)(2, 1, 10, 10)
    hold = Hold(model(x), (1, 2), tolerance=0.02)
    flip = Flip(torch.zeros(2, dtype=torch.int64), confidence=0.1)
    problem = Problem(Identity(), model, flip & hold, x, levels=None)

    def darker(images):
        return 0.9 * images

    assert (hold(model(darker(x))) < 0).all()  # moved by the view alone
    margin, _ = problem.grad(problem.z, view=darker)
    torch.testing.assert_close(margin, torch.full_like(margin, 0.02))
    assert problem.passes.forward.tolist() == [2, 2]
    one = torch.tensor([1])
    moved = problem.z + 0.001 * random(2)(2, 1, 10, 10)
    seen, g = problem.grad(moved[one], one, darker)
    z = moved[one].clone().requires_grad_()
    change = model(darker(z)).sigmoid() - model(darker(x[one])).sigmoid()
    expected = 0.02 - change[:, 1:].abs().amax(1)
    torch.testing.assert_close(seen, expected.detach())
    torch.testing.assert_close(g, torch.autograd.grad(expected.sum(), z)[0])
    assert problem.passes.forward.tolist() == [2, 4]
    # What compares nothing costs one pass, in a view or not.
    plain = Problem(Identity(), model, flip, x, levels=None)
    plain.grad(plain.z, view=darker)
    assert plain.passes.forward.tolist() == [1, 1]


def test_only_what_compares_asks_what_the_model_says_of_the_image():
    flip, hold = Flip(torch.zeros(2, dtype=torch.int64)), Hold(torch.zeros(2, 2), (1,))
    ones, asked = torch.ones(2, 3), []

    def before():
        asked.append(1)
        return ones

    assert flip.since(before) is flip
    for criterion in (flip & flip, Among(flip, 2)):
        criterion.since(before)
    assert not asked
    among = Among(hold, 2)
    assert bool((among(ones) < 0.1).all())
    # A change from 0 is none from 1.
    torch.testing.assert_close(among.since(before)(ones), torch.full((2,), 0.1))
    torch.testing.assert_close((hold & hold).since(before)(ones), torch.full((2,), 0.1))
    assert asked == [1, 1, 1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (((3,), 0.1), "expected outputs from 0 to 2, got (3,)"),
        (((), 0.1), "expected outputs from 0 to 2, got ()"),
        (((0,), 1.0), "expected a tolerance between 0 and 1, got 1.0"),
    ],
)
def test_hold_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError) as error:
        Hold(torch.zeros(2, 3), *arguments)
    assert str(error.value) == message


def test_gradient_in_a_region_is_that_of_its_pixels():
    problem, region = region_world()
    z = problem.z.clone().requires_grad_()
    image = problem.x + region * (problem.generator.decode(z) + problem.r - problem.x)
    (expected,) = torch.autograd.grad(problem.criterion(problem.classifier(image)).sum(), z)
    torch.testing.assert_close(problem.grad(problem.z)[1], expected)
    assert Gradient()(problem).flatten(1).any(1).all()
