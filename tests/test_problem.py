import re
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from cfgen import Flip, Problem
from cfgen.generators import Generator, Identity, Linear
from cfgen.problem import Passes, unit
from tests.worlds import (
    LATENTS,
    PIXELS,
    SHAPE,
    TwoLogits,
    linear_world,
    random,
    status_models,
    status_world,
)


def sums() -> TwoLogits:
    return TwoLogits(lambda x: x.sum((1, 2, 3)))


def target(size: int) -> Flip:
    return Flip(torch.ones(size, dtype=torch.int64))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 4, 4), "expected images of shape (B, C, H, W), got (1, 4, 4)"),
        (torch.full((1, 1, 2, 2), 1.5), "expected finite images in [0, 1], got [1.5, 1.5]"),
        (torch.full((1, 1, 2, 2), -0.25), "expected finite images in [0, 1], got [-0.25, -0.25]"),
        (torch.full((1, 1, 2, 2), torch.nan), "expected finite images in [0, 1], got [nan, nan]"),
        (torch.zeros(3, 1, 2, 2), "expected target of shape (3,), got (1,)"),
    ],
    ids=["shape", "bright", "dark", "nan", "target"],
)
def test_images_that_are_none(x, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Problem(Identity(), sums(), target(1), x)


def test_a_pair_that_changes_the_size():
    class Half(Generator):
        def encode(self, x: Tensor) -> Tensor:
            return x

        def decode(self, z: Tensor) -> Tensor:
            return z[..., ::2]

    message = "expected a reconstruction of shape (2, 1, 4, 4), got (2, 1, 4, 2)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Problem(Half(), sums(), target(2), torch.zeros(2, 1, 4, 4))


@pytest.mark.parametrize("levels", [255, 15, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_image_at_zero_is_x_itself_when_the_detail_is_kept(levels, dtype):
    generator = linear_world(1, 1).problem.generator.to(dtype)
    x = torch.rand(16, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=dtype)
    x[0], x[1] = 0, 1
    problem = Problem(generator, sums(), target(16), x, levels=levels)
    image = problem.image(torch.zeros_like(problem.z), torch.zeros(16, dtype=dtype))
    if levels is None:
        torch.testing.assert_close(image, x, rtol=0, atol=4 * torch.finfo(dtype).eps)
    else:
        assert torch.equal(image, problem.x)
        torch.testing.assert_close(problem.x, x, rtol=0, atol=0.5001 / levels)
        steps = problem.x * levels
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)


def test_without_detail_the_image_at_zero_is_the_reconstruction():
    problem = linear_world(3, 1, detail=False, levels=255).problem
    alpha = torch.zeros_like(problem.z)
    assert torch.equal(problem.image(alpha, alpha[:, 0]), problem.x_rec)
    assert not torch.equal(problem.x_rec, problem.x)


@pytest.mark.parametrize("detail", [True, False])
def test_the_formula(detail):
    """X' = G(z + lam alpha) + r, clamped, written out for one image after the other."""
    problem = linear_world(3, 0, detail=detail).problem
    generator = problem.generator
    assert isinstance(generator, Linear)
    alpha, lam = unit(random(1)(3, LATENTS)), torch.tensor([0.1, 2.0, 9.0], dtype=torch.float64)
    image = problem.image(alpha, lam)
    for i in range(3):
        x = problem.x[i]
        basis = generator.basis
        z = ((x - 0.5) * basis).sum((1, 2, 3))
        rest = x - 0.5 - (z[:, None, None, None] * basis).sum(0)
        moved = 0.5 + ((z + lam[i] * alpha[i])[:, None, None, None] * basis).sum(0)
        expected = (moved + (rest if detail else 0)).clamp(0, 1)
        torch.testing.assert_close(image[i], expected)
        torch.testing.assert_close(problem.z[i], z)
    assert ((image == 0) | (image == 1)).any()


def test_a_step_that_is_nan_stays_at_zero():
    problem = status_world(["FLIPPED", "FLIPPED"])
    alpha = unit(torch.ones_like(problem.z))
    image = problem.image(alpha, torch.tensor([torch.nan, 0.1], dtype=torch.float64))
    assert torch.equal(image[0], problem.x[0])
    assert not torch.equal(image[1], problem.x[1])


@pytest.mark.parametrize("rows", [None, [2, 1]])
def test_a_gradient_that_is_not_finite_is_zero_and_marked(rows):
    problem = status_world(["FLIPPED", "NOT_FINITE", "ALREADY"])
    index = None if rows is None else torch.tensor(rows)
    margin, gradient = problem.grad(problem.z if rows is None else problem.z[rows], index)
    slopes = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    assert torch.equal(gradient, slopes if rows is None else slopes[rows])
    assert margin.isfinite().all()
    assert problem.not_finite.tolist() == [False, True, False]


@pytest.mark.parametrize("rows", [None, [2, 0]])
def test_the_gradient_is_the_slope(rows):
    problem = linear_world(3, 1).problem
    z = problem.z + 0.01
    index = None if rows is None else torch.tensor(rows)
    some = z if rows is None else z[rows]
    before = some.clone()
    margin, gradient = problem.grad(some, index)
    assert margin.shape == (len(some),)
    assert torch.equal(some, before)
    assert not some.requires_grad
    for i, row in enumerate(rows or range(3)):
        part = problem.rows(torch.tensor([row]))

        def at(step: Tensor, part=part, row=row) -> Tensor:
            return part.criterion(part.classifier(part.decode(z[row : row + 1] + step)))[0]

        torch.testing.assert_close(margin[i], at(torch.zeros(LATENTS)))
        slopes = [(at(1e-4 * e) - at(-1e-4 * e)) / 2e-4 for e in torch.eye(LATENTS).double()]
        torch.testing.assert_close(gradient[i], torch.stack(slopes), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_black_and_white_pixels_keep_their_gradient(dtype):
    """Beyond the range it is zero, as nothing can be seen there."""
    generator = linear_world(1, 1).problem.generator.to(dtype)
    x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=dtype).round()
    edge = Problem(generator, sums(), target(2), x)
    inside = Problem(generator, sums(), target(2), x / 2 + 0.25)
    torch.testing.assert_close(edge.grad(edge.z)[1], inside.grad(inside.z)[1])
    black = Problem(Identity(), sums(), target(1), torch.zeros(1, 1, 1, 2, dtype=dtype))
    outside = torch.tensor([[[[-0.1, 0.0]]]], dtype=dtype)
    assert black.grad(outside)[1].tolist() == [[[[0.0, 1.0]]]]
    assert black.grad(1 - outside)[1].tolist() == [[[[0.0, 1.0]]]]


def test_phi_is_the_margin_of_the_rounded_image():
    problem = linear_world(4, 0, levels=255).problem
    alpha = unit(random(2)(4, LATENTS))
    phi = problem.along(alpha)
    lam, rows = torch.tensor([0.2, 0.7], dtype=torch.float64), torch.tensor([3, 1])
    steps = torch.zeros(4, dtype=torch.float64)
    steps[rows] = lam
    margins = problem.criterion(problem.logits(problem.image(alpha, steps)))
    torch.testing.assert_close(phi(lam, rows), margins[rows])


def test_rows_are_a_problem_of_their_own():
    problem = linear_world(4, 1).problem
    problem.grad(problem.z)
    part = problem.rows(torch.tensor([3, 1]))
    assert len(part) == 2
    torch.testing.assert_close(part.grad(part.z)[1], problem.grad(problem.z)[1][[3, 1]])
    part.grad(part.z[:1], torch.tensor([1]))
    assert part.passes.backward.tolist() == [2, 3]
    assert problem.passes.backward.tolist() == [2, 2, 2, 2]


def test_passes_are_counted_for_each_sample():
    problem = linear_world(3, 1).problem
    problem.along(torch.zeros_like(problem.z))(torch.zeros(2).double(), torch.tensor([0, 2]))
    problem.grad(problem.z[1:2], torch.tensor([1]))
    assert problem.passes.encode.tolist() == [1, 1, 1]
    assert problem.passes.forward.tolist() == [1, 1, 1]
    assert problem.passes.backward.tolist() == [0, 1, 0]


def test_passes_of_some_samples_are_a_copy():
    passes = Passes.zeros(3)
    part = passes[torch.tensor([2, 0])]
    part.forward += 5
    assert passes.forward.tolist() == [0, 0, 0]
    passes[torch.tensor([2, 0])] = part
    assert passes.forward.tolist() == [5, 0, 5]


def test_what_is_handed_over_does_not_depend_on_the_batch():
    """A pair whose last bits depend on the size of the batch, as those of a convolution may."""

    class Noisy(Identity):
        def decode(self, z: Tensor) -> Tensor:
            return z + 1e-3 * len(z)

    x = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0)) / 2
    batch = Problem(Noisy(), sums(), target(5), x, detail=False)
    alone = [Problem(Noisy(), sums(), target(1), x[i : i + 1], detail=False) for i in range(5)]
    lam = torch.full((5,), 0.1)
    for name in ("x_rec", "z"):
        assert torch.equal(getattr(batch, name), torch.cat([getattr(p, name) for p in alone]))
    images = [p.image(torch.ones(1, 1, 2, 2), lam[:1]) for p in alone]
    assert torch.equal(batch.image(torch.ones(5, 1, 2, 2), lam), torch.cat(images))


