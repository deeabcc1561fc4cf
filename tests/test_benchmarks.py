"""The benchmarks' own parts, on the tiny checkpoint."""

import argparse
from importlib import metadata

import pytest
import torch
from ace import ACE
from fastdime import FastDiME, largest
from floor import breakdown
from frontier import locality, pairs
from latent_shift import INSTALL, load, odds
from peers import OURS, PEERS, plane, world
from runs import Counter, directions
from speed import peers
from tiny import checkpoint_folder, images  # noqa: F401

from cfgen import Flip, Gradient, Problem, explain, load_checkpoint
from cfgen.explain import likely_other


@pytest.fixture(scope="module")
def checkpoint(checkpoint_folder):  # noqa: F811
    return load_checkpoint(str(checkpoint_folder))


@pytest.fixture(scope="module")
def x(checkpoint):
    with torch.no_grad():
        z = checkpoint.prior.sample(torch.arange(3) % 2, seed=5, steps=4)
        return checkpoint.generator.decode(z).clamp(0, 1)


def problem(checkpoint, x) -> Problem:
    with torch.no_grad():
        target = likely_other(checkpoint.classifier(x))
    return Problem(checkpoint.generator, checkpoint.classifier, Flip(target), x)


@pytest.mark.parametrize("peer", [FastDiME, ACE])
def test_a_peer_gives_unit_rows_and_each_by_itself(checkpoint, x, peer):
    alpha = peer(checkpoint.prior)(problem(checkpoint, x))
    torch.testing.assert_close(alpha.flatten(1).norm(dim=1), torch.ones(len(x)))
    alone = peer(checkpoint.prior)(problem(checkpoint, x[1:2]))
    torch.testing.assert_close(alone, alpha[1:2], rtol=1e-2, atol=1e-2)


def test_fastdime_is_guided_within_its_mask(checkpoint, x):
    whole, rows = problem(checkpoint, x), torch.arange(len(x))
    # The prior has random weights and goes anywhere; guidance is what goes up from there.
    drift, guided = (FastDiME(checkpoint.prior).chord(whole, rows, scale) for scale in (0.0, 0.1))
    assert (whole.margin(whole.z + guided, rows) > whole.margin(whole.z + drift, rows)).all()
    assert ((guided == 0).all(1).flatten(1).float().mean(1) > 0.69).all()


def test_ace_attacks_through_its_filter(checkpoint, x):
    whole, rows = problem(checkpoint, x), torch.arange(len(x))
    ends = []
    for attack in (0, 15):
        # Everything may change: a mask of its own would make the two ends differ by chance.
        peer = ACE(checkpoint.prior, attack=attack, kept=1.0)
        ends.append(whole.margin(whole.z + peer.chord(whole), rows))
    assert (ends[1] > ends[0]).all()


def test_the_largest_places():
    size = torch.arange(10.0).view(1, 1, 2, 5)
    assert largest(size, 0.3).flatten().tolist() == [0.0] * 7 + [1.0] * 3


def test_the_sigmoid_of_the_odds_is_the_softmax():
    logits = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
    torch.testing.assert_close(odds(lambda x: x)(logits).sigmoid(), logits.softmax(1))


