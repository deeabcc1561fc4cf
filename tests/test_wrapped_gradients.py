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


def test_samples_are_one_or_more():
    with pytest.raises(ValueError) as error:
        Smoothed(Gradient(), samples=0)
    assert str(error.value) == "expected samples >= 1, got 0"
