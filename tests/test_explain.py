from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cfgen import (
    Counterfactual,
    Direction,
    Flip,
    Gradient,
    MinimalNorm,
    NaturalGradient,
    Problem,
    Search,
    Status,
)
from cfgen.explain import explain, likely_other
from cfgen.generators import Generator, Identity
from cfgen.problem import BLOCK
from cfgen.searches import Root
from tests.cases import each_batch, each_direction, each_search, each_target
from tests.worlds import (
    STATUS_IMAGES,
    TwoLogits,
    ellipsoid_world,
    linear_world,
    random,
    status_models,
    status_world,
)


def statuses(detail: bool) -> list[str]:
    """What :func:`status_world` should give: with the detail no reconstruction stands alone."""
    names = [name.split(" ")[0].strip(",") for name in STATUS_IMAGES]
    return [n.replace("RECONSTRUCTION_FLIPS", "FLIPPED") if detail else n for n in names]


def step(problem: Problem, alpha: Tensor, lam: Tensor) -> Tensor:
    """The margins of the images at lam, made one after the other."""
    return problem.criterion(problem.logits(problem.image(alpha, lam)))


@each_direction
@each_search
@pytest.mark.parametrize("detail", [True, False], ids=["detail", "no detail"])
def test_every_status_happens(direction, search, detail):
    problem = status_world(detail=detail)
    cf = explain(problem, direction, search)
    assert [s.name for s in cf.status] == statuses(detail)
    for i, status in enumerate(cf.status):
        lam, lower = cf.lam[i].item(), cf.lam_lower[i].item()
        still = torch.equal(cf.x_cf[i], cf.x[i])
        direction_given = cf.alpha[i].any().item()
        flips = bool(problem.rows(torch.tensor([i])).criterion(cf.logits_after[i : i + 1]) > 0)
        moved = {Status.FLIPPED, Status.RECONSTRUCTION_FLIPS}
        assert flips == (status in moved | {Status.ALREADY})
        assert still == (status not in moved)
        assert direction_given == (status in {Status.FLIPPED, Status.NOT_FOUND})
        if status is Status.FLIPPED:
            assert 0 <= lower < lam
        elif status in {Status.ALREADY, Status.RECONSTRUCTION_FLIPS}:
            assert (lam, lower) == (0, 0)
        else:
            assert lam != lam
            assert lower == (search.limit if status is Status.NOT_FOUND else 0)
    assert torch.equal(cf.logits_before, problem.logits(cf.x))
    assert torch.equal(cf.logits_after, problem.logits(cf.x_cf))


@each_direction
@each_target
@pytest.mark.parametrize("levels", [255, None])
@pytest.mark.parametrize("detail", [True, False], ids=["detail", "no detail"])
def test_the_bracket_is_evidence(direction, target, levels, detail):
    problem = linear_world(5, target, detail=detail, levels=levels).problem
    cf = explain(problem, direction)
    assert set(cf.status) == {Status.FLIPPED}
    assert (cf.lam_lower < cf.lam).all()
    phi, rows = problem.along(cf.alpha), torch.arange(5)
    assert (phi(cf.lam_lower, rows) <= 0).all()
    assert (phi(cf.lam, rows) > 0).all()
    assert torch.equal(cf.x_cf, problem.image(cf.alpha, cf.lam))
    assert (problem.criterion(cf.logits_after) > 0).all()


def test_the_verdict_is_on_the_rounded_image():
    """128 / 255 must grow beyond 153.2 / 255, which the file shows only as 154 / 255."""
    x = torch.full((1, 1, 2, 2), 128 / 255, dtype=torch.float64)
    model = TwoLogits(lambda x: x[:, 0, 0, 0] - 153.2 / 255)
    generator = status_models()[0]
    exact, rounded = (
        explain(Problem(generator, model, Flip(torch.tensor([1])), x, levels=levels))
        for levels in (None, 255)
    )
    assert 25.2 < exact.lam.item() * 255 < 25.45
    assert 25.5 <= rounded.lam.item() * 255 < 25.8
    assert rounded.x_cf[0, 0, 0, 0].item() == 154 / 255
    # At the step that flips the exact image, the rounded one is not flipped.
    problem = rounded.problem
    assert problem is not None
    assert (step(problem, exact.alpha, exact.lam) < 0).all()
    assert rounded.status == (Status.FLIPPED,)


