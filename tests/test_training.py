"""The training scripts: their parts in closed form, and each script once for a step or two."""

import json
import math
import random
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from diffusers import AutoencoderKL, UNet2DModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from cfgen.checkpoints import load_checkpoint
from cfgen.classifiers.evidence import EvidenceNet
from cfgen.classifiers.files import load_classifier
from cfgen.generators import Autoencoder, Pair
from cfgen.plausibility import LPIPS, Reference
from cfgen.plausibility.conformal import measure
from cfgen.priors import LatentFlow
from cfgen.training import autoencoder, card, classifier, plausibility, prior, segmenter
from cfgen.training.common import (
    Log,
    augment,
    cosine,
    load_masks,
    load_split,
    parser,
    relight,
    seed_all,
)
from cfgen.training.lesions import Slices, brightness, cut, donors, grow, made, mirrored, replace

BRAIN = Path(__file__).parents[1] / "checkpoints" / "brain-flair"
SIDE = 64
checkpoint_folder = tiny.checkpoint_folder


def write_slices(folder: Path, side: int = SIDE, train: int = 12, val: int = 8) -> Path:
    """A labelled folder: in each split healthy and ill slices by turns, two of each patient."""
    rng = np.random.default_rng(0)
    lines = ["file,label,split,patient,mask"]
    for split, number in (("train", train), ("val", val), ("test", 4)):
        for i in range(number):
            ill = i % 2
            pixels = rng.integers(60, 90, (side, side), dtype=np.uint8)
            mask = np.zeros_like(pixels)
            if ill:
                mask[side // 3 : side // 2, side // 2 : 2 * side // 3] = 255
                pixels[mask > 0] = 160 + 8 * i
            name = f"{split}-{i}.png"
            Image.fromarray(pixels).save(folder / name)
            Image.fromarray(mask).save(folder / f"mask-{name}")
            label = "tumour" if ill else "healthy"
            told = f"mask-{name}" if ill else ""
            lines.append(f"{name},{label},{split},{split}{i // 2},{told}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_slices(tmp_path_factory.mktemp("slices"))


# --- common -----------------------------------------------------------------------------------


def test_the_options_begin_as_the_script_says():
    p = parser("First line.\nSecond.", steps=7, batch_size=3, lr=0.25)
    args = p.parse_args(["--data", "d", "--out", "o"])
    assert vars(args) == {
        "data": Path("d"),
        "out": Path("o"),
        "steps": 7,
        "batch_size": 3,
        "lr": 0.25,
        "seed": 0,
        "every": 250,
    }
    assert p.description == "First line."


def test_one_seed_is_for_python_and_torch():
    drawn = []
    for seed in (1, 1, 2):
        seed_all(seed)
        drawn.append((random.random(), float(torch.rand(()))))
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[2][0] and drawn[0][1] != drawn[2][1]


def test_a_split_is_its_rows_in_order(data):
    images, labels, patients = load_split(data, "val")
    assert images.dtype == torch.uint8 and images.shape == (8, 1, SIDE, SIDE)
    assert labels.tolist() == [0, 1] * 4
    assert patients == ["val0", "val0", "val1", "val1", "val2", "val2", "val3", "val3"]
    third = np.asarray(Image.open(data / "val-3.png"))
    assert torch.equal(images[3, 0], torch.from_numpy(third.copy()))
    assert load_split(data, "val", ("tumour", "healthy"))[1].tolist() == [1, 0] * 4


def test_masks_are_empty_where_a_slice_has_none(data):
    masks = load_masks(data, "val")
    assert masks.dtype == torch.uint8 and masks.shape == (8, 1, SIDE, SIDE)
    assert not masks[::2].any()
    expected = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    expected[21:32, 32:42] = 255
    assert all(torch.equal(mask[0], expected) for mask in masks[1::2])


def spots(x: Tensor) -> Tensor:
    """Centres (B, 2) of one spot in images, in half widths from the middle: column and row."""
    at = torch.linspace(-1, 1, 2 * x.shape[-1] + 1)[1::2]
    total = x.sum((1, 2, 3))
    columns, rows = (x.sum((1, 2)) * at).sum(1) / total, (x.sum((1, 3)) * at).sum(1) / total
    return torch.stack([columns, rows], 1)


def spot(column: float, row: float, n: int = 300) -> Tensor:
    """Images (n, 1, 64, 64) with a small bright spot there."""
    at = torch.linspace(-1, 1, 129)[1::2]
    one = (-((at - row)[:, None] ** 2 + (at - column) ** 2) / 0.005).exp()
    return one.expand(n, 1, -1, -1)


def test_augmentation_turns_scales_and_shifts_as_far_as_it_is_told():
    torch.manual_seed(0)
    x = spot(0.5, 0.0)
    still = augment(x, degrees=0, scale=0, shift=0)
    left = spots(still)[:, 0] < 0
    assert 100 < left.sum() < 200  # mirrored, half of them
    torch.testing.assert_close(still[~left], x[~left], atol=1e-5, rtol=0)
    torch.testing.assert_close(still[left], x[left].flip(-1), atol=1e-5, rtol=0)

    c = spots(augment(x, degrees=20, scale=0, shift=0))
    torch.testing.assert_close(c.norm(dim=1), torch.full((300,), 0.5), atol=2e-3, rtol=0)
    turn = torch.rad2deg(torch.atan2(c[:, 1], c[:, 0].abs()))
    assert 18 < turn.max() < 20.1 and -20.1 < turn.min() < -18

    r = spots(augment(x, degrees=0, scale=0.2, shift=0)).norm(dim=1)
    assert 0.5 / 1.2 - 2e-3 < r.min() < 0.43 and 0.6 < r.max() < 0.5 / 0.8 + 2e-3

    moved = spots(augment(spot(0, 0), degrees=0, scale=0, shift=0.1))
    for axis in moved.T:
        assert 0.09 < axis.max() < 0.101 and -0.101 < axis.min() < -0.09
    # Nothing is stretched or sheared: two spots at right angles stay so.
    torch.manual_seed(1)
    a = spots(augment(spot(0.5, 0, 50), degrees=20, scale=0.2, shift=0))
    torch.manual_seed(1)
    b = spots(augment(spot(0, 0.5, 50), degrees=20, scale=0.2, shift=0))
    torch.testing.assert_close(a.norm(dim=1), b.norm(dim=1), atol=3e-3, rtol=0)
    torch.testing.assert_close((a * b).sum(1), torch.zeros(50), atol=3e-3, rtol=0)


def test_relighting_changes_gain_and_gamma_as_far_as_it_is_told():
    torch.manual_seed(0)
    x = torch.tensor([0.0, 0.25, 0.5]).view(1, 1, 1, 3).expand(300, -1, -1, -1)
    gain = relight(x, gain=0.4, gamma=0)[:, 0, 0] / (x[:, 0, 0] + 1e-4)
    torch.testing.assert_close(gain[:, 1], gain[:, 2])
    assert 0.6 <= gain.min() < 0.63 and 1.37 < gain.max() <= 1.4001
    bent = relight(x, gain=0, gamma=0.3)[:, 0, 0, 1:].log() / (x[:, 0, 0, 1:] + 1e-4).log()
    torch.testing.assert_close(bent[:, 0], bent[:, 1])
    assert 0.7 <= bent.min() + 1e-4 < 0.73 and 1.27 < bent.max() <= 1.3001
    # Each of the two is drawn for itself.
    both = relight(x, gain=0.4, gamma=0.3)[:, 0, 0, 1:].log()
    power = (both[:, 1] - both[:, 0]) / math.log(0.5001 / 0.2501)
    factor = both[:, 1] - power * math.log(0.5001)
    assert abs(torch.corrcoef(torch.stack([power, factor]))[0, 1]) < 0.2
    assert relight(torch.ones(50, 1, 2, 2), gain=0.5).max() == 1
    assert relight(torch.full((2, 1, 2, 2), -0.1)).isfinite().all()


def test_the_learning_rate_rises_and_falls():
    rates = [cosine(step, 1100) for step in (0, 49, 99, 100, 350, 600, 1100)]
    half = math.sqrt(0.5)
    assert rates == pytest.approx([0.01, 0.5, 1, 1, (1 + half) / 2, 0.5, 0])
    assert cosine(3, 20, warmup=4) == 1 and cosine(12, 20, warmup=4) == pytest.approx(0.5)


def test_a_report_is_a_line_on_the_screen_and_in_the_file(tmp_path, capsys):
    log = Log(tmp_path / "new")
    log(step=1, loss=0.123456789)
    log(step=2, loss=1.0)
    lines = (tmp_path / "new" / "training.jsonl").read_text().splitlines()
    assert capsys.readouterr().out.splitlines() == lines
    assert json.loads(lines[0]) == {"step": 1, "loss": 0.12346, "seconds": 0}
    assert json.loads(lines[1])["step"] == 2


# --- lesions ----------------------------------------------------------------------------------


def head(side: int = 128) -> Tensor:
    """A bright ellipse on black, with a darker spot on the right."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    inside = ((y - 64) / 55) ** 2 + ((x - 64) / 45) ** 2 < 1
    return (0.5 * inside - 0.2 * ((y - 60) ** 2 + (x - 84) ** 2 < 36))[None, None].float()


def test_the_mirror_finds_the_middle_of_a_brain_that_lies_askew():
    symmetric = head()
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    symmetric = symmetric - 0.2 * ((y - 60) ** 2 + (x - 43) ** 2 < 36)  # on the left, too
    turn = math.radians(3)
    theta = torch.tensor(
        [[math.cos(turn), -math.sin(turn), 6 / 128], [math.sin(turn), math.cos(turn), 0]]
    )[None]
    grid = F.affine_grid(theta, [1, 1, 128, 128], align_corners=False)
    askew = F.grid_sample(symmetric, grid, align_corners=False)
    y, hidden = mirrored(askew, torch.zeros_like(askew))
    gap, plain = ((t - askew).abs().mean() for t in (y, askew.flip(-1)))
    assert gap < 0.004 and plain > 0.02
    assert not hidden.any()


def test_what_grows_and_what_is_bright():
    mask = torch.zeros(1, 1, 9, 9)
    mask[0, 0, 4, 4] = 1
    assert grow(mask, 2).sum() == 25 and grow(mask).sum() == 49
    x = torch.zeros(2, 1, 4, 4)
    x[0, 0, :2], x[1, 0, 0], x[:, 0, 3] = 0.5, 0.8, 0.03  # 0.03 is background
    torch.testing.assert_close(brightness(x).flatten(), torch.tensor([0.5, 0.8]))
    parts = cut(torch.arange(130), torch.arange(130))
    assert [len(a) for a, _ in parts] == [64, 64, 2]


def test_a_lesion_is_given_only_to_a_brain_that_has_room_for_it():
    brain = head()
    far, near, wide = torch.zeros(1, 1, 128, 128), torch.zeros(1, 1, 128, 128), grow(brain, 9)
    far[..., :8, :8], near[..., 60:70, 50:60] = 1, 1
    draw = torch.Generator().manual_seed(0)
    both = torch.cat([brain, brain])
    assert donors(both, torch.cat([far, near]), 20, draw).tolist() == [1, 1]
    assert donors(both, torch.cat([far, (wide > 0).float()]), 20, draw).tolist() == [-1, -1]
    # 95 % is not enough of a lesion at the skull: its rim does not count as brain.
    rim = torch.zeros(1, 1, 128, 128)
    rim[..., 60:64, 20:24] = 1
    assert (rim * (brain > 0)).sum() == 16
    assert donors(brain, rim, 1, draw).tolist() == [-1]
    most = torch.zeros(1, 1, 128, 128)
    most[..., 60:64, 20:70] = 1  # four fifths of it lie inside
    assert donors(brain, most, 1, draw).tolist() == [-1]
    assert donors(brain, most * (torch.arange(128) > 32), 1, draw).tolist() == [0]


def test_made_slices_are_five_kinds():
    """Without lesion; given to the healthy and to those without; decoys of both."""
    x = head() * torch.tensor([1, 0.7, 1, 1]).view(4, 1, 1, 1)
    mask = torch.zeros(4, 1, 128, 128)
    mask[2:, :, 50:60, 50:60] = 1
    real = Slices(
        ((x + 0.3 * mask) * 255).round().byte(),
        (mask * 255).byte(),
        torch.tensor([0, 0, 1, 1]),
    )
    slices = made(real, seed=0)
    #             without  given    given   decoys  the decoys' own lesion stays
    expected = [0, 0] + [1, 1] + [1, 1] + [0, 0]
    assert slices.labels[:8].tolist() == expected
    assert set(slices.masks.unique().tolist()) == {0, 255}
    image, m = real.images.float() / 255, mask[2:]
    without = replace(image[2:], m, m)
    torch.testing.assert_close(slices.images[:2].float() / 255, without, atol=1 / 255, rtol=0)
    # A lesion is as bright for its host as for its patient, in a darker brain too.
    given = slices.images[2:4].float() / 255 - image[:2]
    lit = (given * m).sum((1, 2, 3)) / m.sum((1, 2, 3))
    torch.testing.assert_close(lit, torch.tensor([0.3, 0.21]), atol=0.05, rtol=0)
    assert given[grow(m) == 0].abs().max() < 0.01
    # A decoy of an ill slice keeps its lesion as it is.
    for decoy, own in zip(slices.images[8:], slices.masks[8:], strict=True):
        assert torch.equal(own, real.masks[2])
        assert torch.equal(decoy[own > 0], real.images[2][own > 0])


# --- the autoencoder --------------------------------------------------------------------------


def run(script, monkeypatch, *argv: object) -> None:
    monkeypatch.setattr(sys, "argv", ["script", *map(str, argv)])
    script.main()


def test_edges_compare_slopes_at_three_scales():
    """A ramp has the slope a at full size, 2 a and 4 a where pixels are pooled."""
    ramp = torch.arange(16.0).expand(2, 1, 16, 16) / 16
    level = torch.full_like(ramp, 0.3)
    for x, y in ((ramp, level), (level, ramp), (ramp.mT, level)):
        assert float(autoencoder.edges(x, y)) == pytest.approx((1 + 2 + 4) / 16 / 3)
    assert float(autoencoder.edges(ramp, level, scales=1)) == pytest.approx(1 / 16)
    assert float(autoencoder.edges(ramp, ramp + 0.2)) == pytest.approx(0, abs=1e-6)


class Given(nn.Module):
    """A pair of diffusers' kind: the stem's channels are the latent, drawn 0.1 too bright."""

    def encode(self, x: Tensor):
        mean = x * 4
        half = torch.where(torch.arange(16).view(16, 1, 1) < 4, 0, mean)  # 12 numbers that say
        return SimpleNamespace(
            latent_dist=SimpleNamespace(
                mode=lambda: mean, mean=half, std=torch.full_like(mean, 0.25)
            )
        )

    def decode(self, z: Tensor):
        return SimpleNamespace(sample=z / 4 + 0.1)


def test_validation_tells_psnr_and_how_much_the_latent_says():
    x = torch.randint(0, 200, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    told = autoencoder.validate(Given(), x.byte())
    assert told["psnr"] == pytest.approx(20, abs=1e-4)
    z = F.pixel_unshuffle(x.float() / 255, 4) * 4
    z[:, :4] = 0
    assert told["mu_std"] == pytest.approx(float(z.std()))
    assert told["posterior_std"] == pytest.approx(0.25)
    assert told["active"] == pytest.approx(12 / 16)


def test_the_discriminator_looks_at_patches():
    assert autoencoder.Discriminator()(torch.rand(2, 1, 64, 48)).shape == (2, 1, 8, 6)


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "diffusion_pytorch_model.safetensors")


BUILD = autoencoder.build


def small_pair(latent_channels: int) -> AutoencoderKL:
    """The script's own autoencoder with fewer channels."""
    with torch.device("meta"):
        config = dict(BUILD(latent_channels).config)
    return AutoencoderKL(**config | {"block_out_channels": (8, 8, 16), "norm_num_groups": 4})


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """The autoencoder after two steps."""
    out = tmp_path_factory.mktemp("pair")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder, "build", small_pair)
        options = ("--steps", 2, "--batch-size", 2, "--every", 1, "--latent-channels", 2)
        run(autoencoder, patch, "--data", data, "--out", out, *options)
    return out


def test_the_autoencoder_is_saved_as_the_checkpoint_reads_it(trained):
    pair = Autoencoder.load(trained, channels=1, stem=4, value_range=(0.0, 1.0))
    x = torch.rand(1, 1, 128, 128)
    assert pair.encode(x).shape == (1, 2, 8, 8)
    assert pair.decode(pair.encode(x)).shape == x.shape
    assert pair.scaling == 1.0 and pair.shift == 0.0
    assert {w.dtype for w in weights_of(trained).values()} == {torch.float16}
    rows = [json.loads(line) for line in (trained / "training.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]


def test_stage_two_leaves_the_latent_as_it_is(trained, data, tmp_path, monkeypatch):
    out = tmp_path / "pair"
    Path(out).mkdir()
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        (out / name).write_bytes((trained / name).read_bytes())
    # A small rate would be lost in half precision.
    options = ("--decoder-only", "--steps", 1, "--batch-size", 1, "--every", 1, "--lr", 10)
    run(autoencoder, monkeypatch, "--data", data, "--out", out, *options)
    before, after = weights_of(trained), weights_of(out)
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert "decoder" in moved and not moved & {"encoder", "quant_conv"}


# --- the prior --------------------------------------------------------------------------------


def test_the_flow_is_asked_for_noise_minus_data():
    u0, sigma = torch.randn(3, 2, 4, 4), torch.tensor([0.1, 0.5, 1.0])
    labels = torch.tensor([0, 1, 2])

    class Knows(nn.Module):
        """Sees the noise in what it is given, and is off by 0, 1 and 2."""

        def forward(self, u, time, class_labels):
            assert torch.equal(class_labels, labels)
            torch.testing.assert_close(time, 1000 * sigma)
            s = sigma.view(-1, 1, 1, 1)
            noise = (u - (1 - s) * u0) / s
            return SimpleNamespace(sample=noise - u0 + torch.arange(3.0).view(-1, 1, 1, 1))

    loss = prior.flow_loss(Knows(), u0, labels, sigma)
    torch.testing.assert_close(loss, torch.tensor([0.0, 1.0, 4.0]), atol=1e-4, rtol=1e-4)


def test_latents_are_those_of_the_images_moved_or_not():
    x = torch.randint(0, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    still = prior.encode(Given(), x, moved=False)
    torch.testing.assert_close(still, F.pixel_unshuffle(x.float() / 255, 4) * 4)
    torch.manual_seed(0)
    moved = prior.encode(Given(), x, moved=True)
    assert ((moved - still).flatten(1).norm(dim=1) > 1).all()


def test_the_prior_is_saved_and_goes_on(trained, data, tmp_path, monkeypatch):
    monkeypatch.setattr(prior, "build", lambda channels, size: tiny_unet(channels, size))
    out = tmp_path / "prior"
    shared = ("--data", data, "--out", out, "--autoencoder", trained, "--every", 1, "--steps", 1)
    run(prior, monkeypatch, *shared, "--copies", 2, "--real-only", "--batch-size", 4)
    rows = [json.loads(line) for line in (out / "training.jsonl").read_text().splitlines()]
    assert rows[0]["latents"] == 24  # 12 slices, two copies
    flow = LatentFlow.load(out)
    assert flow.classes == ("healthy", "tumour") and flow.shape == (2, 4, 4)
    torch.manual_seed(0)
    pair = Autoencoder.load(trained, channels=1, stem=4, value_range=(0.0, 1.0))
    x = load_split(data, "train")[0].float() / 255
    z = pair.encode(augment(x))
    torch.testing.assert_close(flow.mean.flatten(), z.mean((0, 2, 3)), atol=0.05, rtol=0.2)
    torch.testing.assert_close(flow.std.flatten(), z.std((0, 2, 3)), atol=0.05, rtol=0.2)
    run(prior, monkeypatch, *shared, "--copies", 1, "--real-only", "--resume", "--lr", 0)
    again = LatentFlow.load(out)
    for name, value in flow.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def tiny_unet(channels: int, size: int):
    unet = tiny.tiny_prior().unet
    own = {"in_channels": channels, "out_channels": channels, "sample_size": size}
    return type(unet)(**unet.config | own)


# --- the segmenter ----------------------------------------------------------------------------


def test_dice_of_a_batch():
    p, mask = torch.tensor([1.0, 0.5, 0.0, 0.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert float(segmenter.dice(p, mask)) == pytest.approx((2 * 1.5 + 1) / (1.5 + 3 + 1))
    assert float(segmenter.dice(mask, mask)) == 1
    assert float(segmenter.dice(torch.zeros(4), torch.zeros(4))) == 1


def test_the_segmenter_is_saved_and_read_again(data, tmp_path, monkeypatch):
    with torch.device("meta"):
        config = dict(segmenter.build().unet.config)
    config |= {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4}
    small = segmenter.Segmenter(UNet2DModel(**config))
    monkeypatch.setattr(segmenter, "build", lambda: small)
    shared = ("--data", data, "--out", tmp_path, "--steps", 1, "--batch-size", 2)
    run(segmenter, monkeypatch, *shared)
    model = segmenter.Segmenter.load(tmp_path)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    x = load_split(data, "val")[0]
    p = segmenter.predict(model, x)
    assert p.shape == x.shape
    torch.testing.assert_close(p, model.logits(x.float() / 255).sigmoid(), atol=1e-5, rtol=0)
    told = json.loads((tmp_path / "training.jsonl").read_text())
    masks = load_masks(data, "val").float() / 255
    assert told["val_dice"] == pytest.approx(
        float(segmenter.dice((p > 0.5).float(), masks)), abs=0.05
    )


def test_a_mask_moves_with_its_image():
    """What the segmenter and the classifiers learn from: two channels, one augmentation."""
    pair = spot(0.3, 0.2, 20).expand(-1, 2, -1, -1)
    torch.manual_seed(0)
    x, mask = augment(pair, degrees=20, scale=0.2).split(1, dim=1)
    assert torch.equal(x, mask)


# --- the classifiers --------------------------------------------------------------------------


class Bright(nn.Module):
    """Logits (B, 2): 0, and how bright an image is."""

    def forward(self, x: Tensor) -> Tensor:
        score = x.mean((1, 2, 3))
        return torch.stack([torch.zeros_like(score), score], 1)


def test_logits_are_those_of_normalised_images_and_always_two():
    x = torch.rand(3, 1, 8, 8)
    score = ((x - 0.12) / 0.15).mean((1, 2, 3))
    expected = torch.stack([torch.zeros(3), score], 1)
    torch.testing.assert_close(classifier.logits_of(Bright(), x), expected)

    class One(Bright):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, 1:]

    torch.testing.assert_close(classifier.logits_of(One(), x), expected)


@pytest.mark.parametrize("steps", [1, 3])
def test_an_attack_raises_the_loss_within_its_radius(steps):
    torch.manual_seed(0)
    model = Bright().train()
    x = torch.full((200, 1, 4, 4), 0.5)
    y = torch.arange(200) % 2
    found = classifier.attack(model, x, y, radius=0.8, steps=steps)
    assert model.training and not found.requires_grad
    length = (found - x).flatten(1).norm(dim=1)
    assert length.max() < 0.8 + 1e-5 and length.max() > 0.7 and length.min() < 0.1
    # The steepest way is all pixels alike, darker for label 1 and brighter for 0.
    way = (found - x).mean((1, 2, 3)) * torch.where(y == 1, -1, 1) * 4
    assert (way > 0.9 * length).double().mean() > 0.9
    edge = classifier.attack(model, torch.ones(50, 1, 4, 4), torch.zeros(50).long(), 0.8, steps)
    assert edge.max() <= 1 and edge.min() >= 0
    assert torch.equal(classifier.attack(model, x, y, radius=0.0, steps=steps), x)


def test_slices_are_moved_in_their_latent_and_half_keep_their_detail():
    """A pair of one number, the brightness; the detail is what differs from it."""

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((1, 2, 3), keepdim=True)

    class Flat(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return 0.1 * z.expand(-1, 1, 8, 8) + 0.45

    torch.manual_seed(0)
    images = torch.randint(110, 146, (400, 1, 8, 8)).byte()
    labels, masks = torch.arange(400), images.clone()
    out = classifier.jittered(Pair(Mean(), Flat()), Slices(images, masks, labels), 300)
    assert len(out.labels) == 300 and len(set(out.labels.tolist())) == 300
    assert torch.equal(out.masks, masks[out.labels])
    x = out.images.float() / 255
    detail = x.std((1, 2, 3)) > 0.01
    assert 110 < detail.sum() < 190
    own = images[out.labels].float() / 255
    gap = (x - own).std((1, 2, 3))
    assert gap[detail].max() < 0.005  # moved as a whole
    moved = x.mean((1, 2, 3)) - torch.where(
        detail, own.mean((1, 2, 3)), 0.1 * own.mean((1, 2, 3)) + 0.45
    )
    assert 0.045 < moved.std() < 0.055 and abs(moved.mean()) < 0.01  # 0.1 times JITTER


def test_platts_slope_and_shift_are_where_the_likelihood_is_flat():
    g = torch.Generator().manual_seed(0)
    d = 3 * torch.randn(3000, generator=g)
    y = (torch.rand(3000, generator=g) < (0.4 * d - 1).sigmoid()).long()
    slope, shift = classifier.fit_platt(torch.stack([d, 3 * d], 1) / 2, y)
    assert slope == pytest.approx(0.4, abs=0.04) and shift == pytest.approx(-1, abs=0.15)
    gap = (slope * d + shift).sigmoid() - y
    assert abs(float(gap.mean())) < 1e-4 and abs(float((gap * d).mean())) < 1e-3


@pytest.mark.parametrize("name", ["evidence", "target"])
def test_a_shift_is_added_to_the_log_odds_of_a_copy(name):
    torch.manual_seed(0)
    model = classifier.build(name).eval()
    assert isinstance(model, EvidenceNet) is (name == "evidence")
    x = torch.rand(2, 1, 64, 64)

    def odds(f: nn.Module) -> Tensor:
        with torch.no_grad():
            return classifier.logits_of(f, x).diff(dim=1)[:, 0]

    before = odds(model)
    torch.testing.assert_close(odds(classifier.shifted(model, 0.7)), before + 0.7)
    assert torch.equal(odds(model), before)


def test_where_the_lesion_is_counts_by_its_share_of_each_cell():
    torch.manual_seed(0)
    model = classifier.build("evidence").eval()
    localiser = classifier.Localiser(model, ("join",))
    assert localiser.maps == []
    x, masks = torch.rand(2, 1, 64, 64), torch.zeros(2, 1, 64, 64)
    masks[0, :, :20, :20] = 1
    classifier.logits_of(model, x)
    (evidence,) = localiser.maps
    share = F.adaptive_avg_pool2d(masks, (evidence.shape[2], evidence.shape[3]))
    p = evidence.sigmoid()
    expected = -(share * p.log() + (1 - share) * (1 - p).log()).mean()
    torch.testing.assert_close(localiser.loss(masks), expected)
    assert localiser.maps == []
    target = classifier.build("target").eval()
    localiser = classifier.Localiser(target, classifier.LOOKED_AT["target"])
    assert [len(w) for w in localiser.parameters()] == [1] * 4  # a weight and a bias a layer
    assert [w.shape[1] for w in localiser.parameters() if w.ndim > 1] == [48, 96]


@pytest.fixture
def narrow(monkeypatch):
    """The classifiers' own architectures with fewer channels."""
    for name in ("evidence", "target"):
        kind, arguments = classifier.ARCHITECTURES[name]
        arguments = arguments | {"channels": [8, 8, 8, 8], "stem_width": 8}
        monkeypatch.setitem(classifier.ARCHITECTURES, name, (kind, arguments))


@pytest.mark.parametrize("name", ["evidence", "target"])
def test_a_classifier_is_saved_calibrated(name, narrow, data, tmp_path, monkeypatch):
    """Where the likelihood is flat, the mean probability is the share of tumours."""
    options = ("--model", name, "--steps", 1, "--every", 1, "--batch-size", 8, "--real-only")
    run(classifier, monkeypatch, "--data", data, "--out", tmp_path, *options)
    f = load_classifier(tmp_path)
    images, _, _ = load_split(data, "val")
    with torch.no_grad():
        p = f(images.float() / 255).softmax(1)[:, 1]
    assert float(p.mean()) == pytest.approx(0.5, abs=0.02)
    assert f.classes == ("healthy", "tumour")
    assert (f.mean.item(), f.std.item()) == pytest.approx((0.12, 0.15))


def test_the_best_classifier_on_val_is_kept(narrow, data, tmp_path, monkeypatch):
    areas, kept = iter([0.6, 0.9, 0.7, 0.9]), []
    monkeypatch.setattr(classifier, "roc_auc_score", lambda *_: next(areas))

    def fit(logits: Tensor, labels: Tensor) -> tuple[float, float]:
        kept.append(logits)
        return 4.0, 1.0

    monkeypatch.setattr(classifier, "fit_platt", fit)
    options = ("--steps", 4, "--every", 1, "--batch-size", 4, "--real-only", "--radius", 0)
    run(classifier, monkeypatch, "--data", data, "--out", tmp_path, *options)
    assert len(kept) == 2
    f = load_classifier(tmp_path)
    assert f.temperature == 0.25
    with torch.no_grad():
        odds = f(load_split(data, "val")[0].float() / 255).diff(dim=1)
    torch.testing.assert_close(odds, 4 * kept[1].diff(dim=1) + 1, atol=1e-3, rtol=1e-3)


# --- the card ---------------------------------------------------------------------------------


def test_an_interval_draws_patients_and_holds_95_percent():
    patients = [f"p{i // 3}" for i in range(30)]
    values = np.array([float(i // 3) for i in range(30)])  # slices of one patient are alike

    def mean(i: np.ndarray) -> float:
        return float(values[i].mean())

    told = card.interval(mean, patients)
    rng = np.random.default_rng(0)
    draws = [rng.integers(10, size=10).mean() for _ in range(1000)]
    low, high = np.percentile(draws, [2.5, 97.5])
    assert told == {"value": 4.5, "low": round(low, 4), "high": round(high, 4)}
    assert card.interval(mean, patients, seed=1) != told

    def picky(i: np.ndarray) -> float:
        if 0 not in i:
            raise ValueError("no such draw")
        return float(len(i))

    assert card.interval(picky, patients) == {"value": 30.0, "low": 30.0, "high": 30.0}
    told = card.interval(lambda i: float(len(i)) if 0 in i else math.nan, patients)
    assert told["low"] == told["high"] == 30.0


def test_classification_is_told_in_full(monkeypatch):
    monkeypatch.setattr(card, "interval", lambda of, patients: of(np.arange(len(patients))))
    p = torch.tensor([0.05, 0.15, 0.17, 0.5, 0.95, 1.0])
    y = torch.tensor([0, 0, 1, 1, 1, 1])
    told = card.classification(p, y, list("abcdef"))
    assert told["auc"] == 1
    assert told["accuracy"] == pytest.approx(4 / 6)  # 0.5 is not more than half
    assert told["reliability"] == [
        {"n": 1, "probability": 0.05, "observed": 0.0},
        {"n": 2, "probability": 0.16, "observed": 0.5},
        {"n": 1, "probability": 0.5, "observed": 1.0},
        {"n": 2, "probability": 0.975, "observed": 1.0},
    ]
    gaps = [0.05, 2 * 0.34, 0.5, 2 * 0.025]
    assert told["ece"] == pytest.approx(sum(gaps) / 6, abs=1e-3)


def test_what_models_say_of_slices_whose_lesion_is_covered(data):
    class Lit(nn.Module):
        """A tumour where a pixel is brighter than 0.6."""

        def forward(self, x: Tensor) -> Tensor:
            return F.one_hot((x.amax((1, 2, 3)) > 0.6).long(), 2).float()

    class Always(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[0.0, 1.0]]).expand(len(x), 2)

    told = card.painted_over(data, {"lit": Lit(), "always": Always()})  # type: ignore[arg-type]
    assert told == {"slices": 4, "lit": 0.0, "always": 1.0}


@pytest.mark.skipif(not (BRAIN / "metrics.json").is_file(), reason="brain-flair is not there")
def test_the_shipped_checkpoint_is_what_the_card_writes():
    config = json.loads((BRAIN / "config.json").read_text())
    assert config == {**card.CONFIG, "plausibility": "plausibility"}
    assert json.loads((BRAIN / "classifier" / "config.json").read_text()) == card.COMMITTEE
    written = (BRAIN / "README.md").read_text(encoding="utf-8")
    for line in card.COMMANDS:
        assert f"python -m cfgen.training.{line} --data DATA" in written


# --- plausibility -----------------------------------------------------------------------------


def test_images_of_each_class_are_spread_evenly():
    labels = torch.tensor([0] * 9 + [1] * 2 + [0])
    assert plausibility.spread(labels, 4).tolist() == [0, 3, 6, 9, 10, 11]
    assert plausibility.spread(labels, 99).tolist() == list(range(12))


def test_plausibility_is_measured_and_named(checkpoint_folder, tmp_path):
    folder = Path(shutil.copytree(checkpoint_folder, tmp_path / "checkpoint"))
    small = tmp_path / "slices"
    small.mkdir()
    write_slices(small, side=32, train=8, val=4)
    config = json.loads((folder / "config.json").read_text())
    config["plausibility"] = "nowhere"  # measured with other weights, perhaps
    (folder / "config.json").write_text(json.dumps(config))
    options = ["--data", str(small), "--checkpoint", str(folder), "--most", "3"]
    plausibility.main([*options, "--width", "32", "--seed", "3"])

    checkpoint = load_checkpoint(str(folder))
    assert checkpoint.reference is not None and checkpoint.reference.seed == 3
    assert checkpoint.reference.size == (32, 32)
    assert checkpoint.calibration.keys() == {"healthy", "tumour"}
    assert "calibration" not in json.loads((folder / "config.json").read_text())
    used = json.loads((folder / "plausibility" / "config.json").read_text())["generator"]
    name = "autoencoder/diffusion_pytorch_model.safetensors"
    assert used == {name: checkpoint.hashes[name]}

    # Again in plain words: three slices of each class, each apart from its own patient.
    images, labels, patients = load_split(small, "train")
    rows = plausibility.spread(labels, 3)
    lpips = LPIPS()
    with torch.no_grad():
        x = images[rows].float() / 255
        trips, sketches = measure(lpips, checkpoint.generator, x, 32, 3)
        whose = [patients[i] for i in rows]
        reference = Reference.fit(sketches, trips, whose, (32, 32), 3)
        torch.testing.assert_close(checkpoint.reference.mean, reference.mean, atol=1e-3, rtol=0)
        apart = torch.tensor([[a != b for b in whose] for a in whose])
        own = reference.score(trips, sketches, apart)
        new, of, _ = load_split(small, "val")
        val = reference.score(*measure(lpips, checkpoint.generator, new.float() / 255, 32, 3))
    for k, name in enumerate(("healthy", "tumour")):
        expected = torch.cat([own[labels[rows] == k], val[of == k]]).sort().values
        torch.testing.assert_close(checkpoint.calibration[name], expected, atol=0.02, rtol=0.02)

    text = (small / "labels.csv").read_text()
    (small / "labels.csv").write_text(text.replace("val,val0", "val,train0"))
    message = "expected val patients apart from train, got 1 in both"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plausibility.main(options)
