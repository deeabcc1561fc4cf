"""Train the class-conditional latent flow on the latents of the train split.

Most of the latents are of slices made by ``lesions``, healthy ones at places where the data only
has tumours and the other way round: what tells the classes apart is to be the lesion alone.

Reference: Esser et al., Scaling Rectified Flow Transformers (logit-normal times), 2024,
arXiv:2403.03206.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from cfgen.priors import LatentFlow
from cfgen.training.autoencoder import STEM
from cfgen.training.classifier import CLASSES
from cfgen.training.common import (
    Log,
    augment,
    cosine,
    load_masks,
    load_split,
    parser,
    seed_all,
)
from cfgen.training.lesions import Slices, made


def build(channels: int, size: int) -> UNet2DModel:
    """An untrained UNet for latents (channels, size, size), classes and no class."""
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(96, 160, 192),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=len(CLASSES) + 1,
    )


@torch.no_grad()
def encode(model: Any, images: Tensor, moved: bool) -> Tensor:
    """Posterior means (N, C, h, w) of uint8 images (N, 1, H, W), moved at random or not."""
    latents = []
    for batch in images.split(32):
        x = batch.float() / 255
        x = augment(x) if moved else x
        latents.append(model.encode(F.pixel_unshuffle(x, STEM)).latent_dist.mode())
    return torch.cat(latents)


def flow_loss(unet: nn.Module, u0: Tensor, labels: Tensor, sigma: Tensor) -> Tensor:
    """Mean squared error of the velocity at noise share sigma (B,): (B,)."""
    noise = torch.randn_like(u0)
    s = sigma.view(-1, 1, 1, 1)
    v = unet((1 - s) * u0 + s * noise, sigma * 1000, class_labels=labels).sample
    return (v - (noise - u0)).square().mean((1, 2, 3))


def main() -> None:
    """Command line of this script."""
    p = parser(__doc__, steps=2500, batch_size=64, lr=6e-4)
    p.add_argument("--autoencoder", required=True, help="folder of the trained autoencoder")
    p.add_argument("--copies", type=int, default=8, help="moved copies of each image")
    p.add_argument("--drop", type=float, default=0.15, help="share of samples without class")
    p.add_argument("--real-only", action="store_true", help="no slices made by lesions")
    p.add_argument("--resume", action="store_true", help="go on from the weights in the folder")
    args = p.parse_args()
    seed_all(args.seed)
    images, labels, _ = load_split(args.data, "train")
    real = Slices(images, load_masks(args.data, "train"), labels)
    if not args.real_only:
        real = Slices(*map(torch.cat, zip(real, made(real, args.seed), strict=True)))
    train, labels = real.images, real.labels
    val, val_labels, _ = load_split(args.data, "val")
    autoencoder = AutoencoderKL.from_pretrained(args.autoencoder).eval().requires_grad_(False)
    z = torch.cat([encode(autoencoder, train, moved=True) for _ in range(args.copies)])
    labels = labels.repeat(args.copies)
    before = LatentFlow.load(args.out) if args.resume else None
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    if before is not None:
        mean, std = before.mean.flatten(), before.std.flatten()
    u = (z - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
    u_val = encode(autoencoder, val, moved=False)
    u_val = (u_val - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
    unet = build(z.shape[1], z.shape[2])
    if before is not None:
        unet.load_state_dict(before.unet.state_dict())
    unet.train()
    ema = copy.deepcopy(unet).eval()
    scheduler = FlowMatchEulerDiscreteScheduler()
    optimiser = torch.optim.AdamW(unet.parameters(), args.lr, weight_decay=0.01)
    log = Log(args.out)
    log(latents=len(u), weights=sum(w.numel() for w in unet.parameters()))
    for step in range(args.steps):
        for group in optimiser.param_groups:
            group["lr"] = args.lr * cosine(step, args.steps)
        index = torch.randint(len(u), (args.batch_size,))
        y = torch.where(torch.rand(len(index)) < args.drop, len(CLASSES), labels[index])
        loss = flow_loss(unet, u[index], y, torch.randn(len(index)).sigmoid()).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimiser.step()
        decay = min(0.998, (step + 1) / (step + 10))
        with torch.no_grad():
            for a, b in zip(ema.parameters(), unet.parameters(), strict=True):
                a.lerp_(b, 1 - decay)
        if (step + 1) % args.every == 0 or step + 1 == args.steps:
            sigma = torch.linspace(0.02, 0.98, len(u_val))
            state = torch.get_rng_state()
            torch.manual_seed(0)  # the same noise at every validation
            with torch.no_grad():
                val_loss = float(flow_loss(ema, u_val, val_labels, sigma).mean())
            torch.set_rng_state(state)
            log(step=step + 1, loss=float(loss.detach()), val_loss=val_loss)
            LatentFlow(copy.deepcopy(ema), scheduler, tuple(CLASSES), mean, std).save(args.out)


if __name__ == "__main__":
    main()
