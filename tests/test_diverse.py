"""Several counterfactuals of one image: each flips, and none goes the way of another."""

import re

import pytest
import torch
from torch import nn

from cfgen import (
    Flip,
    Gradient,
    MinimalNorm,
    Problem,
    Smoothed,
    Status,
    diverse,
    explain,
    metrics,
)
from cfgen.generators import Identity
from tests.cases import each_direction, each_target
from tests.worlds import STATUS_IMAGES, TwoLogits, ellipsoid_world, linear_world, status_world

AXES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def same(a, b):
    """The same counterfactuals, bit for bit."""
    assert a.status == b.status
    for name in ("x_cf", "alpha", "lam", "lam_lower", "logits_after"):
        assert torch.equal(getattr(a, name).nan_to_num(-1), getattr(b, name).nan_to_num(-1)), name


def ellipsoid(batch=3, distance=0.05):
    return ellipsoid_world(batch, 1, distance, axes=AXES, skew=0.3).problem


def test_each_flips_at_right_angles_to_those_before():
    problem = ellipsoid()
    found = diverse(problem, MinimalNorm(), 4)
    same(found[0], explain(ellipsoid(), MinimalNorm()))
    directions = torch.stack([cf.alpha.flatten(1) for cf in found], 1)
    for cf in found:
        assert set(cf.status) == {Status.FLIPPED}
        assert (problem.criterion(problem.logits(cf.x_cf)) > 0).all()
        assert torch.equal(cf.redecode(), cf.x_cf)
    eye = torch.eye(4, dtype=torch.float64).expand(3, 4, 4)
    torch.testing.assert_close(directions @ directions.mT, eye)
    torch.testing.assert_close(
        metrics.spread([cf.alpha for cf in found]), torch.full((3,), 90.0).double()
    )
    torch.testing.assert_close(  # the pair is orthonormal
        metrics.spread([cf.x_cf - cf.x for cf in found]), torch.full((3,), 90.0).double()
    )


AXIS = torch.tensor([0.2, 0.3, 0.4], dtype=torch.float64)


def test_the_second_is_the_nearest_in_the_plane_that_is_left():
    """Three pixels inside an ellipsoid: every way out of the plane is known in closed form."""
    x = 0.5 + torch.tensor([[0.08, 0.05, 0.03], [-0.02, 0.1, 0.1]]).double().view(2, 1, 1, 3)
    model = TwoLogits(lambda x: ((x.flatten(1) - 0.5) / AXIS).square().sum(1) - 1)
    target = torch.ones(2, dtype=torch.int64)
    # A coarser first one may be the gradient itself, which leaves no slope in the plane.
    direction = MinimalNorm(parallel=0.999)
    first, second = diverse(Problem(Identity(), model, Flip(target), x, levels=None), direction, 2)
    for i in range(2):
        plane = torch.linalg.svd(first.alpha[i].flatten()[None])[2][1:]
        angle = torch.linspace(0, 2 * torch.pi, 7201, dtype=torch.float64)[:, None]
        ray = (angle.cos() * plane[0] + angle.sin() * plane[1]) / AXIS
        z = (x[i].flatten() - 0.5) / AXIS
        a, b, c = ray.square().sum(1), ray @ z, z @ z - 1
        nearest = ((-b + (b * b - a * c).sqrt()) / a).min()  # |z + t ray| = 1
        assert nearest * 0.999 < second.lam[i] < nearest * 1.02


class OneWay(nn.Module):
    """Logits that the first pixel alone decides."""

    def forward(self, x):
        score = x[:, 0, 0, 0] - 0.7
        return torch.stack([-score, score], 1)


@pytest.mark.parametrize("smoothed", [False, True], ids=["plain", "smoothed"])
@each_direction
def test_where_there_is_a_single_way_out_the_second_says_so(direction, smoothed):
    if smoothed:  # of the noise alone: what moves the image mixes its pixels
        direction = Smoothed(direction, 2, 0.01, degrees=0, shift=0, brightness=0)
    x = torch.full((2, 1, 3, 3), 0.5, dtype=torch.float64)
    problem = Problem(Identity(), OneWay(), Flip(torch.ones(2, dtype=torch.int64)), x, levels=None)
    first, second, third = diverse(problem, direction, 3)
    assert set(first.status) == {Status.FLIPPED}
    assert set(second.status + third.status) <= {Status.NO_DIRECTION, Status.NOT_FOUND}
    assert torch.equal(second.x_cf, x) and second.lam.isnan().all()


@each_target
def test_nothing_is_at_right_angles_to_a_gradient(target):
    first, second = diverse(linear_world(3, target).problem, Gradient(), 2)
    assert set(first.status) == {Status.FLIPPED}
    assert set(second.status) == {Status.NO_DIRECTION}


@each_direction
def test_one_is_what_explain_gives(direction):
    world = linear_world(3, 1)
    (only,) = diverse(world.problem, direction, 1)
    plain = explain(linear_world(3, 1).problem, direction)
    same(only, plain)
    assert torch.equal(only.passes.forward, plain.passes.forward)


def test_each_status_keeps_its_place_in_the_batch():
    found = diverse(status_world(detail=False), MinimalNorm(), 2)
    expected = [name.split(",")[0].removesuffix(" too") for name in STATUS_IMAGES]
    assert [s.name for s in found[0].status] == expected
    for first, second in zip(found[0].status, found[1].status, strict=True):
        settled = first in (Status.ALREADY, Status.RECONSTRUCTION_FLIPS)
        assert (second is first) == settled or second is not Status.FLIPPED
    plain = explain(status_world(detail=False), MinimalNorm())
    same(found[0], plain)


@pytest.mark.parametrize(("look", "most"), [(torch.inf, 12), (8, 12 + 70)])
def test_the_cost_of_each_is_its_own(look, most):
    first, second = diverse(ellipsoid(), MinimalNorm(look=look), 2)
    assert (first.passes.encode == 1).all() and (second.passes.encode == 0).all()
    for cf in (first, second):
        assert (cf.passes.backward >= 1).all() and (cf.passes.backward <= most).all()
        assert (cf.passes.forward > cf.passes.backward).all()


def test_a_batch_is_its_samples():
    whole = diverse(ellipsoid(3), MinimalNorm(), 3)
    for i in range(3):
        alone = diverse(ellipsoid(3).rows(slice(i, i + 1)), MinimalNorm(), 3)
        for cf, single in zip(whole, alone, strict=True):
            torch.testing.assert_close(cf.alpha[i : i + 1], single.alpha)
            torch.testing.assert_close(cf.lam[i : i + 1], single.lam)


@pytest.mark.parametrize(
    "directions, k, message",
    [
        (MinimalNorm(), 0, "expected k >= 1, got 0"),
        ([MinimalNorm()], 2, "expected 2 directions, got 1"),
    ],
)
def test_numbers_that_do_not_fit(directions, k, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        diverse(ellipsoid(), directions, k)
