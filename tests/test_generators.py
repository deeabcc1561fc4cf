import json
import re
from functools import partial
from typing import Any

import diffusers
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cfgen.generators import Autoencoder, Generator, Identity, Linear, Pair

LEVELS = {
    "block_out_channels": (4, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 2,
    "latent_channels": 2,
}
DC_LEVELS = {
    f"{part}_{name}": value
    for part in ("encoder", "decoder")
    for name, value in (
        ("block_types", "ResBlock"),
        ("block_out_channels", (4, 8)),
        ("layers_per_block", (1, 1)),
        ("qkv_multiscales", ((), ())),
    )
}
MODELS = {
    "AutoencoderKL": {**LEVELS, "scaling_factor": 0.5, "shift_factor": 0.25},
    "AutoencoderTiny": {
        "encoder_block_out_channels": (4, 4),
        "decoder_block_out_channels": (4, 4),
        "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1),
        "act_fn": "silu",
        "latent_channels": 2,
    },
    "VQModel": {**LEVELS, "scaling_factor": 0.5, "num_vq_embeddings": 8},
    "AutoencoderDC": {
        **DC_LEVELS,
        "attention_head_dim": 4,
        "latent_channels": 2,
        "scaling_factor": 0.5,
    },
}


def model(kind: str, channels: int, **options) -> Any:
    torch.manual_seed(0)
    options = {"in_channels": channels, **MODELS[kind], **options}
    if kind != "AutoencoderDC":
        options["out_channels"] = channels
    return getattr(diffusers, kind)(**options)


def autoencoder(kind: str, channels: int, stem: int, folder) -> Generator:
    model(kind, channels * stem**2).save_pretrained(folder)
    return Autoencoder.load(folder, channels=channels)


def images(*shape: int, dtype=torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def identity(folder) -> Generator:
    return Identity()


def linear(folder) -> Generator:
    return Linear.fit(images(8, 1, 16, 24, dtype=torch.float64), 5)


def gan(folder) -> Generator:
    """A generator of images with an encoder, as two modules."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16 * 24, 6), nn.BatchNorm1d(6))
    decoder = nn.Sequential(nn.Linear(6, 16 * 24), nn.Sigmoid(), nn.Unflatten(1, (1, 16, 24)))
    return Pair(encoder, decoder)


# id, how to make it, shape of an image, shape of a latent, dtype
ROWS = [
    ("identity", identity, (3, 16, 24), (3, 16, 24), torch.float64),
    ("linear", linear, (1, 16, 24), (5,), torch.float64),
    ("pair", gan, (1, 16, 24), (6,), torch.float32),
    *(
        (
            f"{kind}-{channels}-{stem}",
            partial(autoencoder, kind, channels, stem),
            (channels, 16, 24),
            (2, 8 // stem, 12 // stem),
            torch.float32,
        )
        for kind in MODELS
        for channels in (1, 3)
        for stem in (1, 2)
    ),
]


@pytest.fixture(params=ROWS, ids=lambda row: row[0])
def row(request, tmp_path):
    _, make, image, latent, dtype = request.param
    return make(tmp_path), images(3, *image, dtype=dtype), latent


def test_shapes_and_dtype(row):
    generator, x, latent = row
    z = generator.encode(x)
    y = generator.decode(z)
    assert z.shape == (3, *latent)
    assert y.shape == x.shape
    assert z.dtype == y.dtype == x.dtype


def test_gives_the_same_again_and_changes_no_argument(row):
    generator, x, _ = row
    kept_x = x.clone()
    z = generator.encode(x)
    kept_z = z.clone()
    y = generator.decode(z)
    assert torch.equal(generator.encode(x), z)
    assert torch.equal(generator.decode(z), y)
    assert torch.equal(x, kept_x)
    assert torch.equal(z, kept_z)


def test_a_batch_is_its_rows(row):
    generator, x, _ = row
    z = generator.encode(x)
    y = generator.decode(z)
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
    close(z, torch.cat([generator.encode(x[i : i + 1]) for i in range(3)]))
    close(y, torch.cat([generator.decode(z[i : i + 1]) for i in range(3)]))


def test_the_gradient_reaches_every_latent_and_crosses_no_row(row):
    generator, x, _ = row
    z = generator.encode(x).detach().requires_grad_()
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    (grad,) = torch.autograd.grad((generator.decode(z) * weight)[0].sum(), z)
    assert grad.isfinite().all()
    assert grad[0].abs().sum() > 0
    assert not grad[1:].any()
    step = 1e-3 * grad[0] / grad[0].norm()
    ends = [
        (generator.decode(z.detach()[:1] + s * step) * weight[:1]).sum().double() for s in (1, -1)
    ]
    slope = ((ends[0] - ends[1]) / 2e-3).item()
    assert slope == pytest.approx(grad[0].norm().item(), rel=0.05)


def test_is_frozen(row):
    generator, x, _ = row
    assert isinstance(generator, Generator)
    assert not any(p.requires_grad for p in generator.parameters())
    assert not any(module.training for module in generator.modules())
    assert not generator.decode(generator.encode(x)).requires_grad


def refuses(error, message: str):
    return pytest.raises(error, match=f"^{re.escape(message)}$")


# --- diffusers --------------------------------------------------------------------------------


def test_latents_are_those_of_the_pipelines():
    """Written out for each class, in the words of diffusers."""
    x = images(2, 1, 16, 16)
    y = F.pixel_unshuffle(2 * x - 1, 2)
    with torch.no_grad():
        m: dict = {kind: model(kind, 4).eval() for kind in MODELS}
        kl, tiny = m["AutoencoderKL"], m["AutoencoderTiny"]
        vq, dc = m["VQModel"], m["AutoencoderDC"]
        expected = {
            "AutoencoderKL": (kl.encode(y).latent_dist.mean - 0.25) * 0.5,
            "AutoencoderTiny": tiny.encode(y).latents,
            "VQModel": vq.encode(y).latents * 0.5,
            "AutoencoderDC": dc.encode(y).latent * 0.5,
        }
        z = images(*expected["AutoencoderKL"].shape)
        decoded = {
            "AutoencoderKL": kl.decode(z / 0.5 + 0.25).sample,
            "AutoencoderTiny": tiny.decode(z).sample,
            "VQModel": vq.decode(z / 0.5, force_not_quantize=True).sample,
            "AutoencoderDC": dc.decode(z / 0.5).sample,
        }
    for kind in MODELS:
        generator = Autoencoder(m[kind], channels=1)
        torch.testing.assert_close(generator.encode(x), expected[kind])
        image = (F.pixel_shuffle(decoded[kind], 2) + 1) / 2
        torch.testing.assert_close(generator.decode(z), image)


def test_value_range():
    kl = model("AutoencoderKL", 1)
    plain = Autoencoder(kl, channels=1, value_range=(0.0, 1.0))
    wide = Autoencoder(kl, channels=1, value_range=(-2.0, 6.0))
    x = images(1, 1, 8, 8)
    torch.testing.assert_close(wide.encode(x), plain.encode(8 * x - 2))
    z = plain.encode(x)
    torch.testing.assert_close(8 * wide.decode(z) - 2, plain.decode(z))


def test_sigma_is_kept_and_not_negative():
    kl = model("AutoencoderKL", 1)
    assert Autoencoder(kl, channels=1).sigma == 0.0
    assert Autoencoder(kl, channels=1, sigma=1.5).sigma == 1.5
    for wrong in (-0.1, float("nan")):
        with refuses(ValueError, f"expected sigma of at least 0, got {wrong}"):
            Autoencoder(kl, channels=1, sigma=wrong)


def test_weights_of_half_precision_are_read_in_single(tmp_path):
    model("AutoencoderKL", 1).half().save_pretrained(tmp_path)
    generator = Autoencoder.load(tmp_path, channels=1)
    assert {p.dtype for p in generator.parameters()} == {torch.float32}


def test_a_stem_loses_nothing():
    class Nothing(AutoencoderTiny):
        def encode(self, x, return_dict=True):
            return (x,)

        def decode(self, x, generator=None, return_dict=True):
            return (x,)

    Nothing.__name__ = "AutoencoderTiny"
    torch.manual_seed(0)
    tiny = Nothing(**{**MODELS["AutoencoderTiny"], "in_channels": 48, "out_channels": 48})
    generator = Autoencoder(tiny, channels=3, value_range=(0.0, 1.0), stem=4)
    x = images(2, 3, 16, 16)
    assert generator.encode(x).shape == (2, 48, 4, 4)
    assert torch.equal(generator.decode(generator.encode(x)), x)


@pytest.mark.parametrize(
    "shape", [(1, 1, 16, 18), (1, 1, 18, 16), (1, 3, 16, 16), (1, 16, 16), (1, 1, 1, 16, 16)]
)
def test_images_that_do_not_fit(shape):
    generator = Autoencoder(model("AutoencoderKL", 4), channels=1)
    message = (
        f"expected images of shape (B, 1, H, W) with H and W multiples of 4, got {tuple(shape)}"
    )
    with refuses(ValueError, message):
        generator.encode(torch.zeros(shape))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (
            lambda: nn.Linear(1, 1),
            {"channels": 1},
            "expected a model of AutoencoderKL, AutoencoderTiny, VQModel, AutoencoderDC, "
            "got Linear",
        ),
        (
            lambda: model("AutoencoderKL", 4),
            {"channels": 2},
            "expected 1 or 3 channels, got 2",
        ),
        (
            lambda: model("AutoencoderKL", 4),
            {"channels": 3},
            "expected a model of 3 * stem**2 channels, got 4",
        ),
        (
            lambda: model("AutoencoderKL", 4),
            {"channels": 1, "stem": 4},
            "expected stem 2 for a model of 4 channels, got 4",
        ),
        (
            lambda: model("VQModel", 1, lookup_from_codebook=True),
            {"channels": 1},
            "expected a VQModel that decodes latents, got lookup_from_codebook",
        ),
    ],
)
def test_models_that_do_not_fit(make, options, message):
    with refuses(ValueError, message):
        Autoencoder(make(), **options)


def test_folders_that_are_no_autoencoder(tmp_path):
    with refuses(FileNotFoundError, f"expected config.json in {tmp_path}, got none"):
        Autoencoder.load(tmp_path, channels=1)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"_class_name": "UNet2DModel"}))
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    with refuses(FileNotFoundError, f"expected {weights.name} in {tmp_path}, got none"):
        Autoencoder.load(tmp_path, channels=1)
    weights.touch()
    message = (
        "expected _class_name of AutoencoderKL, AutoencoderTiny, VQModel, AutoencoderDC "
        f"in {config}, got 'UNet2DModel'"
    )
    with refuses(ValueError, message):
        Autoencoder.load(tmp_path, channels=1)


@pytest.mark.parametrize("kind", MODELS)
def test_a_missing_weight_is_never_replaced_by_a_random_one(tmp_path, kind):
    model(kind, 1).save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    missing = sorted(state)[:2]
    save_file({key: state[key] for key in state if key not in missing}, file)
    message = f"expected every weight of {kind} in {tmp_path}, got none for {', '.join(missing)}"
    with refuses(ValueError, message):
        Autoencoder.load(tmp_path, channels=1)


# --- linear -----------------------------------------------------------------------------------


def basis(rows: int, *image: int) -> Tensor:
    a = torch.randn(torch.Size(image).numel(), rows, generator=torch.Generator().manual_seed(3))
    return torch.linalg.qr(a.double()).Q.T.reshape(rows, *image)


def test_linear_round_trip_is_the_orthogonal_projection():
    b, mean, x = basis(4, 2, 3, 5), images(2, 3, 5).double(), images(6, 2, 3, 5).double()
    generator = Linear(b, mean)
    y = generator.decode(generator.encode(x))
    a = b.flatten(1).T
    solution = torch.linalg.lstsq(a, (x - mean).flatten(1).T).solution
    exact = partial(torch.testing.assert_close, rtol=0, atol=1e-13)
    exact(y, mean + (a @ solution).T.reshape(x.shape))
    exact(generator.decode(generator.encode(y)), y)
    exact(((x - y).flatten(1) @ a), torch.zeros(6, 4, dtype=torch.float64))


def test_linear_keeps_distances():
    """The length of a step in latent space is its length in images."""
    generator = Linear(basis(4, 1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.float64))
    z = images(2, 4).double()
    gap = (generator.decode(z[:1]) - generator.decode(z[1:])).norm()
    torch.testing.assert_close(gap, (z[0] - z[1]).norm(), rtol=1e-13, atol=0)


def test_linear_fit_finds_the_principal_components():
    x = images(10, 1, 4, 4).double()
    generator = Linear.fit(x, 3)
    values, vectors = torch.linalg.eigh(torch.cov(x.flatten(1).T))
    torch.testing.assert_close(generator.encode(x).var(0), values.flip(0)[:3], rtol=1e-10, atol=0)
    cosines = (generator.basis.flatten(1) * vectors.T.flip(0)[:3]).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones_like(cosines), rtol=1e-10, atol=0)
    flat = generator.basis.flatten(1)
    assert (flat.amax(1) == flat.abs().amax(1)).all()
    assert torch.equal(generator.mean, x.mean(0))


def test_linear_fit_on_all_components_loses_nothing():
    x = images(5, 1, 4, 4).double()
    generator = Linear.fit(x, 4)
    torch.testing.assert_close(generator.decode(generator.encode(x)), x, rtol=0, atol=1e-13)


@pytest.mark.parametrize("components", [0, 5])
def test_linear_fit_refuses(components):
    with refuses(ValueError, f"expected 1 to 4 components, got {components}"):
        Linear.fit(images(5, 1, 4, 4), components)


def test_linear_refuses():
    b = basis(3, 1, 4, 4)
    with refuses(ValueError, "expected mean of shape (1, 4, 4), got (4, 4)"):
        Linear(b, torch.zeros(4, 4))
    with refuses(ValueError, "expected orthonormal rows, got products off by 3"):
        Linear(2 * b, torch.zeros(1, 4, 4))
    with refuses(ValueError, "expected orthonormal rows, got products off by 2e-06"):
        Linear((1 + 1e-6) * b, torch.zeros(1, 4, 4))
    Linear((1 + 1e-9) * b, torch.zeros(1, 4, 4))
