"""Directions that a prior guides, on a prior whose edits are known."""

from dataclasses import replace

import pytest
import tiny
import torch
from accelerate import Accelerator
from torch import Tensor

from cfgen import (
    FirstCrossing,
    Flip,
    Guided,
    Problem,
    Status,
    Translation,
    explain,
    load_checkpoint,
)
from cfgen.directions import Confined
from cfgen.directions.confined import away_from
from cfgen.directions.translation import shrink
from cfgen.engine import Engine, Settings
from cfgen.generators import Identity
from cfgen.plausibility import LPIPS
from cfgen.priors import Prior
from tests.worlds import linear_world, random

checkpoint_folder = tiny.checkpoint_folder


class Shift(Prior):
    """Classes that differ by one vector d (*L): an edit adds guidance times d, or takes it away."""

    def __init__(self, d: Tensor) -> None:
        super().__init__()
        self.classes, self.d, self.scale = ("no", "yes"), d, torch.ones_like(d)
        self.asked: list[tuple[int, float]] = []

    def sample(self, labels: Tensor, seed: int) -> Tensor:
        return labels.view(-1, *[1] * self.d.ndim) * self.d

    def edit(self, z, source, target, seed, *, guidance):
        self.asked.append((len(z), guidance))
        return z + (target - source).view(-1, *[1] * self.d.ndim) * guidance * self.d


def world(target: int, toward: float):
    """A linear world of three samples, and a prior whose shift has a share of the gradient."""
    problem = linear_world(3, target, seed=1).problem
    nearest = linear_world(3, target, seed=1).nearest[0]
    side = random(5)(*nearest.shape)
    side = side - (side * nearest).sum() * nearest
    d = toward * nearest + 0.25 * side / side.norm()
    return problem, Shift(d if target == 1 else -d), nearest


@pytest.mark.parametrize("target", [0, 1])
def test_translation_is_the_way_of_the_prior(target):
    problem, prior, _ = world(target, toward=1.0)
    z = problem.z.clone()
    alpha = Translation(prior)(problem)
    sign = 1 if target == 1 else -1
    torch.testing.assert_close(alpha, (sign * prior.d / prior.d.norm()).expand_as(alpha))
    assert torch.equal(problem.z, z)
    assert problem.passes.backward.tolist() == [0, 0, 0]


def test_each_sample_asks_for_as_much_guidance_as_it_needs():
    problem, prior, nearest = world(1, toward=1.0)
    prior.d = nearest * 0.1  # 0.4, then 0.8 along the gradient
    optimum = linear_world(3, 1, seed=1).optimum
    assert (optimum > 0.4).any() and (optimum < 0.4).any()
    Translation(prior, guidance=(4.0, 8.0))(problem)
    short = int((optimum > 0.4).sum())
    assert prior.asked == [(3, 4.0), (short, 8.0)]
    # One pass for the source, and one for each strength.
    assert problem.passes.forward.tolist() == [3 if o > 0.4 else 2 for o in optimum.tolist()]


class Window(torch.nn.Module):
    """Flips only where the mean of the image is within 0.01 of 0.45 above that of the first."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.start = float(x.mean())

    def forward(self, x: Tensor) -> Tensor:
        way = x.flatten(1).mean(1) - self.start
        odds = torch.where((way - 0.45).abs() < 0.01, 1.0, -1.0) + 0 * way
        return torch.stack([torch.zeros_like(odds), odds], 1)


@pytest.mark.parametrize("direction", [Translation, Guided])
def test_a_flip_at_the_end_of_the_chord_is_found_however_narrow(direction):
    """The walk of the search alone would step over it."""
    x = torch.full((1, 1, 2, 2), 0.25)
    problem = Problem(Identity(), Window(x), Flip(torch.tensor([1])), x, levels=None)
    # The first edit, with guidance 6 and shrunk by 0.3, ends in the window.
    prior = Shift(torch.full((1, 2, 2), 0.45 / 6 / 0.7))
    made = direction(prior)
    cf = explain(problem, made)
    assert cf.status == (Status.FLIPPED,)
    assert float(cf.lam) == pytest.approx(0.88, abs=0.01)
    alone = FirstCrossing()(problem.along(cf.alpha), torch.tensor([-1.0]))
    assert not alone.found.any()


@pytest.mark.parametrize("target", [0, 1])
def test_guided_needs_no_gradient_where_the_prior_suffices(target):
    problem, prior, _ = world(target, toward=1.0)
    cf = explain(problem, Guided(prior, rounds=0))
    assert set(cf.status) == {Status.FLIPPED}
    assert cf.passes.backward.tolist() == [0, 0, 0]


@pytest.mark.parametrize("target", [0, 1])
def test_guided_takes_away_what_the_flip_does_not_need(target):
    steps = []
    for rounds in (0, 40):
        problem, prior, _ = world(target, toward=0.3)
        f = problem.classifier
        problem.classifier = lambda x, f=f: 100 * f(x)  # margins as large as those of networks
        cf = explain(problem, Guided(prior, augment=torch.nn.Identity(), noise=0.1, rounds=rounds))
        assert set(cf.status) == {Status.FLIPPED}
        assert cf.passes.backward.tolist() == [rounds] * 3
        steps.append(cf.lam)
    ratio = steps[1] / steps[0]
    assert (ratio < 0.99).all() and ratio.min() < 0.9


class Sum(torch.nn.Module):
    """Flips where the sum of the image's first row is more than 1; flat far beyond."""

    def forward(self, x: Tensor) -> Tensor:
        total = (x[:, 0, 0].sum(1) - 1).clamp(max=0.5)
        return torch.stack([torch.zeros_like(total), total], 1)


