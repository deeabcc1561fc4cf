import math

import pytest
import torch
from torch import Tensor

from cfgen import DIRECTIONS, Direction, FirstCrossing, Flip, Gradient, MinimalNorm, Problem, Status
from cfgen.cli import parser
from cfgen.directions import PRIOR_GUIDED, Confined, Smoothed
from cfgen.directions.confined import away_from
from cfgen.directions.minimal_norm import NEAR, PATIENCE, WIDE, Spheres, crossing, look, mix
from cfgen.engine import Settings
from cfgen.explain import explain
from cfgen.generators import Identity
from tests import cases
from tests.cases import each_batch, each_direction, each_search, each_target
from tests.worlds import (
    STATUS_IMAGES,
    TwoLogits,
    World,
    ellipsoid_world,
    linear_world,
    random,
    status_world,
)

FLAT = (0.5, 0.5, 0.45, 0.45, 0.35, 0.35, 0.25, 0.25)


def test_every_direction_has_its_row():
    rows = {type(d) for d in cases.DIRECTIONS}
    assert rows | {DIRECTIONS[name] for name in PRIOR_GUIDED} == set(DIRECTIONS.values())


def test_the_program_offers_every_direction_by_its_name(monkeypatch):
    monkeypatch.setitem(DIRECTIONS, "sideways", Gradient)
    assert "minimal_norm, translation, guided, sideways (" in " ".join(
        parser()[1]["explain"].format_help().split()
    )
    assert Settings(direction="sideways").direction == "sideways"


@each_direction
@each_target
@pytest.mark.parametrize("identity", [False, True], ids=["flat latent", "latent image"])
def test_rows_are_unit_and_climb(direction, target, identity):
    problem = linear_world(3, target, identity=identity).problem
    z = problem.z.clone()
    alpha = direction(problem)
    assert alpha.shape == z.shape
    assert alpha.dtype == z.dtype
    assert not alpha.requires_grad
    assert torch.equal(problem.z, z)
    norms = alpha.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(3, dtype=torch.float64))
    phi, rows = problem.along(alpha), torch.arange(3)
    near, far = (phi(torch.full((3,), s, dtype=torch.float64), rows) for s in (0.0, 0.01))
    assert (far > near).all()


@each_direction
@pytest.mark.parametrize("confined", [False, True])
def test_the_guess_is_where_a_plane_is_crossed(direction, confined):
    world = linear_world(3, 1)
    if confined:  # at right angles to the first axis
        first = torch.eye(8, dtype=torch.float64)[:1].expand(3, 1, 8)
        direction = Confined(direction, lambda _: away_from(first))
    alpha, guess = direction.aim(world.problem)
    phi, rows = world.problem.along(alpha), torch.arange(3)
    torch.testing.assert_close(guess > 0, torch.ones(3, dtype=torch.bool))
    assert (phi(0.999 * guess, rows) < 0).all()
    assert (phi(1.001 * guess, rows) > 0).all()
    assert torch.equal(direction(world.problem), alpha)


def test_a_projection_takes_what_the_vectors_span_and_no_more():
    """One vector thrice and none at all: each sample loses what it holds, whatever its length."""
    randn = random(4)
    v, w = randn(2, 1, 8), randn(2, 8)
    vectors = torch.cat([v, 2 * v, -1e3 * v, 0 * v], 1)
    vectors[1] = 0
    left = away_from(vectors)(w, slice(None))
    along = (w[0] @ v[0, 0]) / v[0, 0].square().sum() * v[0, 0]
    torch.testing.assert_close(left, torch.stack([w[0] - along, w[1]]))
    rows = torch.tensor([1, 0])
    torch.testing.assert_close(away_from(vectors)(w[rows], rows), left[rows])


def test_a_curved_boundary_is_guessed_to_a_percent():
    world = curved_world("ellipsoid, far", 1)
    guess = MinimalNorm().aim(world.problem)[1]
    lam = explain(world.problem, MinimalNorm(), FirstCrossing(first=0.1, tol=1e-4)).lam
    torch.testing.assert_close(guess, lam, rtol=0.01, atol=0)


def test_without_a_guess_there_is_none():
    alpha, guess = Smoothed(Gradient()).aim(linear_world(2, 1).problem)
    assert alpha.any()
    assert guess.isnan().all()
    climbs = MinimalNorm(steps=1).aim(linear_world(2, 1).problem)[1]
    assert not climbs.isfinite().any()