def test_the_images_are_left_alone():
    generator, model = status_models()
    x = torch.full((1, 1, 2, 2), 0.3, dtype=torch.float64)
    problem = Problem(generator, model, target(1), x)
    problem.grad(problem.z)
    problem.image(torch.ones(1, 2).double(), torch.ones(1).double())
    assert (x == 0.3).all()
    assert not x.requires_grad


def test_autocast_holds_for_the_direction_alone():
    inside: list[bool] = []

    class Asks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            inside.append(torch.is_autocast_enabled("cpu"))
            return torch.stack([0 * x.sum((1, 2, 3)), x.sum((1, 2, 3))], 1)

    x = torch.full((1, 1, 2, 2), 0.5)
    autocast = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
    problem = Problem(Identity(), Asks(), target(1), x, autocast=autocast)
    assert problem.grad(problem.z)[1].dtype == torch.float32
    row = torch.tensor([0])
    assert problem.margin(problem.z, row).dtype == torch.float32
    problem.logits(problem.x)
    problem.along(problem.z)(torch.zeros(1), row)
    assert inside == [True, True, False, False]


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_unit_rows_of_any_size(scale):
    v = random(0)(5, 2, 3) * scale
    norms = unit(v).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(5, dtype=torch.float64), rtol=1e-14, atol=0)
    assert ((unit(v) > 0) == (v > 0)).all()


