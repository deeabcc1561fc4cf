"""Directions that a prior guides, on a prior whose edits are known."""

from dataclasses import replace
from typing import Any

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
from cfgen.directions.guided import VIEWS
from cfgen.directions.smoothed import drawn
from cfgen.directions.translation import shrink
from cfgen.engine import Engine, Settings
from cfgen.generators import Identity, Linear
from cfgen.plausibility import LPIPS
from cfgen.priors import Prior
from tests.worlds import TwoLogits, linear_world, random

checkpoint_folder = tiny.checkpoint_folder


class Shift(Prior):
    """Classes that differ by one vector d (*L): an edit adds guidance times d, or takes it away."""

    def __init__(self, d: Tensor) -> None:
        super().__init__()
        self.classes, self.d, self.scale = ("no", "yes"), d, torch.ones_like(d)
        self.asked: list[tuple[int, float]] = []
        self.seeds: list[int] = []
        self.sources: list[list[int]] = []

    def sample(self, labels: Tensor, seed: int) -> Tensor:
        return labels.view(-1, *[1] * self.d.ndim) * self.d

    def edit(self, z, source, target, seed, *, guidance):
        self.asked.append((len(z), guidance))
        self.seeds.append(seed)
        self.sources.append(source.tolist())
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


@pytest.mark.parametrize("direction", [Translation, Guided])
def test_the_prior_draws_by_the_seed(direction):
    for seed in (0, 5):
        problem, prior, _ = world(1, toward=1.0)
        direction(prior, seed=seed)(problem)
        assert set(prior.seeds) == {seed}


def test_the_source_is_the_class_that_f_sees_in_the_image():
    """Not the other one than the target, where more certainty is asked for, nor that of G(E(x))."""
    kept = torch.eye(4, dtype=torch.float64)[:2].reshape(2, 1, 2, 2)
    pair = Linear(kept, torch.zeros(1, 2, 2, dtype=torch.float64))  # loses the last two pixels

    def score(x: Tensor) -> Tensor:
        return x[:, 0, 0, 0] + 2 * x[:, 0, 1, 0] - 1

    x = torch.tensor([[0.8, 0.5, 0.2, 0.5], [0.8, 0.5, 0.0, 0.5]], dtype=torch.float64)
    target = torch.tensor([1, 1])
    problem = Problem(
        pair, TwoLogits(score), Flip(target, confidence=0.9), x.view(2, 1, 2, 2), levels=None
    )
    prior = Shift(torch.tensor([0.1, 0.0], dtype=torch.float64))
    Translation(prior)(problem)
    assert prior.sources[0] == [1, 0]
    assert score(problem.x_rec).sign().tolist() == [-1, -1]


def test_in_a_subspace_the_guess_is_as_long_as_what_is_left_of_the_change():
    problem, prior, _ = world(1, toward=0.5)
    held = (prior.d + prior.d.roll(1)).expand(3, 1, -1)
    alpha, guess = Confined(Translation(prior, guidance=(6.0,)), lambda _: away_from(held)).aim(
        problem
    )
    left = away_from(held)(6 * prior.d.expand_as(problem.z), slice(None))
    assert (left.norm(dim=1) < 0.99 * 6 * prior.d.norm()).all()
    torch.testing.assert_close(guess[:, None] * alpha, left)


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


def bent(x: Tensor) -> Tensor:
    """A score that rises ever faster in two pixels, and in a third one by turns."""
    a, b, c, _ = x.flatten(1).T
    return 12 * a.square() + 6 * b.square() + 2 * (9 * c).sin() - 6