def test_a_missing_peer_is_listed_with_its_command(checkpoint, x, monkeypatch):
    def none(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", none)
    with pytest.raises(ImportError, match=f"^expected latentshift, got none: {INSTALL}$"):
        load()
    args = argparse.Namespace(batch=3, repeats=1)
    told = peers(args, checkpoint, x)
    assert told["missing"] == {"latentshift": INSTALL}
    names = [row["method"] for row in told["rows"]]
    assert names == ["gradient", "gradient, dropped", "minimal_norm", "guided"]
    assert all("seconds" in row for row in told["rows"])


def test_the_floor_counts_the_passes_that_are_made(checkpoint, x):
    cf = explain(problem(checkpoint, x), Gradient())
    told = breakdown(checkpoint, directions(checkpoint)["gradient"], x, 1)
    assert told["passes"]["encode"] == len(x)
    assert told["passes"]["gradient"] == int(cf.passes.backward.sum())
    # A gradient is a forward pass, too; the reconstruction and the first target are decoded and
    # classified besides.
    forward = int((cf.passes.forward - cf.passes.backward).sum())
    assert told["passes"]["classify"] == forward
    assert told["passes"]["decode"] == forward
    total = sum(told["floor"].values()) + sum(told["over the floor"].values())
    assert total == pytest.approx(told["ratio"] * sum(told["floor"].values()), rel=0.02)


def test_patches_change_places_and_halves_are_mirrored():
    plausibility = pytest.importorskip("plausibility")
    x = torch.arange(128.0 * 128).reshape(1, 1, 128, 128)
    y = plausibility.swapped(x)
    assert y.flatten().sort().values.tolist() == x.flatten().tolist()  # nothing is lost
    moved = (x != y)[0, 0]
    assert moved.sum() == 2 * 32 * 32
    assert y[0, 0, 48, 28] == x[0, 0, 79, 68]  # left, top: from the right, bottom
    half = plausibility.mirrored(x)
    assert torch.equal(half, half.flip(3)) and torch.equal(half[..., :64], x[..., :64])


@pytest.mark.parametrize("power", [1.0, 3.0])
def test_uniform_p_values_are_told_from_others(power):
    plausibility = pytest.importorskip("plausibility")
    p = (torch.arange(400) + 0.5) / 400
    p = p[torch.randperm(400, generator=torch.Generator().manual_seed(0))] ** power
    row = plausibility.uniformity(p, [f"p{i % 20}" for i in range(400)])
    assert row["patients"] == 20 and row["slices"] == 400
    assert row["lower"] <= row["p < 0.05"] <= row["upper"]
    if power == 1.0:
        assert row["KS distance"] < 0.01 and row["KS p, one slice a patient (median)"] > 0.2
        assert row["p < 0.05"] == 0.05
    else:
        assert row["KS distance"] > 0.3 and row["KS p, one slice a patient (median)"] < 0.05


def test_pairs_are_compared_on_what_both_flip():
    nan = torch.nan
    each = {
        "gradient": {"LPIPS": torch.tensor([0.2, nan, 0.4, 0.1])},
        "natural_gradient": {"LPIPS": torch.tensor([0.1, 0.9, nan, 0.2])},
        "ACE": {"LPIPS": torch.zeros(4)},
    }
    (row,) = pairs(each, 0.9, ["a", "a", "b", "b"])  # of ACE's pair the other is not there
    assert row == {
        "confidence": 0.9,
        "direction": "natural_gradient",
        "against": "gradient",
        "both flip": 2,
        "LPIPS": 0.15,
        "its LPIPS": 0.15,
        "less LPIPS": 0.5,
        # Drawn with both patients, with the first or with the second one alone.
        "LPIPS - its": {"value": 0.0, "low": -0.1, "high": 0.1},
    }


def test_a_pair_without_a_slice_in_common_has_no_interval():
    nothing = {"AUROC": torch.full((2,), torch.nan)}
    (row,) = pairs({"guided": nothing, "ACE": nothing}, 0.9, ["a", "b"])
    assert row["both flip"] == 0 and row["AUROC"] != row["AUROC"]
    assert "AUROC - its" not in row


def test_locality_is_told_slice_by_slice():
    x, masks = torch.ones(3, 1, 2, 2), torch.zeros(3, 1, 2, 2, dtype=torch.bool)
    x[2, 0, 1] = 0  # background counts for nothing
    masks[1:, 0, 0, 0] = True
    maps = torch.tensor([[1.0, 2, 3, 4], [1, 0, 2, 0], [3, 1, 9, 9]]).view(3, 1, 2, 2)
    auroc, precision = locality(maps, x, masks)
    assert auroc.isnan().tolist() == precision.isnan().tolist() == [True, False, False]
    torch.testing.assert_close(auroc[1:], torch.tensor([2 / 3, 1.0]).double())
    torch.testing.assert_close(precision[1:], torch.tensor([1 / 2, 1.0]).double())


def test_what_is_kept_is_not_measured_again():
    problems, f, optimum = plane(2)
    names = ("minimal_norm, look=0", *PEERS)
    one: dict[str, list[float | None]] = dict.fromkeys(
        ("lam", "claimed", "forward", "backward", "seconds", "time"), [0.1, None]
    )
    told = world(problems, f, None, dict.fromkeys(names, one))
    rows = {row["method"]: row for row in told["rows"]}
    assert rows.keys() == OURS.keys() | PEERS.keys()
    assert all(rows[name]["forward"] == 0.1 for name in names)
    assert rows["minimal_norm"]["backward"] == 3
    assert told["best"][0] == 0.1 and 1 < told["best"][1] / optimum[1] < 1.01
    assert told["each"]["C&W, 9 x 100"] == one


def test_passes_of_a_network_are_counted_both_ways():
    network = torch.nn.Linear(3, 2)
    counter = Counter(network)
    network(torch.randn(5, 3)).sum().backward()
    with torch.no_grad():
        network(torch.randn(4, 3))
        network(torch.ones(4, 3))  # a block filled up with copies of one row
    assert (counter.forward, counter.backward) == (5 + 4 + 1, 5)


def test_passes_of_the_prior_are_counted(checkpoint, x):
    counter = Counter(checkpoint.prior.unet)
    for peer, backward in ((FastDiME, False), (ACE, True)):
        before = counter.forward, counter.backward
        peer(checkpoint.prior)(problem(checkpoint, x))
        assert counter.forward - before[0] >= 3 * len(x)
        assert (counter.backward > before[1]) == backward
