import hashlib
import io
import re
import subprocess
import sys
from importlib.metadata import files
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cfgen.plausibility as plausibility
from cfgen.generators.base import Generator
from cfgen.plausibility import LPIPS, conformal_p_value, round_trip


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
    code = "import sys, cfgen.plausibility, cfgen.classifier, cfgen.generators; print(*sys.modules)"
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