def test_places_that_the_flip_does_not_need_are_left_alone():
    """The prior changes both rows, and its second row a quarter as much; f sees the first."""
    x = torch.zeros(1, 1, 2, 4)
    problem = Problem(Identity(), Sum(), Flip(torch.tensor([1])), x, levels=None)
    d = torch.tensor([[[0.15] * 4, [0.0375] * 4]])
    prior = Shift(d)
    made = Guided(prior, noise=0.0, augment=torch.nn.Identity(), rounds=40)
    made.translation.shrink = 0.0
    loose = Guided(prior, rounds=0)
    loose.translation.shrink = 0.0
    cf, before = explain(problem, made), explain(problem, loose)
    assert cf.status == before.status == (Status.FLIPPED,)
    assert before.alpha[0, 0, 1].min() > 0.1
    torch.testing.assert_close(cf.alpha[0, 0], torch.tensor([[0.5] * 4, [0.0] * 4]))
    assert float(cf.lam) == pytest.approx(0.5, abs=0.005)


def test_what_does_not_flip_is_tried_again_without_noise_and_not_tightened():
    problem, prior, _ = world(1, toward=0.0)
    problem.criterion = Flip(problem.criterion.target, kappa=1e3)
    seen = []

    def spy(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x

    cf = explain(problem, Guided(prior, steps=2, augment=spy))
    assert seen == [3, 3]
    assert set(cf.status) == {Status.NOT_FOUND}
    assert cf.passes.backward.tolist() == [4, 4, 4]


def test_the_climb_sees_views_where_another_finding_is_held_too():
    problem, prior, _ = world(1, toward=0.0)
    seen = []

    def spy(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x

    held = random(7)(3, 1, *problem.z.shape[1:])
    explain(problem, Confined(Guided(prior, augment=spy), lambda _: away_from(held)))
    assert seen and len(seen) == problem.passes.backward.max()


@pytest.mark.parametrize("target", [0, 1])
def test_guided_climbs_where_the_prior_does_not_suffice(target):
    problem, prior, nearest = world(target, toward=0.0)
    near = FirstCrossing(limit=2.6)  # the length of the stronger edit
    assert set(explain(problem, Translation(prior), near).status) == {Status.NOT_FOUND}
    problem, prior, nearest = world(target, toward=0.0)
    # Much noise flips the margin now and then; the climb goes on until the end itself flips.
    same = torch.nn.Identity()  # a random linear f is another one in every view
    assert set(explain(problem, Guided(prior, augment=same), near).status) == {Status.FLIPPED}
    problem, prior, nearest = world(target, toward=0.0)
    cf = explain(problem, Guided(prior, noise=0.15, augment=same), near)
    assert set(cf.status) == {Status.FLIPPED}
    climb = cf.passes.backward - 8  # the rounds of the tightening
    assert (climb > 0).all() and (climb <= 10).all()
    # The chord keeps what the prior changed, and adds what f asks for.
    sign = 1 if target == 1 else -1
    assert ((cf.alpha * sign * prior.d).flatten(1).sum(1) > 0).all()
    assert ((cf.alpha * nearest).flatten(1).sum(1) > 0.1).all()


@pytest.mark.parametrize("toward", [0.0, 1.0], ids=["climbing", "translated"])
def test_a_batch_equals_its_singles_and_a_seed_replays(toward):
    problem, prior, _ = world(1, toward)
    alpha = Guided(prior, seed=3)(problem)
    fresh, prior, _ = world(1, toward)
    singles = [Guided(prior, seed=3)(fresh.rows(torch.tensor([i]))) for i in range(3)]
    torch.testing.assert_close(alpha, torch.cat(singles), rtol=1e-12, atol=1e-12)
    again, prior, _ = world(1, toward)
    assert torch.equal(Guided(prior, seed=3)(again), alpha)
    other, prior, _ = world(1, toward)
    assert not torch.equal(Guided(prior, seed=4)(other), alpha)


def test_how_long_others_climb_changes_nothing():
    x = torch.linspace(0.1, 0.5, 3, dtype=torch.float64).view(3, 1, 1, 1).expand(3, 1, 2, 4)

    def f(x: Tensor) -> Tensor:
        odds = 30 * (x.square().mean((1, 2, 3)) - 0.4)
        return torch.stack([torch.zeros_like(odds), odds], 1)

    problem = Problem(Identity(), f, Flip(torch.tensor([1, 1, 1])), x, levels=None)
    direction = Guided(Shift(0.01 * random(2)(1, 2, 4)), noise=0.1)
    alpha = direction(problem)
    assert len(set(problem.passes.backward.tolist())) > 1
    singles = [direction(problem.rows(torch.tensor([i]))) for i in range(3)]
    torch.testing.assert_close(alpha, torch.cat(singles), rtol=1e-12, atol=1e-12)


def test_no_change_is_no_direction():
    problem, prior, _ = world(1, 1.0)
    prior.d = torch.zeros_like(prior.d)
    cf = explain(problem, Translation(prior))
    assert set(cf.status) == {Status.NO_DIRECTION}


def naive_shrink(e: Tensor, share: float) -> Tensor:
    out = torch.zeros_like(e)
    for b in range(len(e)):
        longest = max(
            float(e[b, :, i, j].norm()) for i in range(e.shape[2]) for j in range(e.shape[3])
        )
        for i in range(e.shape[2]):
            for j in range(e.shape[3]):
                size = float(e[b, :, i, j].norm())
                if size > share * longest:
                    out[b, :, i, j] = e[b, :, i, j] * (size - share * longest) / size
    return out


def test_shrink_is_the_group_soft_threshold():
    e = random(0)(2, 3, 4, 4)
    e[1] *= 100
    torch.testing.assert_close(shrink(e, 0.4), naive_shrink(e, 0.4))
    assert torch.equal(shrink(e, 0.0), e)
    assert torch.equal(shrink(torch.zeros(1, 3, 2, 2), 0.3), torch.zeros(1, 3, 2, 2))
    flat = random(1)(2, 8)
    torch.testing.assert_close(shrink(flat, 0.3), 0.7 * flat)  # one place


def naive_edit(flow, z, source, target, seed, guidance, start, steps):
    """FlowEdit in plain words: two velocities at the same noise, and the difference is followed."""
    u, e = (z - flow.mean) / flow.std, torch.zeros_like(z)
    generator = torch.Generator().manual_seed(seed)
    times = [start * (steps - k) / steps for k in range(steps + 1)]
    none = torch.full_like(source, 2)
    for now, then in zip(times[:-1], times[1:], strict=True):
        noise = torch.randn(flow.shape, generator=generator)
        before = (1 - now) * u + now * noise
        t = torch.full((len(z),), 1000 * now)

        def v(at, label, t=t):
            return flow.unet(at, t, class_labels=label).sample

        pull = v(before + e, none) + guidance * (v(before + e, target) - v(before + e, none))
        e = e + (then - now) * (pull - v(before, source))
    return z + flow.std * e


def test_edit_is_flow_edit():
    flow = tiny.tiny_prior()
    z, source, target = torch.randn(3, 2, 16, 16), torch.tensor([0, 1, 0]), torch.tensor([1, 0, 1])
    with torch.no_grad():
        expected = naive_edit(flow, z, source, target, 5, 3.0, 0.8, 4)
    edited = flow.edit(z, source, target, 5, guidance=3.0, steps=4)
    torch.testing.assert_close(edited, expected, rtol=1e-4, atol=1e-4)
    alone = flow.edit(z[1:2], source[1:2], target[1:2], 5, guidance=3.0, steps=4)
    torch.testing.assert_close(alone, edited[1:2], rtol=1e-4, atol=1e-4)
    # To its own class and without guidance, nothing is left of the difference.
    torch.testing.assert_close(flow.edit(z, source, source, 5, guidance=1.0), z)


@pytest.mark.parametrize("name", ["translation", "guided"])
def test_a_prior_is_needed_and_must_know_the_classes(name, checkpoint_folder):
    checkpoint = load_checkpoint(str(checkpoint_folder))

    def engine(checkpoint):
        return Engine(checkpoint, Settings(direction=name), Accelerator(cpu=True), LPIPS())

    assert type(engine(checkpoint).task.directions[0]).__name__.lower() == name
    assert Engine.believable(checkpoint) == "guided"
    without = replace(checkpoint, prior=None)
    assert Engine.believable(without) == "minimal_norm"
    with pytest.raises(ValueError) as error:
        engine(without)
    assert str(error.value) == f"expected a checkpoint with a prior for '{name}', got 'tiny'"
    other = replace(checkpoint, prior=tiny.tiny_prior(classes=("cat", "dog")))
    assert Engine.believable(other) == "minimal_norm"
    with pytest.raises(ValueError) as error:
        engine(other)
    assert str(error.value) == (
        f"expected a prior of the classes dark, bright for '{name}', got cat, dog"
    )


@pytest.mark.slow
def test_the_shipped_prior_flips_synthetic_patients():
    checkpoint = load_checkpoint("brain-flair")
    assert checkpoint.prior is not None
    labels = torch.tensor([0, 1, 0, 1])
    x = checkpoint.generator.decode(checkpoint.prior.sample(labels, seed=7)).clamp(0, 1)
    target = 1 - checkpoint.classifier(x).argmax(1)
    problem = Problem(checkpoint.generator, checkpoint.classifier, Flip(target, confidence=0.9), x)
    cf = explain(problem, Guided(checkpoint.prior))
    assert set(cf.status) == {Status.FLIPPED}
    assert (cf.prob_after > 0.9).all()
    assert torch.equal(cf.redecode(), cf.x_cf)