def naive_guided(x, e, seed, *, view, steps=40, noise=0.02, momentum=0.5, reach=0.1, rounds=8,
                 by=0.05, scale=1.0):  # fmt: skip
    """Guided from a change e of one image x on, in plain words; and what each round came to."""
    over, goal = 0.05, 0.3

    def margin(z: Tensor, view=lambda x: x) -> Tensor:
        return bent(view(z[None]))[0]

    def look(e: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        z, seen = x + e, lambda x: x
        if generator is not None:
            z = z + noise * scale * torch.randn(e.shape, generator=generator)
            torch.randint(2**31, (), generator=generator)  # of the view
            seen = view
        z = z.double().requires_grad_()
        m = margin(z, seen)
        return m.detach(), torch.autograd.grad(m, z)[0]

    def climb(e: Tensor, generator: torch.Generator | None) -> tuple[Tensor, bool]:
        longest, velocity = reach * e.norm() + 2 * noise, torch.zeros_like(e)
        for _ in range(steps):
            m, g = look(e, generator)
            if m > over and margin(x + e) > over:
                return e, True
            velocity = momentum * velocity + g
            way = min(max(goal - m, over) / velocity.norm(), longest)
            e = e + way * velocity / velocity.norm()
        return e, False

    found, flips = climb(e, torch.Generator().manual_seed(seed))
    if not flips:
        found, flips = climb(e, None)
    best = now = found
    longest, told = reach * found.norm() + 2 * noise, []
    generator = torch.Generator().manual_seed(seed + 1)
    shrinks = True
    for _ in range(rounds if flips else 0):
        if shrinks:
            size = now.norm(dim=0)
            now = now * (1 - by * size.max() / size).clamp(min=0)
        m, g = look(now, generator)
        now = now + min(max(goal - m, 0) / g.norm(), longest) * g / g.norm()
        shrinks = bool(margin(x + now) > over)
        told.append((shrinks, bool(now.norm() > best.norm())))
        if shrinks and now.norm() < best.norm():
            best = now
    return best, told


@pytest.mark.parametrize(
    ("options", "way", "kinds"),
    [
        ({"rounds": 0}, 0.01, set()),
        ({"rounds": 0, "momentum": 0.9, "reach": 0.3, "seed": 3}, 0.01, set()),
        ({"rounds": 0, "noise": 0.0, "scale": 3.0, "steps": 9}, 0.02, set()),
        (
            {"rounds": 12, "shrink": 0.2, "scale": 0.5, "seed": 1},
            0.02,
            {(True, True), (True, False), (False, True), (False, False)},
        ),
        ({"rounds": 12, "noise": 0.1, "seed": 2}, 0.05, {(True, True), (False, False)}),
    ],
)
def test_guided_is_a_climb_and_a_tightening(options, way, kinds):
    """Against a twin; each step, its length and what is kept of it."""
    x = torch.tensor([0.4, 0.3, 0.5, 0.5], dtype=torch.float64).view(1, 2, 2)
    prior = Shift(torch.tensor([way, way, -way, way], dtype=torch.float64).view(1, 2, 2))
    own: dict[str, Any] = dict(options)
    prior.scale = torch.full_like(prior.d, own.pop("scale", 1.0))
    own = {"noise": 0.02} | own

    def view(x: Tensor) -> Tensor:
        return 0.97 * x

    problem = Problem(Identity(), TwoLogits(bent), Flip(torch.tensor([1])), x[None], levels=None)
    made = Guided(prior, augment=view, **own)
    chord = made.translation.chord(problem)[0][0]
    alpha, length = made.aim(problem)
    twin: dict[str, Any] = {"scale": prior.scale, "by": own.pop("shrink", 0.05), "seed": 0} | own
    expected, told = naive_guided(x, chord, view=view, **twin)
    torch.testing.assert_close(length[0] * alpha[0], expected)
    assert bool(bent(x[None] + expected) > 0.05)
    assert kinds <= set(told)


def test_what_does_not_flip_starts_afresh():
    """A view that turns the margin round leads away; without views the way begins at the chord."""
    changes = []
    for view in (lambda x: 1 - x, torch.nn.Identity()):
        problem, prior, _ = world(1, toward=0.0)
        alpha, length = Guided(prior, steps=12, noise=0, augment=view, rounds=0).aim(problem)
        assert (problem.margin(problem.z + length[:, None] * alpha, torch.arange(3)) > 0).all()
        changes.append(length[:, None] * alpha)
    assert problem.passes.backward.min() > 0  # the chord alone does not flip
    torch.testing.assert_close(*changes)


def test_the_views_of_guided_are_as_wide_as_they_say():
    """Mirrored or not; turned by 10 degrees, moved by 5 %, scaled by 10 %, 20 % brighter."""
    generator = torch.Generator().manual_seed(0)
    spots = torch.zeros(1, 1, 101, 101)
    spots[..., 48:53, 78:83] = spots[..., 48:53, 18:23] = 0.5  # 30 px right and left of the middle
    spots[..., 17:24, 47:54] = 0.4  # and above
    at = torch.arange(101.0) - 50

    def centre(part: Tensor) -> Tensor:
        total = part.sum()
        return torch.stack([(part.sum(0) * at).sum() / total, (part.sum(1) * at).sum() / total])

    turns, sizes, gains, middles, sides = [], [], [], [], []
    for _ in range(60):
        one = spots.clone()
        one[..., 48:53, 18:23] *= 0.9  # the left one is darker
        seen = drawn(VIEWS, generator)(one)[0, 0]
        left = torch.where(at[None] < -12, seen, 0)
        right = torch.where(at[None] > 12, seen, 0)
        a, b = centre(left), centre(right)
        sides.append(bool(left.amax() > right.amax()))
        turns.append(float(torch.rad2deg(torch.atan2(b[1] - a[1], b[0] - a[0]))))
        sizes.append(float((b - a).norm() / 60))
        middles.append(((a + b) / 2).tolist())
        gains.append(float(seen.amax() / 0.5))
    assert 15 < sum(sides) < 45
    assert 8.3 < max(map(abs, turns)) < 10.6
    assert 0.89 < min(sizes) < 0.92 and 1.08 < max(sizes) < 1.11
    assert 0.79 < min(gains) < 0.85 and 1.15 < max(gains) < 1.21
    far = torch.tensor(middles).abs().amax(0)
    assert (4.2 < far).all() and (far < 5.6).all()


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
