"""The natural gradient in a stretched latent, and directions on a smoothed margin."""

import pytest
import torch
from torch import Tensor, nn

from cfgen import Flip, Gradient, MinimalNorm, NaturalGradient, Problem, Smoothed, Status, explain
from cfgen.directions.smoothed import drawn
from cfgen.generators import Pair
from cfgen.problem import unit
from tests.worlds import TwoLogits, linear_world, random


class Times(nn.Module):
    """Rows of latents or images, flattened, times a matrix, with the shape asked for."""

    def __init__(self, matrix: Tensor, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.matrix, self.shape = matrix, shape

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.matrix).view(-1, *self.shape)


def stretched(batch: int = 3):
    """A linear pair whose latent axes differ a hundredfold in the image, and a plane."""
    randn = random(3)
    basis = (
        torch.linalg.qr(randn(36, 5))[0].T * torch.tensor([10.0, 3, 1, 0.3, 0.1]).double()[:, None]
    )
    pair = Pair(Times(torch.linalg.pinv(basis), (5,)), Times(basis, (1, 6, 6)))
    w = randn(1, 6, 6)
    x = 0.5 + 0.01 * randn(batch, 1, 6, 6)
    model = TwoLogits(lambda x: ((x - 0.5) * w).sum((1, 2, 3)) - 0.5)
    problem = Problem(pair, model, Flip(torch.ones(batch, dtype=torch.int64)), x, levels=None)
    return problem, basis, w


def test_the_system_is_solved():
    problem, basis, w = stretched()
    g = unit((basis @ w.flatten()).expand(3, 5))
    metric = basis @ basis.T
    eps = 0.05 * g[0] @ metric @ g[0]
    expected = unit(torch.linalg.solve(metric + eps * torch.eye(5).double(), g[0]).expand(3, 5))
    alpha = NaturalGradient(steps=12, damping=0.05)(problem)
    torch.testing.assert_close(alpha, expected)
    # One gradient, one decoding, and a product with J and one with its transpose for each step.
    assert problem.passes.forward.tolist() == [14, 14, 14]
    assert problem.passes.backward.tolist() == [13, 13, 13]


def test_the_image_moves_less_for_the_same_flip():
    moved = []
    for direction in (Gradient(), NaturalGradient(steps=12, damping=1e-6)):
        problem, basis, w = stretched()
        cf = explain(problem, direction)
        assert set(cf.status) == {Status.FLIPPED}
        moved.append((cf.x_cf - cf.x).flatten(1).norm(dim=1))
    assert (moved[1] < 0.8 * moved[0]).all()
    # In the image, the shortest way is w as far as the pair can draw it.
    drawn = (torch.linalg.pinv(basis) @ basis).T @ w.flatten()
    nearest = -problem.criterion(problem.classifier(problem.x)) / drawn.norm()
    torch.testing.assert_close(moved[1], nearest, rtol=0.01, atol=0)


def test_a_latent_that_moves_nothing_is_no_direction():
    problem, _, _ = stretched()
    problem.generator = Pair(
        Times(torch.zeros(36, 5).double(), (5,)), Times(torch.zeros(5, 36).double(), (1, 6, 6))
    )
    assert not NaturalGradient()(problem).any()


@pytest.mark.parametrize("inner", [Gradient(), MinimalNorm()], ids=["gradient", "minimal_norm"])
def test_in_a_plane_noise_changes_nothing(inner):
    world = linear_world(3, 1)
    calm = Smoothed(inner, samples=3, noise=0.01, degrees=0, shift=0, brightness=0)
    alpha = calm(world.problem)
    torch.testing.assert_close(alpha, world.nearest)
    once = linear_world(3, 1).problem
    inner(once)
    assert (world.problem.passes.backward >= 3 * once.passes.backward.clamp(max=1)).all()


def bent(x: Tensor) -> Tensor:
    """A score whose gradient differs from place to place, and in a mirror or a shift."""
    return (50 * x[:, 0, 2:5, 3:7] ** 3).sum((1, 2)) - (20 * x[:, 0, 6] ** 2).sum(1) - 30


def bent_problem() -> Problem:
    world = linear_world(2, 1).problem
    criterion = Flip(torch.ones(2, dtype=torch.int64))
    return Problem(world.generator, TwoLogits(bent), criterion, world.x, levels=None)


def test_smoothed_is_the_average_of_its_draws():
    problem = bent_problem()
    smooth = Smoothed(Gradient(), samples=3, noise=0.2, degrees=0, shift=0, brightness=0, seed=4)
    generator, total = torch.Generator().manual_seed(4), torch.zeros_like(problem.z)
    for _ in range(3):
        n = 0.2 * torch.randn(8, generator=generator).double()
        torch.randint(2**31, (), generator=generator)
        z = (problem.z + n).requires_grad_()
        total += torch.autograd.grad(
            problem.criterion(problem.classifier(problem.decode(z))).sum(), z
        )[0]
    torch.testing.assert_close(smooth(problem), unit(total))


def test_brightness_is_relative_to_black():
    smooth = Smoothed(Gradient(), degrees=0, shift=0, brightness=0.2)
    x, generator = torch.tensor([0, 0.1, 0.5, 0.8]).view(1, 1, 2, 2), torch.Generator()
    gains = []
    for _ in range(20):
        seen = drawn(smooth.augment, generator)(x)
        gain = float(seen.max() / 0.8)
        torch.testing.assert_close(seen, gain * x)
        gains.append(gain)
    assert 0.8 <= min(gains) < 0.95 and 1.05 < max(gains) <= 1.2