@pytest.mark.parametrize("bad", [0.0, torch.nan, torch.inf])
def test_a_row_without_a_direction_is_zero_and_the_others_are_not(bad):
    v = torch.ones(3, 4)
    v[1] = 0
    v[1, 2] = bad
    out = unit(v)
    assert out[1].tolist() == [0, 0, 0, 0]
    assert out[[0, 2]].tolist() == [[0.5] * 4] * 2


def test_the_gradient_does_not_need_the_callers_grad_mode():
    problem = linear_world(2, 1).problem
    expected = problem.grad(problem.z)
    with torch.no_grad():
        got = problem.grad(problem.z)
    assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])


class Waves(Generator):
    """Images of 32 px from two numbers: a wave of two pixels and one of the whole side."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        side = torch.arange(32)
        fine, coarse = (-1.0) ** side, torch.cos(torch.pi * side / 32)
        self.basis = torch.stack([fine, coarse])[:, None, None].expand(2, 1, 32, 32) / 8
        self.sigma = sigma

    def encode(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 2)

    def decode(self, z: Tensor) -> Tensor:
        return 0.5 + torch.einsum("bk,kchw->bchw", z, self.basis)


def test_what_is_finer_than_sigma_stays_that_of_the_image():
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)) / 4 + 0.4
    lam = torch.ones(1)
    for sigma, share in ((0.0, 1.0), (1.5, 0.01)):
        problem = Problem(Waves(sigma), sums(), target(1), x, levels=None)
        fine = problem.image(torch.tensor([[1.0, 0.0]]), lam) - x
        assert float(fine.abs().max()) <= share / 8 + 1e-6
        # The mean is no detail, and x at step 0 is x itself.
        coarse = problem.image(torch.tensor([[0.0, 1.0]]), lam) - x
        torch.testing.assert_close(coarse, Waves(0).basis[1:].clone(), rtol=0, atol=0.01)
        torch.testing.assert_close(problem.image(torch.eye(2)[:1], 0 * lam), x)
        rows = torch.arange(1)
        z = torch.tensor([[0.3, 0.4]])
        torch.testing.assert_close(
            problem.decode(z, rows), problem.image(z / 0.5, 0.5 * lam), rtol=0, atol=1e-6
        )


def test_without_detail_the_pair_is_shown_as_it_is():
    x = torch.full((1, 1, 32, 32), 0.5)
    problem = Problem(Waves(1.5), sums(), target(1), x, detail=False, levels=None)
    image = problem.image(torch.tensor([[1.0, 0.0]]), torch.ones(1))
    torch.testing.assert_close(image, 0.5 + Waves(0).basis[:1])


@pytest.mark.parametrize("kind", ["uint8", "bool", "float16", "bfloat16"])
def test_images_are_real_numbers_of_some_precision(kind):
    x = torch.zeros(1, *SHAPE, dtype=getattr(torch, kind))
    with pytest.raises(ValueError, match=f"^expected images of float32 or float64, got {kind}$"):
        Problem(Identity(), sums(), target(1), x)


@pytest.mark.parametrize("part", ["generator", "classifier"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_and_weights_are_of_one_precision(part, dtype):
    other = torch.float64 if dtype == torch.float32 else torch.float32
    pair = linear_world(1, 1).problem.generator if part == "generator" else Identity()
    model = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 2)) if part == "classifier" else sums()
    pair, model = pair.to(dtype), model.to(dtype)
    x = torch.full((1, *SHAPE), 0.5, dtype=dtype)
    Problem(pair, model, target(1), x)
    message = f"expected images of {dtype}, as the weights of the {part} are, got {other}"
    message = message.replace("torch.", "")
    for f in (model, partial(model)):
        with pytest.raises(ValueError, match=f"^{message}$"):
            Problem(pair, f, target(1), x.to(other))


def test_a_grid_has_levels():
    x = torch.zeros(1, *SHAPE)
    with pytest.raises(ValueError, match="^expected levels of at least 1, got 0$"):
        Problem(Identity(), sums(), target(1), x, levels=0)


def test_a_region_may_be_yes_and_no():
    x = torch.full((1, *SHAPE), 0.5)
    here = torch.arange(10).expand(1, *SHAPE) < 5
    one, other = (
        Problem(Identity(), sums(), target(1), x, region=region) for region in (here, here.double())
    )
    alpha, lam = unit(torch.ones_like(x)), torch.ones(1)
    assert torch.equal(one.image(alpha, lam), other.image(alpha, lam))
    assert torch.equal(one.image(alpha, lam) != one.x, here)