class Says(Search):
    """A search that claims a bracket, right or wrong."""

    def __init__(self, lower: Tensor, lam: Tensor) -> None:
        self.lower, self.lam = lower, lam

    def __call__(self, phi, start, guess=None):
        return Root(self.lam, self.lower, self.lam.isfinite(), torch.zeros(len(start)).long())


def test_a_search_is_not_trusted():
    world = linear_world(3, 1)
    opt = world.optimum
    cf = explain(
        world.problem, Gradient(), Says(0.5 * opt, torch.stack([opt[0] * 0.6, *opt[1:] * 2]))
    )
    assert [s.name for s in cf.status] == ["NOT_FOUND", "FLIPPED", "FLIPPED"]
    assert cf.lam.isnan().tolist() == [True, False, False]
    assert torch.equal(cf.x_cf[0], cf.x[0])
    assert torch.equal(cf.logits_after[0], cf.logits_before[0])
    assert (step(world.problem, cf.alpha, cf.lam_lower) <= 0).all()


@pytest.mark.parametrize("by", [-1e-4, 1e-14])
def test_a_crossing_missed_or_met_by_a_hair_moves_on_by_its_bracket(by):
    """As when a margin of 1e-17 in the batch is one of -1e-17 alone."""
    world = linear_world(2, 0)
    lower, lam = world.optimum * (1 - 2e-3), world.optimum * (1 + by)
    cf = explain(world.problem, Gradient(), Says(lower, lam))
    assert set(cf.status) == {Status.FLIPPED}
    assert torch.equal(cf.lam_lower, lam if by < 0 else lower)
    torch.testing.assert_close(cf.lam, 2 * lam - lower)
    # Before, at lam, and at the step after it: three images were made of each.
    assert cf.passes.forward.tolist() == [1 + 1 + 2] * 2


@pytest.mark.parametrize(("by", "status"), [(3e-16, "FLIPPED"), (1e-12, "RECONSTRUCTION_FLIPS")])
def test_a_reconstruction_that_flips_by_a_rounding_error_has_not_flipped(by, status):
    class Brighter(Identity):
        def decode(self, z: Tensor) -> Tensor:
            return z + 0.125

    model = TwoLogits(lambda x: (x[:, 0, 0, 0] - 0.375) + by)
    x = torch.full((1, 1, 2, 2), 0.25, dtype=torch.float64)
    flip = Flip(torch.tensor([1]))
    cf = explain(Problem(Brighter(), model, flip, x, levels=None, detail=False))
    assert cf.status[0].name == status
    assert (cf.lam > 0).item() == (status == "FLIPPED")


class Counts(nn.Module):
    """Counts the rows that go through a function, and come back through its gradient.

    Those that fill up a block are copies, and no pass of any sample.
    """

    def __init__(self, f) -> None:
        super().__init__()
        self.f, self.forth, self.back = f, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        out = self.f(x)
        self.forth += len(x.unique(dim=0)) if len(x) == BLOCK else len(x)
        if out.requires_grad:
            out.register_hook(self.count_back)
        return out

    def count_back(self, gradient: Tensor) -> None:
        self.back += len(gradient)


class Counted(Generator):
    """A pair whose E and G are counted."""

    def __init__(self, pair: Generator) -> None:
        super().__init__()
        self.e, self.g = Counts(pair.encode), Counts(pair.decode)

    def encode(self, x: Tensor) -> Tensor:
        return self.e(x)

    def decode(self, z: Tensor) -> Tensor:
        return self.g(z)