def test_augmentations_count_and_a_seed_replays():
    state = torch.get_rng_state()
    a, b, c, plain = (
        direction(bent_problem())
        for direction in (
            *(Smoothed(Gradient(), noise=0, degrees=20, seed=s) for s in (0, 0, 1)),
            Smoothed(Gradient(), noise=0, degrees=0, shift=0, brightness=0),
        )
    )
    assert torch.equal(a, b)
    assert not torch.allclose(a, c, atol=1e-3)
    assert not torch.allclose(a, plain, atol=1e-3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "option", [{"degrees": 20}, {"shift": 0.2}, {"brightness": 0.9}, {"noise": 0.3}]
)
def test_each_option_counts_alone(option):
    still = {"noise": 0, "degrees": 0, "shift": 0, "brightness": 0}
    plain, moved = (Smoothed(Gradient(), **o)(bent_problem()) for o in (still, still | option))
    assert torch.allclose(plain, Gradient()(bent_problem()))
    assert not torch.allclose(plain, moved, atol=2e-3)


def test_an_image_is_turned_and_shifted_as_far_as_it_is_told():
    at = torch.arange(41.0) - 20
    x = torch.zeros(1, 1, 41, 41)
    x[..., 18:23, 33:38] = 1.0
    for options in ({"degrees": 20, "shift": 0}, {"degrees": 0, "shift": 0.1}):
        smooth = Smoothed(Gradient(), brightness=0, **options)
        generator, centres = torch.Generator().manual_seed(0), []
        for _ in range(40):
            seen = drawn(smooth.augment, generator)(x)[0, 0]
            centres.append([(seen.sum(i) * at).sum() / seen.sum() for i in (0, 1)])
        column, row = torch.tensor(centres).T
        if options["degrees"]:
            turn = torch.rad2deg(torch.atan2(row, column)).abs()
            assert 17 < turn.max() < 20.5
        else:
            for moved in (column - 15, row):
                assert 3.5 < moved.abs().max() < 4.15


def test_a_view_stays_in_the_range_and_all_samples_share_it():
    smooth = Smoothed(Gradient(), brightness=0.5)
    x, generator = torch.rand(1, 1, 9, 9).expand(4, -1, -1, -1), torch.Generator()
    for _ in range(5):
        seen = drawn(smooth.augment, generator)(x)
        assert 0 <= seen.min() and seen.max() <= 1
        torch.testing.assert_close(seen, seen[:1].expand(4, -1, -1, -1))


class Asks(Gradient):
    """A direction that looks once, in a view or not, and keeps what it was told."""

    def __init__(self, view=None) -> None:
        self.view = view

    def aim(self, problem: Problem) -> tuple[Tensor, Tensor]:
        self.told = problem.grad(problem.z, None, self.view)
        return unit(self.told[1]), torch.zeros(len(problem))


def test_margins_and_gradients_are_means_of_the_draws():
    inner, problem = Asks(), bent_problem()
    Smoothed(inner, samples=5, noise=0.3, degrees=0, shift=0, brightness=0, seed=2)(problem)
    generator, told = torch.Generator().manual_seed(2), []
    for _ in range(5):
        n = 0.3 * torch.randn(8, generator=generator).double()
        torch.randint(2**31, (), generator=generator)
        told.append(problem.grad(problem.z + n))
    for found, each in zip(inner.told, zip(*told, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(each).mean(0))


def test_a_view_that_the_direction_takes_itself_comes_first():
    def dark(x: Tensor) -> Tensor:
        return 0.5 * x

    inner = Asks(dark)
    Smoothed(inner, samples=1, noise=0, degrees=0, shift=0, brightness=0)(bent_problem())
    plain = bent_problem()
    for found, each in zip(inner.told, plain.grad(plain.z, None, dark), strict=True):
        torch.testing.assert_close(found, each)
    seen = drawn(lambda x: x + 0.25, torch.Generator(), dark)(torch.full((1, 1, 2, 2), 0.5))
    assert seen.unique().tolist() == [0.5]
    seen = drawn(lambda x: x + 0.9, torch.Generator())(torch.full((1, 1, 2, 2), 0.5))
    assert seen.unique().tolist() == [1.0]  # whatever draws it


def test_the_guess_of_the_natural_gradient_is_where_its_own_way_crosses():
    """Not where the gradient's would: in the stretched latent they differ."""
    problem, _, _ = stretched()
    alpha, guess = NaturalGradient(steps=12, damping=1e-6).aim(problem)
    phi, rows = problem.along(alpha), torch.arange(3)
    assert (phi(0.999 * guess, rows) < 0).all() and (phi(1.001 * guess, rows) > 0).all()


def test_the_damping_is_relative_to_the_gradients_own_curvature():
    """A decoder a thousand times as flat has another metric and the same way."""
    ways = []
    for factor in (1.0, 1e-3):
        problem, basis, _ = stretched()
        pair = Pair(Times(torch.linalg.pinv(basis), (5,)), Times(factor * basis, (1, 6, 6)))
        problem = Problem(pair, problem.classifier, problem.criterion, problem.x, levels=None)
        ways.append(NaturalGradient(steps=12, damping=0.05)(problem))
    torch.testing.assert_close(*ways)


def test_samples_are_one_or_more():
    with pytest.raises(ValueError) as error:
        Smoothed(Gradient(), samples=0)
    assert str(error.value) == "expected samples >= 1, got 0"
