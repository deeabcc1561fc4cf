import json
import re
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from cfgen import Counterfactual, FirstCrossing, Flip, Hold, Problem, Status, explain
from cfgen.generators import Identity
from tests.cases import each_target
from tests.worlds import STATUS_IMAGES, TwoLogits, linear_world, status_world


def tensors(cf: Counterfactual) -> dict[str, Tensor]:
    return {f.name: v for f in fields(cf) if isinstance(v := getattr(cf, f.name), Tensor)}


@pytest.fixture(params=[True, False], ids=["detail", "no detail"])
def mixed(request) -> Counterfactual:
    """One of each status."""
    return explain(status_world(detail=request.param), search=FirstCrossing(limit=4.0))


def test_a_replay_is_exact(mixed):
    assert torch.equal(mixed.redecode(), mixed.x_cf)
    for i, one in enumerate(mixed):
        assert torch.equal(one.redecode(), mixed.x_cf[i : i + 1])


def test_a_replay_is_exact_in_single_precision():
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(1, 2, 5, padding=2).requires_grad_(False)
    target = 1 - conv((x * 255).round() / 255).mean((2, 3)).argmax(1)
    problem = Problem(Identity(), lambda x: conv(x).mean((2, 3)), Flip(target), x)
    cf = explain(problem)
    assert cf.flipped.any()
    assert torch.equal(cf.redecode(), cf.x_cf)
    assert cf.x_cf.dtype == torch.float32


def test_indexing(mixed):
    assert len(mixed) == len(STATUS_IMAGES)
    assert [one.status for one in mixed] == [(s,) for s in mixed.status]
    last = mixed[-1]
    assert len(last) == 1
    for name, value in tensors(last).items():
        torch.testing.assert_close(value, getattr(mixed, name)[-1:], rtol=0, atol=0, equal_nan=True)
    assert last.passes.forward.tolist() == mixed.passes.forward[-1:].tolist()
    assert last.flipped.tolist() == mixed.flipped[-1:].tolist()
    with pytest.raises(IndexError, match="^range object index out of range$"):
        mixed[len(mixed)]


def test_probabilities_are_those_of_the_target(mixed):
    assert mixed.problem is not None
    for x, p in ((mixed.x, mixed.prob_before), (mixed.x_cf, mixed.prob_after)):
        torch.testing.assert_close(p, mixed.problem.logits(x).softmax(1)[:, 1])


def test_flipped_and_moved(mixed):
    names = [s.name for s in mixed.status]
    assert mixed.flipped.tolist() == [n == "FLIPPED" for n in names]
    moved = [n in ("FLIPPED", "RECONSTRUCTION_FLIPS") for n in names]
    assert mixed.moved.tolist() == moved
    assert (mixed.x_cf != mixed.x).flatten(1).any(1).tolist() == moved