@each_direction
@each_search
@pytest.mark.parametrize("detail", [True, False], ids=["detail", "no detail"])
@pytest.mark.parametrize("names", [*([n] for n in STATUS_IMAGES), list(STATUS_IMAGES)], ids=len)
def test_every_pass_is_counted(direction, search, detail, names):
    """One image alone, so that the count is its own; and all at once, where the sums must agree."""
    problem = status_world(names, detail)
    generator, model = Counted(problem.generator), Counts(problem.classifier)
    problem = Problem(generator, model, problem.criterion, problem.x, detail=detail)
    cf = explain(problem, direction, search)
    encode, forward, backward = (
        int(t.sum()) for t in (cf.passes.encode, cf.passes.forward, cf.passes.backward)
    )
    assert generator.e.forth == encode == len(names)
    # The natural gradient measures steps in the image, and for that goes through G alone.
    alone = direction.steps * model.back if isinstance(direction, NaturalGradient) else 0
    assert model.forth == forward - alone - (model.back if alone else 0)
    # Without detail the reconstruction is classified, too, and it was made before.
    assert generator.g.forth == forward - (0 if detail else len(names))
    # A pixel outside the latent space has no way back to z, so every pass that begins is counted.
    assert model.back == backward - alone
    assert alone or generator.g.back == backward


def test_an_image_that_is_already_there_costs_one_pass():
    cf = explain(status_world())
    i = list(STATUS_IMAGES).index("ALREADY")
    assert (cf.passes.encode[i], cf.passes.forward[i], cf.passes.backward[i]) == (1, 1, 0)


@each_direction
@each_target
@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
def test_a_confidence_is_reached_and_not_before(direction, target, p):
    world = linear_world(3, target, confidence=p)
    cf = explain(world.problem, direction)
    assert set(cf.status) == {Status.FLIPPED}
    assert (cf.prob_after > p - 1e-12).all()
    assert (cf.prob_after < p + 0.02).all()
    assert (cf.prob_before < p).all()
    below = world.problem.logits(world.problem.image(cf.alpha, cf.lam_lower)).softmax(1)[:, target]
    assert (below < p + 1e-12).all()
    assert (below > p - 0.02).all()
    assert ((cf.lam / world.optimum) < 1.02).all()