def test_a_mix_of_normals_solves_what_is_linear():
    """Normals n = M v + b of two coordinates: three pairs tell the fixed point n = v."""
    matrix = torch.tensor([[-0.9, 0.4], [0.3, -1.5]], dtype=torch.float64)
    b = torch.tensor([0.5, 0.2], dtype=torch.float64)
    fixed = torch.linalg.solve(torch.eye(2, dtype=torch.float64) - matrix, b)
    rays = list(fixed + 0.1 * random(0)(3, 1, 2))
    normals = [v @ matrix.T + b for v in rays]
    errors = [(n - fixed).norm() for n in normals]
    assert (mix(rays, normals) - fixed).norm() < 0.05 * min(errors)
    assert torch.equal(mix(rays[:1], normals[:1]), normals[0])


@each_direction
def test_float32_stays_float32(direction):
    problem = linear_world(2, 1).problem
    small = Problem(
        Identity(),
        TwoLogits(lambda x: x.mean((1, 2, 3)) - 0.6),
        problem.criterion,
        problem.x.float(),
    )
    alpha = direction(small)
    assert alpha.dtype == torch.float32
    torch.testing.assert_close(alpha, torch.full_like(alpha, 0.1))


@each_direction
@each_search
@each_batch
@each_target
@pytest.mark.parametrize("detail", [True, False], ids=["detail", "no detail"])
def test_the_plane_is_met_at_its_nearest_point(direction, search, batch, target, detail):
    world = linear_world(batch, target, detail=detail, seed=batch)
    cf = explain(world.problem, direction, search)
    assert set(cf.status) == {Status.FLIPPED}
    torch.testing.assert_close(cf.alpha, world.nearest)
    ratio = cf.lam / world.optimum
    assert (ratio > 1 - 1e-12).all()
    assert (ratio < 1.02).all()
    assert (cf.lam_lower <= world.optimum * (1 + 1e-12)).all()


@each_direction
@each_target
def test_a_latent_that_is_an_image(direction, target):
    world = linear_world(3, target, identity=True)
    cf = explain(world.problem, direction)
    torch.testing.assert_close(cf.alpha, world.nearest)
    assert ((cf.lam / world.optimum) < 1.02).all()


CURVED = {
    "sphere, near": (0.1, {}),
    "sphere, far": (0.25, {}),
    "ellipsoid, near": (0.03, {"axes": FLAT}),
    "ellipsoid, far": (0.09, {"axes": FLAT, "skew": 1.0}),
}


def curved_world(name: str, target: int) -> World:
    distance, options = CURVED[name]
    return ellipsoid_world(8, target, distance, **options)


def ratios(world: World, direction: Direction) -> tuple[Tensor, Tensor]:
    """Steps over the optimum (B,), inf where there is none, and gradients of each sample (B,)."""
    cf = explain(world.problem, direction, FirstCrossing(first=0.1, tol=1e-3))
    return (cf.lam / world.optimum).nan_to_num(torch.inf), cf.passes.backward


@each_target
@pytest.mark.parametrize("name", CURVED)
def test_minimal_norm_meets_a_curved_boundary_at_its_nearest_point(name, target):
    ratio, backward = ratios(curved_world(name, target), MinimalNorm(parallel=0.99))
    assert (ratio > 1 - 1e-9).all()
    assert (ratio < 1.02).all()
    assert (backward <= 12).all()
    assert backward.double().median() <= 7
    # The default stops earlier, for 1 - 0.98 of length at most on a plane.
    ratio, backward = ratios(curved_world(name, target), MinimalNorm())
    assert (ratio < 1.025).all()
    assert ratio.median() < 1.015
    assert backward.double().median() <= 6


@each_target
@pytest.mark.parametrize("name", [n for n in CURVED if "far" in n])
def test_minimal_norm_beats_the_gradient(name, target):
    gradient, _ = ratios(curved_world(name, target), Gradient())
    minimal, _ = ratios(curved_world(name, target), MinimalNorm())
    # Where the gradient is as good as the nearest ray, they differ by the search's tolerance.
    assert (minimal < gradient * 1.0015).all()
    assert (minimal < gradient).sum() >= 7


def test_a_ball_further_away_than_it_is_wide():
    """There, to follow the normal all the way swings around the target."""
    world = ellipsoid_world(8, 0, 0.3, axes=(0.2,) * 8)
    assert (ratios(world, MinimalNorm())[0] < 1.02).all()
    assert (ratios(world, Gradient())[0] > 1.1).all()