@each_target
@pytest.mark.parametrize("n", [2, 5, 21])
def test_a_sweep_walks_from_x_past_the_flip(target, n):
    cf = explain(linear_world(3, target, levels=255).problem)
    steps, images, probabilities = cf.sweep(n, past=2.0)
    assert steps.shape == (n, 3)
    assert images.shape == (n, *cf.x.shape)
    assert probabilities.shape == (n, 3, 2)
    assert torch.equal(images[0], cf.x)
    assert steps[0].tolist() == [0, 0, 0]
    torch.testing.assert_close(steps[-1], 2 * cf.lam)
    torch.testing.assert_close(steps.diff(dim=0), (2 * cf.lam / (n - 1)).expand(n - 1, 3))
    torch.testing.assert_close(probabilities.sum(2), torch.ones_like(steps))
    p = probabilities[..., target]
    assert (p.diff(dim=0) > 0).all()
    assert torch.equal(p > 0.5, steps >= cf.lam * (1 - 1e-12))
    if n % 2:
        torch.testing.assert_close(images[n // 2], cf.x_cf)


def test_a_walk_tells_which_steps_meet_the_criterion():
    """Further on the held output moves, and what was asked is met no longer."""
    problem = linear_world(3, 1, levels=255).problem
    before = problem.logits(problem.x)
    problem.criterion = problem.criterion & Hold(before, (1,), 0.45)
    cf = explain(problem)
    *swept, met = cf.walk(21, past=4.0)
    for a, b in zip(swept, cf.sweep(21, past=4.0), strict=True):
        assert torch.equal(a, b)
    for images, found in zip(swept[1], met, strict=True):
        logits = problem.logits(images)
        still = (logits[:, 1].sigmoid() - before[:, 1].sigmoid()).abs() < 0.45
        assert torch.equal(found, (logits.argmax(1) == 1) & still)
    assert not bool(met[0].any() | met[-1].any()) and bool(met.any(0).all())
    assert bool((swept[2][-1, :, 1] > 0.5).all())


def test_a_sweep_of_what_was_not_found_ends_where_the_search_did(mixed):
    steps, images, _ = mixed.sweep(3)
    for i, status in enumerate(mixed.status):
        end = {"FLIPPED": 1.5 * mixed.lam[i].item(), "NOT_FOUND": 4.0}.get(status.name, 0.0)
        assert steps[-1, i].item() == pytest.approx(end)
    assert images.isfinite().all()


def test_a_sweep_of_one_step_is_none():
    cf = explain(status_world(["FLIPPED"]))
    with pytest.raises(ValueError, match="^expected n >= 2, got 1$"):
        cf.sweep(1)


def test_sweeps_and_replays_leave_the_cost_alone():
    cf = explain(status_world(["FLIPPED"]))
    before = cf.passes.forward.clone()
    cf.sweep(3)
    cf.redecode()
    assert torch.equal(cf.passes.forward, before)


@pytest.mark.parametrize("i", range(len(STATUS_IMAGES)))
def test_a_case_survives_the_disk(mixed, i, tmp_path):
    one = replace(mixed[i], meta={"seed": 3, "name": "Grüße", "nested": {"a": [1, None]}})
    one.save(tmp_path / "case.npz")
    loaded = Counterfactual.load(tmp_path / "case.npz")
    assert loaded.status == one.status
    assert loaded.meta == one.meta
    assert tensors(loaded).keys() == tensors(one).keys()
    for name, value in tensors(one).items():
        assert getattr(loaded, name).dtype == value.dtype
        torch.testing.assert_close(getattr(loaded, name), value, rtol=0, atol=0, equal_nan=True)
    for f in fields(one.passes):
        assert torch.equal(getattr(loaded.passes, f.name), getattr(one.passes, f.name))


def test_a_loaded_case_replays_exactly(mixed, tmp_path):
    for i, (one, name) in enumerate(zip(mixed, STATUS_IMAGES, strict=True)):
        one.save(tmp_path / f"{i}.npz")
        loaded = Counterfactual.load(tmp_path / f"{i}.npz")
        with_models = loaded.attach(status_world([name], mixed.problem.detail))
        assert torch.equal(with_models.redecode(), one.x_cf)
        for a, b in zip(with_models.sweep(3), one.sweep(3), strict=True):
            assert torch.equal(a, b)


def test_the_file_is_plain_arrays(mixed, tmp_path):
    mixed[0].save(tmp_path / "case.npz")
    with np.load(tmp_path / "case.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert "allow_pickle" not in arrays
    assert all(a.dtype != object for a in arrays.values())
    assert arrays["x_cf"].shape == (1, 2, 2)
    assert str(arrays["status"]) == "FLIPPED"
    assert json.loads(str(arrays["meta"])) == {}


def test_a_batch_is_not_saved(mixed, tmp_path):
    message = f"expected a single counterfactual, got {len(mixed)}"
    with pytest.raises(ValueError, match=f"^{message}$"):
        mixed.save(tmp_path / "case.npz")
    assert not list(tmp_path.iterdir())


def test_without_models_there_is_no_replay(mixed):
    message = "expected a counterfactual with its models, call attach(problem) first"
    for method in ("redecode", "sweep"):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            getattr(replace(mixed, problem=None), method)()


@pytest.mark.parametrize("names", [["ALREADY"], ["FLIPPED", "FLIPPED"]])
def test_other_images_are_not_attached(names):
    cf = explain(status_world(["FLIPPED"]))
    with pytest.raises(
        ValueError, match="^expected a problem on the same images x, got other images$"
    ):
        cf.attach(status_world(names))


def test_float32_arrays_for_the_readers_of_a_case(tmp_path):
    x = torch.full((1, 1, 2, 2), 0.5)
    model = TwoLogits(lambda x: x.mean((1, 2, 3)) - 0.55)
    explain(Problem(Identity(), model, Flip(torch.tensor([1])), x))[0].save(tmp_path / "case.npz")
    with np.load(tmp_path / "case.npz") as file:
        for name in ("x", "x_rec", "x_cf"):
            assert file[name].dtype == np.float32
            assert file[name].shape == (1, 2, 2)
            assert 0 <= file[name].min() <= file[name].max() <= 1


def test_a_result_with_gradients_is_saved_without_them(tmp_path):
    cf = explain(status_world(["FLIPPED"]))
    grown = replace(cf, x=cf.x.clone().requires_grad_(), z=cf.z.clone().requires_grad_())
    for name, one in (("plain", cf), ("grown", grown)):
        one.save(tmp_path / f"{name}.npz")
    plain, again = (Counterfactual.load(tmp_path / f"{n}.npz") for n in ("plain", "grown"))
    assert torch.equal(plain.x, again.x) and torch.equal(plain.z, again.z)


def test_images_with_gradients_are_explained_without_them(tmp_path):
    x = torch.full((1, 1, 2, 2), 0.5).requires_grad_()
    model = TwoLogits(lambda x: x.mean((1, 2, 3)) - 0.55)
    cf = explain(Problem(Identity(), model, Flip(torch.tensor([1])), x))
    assert cf.status == (Status.FLIPPED,) and x.grad is None
    assert not any(t.requires_grad for t in vars(cf).values() if isinstance(t, torch.Tensor))


def test_an_empty_batch_is_made_again():
    target = torch.zeros(0, dtype=torch.int64)
    model = TwoLogits(lambda x: x.mean((1, 2, 3)))
    cf = explain(Problem(Identity(), model, Flip(target), torch.zeros(0, 1, 2, 2)))
    assert cf.redecode().shape == (0, 1, 2, 2)
    assert cf.flipped.dtype == cf.moved.dtype == torch.bool
    assert cf.walk(3)[3].shape == (3, 0)


def test_only_what_was_made_has_moved():
    """Every status, those of files that were never explained too."""
    cf = explain(status_world(["FLIPPED"]))
    for status in Status:
        one = replace(cf, status=(status,))
        assert one.flipped.tolist() == [status is Status.FLIPPED]
        assert one.moved.tolist() == [status in (Status.FLIPPED, Status.RECONSTRUCTION_FLIPS)]
        made = one.redecode()
        assert torch.equal(made, one.x_cf if one.moved.item() else one.x)