def on_grey(score, *levels: float, detail: bool = True) -> Problem:
    """Images of four pixels of these grey levels; asked for is a score above 0."""
    x = torch.tensor(levels, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    mean = lambda x: score(x).mean((1, 2, 3))  # noqa: E731
    target = torch.ones(len(x), dtype=torch.int64)
    return Problem(Identity(), TwoLogits(mean), Flip(target), x, levels=None, detail=detail)


@each_direction
@pytest.mark.parametrize(
    "f", [torch.sqrt, lambda x: x**0.7, lambda x: x.log() + 1.5], ids=["root", "power", "log"]
)
def test_an_edge_of_f_at_black_is_no_lack_of_a_direction(direction, f):
    """The gradient, or f itself, is infinite at 0; a neighbour in the batch does not notice."""
    cf = explain(on_grey(lambda x: f(x) - 0.6, 0.0, 0.3, 0.0, 0.35), direction)
    assert [s.name for s in cf.status] == ["NOT_FINITE", "FLIPPED"] * 2
    assert torch.equal(cf.x_cf[::2], cf.x[::2])
    assert cf.lam[::2].isnan().all() and (cf.lam_lower[::2] == 0).all()
    assert not cf.moved[::2].any() and not cf.flipped[::2].any()
    clean = explain(on_grey(lambda x: f(x) - 0.6, 0.3, 0.35), direction)
    assert torch.equal(cf.x_cf[1::2], clean.x_cf) and torch.equal(cf.lam[1::2], clean.lam)


@each_direction
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("detail", [True, False], ids=["detail", "no detail"])
def test_an_image_of_which_f_says_no_number(direction, value, detail):
    """An infinite margin is no answer either, whatever its sign."""
    score = lambda x: torch.where(x > 0.5, value, x - 0.4)  # noqa: E731
    cf = explain(on_grey(score, 0.6, 0.3, detail=detail), direction)
    assert [s.name for s in cf.status] == ["NOT_FINITE", "FLIPPED"]
    assert torch.equal(cf.x_cf[0], cf.x[0]) and cf.lam[0].isnan()


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_where_the_search_meets_no_number_a_flip_is_not_ruled_out(value):
    """At 0.5 the margin ends, before the flip of the first and beyond that of the second."""
    score = lambda x, at: torch.where(x > 0.5, value, x - at)  # noqa: E731
    ends = [explain(on_grey(lambda x, at=at: score(x, at), 0.3)) for at in (0.55, 0.45)]
    assert [end.status[0].name for end in ends] == ["NOT_FINITE", "FLIPPED"]
    assert 0.45 < float(ends[1].x_cf.max()) < 0.5


def test_an_infinite_margin_of_the_image_handed_over_is_no_flip():
    score = lambda x: torch.where(x > 0.5, torch.inf, x - 0.8)  # noqa: E731
    says = Says(torch.tensor([0.2]).double(), torch.tensor([0.5]).double())
    cf = explain(on_grey(score, 0.3), Gradient(), says)
    assert cf.status == (Status.NOT_FINITE,)
    assert torch.equal(cf.x_cf, cf.x) and torch.equal(cf.logits_after, cf.logits_before)


def test_a_pair_that_makes_no_number_is_not_finite():
    class Broken(Identity):
        def decode(self, z: Tensor) -> Tensor:
            return torch.where(z > 0.35, torch.nan, z)

    for detail in (True, False):
        problem = on_grey(lambda x: x - 0.32, 0.3, 0.4, detail=detail)
        kept = (problem.classifier, problem.criterion, problem.x)
        cf = explain(Problem(Broken(), *kept, levels=None, detail=detail))
        # The second is there already, and needs no pair.
        assert [s.name for s in cf.status] == ["FLIPPED", "ALREADY"]
        problem = on_grey(lambda x: x - 0.45, 0.3, 0.4, detail=detail)
        cf = explain(Problem(Broken(), problem.classifier, *kept[1:], levels=None, detail=detail))
        assert [s.name for s in cf.status] == ["NOT_FINITE"] * 2


def test_marks_of_one_explanation_do_not_reach_the_next():
    problem = on_grey(torch.sqrt, 0.0, 0.3)
    problem.grad(problem.z)
    assert problem.not_finite.tolist() == [True, False]
    problem.criterion = Flip(torch.tensor([1, 0]))
    assert problem.rows(slice(None)).not_finite.tolist() == [False, False]


@each_target
def test_with_two_classes_one_half_is_the_flip(target):
    flip, half = (linear_world(4, target, confidence=c).problem for c in (None, 0.5))
    torch.testing.assert_close(explain(half).lam, explain(flip).lam, rtol=1e-2, atol=0)


def three_classes(criterion, x: Tensor) -> Problem:
    """Three planes of logits over the pixels of the image itself."""
    w = random(5)(3, 4)
    f = lambda x: 4 * (x.flatten(1) - 0.5) @ w.T  # noqa: E731
    return Problem(Identity(), f, criterion, x, levels=None)


@each_direction
@pytest.mark.parametrize("asked", [0, 1, 2])
def test_three_classes(direction, asked):
    x = 0.5 + 0.1 * random(6)(6, 1, 2, 2).clamp(-2, 2)
    target = torch.full((6,), asked)
    flip, sure = Flip(target), Flip(target, confidence=0.5)
    any_lead = explain(three_classes(flip, x), direction)
    confident = explain(three_classes(sure, x), direction)
    both = explain(three_classes(flip & sure, x), direction)
    moved = any_lead.flipped & confident.flipped
    assert moved.sum() >= 2
    assert (any_lead.logits_after[moved].argmax(1) == asked).all()
    assert (confident.prob_after[moved] > 0.5).all()
    # To be sure implies to lead; so the minimum of both margins asks for no more.
    assert ((both.lam / confident.lam)[moved & both.flipped] - 1).abs().max() < 0.02
    assert both.target.tolist() == target.tolist()


@each_direction
@each_batch
@each_target
def test_a_batch_is_its_rows(direction, batch, target):
    problem = ellipsoid_world(batch, target, 0.1).problem
    together = explain(problem, direction)
    for i, one in enumerate(together):
        part = Problem(
            problem.generator,
            problem.classifier,
            problem.criterion.rows(torch.tensor([i])),
            problem.x[i : i + 1],
            levels=None,
        )
        alone = explain(part, direction)
        assert alone.status == one.status
        for name in ("x", "x_rec", "z", "logits_before", "target"):
            assert torch.equal(getattr(alone, name), getattr(one, name))
        torch.testing.assert_close(alone.alpha, one.alpha, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(alone.lam, one.lam, rtol=1e-2, atol=0)


@each_direction
def test_a_row_does_not_depend_on_its_neighbours(direction):
    names = list(STATUS_IMAGES)
    forward = explain(status_world(names), direction)
    backward = explain(status_world(names[::-1]), direction)
    assert forward.status == backward.status[::-1]
    torch.testing.assert_close(forward.lam, backward.lam.flip(0), equal_nan=True)
    assert torch.equal(forward.x_cf, backward.x_cf.flip(0))


def test_nothing_is_changed_in_place():
    generator, model = status_models()
    x = torch.tensor(list(STATUS_IMAGES.values()), dtype=torch.float64).reshape(-1, 1, 2, 2)
    target = torch.ones(len(x), dtype=torch.int64)
    kept = [t.clone() for t in (x, target, generator.basis, generator.mean)]
    problem = Problem(generator, model, Flip(target), x, levels=None)
    z = problem.z.clone()
    cf = explain(problem)
    assert all(map(torch.equal, kept, (x, target, generator.basis, generator.mean)))
    assert torch.equal(problem.z, z)
    assert cf.x_cf.data_ptr() != x.data_ptr()
    assert not cf.x_cf.requires_grad


@each_direction
def test_a_tie_is_not_there_yet(direction):
    x = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    model = TwoLogits(lambda x: x.mean((1, 2, 3)) - 0.5)
    cf = explain(Problem(Identity(), model, Flip(torch.tensor([1])), x, levels=None), direction)
    assert cf.status == (Status.FLIPPED,)
    assert cf.lam_lower.tolist() == [0]
    assert 0 < cf.lam.item() < 1e-3


@pytest.mark.parametrize("detail", [True, False])
def test_an_empty_batch(detail):
    model = TwoLogits(lambda x: x.mean((1, 2, 3)))
    target = torch.zeros(0, dtype=torch.int64)
    cf = explain(Problem(Identity(), model, Flip(target), torch.zeros(0, 1, 2, 2), detail=detail))
    assert len(cf) == 0
    assert cf.status == ()
    assert cf.x_cf.shape == (0, 1, 2, 2)


def test_the_defaults_are_minimal_norm_and_the_first_crossing():
    world = ellipsoid_world(4, 1, 0.2)
    named = explain(world.problem, MinimalNorm())
    assert torch.equal(explain(ellipsoid_world(4, 1, 0.2).problem).lam, named.lam)


def test_a_direction_that_gives_up_on_some():
    class Half(Direction):
        def __call__(self, problem: Problem) -> Tensor:
            alpha = Gradient()(problem)
            alpha[::2] = 0
            return alpha

    cf = explain(linear_world(4, 1).problem, Half())
    assert [s.name for s in cf.status] == ["NO_DIRECTION", "FLIPPED"] * 2


def test_the_likely_other_class():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, -1.0], [1.0, 1.5, 1.2]])
    assert likely_other(logits).tolist() == [2, 0, 2]
    assert likely_other(logits, torch.tensor([2, 2, 0])).tolist() == [0, 1, 1]


def test_a_target_that_is_no_class_is_refused():
    problem = status_world(["FLIPPED"])
    problem.criterion = Flip(torch.tensor([2]))
    with pytest.raises(ValueError, match=r"^expected targets from 0 to 1, got \[2\]$"):
        explain(problem)


def test_every_status_is_a_sentence():
    for status in Status:
        assert status.value[0].isupper()
        assert status.value.endswith(".")
    assert len({s.value for s in Status}) == len(Status)


def test_a_counterfactual_is_frozen():
    cf = explain(status_world(["FLIPPED"]))
    assert isinstance(replace(cf, meta={"a": 1}), Counterfactual)
    with pytest.raises(AttributeError, match="^cannot assign to field 'lam'$"):
        cf.lam = torch.zeros(1)  # type: ignore[misc]