def test_minimal_norm_pays_three_gradients_for_a_plane_and_never_more_than_its_steps():
    problem = linear_world(4, 1).problem
    MinimalNorm()(problem)
    assert problem.passes.backward.tolist() == [3] * 4
    for steps in (1, 4):
        problem = ellipsoid_world(4, 1, 0.4).problem
        MinimalNorm(steps=steps)(problem)
        assert problem.passes.backward.max() == steps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_that_ends_on_the_boundary_is_not_taken_for_one_beyond(dtype):
    """A plane tells the crossing to the last bit, a little before or behind."""
    generator = torch.Generator().manual_seed(0)
    w, x = (torch.rand(n, 1, 4, 4, generator=generator, dtype=dtype) / 2 for n in (1, 500))
    model = TwoLogits(lambda x: (w * (x - 0.5)).sum((1, 2, 3)))
    problem = Problem(Identity(), model, Flip(torch.ones(500, dtype=torch.int64)), x, levels=None)
    MinimalNorm()(problem)
    assert problem.passes.backward.tolist() == [3] * 500


@each_target
@pytest.mark.parametrize("spheres", [NEAR, WIDE], ids=["near", "wide"])
@pytest.mark.parametrize("name", CURVED)
def test_a_look_finds_the_boundary_from_spheres_alone(name, spheres, target):
    world = curved_world(name, target)
    rows, nowhere = torch.arange(8), torch.full((8,), torch.inf).double()
    told = 1.1 * world.optimum
    # Target 0 is a bounded place: from beyond, a crossing that is known leads back to it.
    known = 1.5 * world.optimum if target == 0 and spheres is WIDE else nowhere
    ray, crossing = look(world.problem, -world.nearest, known, told, rows, spheres)
    phi = world.problem.along(ray)
    assert (phi(crossing, rows) > 0).all()
    assert (crossing < (1 + 1.5 * spheres.share) * world.optimum).all()
    assert (world.problem.passes.backward == spheres.number).all()
    # Spheres that grow from there do not reach the boundary, and what is nearer stays.
    for known in (nowhere, 0.9 * world.optimum):
        ray, crossing = look(world.problem, -world.nearest, known, told / 9999, rows, spheres)
        assert torch.equal(ray, -world.nearest)
        assert torch.equal(crossing, known)


