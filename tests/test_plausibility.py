import hashlib
import io
import re
import subprocess
import sys
from importlib.metadata import files
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kstest
from torch import Tensor, nn

import cfgen.plausibility.lpips as plausibility
from cfgen.generators.base import Generator
from cfgen.plausibility import (
    LPIPS,
    Plausibility,
    Reference,
    conformal_p_value,
    false_discovery_rate,
    nearest,
    round_trip,
    sketch,
)
from cfgen.plausibility.conformal import measure
from cfgen.plausibility.sketch import project


def st_alex_file() -> Path:
    wheel = files("stlpips-pytorch") or ()
    return Path(str(next(f for f in wheel if f.name == "alex_shift_tolerant.pth").locate()))


@pytest.fixture(scope="module")
def lpips():
    return LPIPS()


def images(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def slow_st_alex(a: Tensor, b: Tensor) -> Tensor:
    """Shift-tolerant LPIPS written out, of one RGB pair (3, H, W) in float64."""
    w = torch.load(st_alex_file(), weights_only=True, map_location="cpu")
    w = {key: value.double() for key, value in w.items()}

    def conv(x, slice_, index, padding):
        key = f"net.slice{slice_}.{index}"
        return F.conv2d(x, w[f"{key}.weight"], w[f"{key}.bias"], padding=padding)

    def blur(x):
        x = F.pad(x, (2, 2, 2, 2), mode="reflect")
        x = (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4
        x = (x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]) / 4
        return x[..., ::2, ::2]

    def maps(x):
        x = (x[None] * 2 - 1 - w["scaling_layer.shift"]) / w["scaling_layer.scale"]
        x = F.relu(blur(conv(x, 1, 0, 2)))
        yield x
        x = F.relu(conv(blur(F.max_pool2d(x, 3, 1)), 2, 5, 2))
        yield x
        x = F.relu(conv(blur(F.max_pool2d(x, 3, 1)), 3, 9, 1))
        yield x
        x = F.relu(conv(x, 4, 11, 1))
        yield x
        yield F.relu(conv(x, 5, 13, 1))

    total = torch.zeros((), dtype=torch.float64)
    for i, (p, q) in enumerate(zip(maps(a), maps(b), strict=True)):
        p, q = p / (p.norm(dim=1) + 1e-10), q / (q.norm(dim=1) + 1e-10)
        total = total + (w[f"lin{i}.model.1.weight"] * (p - q) ** 2).sum(1).mean()
    return total


@pytest.mark.parametrize("shape", [(2, 3, 28, 28), (2, 3, 41, 64)])
def test_st_alex_is_what_the_paper_says(shape):
    a, b = images(0, *shape).double(), images(1, *shape).double()
    expected = torch.stack([slow_st_alex(p, q) for p, q in zip(a, b, strict=True)])
    torch.testing.assert_close(LPIPS().double()(a, b), expected, rtol=1e-10, atol=0)


def test_is_a_distance_that_forgives_a_shift(lpips):
    wave = torch.linspace(0, 12, 65).sin() / 2 + 0.5
    picture = torch.outer(wave, wave)[None, None]
    a, shifted = picture[..., :64, :64], picture[..., :64, 1:]
    noisy = (a + 0.2 * images(0, 1, 1, 64, 64)).clamp(0, 1)
    assert lpips(a, a).item() == 0
    assert lpips(a, noisy) == lpips(noisy, a)
    assert 0 < 5 * lpips(a, shifted) < lpips(a, noisy)


def test_grey_is_repeated_and_a_batch_is_its_rows(lpips):
    a, b = images(0, 3, 1, 32, 40), images(1, 3, 1, 32, 40)
    out = lpips(a, b)
    assert out.shape == (3,)
    rows = torch.cat([lpips(a[i : i + 1], b[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(out, rows)
    torch.testing.assert_close(out, lpips(a.repeat(1, 3, 1, 1), b.repeat(1, 3, 1, 1)))
    assert lpips(a[:0], b[:0]).shape == (0,)


def test_is_differentiable_in_both_arguments():
    lpips = LPIPS().double()
    pair = [(images(s, 1, 1, 28, 28).double() * 0.8 + 0.1).requires_grad_() for s in (0, 1)]
    for i in (0, 1):
        (grad,) = torch.autograd.grad(lpips(*pair).sum(), pair[i])
        ends = []
        for sign in (1, -1):
            moved = [x.detach() for x in pair]
            moved[i] = moved[i] + sign * 1e-6 * grad / grad.norm()
            ends.append(lpips(*moved))
        slope = (ends[0] - ends[1]).item() / 2e-6
        assert slope == pytest.approx(grad.norm().item(), rel=1e-5)


def test_stays_frozen_and_in_eval_mode(lpips):
    nn.Sequential(lpips).train()
    assert not any(module.training for module in lpips.modules())
    assert not any(p.requires_grad for p in lpips.parameters())


def test_leaves_a_record_and_the_random_state_alone():
    state = torch.random.get_rng_state()
    lpips = LPIPS("st-alex")
    assert torch.equal(state, torch.random.get_rng_state())
    assert lpips.trunk == "st-alex"
    assert lpips.hash == hashlib.sha256(st_alex_file().read_bytes()).hexdigest()


def test_heavy_packages_are_imported_late():
    code = "import sys, cfgen.plausibility, cfgen.classifiers; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"lpips", "diffusers", "timm", "torchvision"}.isdisjoint(run.stdout.split())


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (
            torch.zeros(2, 2, 32, 32),
            torch.zeros(2, 2, 32, 32),
            "expected images of shape (B, 1, H, W) or (B, 3, H, W), got (2, 2, 32, 32)",
        ),
        (
            torch.zeros(1, 32, 32),
            torch.zeros(1, 32, 32),
            "expected images of shape (B, 1, H, W) or (B, 3, H, W), got (1, 32, 32)",
        ),
        (
            torch.zeros(2, 1, 32, 32),
            torch.zeros(1, 1, 32, 32),
            "expected two batches of one shape, got (2, 1, 32, 32) and (1, 1, 32, 32)",
        ),
        (
            torch.zeros(1, 1, 27, 32),
            torch.zeros(1, 1, 27, 32),
            "expected sides of at least 28 px, got 27 x 32",
        ),
        (
            torch.full((1, 1, 28, 28), -1.0),
            torch.ones(1, 1, 28, 28),
            "expected values in [0, 1], got [-1, -1]",
        ),
        (
            torch.full((1, 1, 28, 28), -0.0002),
            torch.zeros(1, 1, 28, 28),
            "expected values in [0, 1], got [-0.0002, -0.0002]",
        ),
        (
            torch.zeros(1, 1, 28, 28),
            torch.full((1, 1, 28, 28), 1.001),
            "expected values in [0, 1], got [1.001, 1.001]",
        ),
        (
            torch.zeros(1, 1, 28, 28),
            torch.full((1, 1, 28, 28), torch.nan),
            "expected values in [0, 1], got [nan, nan]",
        ),
    ],
)
def test_what_is_no_pair_of_images_is_refused(lpips, a, b, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        lpips(a, b)


def test_rounding_beyond_the_range_is_allowed(lpips):
    a, b = torch.full((1, 1, 28, 28), -5e-5), torch.full((1, 1, 28, 28), 1 + 5e-5)
    assert lpips(a, b) > 0


def test_unknown_trunk():
    message = "expected a trunk of st-alex, alex, vgg, squeeze, got 'alexnet'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LPIPS("alexnet")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


@pytest.mark.parametrize(
    ("trunk", "name"),
    [
        ("alex", "alexnet-owt-7be5be79.pth"),
        ("vgg", "vgg16-397923af.pth"),
        ("squeeze", "squeezenet1_1-b8a52dc0.pth"),
    ],
)
def test_a_missing_trunk_is_never_replaced_by_a_random_one(hub, trunk, name):
    message = (
        f"expected {name} in {hub}, got none "
        "(download=True fetches it, LPIPS('st-alex') works offline)"
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        LPIPS(trunk)


def test_a_damaged_trunk_is_refused(hub):
    hub.mkdir()
    file = hub / "alexnet-owt-7be5be79.pth"
    torch.save({}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    message = f"expected {file.name} with a sha256 that begins 7be5be79, got {digest}"
    with pytest.raises(ValueError, match=f"^{message}$"):
        LPIPS("alex")


def test_the_original_equals_the_package_lpips(hub, monkeypatch):
    """With a small trunk that stands in for the download; the cache is where it is found."""
    import lpips as package
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.squeezenet1_1(weights=None)

    def download(url, file, progress):
        assert url == "https://download.pytorch.org/models/" + name
        Path(file).write_bytes(weights)

    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    weights = buffer.getvalue()
    name = f"squeeze-{hashlib.sha256(weights).hexdigest()[:8]}.pth"
    monkeypatch.setitem(plausibility._HUB_FILES, "squeeze", name)
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    ours = LPIPS("squeeze", download=True)
    assert re.fullmatch(r"[0-9a-f]{64}\+[0-9a-f]{64}", ours.hash)

    with monkeypatch.context() as patch:
        patch.setattr(torchvision.models, "squeezenet1_1", lambda pretrained: model)
        theirs = package.LPIPS(net="squeeze", verbose=False)
    a, b = images(0, 2, 3, 32, 32), images(1, 2, 3, 32, 32)
    expected = theirs(a, b, normalize=True).flatten()
    torch.testing.assert_close(LPIPS("squeeze")(a, b), expected)
    torch.testing.assert_close(ours(a, b), expected)


@pytest.mark.parametrize("trunk", ["alex", "vgg", "squeeze"])
def test_the_smallest_side_reaches_the_last_map(trunk):
    net = plausibility._skeleton(trunk).to("meta")
    side = plausibility._SMALLEST_SIDE[trunk]
    x = torch.zeros(1, 3, side, side, device="meta")
    assert net(x, x).shape == (1, 1, 1, 1)
    if trunk == "alex":
        with pytest.raises(RuntimeError, match="Output size is too small"):
            net(x[..., 1:, 1:], x[..., 1:, 1:])


def test_round_trip_is_zero_on_what_the_pair_can_make(lpips):
    class Dim(Generator):
        def encode(self, x):
            return x * 2

        def decode(self, z):
            return z * (2 / 3)

    x = torch.cat([torch.zeros(1, 1, 32, 32), torch.ones(1, 1, 32, 32), images(0, 1, 1, 32, 32)])
    score = round_trip(lpips, Dim(), x)
    assert score.shape == (3,)
    assert score[:2].tolist() == [0, 0]
    torch.testing.assert_close(score[2:], lpips(x[2:], (x[2:] * 4 / 3).clamp(max=1)))


def test_p_value_counts():
    calibration = torch.tensor([1.0, 2.0, 3.0, 3.0], dtype=torch.float64)
    score = torch.tensor([0.0, 1.0, 2.5, 3.0, 9.0, torch.nan], dtype=torch.float64)
    p = conformal_p_value(score, calibration)
    assert p[:-1].tolist() == [1.0, 1.0, 3 / 5, 3 / 5, 1 / 5]
    assert p[-1].isnan()


def test_p_value_is_valid_for_exchangeable_scores():
    """Each of n + 1 scores is equally often the stranger: P(p <= k / (n + 1)) = k / (n + 1)."""
    scores = images(0, 20).double()
    p = torch.cat(
        [
            conformal_p_value(scores[i : i + 1], torch.cat([scores[:i], scores[i + 1 :]]))
            for i in range(20)
        ]
    )
    torch.testing.assert_close(p.sort().values, torch.arange(1, 21).double() / 20)


@pytest.mark.parametrize(
    ("score", "calibration", "message"),
    [
        (
            torch.zeros(2),
            torch.zeros(0),
            "expected score of shape (B,) and calibration of shape (n,) with n > 0, "
            "got (2,) and (0,)",
        ),
        (
            torch.zeros(2, 1),
            torch.zeros(3),
            "expected score of shape (B,) and calibration of shape (n,) with n > 0, "
            "got (2, 1) and (3,)",
        ),
        (
            torch.zeros(2),
            torch.tensor([1.0, torch.nan]),
            "expected calibration without NaN, got 1 NaN",
        ),
    ],
)
def test_p_value_refuses(score, calibration, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        conformal_p_value(score, calibration)


def between(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return torch.stack([(p - q).square().sum(1) for p, q in zip(a, b, strict=True)]).sum(0)


def test_features_are_vectors_whose_squared_distance_is_lpips():
    """Against the module lpips itself, in float64."""
    lpips = LPIPS().double()
    a, b = (images(seed, 3, 1, 32, 40).double() for seed in (0, 1))
    with torch.no_grad():
        theirs = lpips.net(*(x.expand(-1, 3, -1, -1) * 2 - 1 for x in (a, b))).flatten()
    torch.testing.assert_close(
        between(lpips.features(a), lpips.features(b)), theirs, rtol=1e-9, atol=0
    )


def test_features_refuse_what_is_no_image(lpips):
    message = "expected images of shape (B, 1, H, W) or (B, 3, H, W), got (1, 2, 32, 32)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        lpips.features(torch.zeros(1, 2, 32, 32))


def test_sketch_is_a_matrix_with_one_sign_in_every_column():
    s = project([torch.eye(50), torch.zeros(50, 3)], width=8, seed=3)
    assert s.shape == (50, 8)
    assert s.abs().sum(1).tolist() == [1.0] * 50
    assert (s != 0).sum(1).tolist() == [1] * 50
    assert set(s.unique().tolist()) == {-1.0, 0.0, 1.0}
    other = project([torch.zeros(50, 3), torch.eye(50)], width=8, seed=3)
    assert not torch.equal(s, other)  # each layer has its own


def test_sketch_is_the_same_on_every_machine():
    """The first draws of PCG64([0, 0]), reduced with integers of Python."""
    raw = [int(v) for v in np.random.PCG64([0, 0]).random_raw(5)]
    expected = torch.zeros(16, dtype=torch.float64)
    for i, v in enumerate(raw):
        expected[v % 16] += (1 if v >= 2**63 else -1) * (i + 1)
    found = project([torch.arange(1, 6, dtype=torch.float64)[None]], width=16, seed=0)
    assert found[0].tolist() == expected.tolist()


def test_sketch_is_unbiased_and_its_error_shrinks_with_the_width():
    phi = [images(0, 2, 3000).double() - 0.5, images(1, 2, 700).double()]
    exact = sum((p[0] - p[1]).square().sum() for p in phi)
    spread = []
    for width in (32, 128, 512):
        found = torch.stack(
            [
                (s[0] - s[1]).square().sum() / exact
                for s in (project(phi, width, seed) for seed in range(200))
            ]
        )
        bound = (2 / width) ** 0.5
        assert abs(float(found.mean()) - 1) < 4 * bound / 200**0.5
        assert 0.75 * bound < float(found.std()) < 1.25 * bound
        spread.append(float(found.std()))
    assert spread == sorted(spread, reverse=True)


def test_sketch_of_images(lpips):
    x = images(0, 3, 1, 32, 32)
    torch.testing.assert_close(sketch(lpips, x, 64, 5), project(lpips.features(x), 64, 5))
    assert sketch(lpips, x).shape == (3, 512)
    message = "expected a width of at least 1, got 0"
    with pytest.raises(ValueError, match=f"^{message}$"):
        sketch(lpips, x, 0)


def test_nearest_is_the_smallest_distance():
    a, r = images(0, 4, 6).double(), images(1, 5, 6).double()
    slow = torch.stack([min((s - t).square().sum() for t in r) for s in a])
    torch.testing.assert_close(nearest(a, r), slow)
    apart = torch.ones(4, 5, dtype=torch.bool)
    apart[0, 1:], apart[1] = False, False
    found = nearest(a, r, apart)
    torch.testing.assert_close(found[0], (a[0] - r[0]).square().sum())
    assert found[1].isinf()
    assert nearest(a, a).tolist() == [1e-6] * 4


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            torch.zeros(3, 5),
            "expected sketches of shapes (B, width) and (n, width), got (2, 4) and (3, 5)",
        ),
        (torch.zeros(0, 4), "expected a reference of at least one sketch, got none"),
    ],
)
def test_nearest_refuses(reference, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        nearest(torch.zeros(2, 4), reference)


def drawn(seed: int, n: int) -> tuple[Tensor, Tensor]:
    """Round trips (n,) and sketches (n, 8) of n simulated images."""
    normal = torch.randn(n, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (normal[:, 0] * 0.3 - 2).exp(), normal[:, 1:]


def fitted(n: int = 60) -> Reference:
    trips, sketches = drawn(0, n)
    patients = [f"p{i % 6}" for i in range(n)]
    return Reference.fit(sketches, trips, patients, (32, 32))


def test_reference_whitens_the_logs_of_images_of_other_patients():
    trips, sketches = drawn(0, 60)
    reference = fitted()
    stored = sketches.half().double()
    b = torch.stack(
        [
            min((s - t).square().sum() for j, t in enumerate(stored) if j % 6 != i % 6)
            for i, s in enumerate(sketches)
        ]
    )
    logs = torch.stack([trips, b], 1).log()
    u = (logs - reference.mean) @ reference.whiten.T
    torch.testing.assert_close(u.mean(0), torch.zeros(2).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(torch.cov(u.T), torch.eye(2).double(), atol=1e-9, rtol=0)
    assert reference.sketches.dtype == torch.float16


def test_score_blames_a_round_trip_both_ways_and_a_distance_only_upwards():
    reference = fitted()
    a = float(reference.mean[0].exp())
    at = reference.sketches[:1].double()
    near = reference.score(torch.tensor([a, a * 3, a / 3]).double(), at.expand(3, -1))
    assert near[0] == pytest.approx(0, abs=1e-9)
    assert near[1] > 5 and near[2] > 5
    far = reference.score(torch.tensor([a, a]).double(), torch.cat([at, at + 9]))
    assert far[0] == pytest.approx(0, abs=1e-9) and far[1] > 5


def test_a_round_trip_without_a_difference_counts_as_the_smallest():
    """Its logarithm would be infinite; 1e-6 and less are rounding."""
    reference = fitted()
    at = reference.sketches[:1].double().expand(3, -1)
    score = reference.score(torch.tensor([0.0, 1e-7, 1e-6], dtype=torch.float64), at)
    assert score.isfinite().all() and score[0] == score[1] == score[2]
    assert reference.score(torch.tensor([1e-5], dtype=torch.float64), at[:1]) < score[:1]


def test_shift_tolerant_weights_that_were_changed_are_refused(tmp_path, monkeypatch):
    weights = torch.load(st_alex_file(), weights_only=True, map_location="cpu")
    file = tmp_path / "alex_shift_tolerant.pth"
    torch.save(weights, file)

    class Found:
        name = file.name

        def locate(self) -> Path:
            return file

    monkeypatch.setattr(plausibility, "files", lambda _: [Found()])
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    message = (
        "expected alex_shift_tolerant.pth with sha256 "
        f"b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee, got {digest}"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        LPIPS()
    monkeypatch.setattr(plausibility, "files", lambda _: None)
    message = "expected alex_shift_tolerant.pth in the wheel of stlpips-pytorch, got none"
    with pytest.raises(FileNotFoundError, match=f"^{message}$"):
        LPIPS()


@pytest.mark.parametrize("patients", [["p", "p", "p"], ["p", "q"]])
def test_reference_refuses_too_little(patients):
    n = len(patients)
    trips, sketches = drawn(0, n)
    message = f"expected at least 3 images of 2 patients, got {n} of {len(set(patients))}"
    with pytest.raises(ValueError, match=f"^{message}$"):
        Reference.fit(sketches, trips, patients, (32, 32))


def test_p_values_are_uniform_and_small_for_the_strange():
    """Reference, calibration and test apart, as train, val and test are."""
    reference = fitted()
    calibration = reference.score(*drawn(1, 999))
    p = conformal_p_value(reference.score(*drawn(2, 2000)), calibration)
    # The 1 % point of the distance of two samples: the calibration is one too.
    assert kstest(p, "uniform").statistic < 1.63 * (1 / 999 + 1 / 2000) ** 0.5
    trips, sketches = drawn(3, 500)
    strange = conformal_p_value(reference.score(trips * 3, sketches), calibration)
    assert (strange < 0.05).double().mean() > 0.8


def test_a_reference_may_calibrate_itself_apart_from_each_own_patient():
    """Slices of one patient are alike; a new patient's meet nobody of his own."""

    def slices(seed: int) -> tuple[Tensor, Tensor]:
        trips, sketches = drawn(seed, 1000)
        return trips, sketches[:100].repeat_interleave(10, 0) + 0.1 * sketches

    trips, sketches = slices(0)
    whose = torch.arange(100).repeat_interleave(10)
    reference = Reference.fit(sketches, trips, [str(i) for i in whose.tolist()], (32, 32))
    apart = reference.score(trips, sketches, whose[:, None] != whose)
    new = reference.score(*slices(1))
    p = conformal_p_value(new, apart)
    assert kstest(p, "uniform").statistic < 0.1 and (p < 0.05).double().mean() < 0.08
    met = conformal_p_value(new, reference.score(trips, sketches))
    assert kstest(met, "uniform").statistic > 0.15


class Half(Generator):
    def encode(self, x):
        return x / 2

    def decode(self, z):
        return z


def test_plausibility_goes_by_reference_and_class(lpips, tmp_path):
    x = images(0, 6, 1, 32, 32)
    trips, sketches = measure(lpips, Half(), x, 16, 7)
    torch.testing.assert_close(trips, round_trip(lpips, Half(), x))
    torch.testing.assert_close(sketches, sketch(lpips, x, 16, 7))
    reference = Reference.fit(sketches, trips, list("aabbcc"), (32, 32), seed=7)
    calibration = {"dark": torch.tensor([0.0, 1.0, 2.0]), "bright": torch.tensor([0.5])}
    reference.save(tmp_path / "p", calibration, {"autoencoder/a.safetensors": "12"})
    loaded, scores = Reference.load(tmp_path / "p", {"autoencoder/a.safetensors": "12"})
    assert scores.keys() == calibration.keys()
    judge = Plausibility(lpips, Half(), scores, loaded)
    y = images(1, 3, 1, 32, 32)
    classes = ["bright", "none", "dark"]
    found, p = judge.score(y, classes), judge(y, classes)
    a, s = measure(lpips, Half(), y, 16, 7)
    expected = reference.score(a, s)  # of the same batch, on which the last bits depend
    for i, name in ((0, "bright"), (2, "dark")):
        torch.testing.assert_close(found[i], expected[i])
        torch.testing.assert_close(p[i : i + 1], conformal_p_value(found[i : i + 1], scores[name]))
    assert found[1].isnan() and p[1].isnan()

    message = "expected images of 32 x 32 px, got 32 x 40"
    with pytest.raises(ValueError, match=f"^{message}$"):
        judge(images(0, 1, 1, 32, 40), ["dark"])
    with pytest.raises(ValueError, match="^expected 3 classes, got 1$"):
        judge(y, ["dark"])
    message = (
        "expected autoencoder/a.safetensors with sha256 12, for which p was measured, "
        "got 13 (python -m cfgen.training.plausibility renews it)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Reference.load(tmp_path / "p", {"autoencoder/a.safetensors": "13"})
    with pytest.raises(ValueError, match=f"^{re.escape(message.replace('13', 'None'))}$"):
        Reference.load(tmp_path / "p", {"oracle/a.safetensors": "12"})
    with pytest.raises(ValueError, match=f"^{re.escape(message.replace('got 13', 'got None'))}$"):
        Reference.load(tmp_path / "p", {"autoencoder/b.safetensors": "12"})


@pytest.mark.parametrize("said", [{}, {"a.safetensors": None}, {"a.safetensors": ""}])
@pytest.mark.parametrize("there", [{}, {"a.safetensors": ""}, {"a.safetensors": "12"}])
def test_a_hash_that_is_missing_is_no_match(said, there, tmp_path):
    normal = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    reference = Reference.fit(normal, normal[:, 0].exp(), list("aabbcc"), (32, 32))
    reference.save(tmp_path / "p", {}, said)
    message = (
        "expected the sha256 of the generator's weights in p/config.json, got none "
        "(python -m cfgen.training.plausibility renews it)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Reference.load(tmp_path / "p", there)


def test_without_a_reference_the_round_trip_alone_is_the_score(lpips):
    x, calibration = images(0, 2, 1, 32, 40), {"dark": torch.tensor([0.0, 9.0])}
    judge = Plausibility(lpips, Half(), calibration)
    expected = round_trip(lpips, Half(), x)
    torch.testing.assert_close(judge.score(x, ["dark"] * 2), expected)
    torch.testing.assert_close(judge(x, ["dark"] * 2), torch.tensor([2 / 3, 2 / 3]))
    assert Plausibility(lpips, Half())(x, ["dark"] * 2).isnan().all()


def test_false_discovery_rate_equals_a_slow_twin():
    """q of each is the least rate m p(k) / k over the ranks k at or above its own."""
    p = [0.03, 0.5, float("nan"), 0.001, 0.03, 1.0]
    told = sorted(v for v in p if v == v)
    m = len(told)
    for value, q in zip(p, false_discovery_rate(p), strict=True):
        if value != value:
            assert q != q
            continue
        rates = [m * told[k - 1] / k for k in range(1, m + 1) if told[k - 1] >= value]
        assert q == pytest.approx(min(1.0, *rates))
    assert false_discovery_rate([]) == []
    with pytest.raises(ValueError, match=r"^expected p-values in \[0, 1\], got 1.5$"):
        false_discovery_rate([0.5, 1.5])
