"""A checkpoint in the real layout, made in a second: random weights, grey images of 32 x 32."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import diffusers
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from cfgen import load_checkpoint
from cfgen.data.written import to_image
from cfgen.generators import Autoencoder
from cfgen.priors import LatentFlow

SIDE, CLASSES = 32, ("dark", "bright")


class Brightness(nn.Module):
    """Logits (B, 2) of how bright the middle of an image is; 0 is on the boundary."""

    def forward(self, x: Tensor) -> Tensor:
        score = 50 * x[:, :, 8:24, 8:24].mean((1, 2, 3))
        return torch.stack([-score, score], 1)


def tiny_prior(seed: int = 0, classes: tuple[str, ...] = CLASSES) -> LatentFlow:
    """A flow with random weights, in latents (2, 16, 16)."""
    torch.manual_seed(seed)
    unet = diffusers.UNet2DModel(
        sample_size=16,
        in_channels=2,
        out_channels=2,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        num_class_embeds=len(classes) + 1,
    )
    mean, std = torch.tensor([0.2, -0.1]), torch.tensor([1.0, 1.5])
    return LatentFlow(unet, diffusers.FlowMatchEulerDiscreteScheduler(), classes, mean, std)


def make_checkpoint(folder: Path) -> Path:
    """Write a checkpoint; returns the folder."""
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        in_channels=4,
        out_channels=4,
        block_out_channels=(8,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        norm_num_groups=4,
        latent_channels=2,
        layers_per_block=1,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    weights = model.state_dict()
    weights["decoder.conv_out.weight"].mul_(0.5)
    weights["decoder.conv_out.bias"].fill_(0.5)
    model.save_pretrained(folder / "autoencoder")
    prior = tiny_prior()
    prior.save(folder / "prior")

    # The boundary lies in the middle of what the prior draws.
    pair = Autoencoder(model, channels=1, value_range=(0.0, 1.0))
    with torch.no_grad():
        drawn = pair.decode(prior.sample(torch.arange(16) % 2, seed=0)).clamp(0, 1)
    middle = float(drawn[..., 8:24, 8:24].mean((1, 2, 3)).median())
    (folder / "classifier").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(Brightness()), str(folder / "classifier" / "model.pt"))
    config = {"architecture": "torchscript:model.pt", "classes": CLASSES, "mean": middle}
    (folder / "classifier" / "config.json").write_text(json.dumps(config | {"channels": 1}))

    arguments = {"in_chans": 1, "num_classes": 2, "channels": [8, 8, 8, 8], "stem_width": 8}
    (folder / "oracle").mkdir()
    save_model(
        timm.create_model("resnet10t", **arguments), str(folder / "oracle" / "model.safetensors")
    )
    config = {"architecture": "timm:resnet10t", "arguments": arguments, "classes": CLASSES}
    (folder / "oracle" / "config.json").write_text(json.dumps(config))

    config = {
        "image": {"channels": 1, "size": [SIDE, SIDE]},
        "generator": {"folder": "autoencoder", "stem": 2, "value_range": [0.0, 1.0]},
        "classifier": "classifier",
        "oracle": "oracle",
        "prior": "prior",
        "calibration": {
            "dark": [i / 100 for i in range(19)],
            "bright": [i / 50 for i in range(19)],
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory) -> Path:
    """The tiny checkpoint, one for all test files."""
    folder = tmp_path_factory.getbasetemp() / "tiny"
    return folder if folder.exists() else make_checkpoint(folder)


@pytest.fixture(scope="session")
def images(checkpoint_folder, tmp_path_factory) -> Path:
    """Five images in three formats and a labels.csv."""
    folder = tmp_path_factory.getbasetemp() / "images"
    if folder.exists():
        return folder
    checkpoint = load_checkpoint(str(checkpoint_folder))
    assert checkpoint.prior is not None
    with torch.no_grad():
        x = checkpoint.generator.decode(checkpoint.prior.sample(torch.arange(5) % 2, seed=7))
    one, two, three, four, five = x.clamp(0, 1)
    (folder / "b").mkdir(parents=True)
    to_image(one).save(folder / "one.png")
    to_image(two).convert("RGB").save(folder / "b" / "two.png")
    np.save(folder / "b" / "three.npy", three[0].numpy())
    to_image(torch.cat([four, four[:, :16]], 1)).save(folder / "b" / "tall.png")
    to_image(five).save(folder / "five.tif")
    (folder / "labels.csv").write_text(
        "file,label,split\none.png,dark,train\nb/two.png,bright,test\n"
        "b/three.npy,dark,test\nb/tall.png,bright,test\nfive.tif,,train\n"
    )
    return folder