def test_a_look_walks_as_ddn_does():
    """Against a twin: where it asks, by steps that shrink as half a cosine on spheres."""

    def score(a: Tensor, b: Tensor) -> Tensor:
        return a - 1 + 3 * b.square() - a * b

    problem, asked, whole = on_pixels(score), [], Problem.grad

    def grad(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(z.flatten())
        return whole(problem, z, rows)

    problem.grad = grad  # type: ignore[method-assign]
    spheres, told, rows = Spheres(2, 12, 0.1), torch.tensor([0.08]).double(), torch.arange(1)
    away = torch.tensor([[[[0.0, -1.0]]]]).double()
    look(problem, away, torch.tensor([torch.inf]).double(), told, rows, spheres)

    d, radius, reach, nearest = torch.zeros(2).double(), 0.16, 0.16, math.inf
    for i, place in enumerate(asked):
        torch.testing.assert_close(place, d)
        m, g = (t[0].flatten() for t in whole(problem, d.view(1, 1, 1, 2), rows))
        size = float(d.norm())
        nearest = min(nearest, size) if m > 0 else nearest
        radius *= 0.9 if m > 0 or size == 0 or size > nearest else 1.1
        step = 0.01 + 0.99 * (1 + math.cos(math.pi * i / 12)) / 2
        d = d + step * reach * g / g.norm()
        d = radius * d / d.norm()
    assert len(asked) == 12 and math.isfinite(nearest)


def test_a_tangent_plane_is_trusted_near_the_boundary_only():
    """A fifth of the way back, as much ahead as it is told to; downhill there is no crossing."""
    told = [
        (0.19, 1.0, 1.81),  # the margin, its slope, and where it crosses for a length of 2
        (0.39, 1.0, 1.61),
        (0.41, 1.0, 2.0),
        (-0.05, 0.5, 2.1),
        (-0.19, 1.0, 2.19),
        (-0.21, 1.0, math.inf),
        (-0.05, -1.0, math.inf),
        (0.05, -1.0, 2.0),
    ]
    m, slope, expected = torch.tensor(told, dtype=torch.float64).T
    v = torch.tensor([[0.6, 0.8]], dtype=torch.float64).expand(len(m), 2)
    side = torch.tensor([0.8, -0.6], dtype=torch.float64)
    found = crossing(m, slope[:, None] * v + side, v, torch.full_like(m, 2.0), 0.1)
    torch.testing.assert_close(found, expected)


def test_a_mix_goes_on_by_one_step_at_most():
    """Gaps of 1.5 and 1 would be closed by two more steps of the same kind."""
    rays, normals = (
        [torch.tensor([[a]]).double() for a in ends] for ends in ((0, 0.2), (1.5, 1.2))
    )
    torch.testing.assert_close(mix(rays, normals), torch.tensor([[0.9]]).double())
    normals[0] = torch.tensor([[3.0]]).double()  # gaps of 3 and 1: half a step is enough
    expected = torch.tensor([[1.2 + 0.5 * (1.2 - 3.0)]]).double()
    torch.testing.assert_close(mix(rays, normals), expected, rtol=0, atol=1e-3)


def test_minimal_norm_looks_after_many_gradients_or_always():
    _, without = ratios(curved_world("ellipsoid, far", 1), MinimalNorm(look=torch.inf))
    for least in (0, 4):
        ratio, backward = ratios(curved_world("ellipsoid, far", 1), MinimalNorm(look=least))
        looks = NEAR.number + WIDE.number
        assert torch.equal(backward, without + looks * (without >= least))
        assert (ratio < 1.025).all()
    assert 0 < (without < 4).sum() < 8


def on_pixels(score) -> Problem:
    """A black image of two pixels that is its own latent."""
    x = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    model = TwoLogits(lambda x: score(*(10 * x[:, 0, 0]).T))
    return Problem(Identity(), model, Flip(torch.tensor([1])), x, levels=None)


def test_turns_go_on_while_they_bring_a_sample_nearer_and_stop_where_they_do_not():
    """Patience is counted anew after each turn that does."""
    counts = []
    for parallel in (-1.0, 1.0):
        problem = curved_world("ellipsoid, far", 1).problem
        MinimalNorm(steps=99, parallel=parallel, look=torch.inf)(problem)
        counts.append(problem.passes.backward)
    turns = counts[1] - counts[0]
    assert (turns >= PATIENCE).all() and (turns < 90).all()
    assert (turns > PATIENCE + 2).any()


def test_minimal_norm_looks_where_the_turns_made_the_ray_much_shorter():
    """Beside the first ray, which crosses at 1, the margin rises in a corner a third as far."""
    for score, looks in ((lambda a, b: a - 1 + 20 * a * b, True), (lambda a, b: a - 1 + b, False)):
        without, looked = on_pixels(score), on_pixels(score)
        MinimalNorm(look=torch.inf)(without)
        MinimalNorm(look=99)(looked)
        more = looked.passes.backward - without.passes.backward
        assert more.item() == looks * (NEAR.number + WIDE.number)


def test_a_wide_look_sees_a_nearer_boundary_on_another_side():
    """From z to the boundary f sees the first pixel only; further out the second one matters."""

    def score(a: Tensor, b: Tensor) -> Tensor:
        return torch.maximum(a - 1, 10 * b - 5 + 4 * (a - 1.5).relu())

    for least, nearest in ((torch.inf, 0.1), (0, 0.05)):
        cf = explain(on_pixels(score), MinimalNorm(look=least))
        assert nearest <= cf.lam < 1.05 * nearest


def test_a_crossing_that_is_none_is_dropped_by_a_look():
    """At 1 the tangent plane tells a crossing half a percent ahead, but the margin falls before."""

    def score(a: Tensor, b: Tensor) -> Tensor:
        close = torch.minimum(0.98 * (a - 0.7) - 0.3, 1 - a)
        return torch.where(a < 0.7, a - 1, close) + 0 * b

    told = MinimalNorm(look=torch.inf).aim(on_pixels(score))[1]
    assert told.isfinite()
    assert MinimalNorm(look=0).aim(on_pixels(score))[1].isinf()


def test_one_step_of_minimal_norm_is_the_gradient():
    problem = ellipsoid_world(4, 1, 0.4).problem
    assert torch.equal(MinimalNorm(steps=1)(problem), Gradient()(problem))


@each_direction
@each_target
def test_a_batch_is_its_rows(direction, target):
    problem = curved_world("ellipsoid, near", target).problem
    alpha = direction(problem)
    alone = [direction(problem.rows(torch.tensor([i]))) for i in range(len(problem))]
    torch.testing.assert_close(alpha, torch.cat(alone), rtol=1e-8, atol=1e-8)


@each_direction
def test_a_gradient_that_is_zero_or_nan_gives_a_zero_row_and_harms_no_other(direction):
    problem = status_world()
    alpha = direction(problem)
    none = torch.tensor([name in ("NO_DIRECTION", "NOT_FINITE") for name in STATUS_IMAGES])
    expected = torch.tensor([1.0, 0.0], dtype=torch.float64).repeat(len(none), 1)
    expected[none] = 0
    torch.testing.assert_close(alpha, expected)


@pytest.mark.parametrize("cliff", [torch.nan, torch.inf, -torch.inf, 0.0])
def test_minimal_norm_survives_a_cliff_on_its_way(cliff):
    """Beyond a brightness the margin is no number, or flat: the last good ray is handed over."""

    def score(x: Tensor) -> Tensor:
        bright = x.flatten(1).amax(1)
        return torch.where(bright > 0.6, cliff, x.square().sum((1, 2, 3)) - 3.0)

    x = torch.full((2, 1, 2, 2), 0.5, dtype=torch.float64)
    x[1] = torch.tensor([0.5, 0.1, 0.5, 0.5], dtype=torch.float64).reshape(1, 2, 2)
    problem = Problem(Identity(), TwoLogits(score), Flip(torch.tensor([1, 1])), x, levels=None)
    alpha = MinimalNorm()(problem)
    torch.testing.assert_close(alpha, x / x.flatten(1).norm(dim=1).view(2, 1, 1, 1))


def gradients_on_a_line(margin) -> int:
    """What minimal norm pays to climb where the image is one pixel, black at the start."""
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    model = TwoLogits(lambda x: margin(x[:, 0, 0, 0]))
    problem = Problem(Identity(), model, Flip(torch.tensor([1])), x, levels=None)
    assert MinimalNorm(look=torch.inf)(problem).item() == 1
    return int(problem.passes.backward)


def test_a_step_that_leads_down_is_halved():
    """The first tangent plane aims at 1; half of it is beyond the hill, and a quarter on it."""

    def hill(s: Tensor) -> Tensor:
        return torch.where(s < 0.2, 0.8 * s - 0.8, torch.where(s < 0.3, s - 0.24, s - 3))

    assert gradients_on_a_line(hill) == 3


def test_a_step_far_beyond_the_boundary_is_halved():
    """Only at 0.125 is the crossing, at 0.11, near enough for the plane to tell it."""

    def steep(s: Tensor) -> Tensor:
        return torch.where(s < 0.1, s - 1, 20 * (s - 0.11))

    assert gradients_on_a_line(steep) == 4


def test_a_step_that_has_flipped_is_not_lost():
    """From half of the step a climb leads up a hill beside the way, which stays below 0."""

    def score(a: Tensor, b: Tensor) -> Tensor:
        hill = -0.1 - 4 * ((a - 0.25).square() + (b - 0.1).square())
        flipped = (a > 0.4) & (b.abs() < 0.05)
        return torch.where(a < 0.2, a - 1, torch.where(flipped, 1 + 1e-3 * a, hill))

    cf = explain(on_pixels(score), MinimalNorm())
    assert cf.status == (Status.FLIPPED,)
    assert 0.04 < cf.lam < 0.041


def test_a_step_onto_a_plateau_ends_where_the_crossing_is_known_well_enough():
    """The plane tells nothing there, so the way to it is halved until that is a fifth of it."""

    def stairs(s: Tensor) -> Tensor:
        return torch.where(s < 0.11, s - 1, 1 + 1e-3 * s)

    assert 8 < gradients_on_a_line(stairs) <= 16


def test_steps_grow_where_the_tangent_plane_is_right():
    """After a short cliff the way is long and straight; steps of one length would take fifty.

    The last one is for the end of the climb, where the plane is trusted over 5 % of the ray only.
    """

    def ramp(s: Tensor) -> Tensor:
        return torch.where(s < 0.0049, 100 * s - 1, s - 0.5149)

    assert gradients_on_a_line(ramp) == 8
